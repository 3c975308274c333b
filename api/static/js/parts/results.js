/**
 * The results of a study: the best configuration with its code, the optimizers by their best trial, and batch-size
 * advice in words.
 * They are fetched once a trial has completed, and again when the study's revision has changed.
 */

import { path, read } from "../api.js";
import { h, replace } from "../dom.js";
import { throttle } from "../throttle.js";
import { adviceList } from "./advice.js";
import { bestCard, codeCard, leaderboardCard } from "./best.js";

const EVERY_MS = 2000;

/**
 * @param {string} name of the study
 * @param {(error: Error) => void} fail
 * @returns {{best: HTMLElement, board: HTMLElement, code: HTMLElement, words: HTMLElement, changed: (study: any) => void, end: () => void}}
 */
export function results(name, fail) {
  const nodes = { best: h("div"), board: h("div"), code: h("div"), words: h("div") };
  let study = null;
  let revision = null;

  const show = ([best, board, advice]) => {
    replace(nodes.best, best, () => bestCard(study, best));
    replace(nodes.code, best?.snippet ?? null, () => codeCard(best));
    replace(nodes.board, board, () => leaderboardCard(study, board));
    replace(nodes.words, advice, () => adviceList(advice));
  };
  const refresh = throttle(async () => {
    try {
      const answers = await Promise.all(["best", "leaderboard", "batch-advice"].map((part) => read(path("studies", name, part))));
      show(answers.map((answer) => answer.value));
      return Math.max(...answers.map((answer) => answer.againMs));
    } catch (error) {
      revision = null;
      fail(error);
      return 0;
    }
  }, EVERY_MS);
  return {
    ...nodes,
    changed: (now) => {
      study = now;
      if (now.best === null) show([null, null, null]);
      else if (now.revision !== revision) {
        revision = now.revision;
        refresh.call();
      }
    },
    end: refresh.end,
  };
}
