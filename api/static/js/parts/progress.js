/**
 * Progress of a study: the bar, the live numbers next to it, and optimizer labels in their colours.
 */

import { h } from "../dom.js";
import { count, duration, number, numeric, percent, progress } from "../format.js";
import { colour } from "../palette.js";

const SEGMENTS = ["completed", "pruned", "infeasible", "failed", "cancelled", "paused", "running"];

/**
 * The progress bar: one segment per trial state, as a share of the cap.
 *
 * @param {any} study a StudyView
 * @returns {HTMLElement}
 */
export function bar(study) {
  const total = Math.max(study.run_cap, ...[SEGMENTS.reduce((sum, state) => sum + (study.counts[state] ?? 0), 0)]);
  const { done } = progress(study);
  return h(
    "div",
    {
      class: "bar",
      role: "progressbar",
      "aria-label": `Trials of ${study.name}`,
      "aria-valuemin": 0,
      "aria-valuemax": study.run_cap,
      "aria-valuenow": Math.min(done, study.run_cap),
    },
    SEGMENTS.filter((state) => study.counts[state]).map((state) => {
      const part = h("span", { class: `seg state-${state}`, title: `${study.counts[state]} ${state}` });
      part.style.width = `${(100 * study.counts[state]) / total}%`;
      return part;
    }),
  );
}

/** Whether a budget is shown beside the other numbers: it is limited, or it is money; trials have the bar. */
function costs(budget) {
  return !["runs", "failed"].includes(budget.name) && (budget.limit !== null || (["cost", "device_hours"].includes(budget.name) && budget.used > 0));
}

function spent({ unit, used, limit }) {
  const written = { s: duration, examples: count }[unit] ?? ((value) => number(value, 3));
  const words = limit === null ? written(used) : `${written(used)} of ${written(limit)}`;
  return unit === "h" ? `${words} h` : words;
}

/**
 * The numbers next to the bar.
 *
 * @param {any} study a StudyView
 * @returns {HTMLElement}
 */
export function facts(study) {
  const { done, running, rate, eta, elapsed } = progress(study);
  const speed = numeric(study.examples_per_second);
  const entries = [
    ["finished", `${count(done)} / ${count(study.run_cap)}`],
    ["running", count(running)],
    ["paused", study.counts.paused ? count(study.counts.paused) : null],
    ["queued", study.counts.queued ? count(study.counts.queued) : null],
    ["infeasible", study.counts.infeasible ? count(study.counts.infeasible) : null],
    ["failed", study.counts.failed ? count(study.counts.failed) : null],
    ["examples", count(study.examples_done)],
    ["slots used", study.slot_utilisation === null ? null : percent(study.slot_utilisation)],
    ["examples/s", Number.isFinite(speed) ? count(speed) : null],
    ["trials/s", Number.isFinite(rate) ? number(rate, 3) : "–"],
    ["elapsed", duration(elapsed)],
    ["remaining", Number.isFinite(eta) ? `about ${duration(eta)}` : null],
    ["program", programs(study.running_programs)],
    ...(study.budgets ?? []).filter(costs).map((budget) => [budget.name.replace("_", " "), spent(budget)]),
  ];
  return h(
    "dl",
    { class: "facts" },
    entries
      .filter(([, value]) => value !== null)
      .map(([name, value]) => h("div", { "data-fact": name }, h("dt", {}, name), h("dd", {}, value))),
  );
}

/** Which programs run the trials now: the one of the most trials, and how many others there are. */
function programs(running) {
  if (!running.length) return null;
  const [{ words, fingerprint, devices }, ...others] = running;
  return `${devices > 1 ? `${devices} × ` : ""}${words || fingerprint}${others.length ? ` and ${others.length} more` : ""}`;
}

/**
 * An optimizer's name, preceded by a dot in its colour.
 *
 * @param {string} name
 * @returns {HTMLElement}
 */
export function optimizer(name) {
  const dot = h("span", { class: "dot", "aria-hidden": "true" });
  dot.style.background = colour(name);
  return h("span", { class: "optimizer" }, dot, name);
}
