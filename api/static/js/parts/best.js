/**
 * The best configuration, with its evidence; the code to paste; and the optimizers ranked by their best trial.
 */

import { path } from "../api.js";
import { card, h, link } from "../dom.js";
import { count, number, numeric, setting } from "../format.js";
import { optimizer } from "./progress.js";

const FIRST = ["lr", "batch_size", "schedule"];

/**
 * @param {any} study a StudyView
 * @param {any} best a Best, or null
 * @returns {HTMLElement}
 */
export function bestCard(study, best) {
  if (!best) return card("Best configuration", h("p", { class: "muted" }, "No trial has completed yet."));
  const { trial } = best;
  const interval = best.interval && ` (${number(best.interval[0])} to ${number(best.interval[1])} over seeds)`;
  return card(
    "Best configuration",
    h(
      "p",
      { class: "headline" },
      h("span", { class: "value" }, number(trial.value)),
      h("span", { class: "muted" }, ` ${study.metric}${interval || ""} · `),
      optimizer(trial.optimizer),
      " · ",
      link(path("studies", study.name, "trials", trial.number), `trial ${trial.number}`),
    ),
    target(study, trial),
    settings(trial.params, study.swept[trial.optimizer]),
    best.evidence && h("p", { class: "evidence" }, gradeBadge(best.grade), best.evidence),
  );
}

/**
 * @param {any} best a Best, or null
 * @returns {HTMLElement}
 */
export function codeCard(best) {
  const none = h("p", { class: "muted" }, "Appears when the first trial has completed: the tuned optimizer, to paste into a script.");
  return card("Python", best?.snippet ? snippet(best.snippet) : none);
}

/** Whether the best value has reached the study's target. */
function target(study, trial) {
  if (study.target === null) return null;
  const [value, wanted] = [numeric(trial.value), numeric(study.target)];
  const reached = study.goal === "minimize" ? value <= wanted : value >= wanted;
  return h("p", { class: "target" }, `Target ${number(wanted)}: ${reached ? "reached" : "not reached yet"}.`);
}

/**
 * Hyperparameters as a compact list: the most important first, then the searched ones, then the fixed ones, paler.
 *
 * @param {Record<string, any>} params
 * @param {string[]} [swept] names of the searched ones; if omitted, none is paler
 * @returns {HTMLElement}
 */
export function settings(params, swept = undefined) {
  const searched = (name) => swept === undefined || swept.includes(name);
  const rank = (name) => (FIRST.includes(name) ? FIRST.indexOf(name) : searched(name) ? FIRST.length : FIRST.length + 1);
  const names = Object.keys(params).filter((name) => name !== "optimizer").sort((a, b) => rank(a) - rank(b));
  const entry = (name) => h("div", { class: searched(name) ? null : "fixed" }, h("dt", {}, name), h("dd", {}, setting(params[name])));
  return h("dl", { class: "settings" }, names.map(entry));
}

/**
 * The letter of an evidence grade.
 *
 * @param {string} grade A, B, C, D or none
 * @param {string} [meaning]
 * @returns {HTMLElement}
 */
export function gradeBadge(grade, meaning = "") {
  const text = grade === "none" ? "no grade" : `grade ${grade}`;
  return h("span", { class: `grade grade-${grade}`, title: meaning || null }, text);
}

/**
 * @param {any} study a StudyView
 * @param {any} board a Leaderboard, or null
 * @returns {HTMLElement}
 */
export function leaderboardCard(study, board) {
  if (!board?.rows.length) return card("Optimizers", h("p", { class: "muted" }, "No trial has completed yet."));
  const head = [["#", "num"], ["Optimizer", ""], ["Best", "num"], ["Median", "num"], ["lr", "num"], ["Batch", "num"], ["Done", "num"], ["Infeasible", "num"]];
  return card(
    "Optimizers",
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "leaderboard" },
        h("caption", { class: "hidden" }, `Optimizers by their best ${study.metric}`),
        h("thead", {}, h("tr", {}, head.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
        h("tbody", {}, board.rows.map((row) => leader(study, row))),
      ),
    ),
    board.evidence && h("p", { class: "evidence" }, gradeBadge(board.grade), board.evidence),
  );
}

function leader(study, row) {
  const { best } = row;
  const value = best ? link(path("studies", study.name, "trials", best.number), number(best.value)) : "–";
  return h(
    "tr",
    {},
    h("td", { class: "num muted" }, best ? row.rank : "–"),
    h("th", { scope: "row" }, optimizer(row.optimizer)),
    h("td", { class: "num" }, value),
    h("td", { class: "num" }, number(row.median)),
    h("td", { class: "num" }, best ? number(best.params.lr, 3) : "–"),
    h("td", { class: "num" }, best ? setting(best.params.batch_size) : "–"),
    h("td", { class: "num" }, `${count(row.completed)} / ${count(row.trials)}`),
    h("td", { class: "num" }, row.infeasible ? count(row.infeasible) : "–"),
  );
}

function snippet(code) {
  const button = h("button", { class: "copy", onClick: () => copy(code, button) }, "Copy");
  return h("div", { class: "snippet" }, button, h("pre", { tabindex: "0", "aria-label": "Python code" }, code));
}

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Select and copy"; // browsers allow clipboard access only on secure origins
    getSelection().selectAllChildren(button.nextElementSibling);
  }
  setTimeout(() => (button.textContent = "Copy"), 1600);
}
