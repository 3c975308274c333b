/**
 * Formatting of numbers and times. Numbers that JSON cannot represent arrive as "NaN", "Infinity", "-Infinity".
 */

/**
 * @param {number | string | null | undefined} value
 * @returns {number} NaN when there is none
 */
export function numeric(value) {
  return value === null || value === undefined || value === "" ? NaN : Number(value);
}

/**
 * A number with four significant digits; very large and very small ones as powers of ten.
 *
 * @param {number | string | null | undefined} value
 * @param {number} [digits]
 */
export function number(value, digits = 4) {
  const x = numeric(value);
  if (Number.isNaN(x)) return "–";
  if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6 || size < 1e-4) return x.toExponential(Math.max(0, digits - 2)).replace("e+", "e").replace(/\.?0+e/, "e");
  if (Number.isInteger(x)) return x.toLocaleString("en");
  return String(Number(x.toPrecision(digits)));
}

/**
 * A value of a hyperparameter: numbers are rounded, everything else is shown unchanged.
 *
 * @param {number | string | boolean | null | undefined} value
 */
export function setting(value) {
  return typeof value === "number" ? number(value) : value === null || value === undefined ? "–" : String(value);
}

/**
 * A count with a short unit: 1.3k, 20k, 4.2M.
 *
 * @param {number | null | undefined} value
 */
export function count(value) {
  const x = numeric(value);
  if (!Number.isFinite(x)) return number(x);
  if (Math.abs(x) < 10000) return Math.round(x).toLocaleString("en");
  const [unit, name] = Math.abs(x) >= 999.5e6 ? [1e9, "G"] : Math.abs(x) >= 999.5e3 ? [1e6, "M"] : [1e3, "k"];
  return `${Number((x / unit).toPrecision(3))}${name}`;
}

/**
 * A count with its noun: "1 trial", "2 trials".
 *
 * @param {number} amount
 * @param {string} noun
 */
export function many(amount, noun) {
  return `${count(amount)} ${noun}${amount === 1 ? "" : "s"}`;
}

/**
 * A share in [0, 1] as a whole percentage.
 *
 * @param {number | null | undefined} value
 */
export function percent(value) {
  const x = numeric(value);
  return Number.isFinite(x) ? `${Math.floor(100 * x)} %` : "–";
}

/**
 * A range such as "16 to 64", or one number when both ends are the same.
 *
 * @param {number | string} low
 * @param {number | string} high
 */
export function range(low, high) {
  const [a, b] = [numeric(low), numeric(high)];
  if (!Number.isFinite(b)) return `at least ${short(a)}`;
  return a === b ? short(a) : `${short(a)} to ${short(b)}`;
}

/**
 * @param {number | null} seconds
 * @returns {string} such as "4.2 s", "3 min 20 s", "2 h 5 min"
 */
export function duration(seconds) {
  const s = numeric(seconds);
  if (!Number.isFinite(s)) return "–";
  if (s < 9.95) return `${Math.max(0, s).toFixed(1)} s`;
  if (s < 59.5) return `${Math.round(s)} s`;
  const whole = Math.round(s);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

/**
 * Seconds between two times; the second defaults to now.
 *
 * @param {string | null | undefined} start
 * @param {string | null | undefined} [end]
 */
export function between(start, end) {
  if (!start) return NaN;
  return ((end ? Date.parse(end) : Date.now()) - Date.parse(start)) / 1000;
}

/**
 * @param {string | null | undefined} iso
 * @returns {string} such as "just now", "5 min ago", or the date
 */
export function ago(iso) {
  const s = between(iso);
  if (!Number.isFinite(s)) return "–";
  if (s < 10) return "just now";
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  if (s < 86400) return `${Math.round(s / 3600)} h ago`;
  return moment(iso);
}

/**
 * @param {string | null | undefined} iso
 * @returns {string} local date and time
 */
export function moment(iso) {
  return iso ? new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "–";
}

/**
 * How far something is, and how far it goes, where that is known: only a trial's own code may know.
 *
 * @param {number} done
 * @param {number | null} total
 * @param {string} word between the two
 */
export function ofTotal(done, total, word) {
  return total === null ? count(done) : `${count(done)} ${word} ${count(total)}`;
}

/**
 * Progress of a study, from its view.
 *
 * @param {any} study
 * @returns {{done: number, running: number, fraction: number, rate: number, eta: number, elapsed: number}}
 *   rate in trials per second; eta and elapsed in seconds; NaN if unknown
 */
export function progress(study) {
  const of = (...states) => states.reduce((sum, state) => sum + (study.counts[state] ?? 0), 0);
  const done = of("completed", "pruned", "infeasible", "failed", "cancelled");
  const byExamples = study.examples_per_trial ? study.examples_done / (study.run_cap * study.examples_per_trial) : 0;
  const fraction = Math.min(1, study.state === "completed" ? 1 : Math.max(done / study.run_cap, byExamples));
  const elapsed = between(study.started_at, study.finished_at);
  const live = study.state === "running" && fraction > 0;
  return {
    done,
    running: of("running"),
    fraction,
    rate: elapsed > 0 ? done / elapsed : NaN,
    eta: live ? (elapsed * (1 - fraction)) / fraction : NaN,
    elapsed,
  };
}

/** @param {number} x */
function short(x) {
  return Math.abs(x) < 10 ? number(x, 2) : count(x);
}
