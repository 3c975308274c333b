/**
 * A figure of a study or a trial in its card. It is fetched immediately, and again after changes: at most every two
 * seconds while it is visible, every ten while it is scrolled out of view (a printed or captured page shows all
 * figures). A server that has no time to draw a large study anew says when it will.
 */

import { read } from "../api.js";
import { card, h } from "../dom.js";
import { draw, release } from "../plot.js";
import { throttle } from "../throttle.js";

const EVERY_MS = 2000;
const AWAY_MS = 10000;

/**
 * @param {{at: string, name: string, title: string, caption: string, onTrial?: (trial: number) => void,
 *   words?: HTMLElement}} options `at` is the path of the study or trial; `words` is shown next to the figure
 * @returns {{name: string, node: HTMLElement, changed: () => void, end: () => void}}
 */
export function figure({ at, name, title, caption, onTrial, words }) {
  const plot = h("div", { class: "plot", role: "img", "aria-label": `${title}. ${caption}`, "data-figure": name });
  const message = h("p", { class: "error", role: "status" });
  const drawing = [plot, message];
  const node = card(title, h("p", { class: "caption" }, caption), words ? h("div", { class: "grid" }, h("div", { class: "stack" }, drawing), words) : drawing);
  let visible = false;
  let stale = true;
  let shown = false;

  const fetchAndDraw = async () => {
    if (!stale || document.hidden) return 0;
    stale = false;
    try {
      const { value, isSame, againMs } = await read(`${at}/figures/${name}`);
      if (!isSame || !shown) await draw(plot, value, onTrial);
      shown = true;
      message.textContent = "";
      stale ||= againMs > 0;
      return againMs;
    } catch (error) {
      stale = true;
      if (error.status !== 0) message.textContent = error.message;
      return 0;
    }
  };
  const refresh = throttle(fetchAndDraw, EVERY_MS);
  const refreshAway = throttle(fetchAndDraw, AWAY_MS);
  refreshAway.call();
  const seen = new IntersectionObserver(
    ([entry]) => {
      visible = entry.isIntersecting;
      if (visible) refresh.call();
    },
    { rootMargin: "200px" },
  );
  seen.observe(plot);

  return {
    name,
    node,
    changed: () => {
      stale = true;
      (visible ? refresh : refreshAway).call();
    },
    end: () => {
      seen.disconnect();
      refresh.end();
      refreshAway.end();
      release(plot);
    },
  };
}
