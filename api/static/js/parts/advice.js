/**
 * Batch-size advice in words: ranges with their interval, the grade and its meaning, and what would narrow the
 * interval.
 * No batch size is shown without its interval.
 */

import { path } from "../api.js";
import { h, link } from "../dom.js";
import { number, numeric, range } from "../format.js";
import { gradeBadge } from "./best.js";
import { optimizer } from "./progress.js";

const RANGES = [
  ["cheapest", "Cheapest (fewest examples)"],
  ["balanced", "Balanced"],
  ["fastest", "Fastest for the given step times"],
];

/**
 * @param {any} advice a BatchAdviceList, or null
 * @returns {HTMLElement}
 */
export function adviceList(advice) {
  if (!advice?.items.length) return h("p", { class: "muted" }, "Advice appears when the first trial has completed.");
  return h("div", { class: "advice" }, advice.items.map((item, index) => entry(item, index === 0)));
}

function entry(item, open) {
  return h(
    "details",
    { open, "data-key": item.optimizer },
    h(
      "summary",
      {},
      optimizer(item.optimizer),
      h("span", { class: "value" }, item.balanced ? range(item.balanced.low, item.balanced.high) : "–"),
      gradeBadge(item.grade, item.grade_meaning),
    ),
    item.headline && h("p", {}, item.headline),
    h("dl", { class: "pairs" }, facts(item).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    item.lr && h("p", {}, item.lr),
    h("p", { class: "muted" }, item.grade_meaning),
    item.next_experiment && h("p", {}, h("strong", {}, "Next experiment: "), item.next_experiment),
    item.notes.length > 0 &&
      h(
        "details",
        { "data-key": `${item.optimizer} notes`, class: "notes" },
        h("summary", {}, "Evidence and limits of this advice"),
        h("ul", {}, item.notes.map((note) => h("li", {}, note))),
      ),
  );
}

/** @returns {[string, any][]} */
function facts(item) {
  const noise = item.noise_scale;
  const interval = item.interval && range(item.interval[0], item.interval[1]);
  const critical = item.critical_batch === null ? interval : `${range(item.critical_batch, item.critical_batch)} (${interval})`;
  const measured = noise && (noise.low <= 0 && !noise.bounded ? "not resolved" : noise.bounded ? `${range(noise.value, noise.value)} (${range(noise.low, noise.high)})` : range(noise.low, Infinity));
  const regret = numeric(item.regret);
  return [
    ...RANGES.filter(([field]) => item[field]).map(([field, text]) => [text, range(item[field].low, item[field].high)]),
    interval && ["Critical batch size", critical],
    item.balanced && !item.fastest && ["Fastest", h("code", {}, `tuner advice ${item.study} --measure`)],
    noise && ["Noise scale, measured", measured],
    Number.isFinite(regret) && ["Largest loss of time within the interval", `${number(100 * regret, 2)} %`],
    item.trial !== null && ["Measured in", link(path("studies", item.study, "trials", item.trial), `trial ${item.trial}`)],
  ].filter(Boolean);
}
