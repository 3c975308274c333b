/**
 * One trial: its configuration, state and attempts, the curve of each metric, and the traceback if it failed.
 */

import { ApiError, get, path, poll } from "../api.js";
import { badge, card, fill, h, link } from "../dom.js";
import { between, duration, many, moment, number, numeric, ofTotal } from "../format.js";
import { colour } from "../palette.js";
import { trialButton } from "../parts/actions.js";
import { figure } from "../parts/figures.js";
import { settings } from "../parts/best.js";
import { optimizer } from "../parts/progress.js";
import { drawLine, release } from "../plot.js";

const EVERY_MS = 2000;
const POINTS = 200;
const NOISE = "With its 95 % interval; arrows mean no upper bound yet; the dotted line is the batch size in use.";
const OVER = ["completed", "pruned"]; // all others may go on, or be tried again

/**
 * @param {HTMLElement} root
 * @param {{params: {study: string, number: string}, fail: (error: Error) => void}} context
 * @returns {() => void} stops polling
 */
export function render(root, { params, fail }) {
  document.title = `Trial ${params.number} · ${params.study} · Tuner`;
  const at = path("studies", params.study, "trials", params.number);
  const top = h("div");
  const charts = h("div", { class: "grid" });
  const output = h("div");
  const noise = figure({ at, name: "noise", title: "Gradient noise scale", caption: NOISE });
  const plots = new Map();
  let shown = "";
  let settled = false;
  fill(root, top, output, charts, noise.node);

  const load = async () => {
    if (settled) return;
    try {
      const trial = await get(at);
      const now = JSON.stringify(trial);
      if (now !== shown) fill(top, page(trial, params.study, { fail, load }));
      if (now !== shown) noise.changed();
      shown = now;
      await curves(trial, at, charts, plots);
      await printed(at, output);
      settled = OVER.includes(trial.state);
    } catch (error) {
      fail(error);
    }
  };
  const end = poll(load, EVERY_MS);
  return () => {
    end();
    noise.end();
    for (const plot of plots.values()) release(plot);
  };
}

/** The end of what the trial printed, if anything is kept of it; scrolled to its end. */
async function printed(at, output) {
  const { text, written } = await get(`${at}/log`);
  if (!written || output.textContent.endsWith(text)) return;
  const shown = h("pre", { class: "traceback", tabindex: "0", "aria-label": "Output" }, text);
  fill(output, card("Output", shown));
  shown.scrollTop = shown.scrollHeight;
}

async function curves(trial, at, charts, plots) {
  const first = await curve(at, null);
  if (!first) {
    if (!plots.size) fill(charts, card("Curves", h("p", { class: "muted" }, "Nothing has been reported yet.")));
    return;
  }
  const others = first.metrics.filter((name) => name !== first.metric);
  const all = [first, ...(await Promise.all(others.map((name) => curve(at, name))))];
  if (!plots.size) fill(charts);
  for (const { metric } of all.filter((one) => one && !plots.has(one.metric))) {
    const plot = h("div", { class: "plot small", role: "img", "aria-label": `${metric} over examples seen`, "data-metric": metric });
    plots.set(metric, plot);
    charts.append(card(metric, plot));
  }
  for (const one of all.filter(Boolean)) {
    const y = one.value.map(numeric);
    const log = y.every((value) => !(value <= 0)) && Math.max(...y.filter(Number.isFinite)) > 1;
    await drawLine(plots.get(one.metric), { x: one.examples.some(Boolean) ? one.examples : one.step, y, name: one.metric, colour: colour(trial.optimizer), log });
  }
}

async function curve(at, metric) {
  try {
    const found = await get(`${at}/curve`, { metric, points: POINTS });
    return found.value.length ? found : null;
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
}

function page(trial, study, { fail, load }) {
  const neighbour = (number, text) => number >= 0 && link(path("studies", study, "trials", number), text);
  return [
    h(
      "div",
      { class: "heading" },
      h(
        "div",
        {},
        h("p", { class: "crumbs" }, link("/", "Studies"), " / ", link(path("studies", study), study)),
        h("h1", {}, `Trial ${trial.number} `, badge(trial.state)),
        trial.order && h("p", { class: "muted", role: "status" }, `It was told to ${trial.order}, and has not done so yet.`),
        trial.reason && h("p", { class: trial.order ? "reason calm" : "reason" }, trial.reason),
      ),
      h(
        "div",
        { class: "actions" },
        neighbour(trial.number - 1, "← previous"),
        neighbour(trial.number + 1, "next →"),
        trialButton(trial, { done: load, fail }),
      ),
    ),
    h(
      "div",
      { class: "grid" },
      card("Configuration", h("p", { class: "headline" }, optimizer(trial.optimizer)), settings(trial.params)),
      card("Run", facts(trial)),
    ),
    trial.error && card("Error", h("pre", { class: "traceback", tabindex: "0" }, trial.error)),
  ];
}

function facts(trial) {
  const attempts = trial.attempt === 0 ? "not started" : trial.attempt === 1 ? "1" : `${trial.attempt} (resumed or retried ${many(trial.attempt - 1, "time")})`;
  const entries = [
    ["value", number(trial.value)],
    ["examples", ofTotal(trial.examples, trial.total_examples, "of")],
    ["steps", ofTotal(trial.step, trial.total_steps, "of")],
    ["attempts", attempts],
    ["worker", trial.worker ?? "–"],
    ["program", trial.fingerprint ? h("span", { title: program(trial.program) }, trial.fingerprint) : "–"],
    ["origin", trial.origin === "proposed" ? "proposed by the sampler" : trial.origin === "enqueued" ? "given by a user" : trial.origin],
    ["seed", `${trial.seed}${trial.replicate ? ` (replicate ${trial.replicate})` : ""}`],
    ["started", moment(trial.started_at)],
    ["time", trial.started_at ? duration(between(trial.started_at, trial.finished_at)) : "–"],
  ];
  return h("dl", { class: "pairs" }, entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function program(parts) {
  return Object.entries(parts ?? {})
    .map(([name, value]) => `${name}: ${value}`)
    .join("\n");
}
