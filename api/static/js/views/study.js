/**
 * One study, live: progress, the winner, advice, figures, trials.
 *
 * An event stream, or polling in tabs without it, signals that something changed; the data shown is always re-read from
 * the API, each part at a limited rate, so a lost event does no harm. The stream opens once the study is known to exist.
 */

import { ApiError, follow, path, poll, read } from "../api.js";
import { card, fill, h, replace } from "../dom.js";
import { figure } from "../parts/figures.js";
import { heading } from "../parts/heading.js";
import { bar, facts } from "../parts/progress.js";
import { results } from "../parts/results.js";
import { trialsTable } from "../parts/trials.js";
import { throttle } from "../throttle.js";

const STUDY_MS = 700;
const CLOCK_MS = 2000;
const CALM = 5;
const FIGURES = [
  ["progress", "Progress", "The best value so far against the number of trials finished; every dot is a trial."],
  ["curves", "Learning curves", "The metric over examples seen, one line per trial; the best trial's line is thicker."],
  ["loss_vs_lr", "Learning rate", "Every finished trial; stars mark the best of each optimizer, crosses diverged trials."],
  ["lr_batch", "Learning rate and batch size", "The bright end of the colour scale is better; crosses mark diverged trials."],
  ["noise", "Gradient noise scale", "With its 95 % interval; arrows mean no upper bound yet; the dotted line is the batch size in use."],
];
const ADVICE = ["batch_advice", "Batch size", "Recommended ranges per optimizer, with the interval of the critical batch size."];
const GROWING = new Set(["curves", "noise"]);

/**
 * @param {HTMLElement} root
 * @param {{params: {study: string}, go: (href: string) => void, fail: (error: Error) => void}} context
 * @returns {() => void} closes the stream and releases the figures
 */
export function render(root, { params, go, fail }) {
  document.title = `${params.study} · Tuner`;
  const at = path("studies", params.study);
  let page = null;
  let study = null;
  let ended = false;
  let turn = 0;

  const refresh = throttle(async () => {
    try {
      const { value, againMs } = await read(at);
      if (ended) return 0;
      study = value;
      page ??= open(root, study, { at, go, fail, refresh: refresh.call, end: () => end() });
      page.show(study);
      return againMs;
    } catch (error) {
      fail(error);
      return 0;
    }
  }, STUDY_MS);
  // The stream tells of changes. What changes without one (a worker that comes or goes, the rate) is asked for now and
  // then: often while the study waits for something, seldom while its trials run.
  const clock = () => {
    const running = study?.state === "running";
    const calm = page?.isLive() && (!running || study.counts.running > 0);
    turn += 1;
    if (!calm || (running && turn % CALM === 0)) refresh.call();
    else if (running) page.tick();
  };
  const endClock = poll(clock, CLOCK_MS);
  const end = () => {
    ended = true;
    endClock();
    refresh.end();
    page?.end();
  };
  return end;
}

/** Build the page of a study and keep it up to date. */
function open(root, study, context) {
  const { at, go, fail, refresh } = context;
  const top = { heading: h("div"), progress: h("div") };
  const found = results(study.name, fail);
  const table = trialsTable(study, fail);
  const text = h("pre");
  const onTrial = (number) => go(path("studies", study.name, "trials", number));
  const draw = ([name, title, caption], words) => figure({ at, name, title, caption, onTrial, words });
  const figures = FIGURES.map((entry) => draw(entry));
  const advice = draw(ADVICE, found.words);
  fill(
    root,
    top.heading,
    top.progress,
    h("div", { class: "grid natural" }, h("div", {}, found.best, found.board), found.code),
    advice.node,
    h("div", { class: "grid" }, figures.map((item) => item.node)),
    table.node,
    card("Study document", h("details", {}, h("summary", {}, "As it is now, with its defaults"), text)),
  );

  const changed = (items) => {
    refresh();
    table.changed();
    for (const item of items) item.changed();
  };
  const all = [...figures, advice];
  const growing = figures.filter((item) => GROWING.has(item.name));
  let seen = study;
  const stream = follow(study.name, {
    onOpen: () => changed(all),
    onChange: () => changed(all),
    onAdvanced: () => changed(growing),
    onDeleted: () => fail(new ApiError(404, `The study ${study.name} has been deleted.`)),
  });
  const progress = (now) => fill(top.progress, bar(now), facts(now));
  return {
    isLive: stream.isLive,
    tick: () => progress(seen),
    show: (now) => {
      // Without the stream, what has changed is told by the study itself.
      if (!stream.isLive() && now.revision !== seen.revision) changed(all);
      else if (!stream.isLive() && now.examples_done !== seen.examples_done) for (const item of growing) item.changed();
      seen = now;
      const { name, title, tags, note, state, reason, fingerprint, notice, priority, parallel } = now;
      const told = { name, title, tags, note, state, reason, fingerprint, notice, priority, parallel };
      replace(top.heading, told, () => heading(now, context));
      replace(text, now.document, () => JSON.stringify(now.document, null, 2));
      progress(now);
      found.changed(now);
    },
    end: () => {
      stream.end();
      for (const part of [found, table, ...all]) part.end();
    },
  };
}
