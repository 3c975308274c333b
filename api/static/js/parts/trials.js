/**
 * The table of a study's trials: filtered by state, sorted and paged by the server.
 */

import { path, read } from "../api.js";
import { badge, card, fill, h, link, rebuild } from "../dom.js";
import { between, duration, moment, number, ofTotal, setting } from "../format.js";
import { throttle } from "../throttle.js";
import { trialButton } from "./actions.js";
import { optimizer } from "./progress.js";

const STATES = ["queued", "running", "paused", "completed", "pruned", "infeasible", "failed", "cancelled"];
const PAGE = 25;
const EVERY_MS = 1500;

/**
 * @param {any} study a StudyView
 * @param {(error: Error) => void} fail
 * @returns {{node: HTMLElement, changed: () => void, end: () => void}}
 */
export function trialsTable(study, fail) {
  const wanted = { state: "", sort: "-finished_at", cursors: [null] }; // the latest ended, then running, then queued
  const body = h("tbody");
  const head = h("tr");
  const pager = h("p", { class: "pager" });
  const filter = h(
    "select",
    { id: "trial-state", onChange: (event) => turn({ state: event.target.value, cursors: [null] }) },
    h("option", { value: "" }, "all states"),
    STATES.map((state) => h("option", { value: state }, state)),
  );
  const columns = [...columnsOf(study), { name: "", kind: "nowrap", cell: (t) => trialButton(t, { done: () => refresh.now(), fail }) }];
  const node = card(
    "Trials",
    h("p", { class: "filter" }, h("label", { for: "trial-state" }, "Show"), filter),
    h("div", { class: "scroll" }, h("table", { class: "trials" }, h("caption", { class: "hidden" }, "Trials"), h("thead", {}, head), body)),
    pager,
  );
  let shown = null;

  const turn = (change) => {
    Object.assign(wanted, change);
    headers();
    refresh.now();
  };
  const refresh = throttle(async () => {
    if (document.hidden) return 0;
    const { state, sort, cursors } = wanted;
    try {
      const { value, againMs } = await read(path("studies", study.name, "trials"), { state, sort, limit: PAGE, cursor: cursors.at(-1) });
      if (value !== shown) rows(value);
      shown = value;
      return againMs;
    } catch (error) {
      fail(error);
      return 0;
    }
  }, EVERY_MS);
  const headers = () => fill(head, columns.map((column) => header(column, wanted.sort, (sort) => turn({ sort, cursors: [null] }))));
  const rows = (page) => {
    const cells = (trial) => columns.map(({ cell, kind, first }) => h(first ? "th" : "td", { class: kind, scope: first ? "row" : null }, cell(trial)));
    const none = h("tr", {}, h("td", { colspan: columns.length, class: "muted" }, "No trials."));
    const row = (trial) => h("tr", { "data-trial": trial.number }, cells(trial));
    if (page.items.length) rebuild(body, page.items, (trial) => trial.number, row);
    else fill(body, none);
    const { cursors } = wanted;
    fill(
      pager,
      h("button", { disabled: cursors.length === 1, onClick: () => turn({ cursors: cursors.slice(0, -1) }) }, "Previous"),
      h("span", { class: "muted" }, `page ${cursors.length}`),
      h("button", { disabled: !page.next_cursor, onClick: () => turn({ cursors: [...cursors, page.next_cursor] }) }, "Next"),
    );
  };
  headers();
  refresh.call();
  return { node, changed: refresh.call, end: refresh.end };
}

function columnsOf(study) {
  const swept = [...new Set(Object.values(study.swept).flat())].filter((name) => !["lr", "batch_size", "optimizer"].includes(name));
  // Code of the user's own may know neither; the engine's trials always have both.
  const searched = Object.values(study.swept).flat();
  const usual = ["lr", "batch_size"].filter((name) => study.workload !== "external" || searched.includes(name));
  return [
    { name: "Trial", sort: "number", kind: "num", first: true, cell: (t) => link(path("studies", study.name, "trials", t.number), t.number) },
    { name: "State", cell: (t) => [badge(t.state), t.order && h("span", { class: "muted" }, ` ${t.order} ordered`)] },
    { name: "Optimizer", sort: "optimizer", cell: (t) => optimizer(t.optimizer) },
    { name: study.metric, sort: "value", kind: "num", cell: (t) => (t.value === null ? (t.reason ?? "–") : number(t.value)) },
    ...usual.map((name) => ({ name, kind: "num", cell: (t) => (name in t.params ? setting(t.params[name]) : "–") })),
    ...swept.map((name) => ({ name, kind: "num", cell: (t) => (study.swept[t.optimizer]?.includes(name) ? setting(t.params[name]) : "") })),
    { name: "Examples", kind: "num", cell: (t) => ofTotal(t.examples, t.total_examples, "/") },
    { name: "Ended", sort: "finished_at", kind: "nowrap", cell: (t) => (t.finished_at ? moment(t.finished_at) : "") },
    { name: "Time", kind: "num nowrap", cell: (t) => (t.started_at ? duration(between(t.started_at, t.finished_at)) : "–") },
  ];
}

function header({ name, sort, kind }, current, onSort) {
  if (!sort) return h("th", { scope: "col", class: kind }, name);
  const direction = current === sort ? "ascending" : current === `-${sort}` ? "descending" : null;
  const next = direction === "ascending" ? `-${sort}` : sort;
  const arrow = direction === "ascending" ? " ↑" : direction === "descending" ? " ↓" : "";
  return h("th", { scope: "col", class: kind, "aria-sort": direction }, h("button", { class: "sort", onClick: () => onSort(next) }, name + arrow));
}
