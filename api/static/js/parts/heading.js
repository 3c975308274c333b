/**
 * The heading of a study's page: its facts, its state, its tags and note, and the buttons of what may be done to it.
 */

import { badge, h } from "../dom.js";
import { moment, number } from "../format.js";
import { studyButtons } from "./actions.js";

/**
 * @param {any} study a StudyView
 * @param {{at: string, go: (href: string) => void, fail: (error: Error) => void, refresh: () => void, end: () => void}} actions
 * @returns {HTMLElement}
 */
export function heading(study, actions) {
  const facts = [
    study.workload,
    `${study.metric} (${study.goal}${study.target === null ? "" : `, target ${number(study.target)}`})`,
    study.method,
    study.examples_per_trial && `${study.examples_per_trial.toLocaleString("en")} examples per trial`,
    study.parallel === "automatic" ? "parallel automatic" : `${study.parallel} parallel`,
    study.priority !== 1 && `priority ${number(study.priority)}`,
    study.reproducible && (study.fingerprint ? `reproducible: program ${study.fingerprint}` : "reproducible"),
    `created ${moment(study.created_at)}`,
  ].filter(Boolean);
  return h(
    "div",
    { class: "heading" },
    h(
      "div",
      {},
      h("h1", {}, study.name, " ", badge(study.state)),
      study.title && study.title !== study.name && h("p", { class: "title" }, h("bdi", {}, study.title)),
      study.tags.length > 0 && h("p", { class: "tags" }, study.tags.map((tag) => h("span", { class: "tag" }, tag))),
      h("p", { class: "muted" }, facts.map((fact, place) => [place > 0 && " · ", h("bdi", {}, fact)])),
      study.note && h("p", { class: "note" }, h("bdi", {}, study.note)),
      study.reason && h("p", { class: study.state === "paused" ? "reason calm" : "reason" }, study.reason),
      study.notice && h("p", { class: "notice", role: "status" }, capital(study.notice)),
    ),
    h("div", { class: "actions" }, studyButtons(study, actions)),
  );
}

/** @param {string} text */
function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}
