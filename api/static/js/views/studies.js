/**
 * The list of studies: state, progress and results so far.
 */

import { get, path, poll } from "../api.js";
import { badge, fill, h, link } from "../dom.js";
import { ago, count, many, number, progress } from "../format.js";
import { bar, optimizer } from "../parts/progress.js";

const EVERY_MS = 3000;
const COLUMNS = ["Study", "State", "Progress", "Best", "Optimizers", "Created"];

/**
 * @param {HTMLElement} root
 * @param {{fail: (error: Error) => void}} context
 * @returns {() => void} stops polling
 */
export function render(root, { fail }) {
  document.title = "Studies · Tuner";
  const list = h("div", { "aria-live": "off" });
  fill(root, h("div", { class: "heading" }, h("h1", {}, "Studies")), list);
  let shown = "";
  let limit = 50;

  const load = async () => {
    try {
      const page = await get("/studies", { limit });
      const now = JSON.stringify(page);
      if (now !== shown) fill(list, page.items.length ? table(page, more) : welcome());
      shown = now;
    } catch (error) {
      fail(error);
    }
  };
  const more = () => {
    limit = Math.min(limit * 2, 200);
    load();
  };
  return poll(load, EVERY_MS);
}

function table(page, more) {
  return [
    h(
      "div",
      { class: "card flush scroll" },
      h(
        "table",
        { class: "studies" },
        h("caption", { class: "hidden" }, "Studies, newest first"),
        h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col", class: name === "Best" ? "num" : null }, name)))),
        h("tbody", {}, page.items.map(row)),
      ),
    ),
    page.next_cursor && page.items.length < 200 && h("p", {}, h("button", { onClick: more }, "Show more")),
  ];
}

function row(study) {
  const { done } = progress(study);
  return h(
    "tr",
    {},
    h(
      "th",
      { scope: "row" },
      link(path("studies", study.name), study.name),
      h("span", { class: "sub" }, study.title && study.title !== study.name ? [h("bdi", {}, study.title), " · "] : null, study.workload),
    ),
    h("td", {}, badge(study.state)),
    h("td", { class: "wide" }, bar(study), h("span", { class: "sub" }, `${count(done)} of ${many(study.run_cap, "trial")}`)),
    h("td", { class: "num" }, study.best ? number(study.best.value) : "–", h("span", { class: "sub" }, study.metric)),
    h("td", {}, h("div", { class: "chips" }, study.optimizers.map(optimizer))),
    h("td", { class: "nowrap" }, ago(study.created_at)),
  );
}

function welcome() {
  const example = [
    "name: first",
    "workload: digits-mlp",
    "metric: {name: valid_loss, goal: minimize}",
    "optimizers: [sgd, adamw, muon]",
    "parameters:",
    "  batch_size: {values: [16, 32, 64, 128]}",
    "run_cap: 32",
  ].join("\n");
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No studies yet"),
    h("p", {}, "Describe one in a file, such as study.yaml:"),
    h("pre", {}, example),
    h("p", {}, "and submit it:"),
    h("pre", {}, `tuner submit study.yaml --server ${location.origin}`),
    h("p", { class: "muted" }, "It will appear here automatically."),
  );
}
