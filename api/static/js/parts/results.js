/**
 * The results of a study: the best configuration, the optimizers by their best trial, and batch-size advice in words.
 * They are fetched once a trial has completed, and again when the study's revision has changed.
 */

import { get, path } from "../api.js";
import { h, replace } from "../dom.js";
import { throttle } from "../throttle.js";
import { adviceList } from "./advice.js";
import { bestCard, leaderboardCard } from "./best.js";

const EVERY_MS = 2000;

/**
 * @param {string} name of the study
 * @param {(error: Error) => void} fail
 * @returns {{best: HTMLElement, board: HTMLElement, words: HTMLElement, changed: (study: any) => void, end: () => void}}
 */
export function results(name, fail) {
  const nodes = { best: h("div"), board: h("div"), words: h("div") };
  let study = null;
  let revision = null;

  const show = ([best, board, advice]) => {
    replace(nodes.best, best, () => bestCard(study, best));
    replace(nodes.board, board, () => leaderboardCard(study, board));
    replace(nodes.words, advice, () => adviceList(advice));
  };
  const refresh = throttle(async () => {
    try {
      const answers = ["best", "leaderboard", "batch-advice"].map((part) => get(path("studies", name, part)));
      show(await Promise.all(answers));
    } catch (error) {
      revision = null;
      fail(error);
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
