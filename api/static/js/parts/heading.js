/**
 * The heading of a study's page: its facts, its state, and the buttons that stop or delete it after a confirmation.
 */

import { post, remove } from "../api.js";
import { ask, badge, h } from "../dom.js";
import { moment, number } from "../format.js";

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
  const live = study.state === "running" || study.state === "paused";
  return h(
    "div",
    { class: "heading" },
    h(
      "div",
      {},
      h("h1", {}, study.name, " ", badge(study.state)),
      study.title && study.title !== study.name && h("p", { class: "title" }, h("bdi", {}, study.title)),
      h("p", { class: "muted" }, facts.map((fact, place) => [place > 0 && " · ", h("bdi", {}, fact)])),
      study.reason && h("p", { class: "reason" }, study.reason),
      study.notice && h("p", { class: "notice", role: "status" }, capital(study.notice)),
    ),
    h(
      "div",
      { class: "actions" },
      live && h("button", { onClick: () => stop(study, actions) }, "Stop"),
      h("button", { class: "danger", onClick: () => erase(study, actions) }, "Delete"),
    ),
  );
}

/** @param {string} text */
function capital(text) {
  return text.slice(0, 1).toUpperCase() + text.slice(1);
}

async function stop(study, { at, fail, refresh }) {
  const text = "Running trials are cancelled. Completed trials and their results are kept.";
  if (!(await ask({ title: `Stop ${study.name}?`, text, confirm: "Stop study" }))) return;
  await post(`${at}/stop`).then(refresh, fail);
}

async function erase(study, { at, go, fail, end }) {
  const text = "The study, its trials and their curves are deleted. This cannot be undone.";
  if (!(await ask({ title: `Delete ${study.name}?`, text, confirm: "Delete study" }))) return;
  end(); // nothing may request the study while it is being deleted
  await remove(at).then(() => go("/"), fail);
}
