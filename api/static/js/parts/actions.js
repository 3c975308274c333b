/**
 * What a reader may do to a study or a trial: the buttons, the confirmations, and what is said when it cannot be done.
 *
 * What cannot be undone asks first, and so does what throws work away.
 */

import { path, post, remove } from "../api.js";
import { ask, h, tell } from "../dom.js";

const OPEN = ["queued", "running", "paused"];
const RETRIED = ["failed", "cancelled", "infeasible"];

/**
 * The buttons of a study's page.
 *
 * @param {any} study a StudyView
 * @param {{at: string, go: (href: string) => void, fail: (error: Error) => void, refresh: () => void, end: () => void}} context
 * @returns {Array<HTMLElement | false>}
 */
export function studyButtons(study, context) {
  const { at, go, fail, refresh } = context;
  const act = (what) => attempt(() => post(`${at}/${what}`), refresh, fail);
  const is = (...states) => states.includes(study.state);
  return [
    is("running") && button("Pause", () => act("pause")),
    is("paused", "stopped", "failed") && button("Resume", () => act("resume")),
    is("running", "paused") && button("Stop", () => stopStudy(study, () => act("stop"))),
    button("Clone", () => attempt(() => post(`${at}/clone`), (made) => made.name && go(path("studies", made.name)), fail)),
    button("Delete", () => erase(study, context), "danger"),
  ];
}

/**
 * The button of a trial, if there is something to do: stop one that is under way, try one again that did not work.
 *
 * @param {any} trial a TrialView
 * @param {{done: () => void, fail: (error: Error) => void}} context
 * @returns {HTMLElement | false}
 */
export function trialButton(trial, { done, fail }) {
  const at = path("studies", trial.study, "trials", trial.number);
  if (RETRIED.includes(trial.state)) return button("Retry", () => attempt(() => post(`${at}/retry`), done, fail), "act");
  if (!OPEN.includes(trial.state) || trial.order === "stop") return false;
  const stop = async () => {
    const text = "The trial is cancelled; its curve is kept. It can be tried again.";
    if (await ask({ title: `Stop trial ${trial.number}?`, text, confirm: "Stop trial" })) await attempt(() => post(`${at}/stop`), done, fail);
  };
  return button("Stop", stop, "act");
}

function button(text, onClick, kind = null) {
  return h("button", { class: kind, onClick }, text);
}

/** Do something; what the server refuses because of how things are (409) is said, and the page stays. */
async function attempt(act, done, fail) {
  try {
    done(await act());
  } catch (error) {
    if (error.status !== 409) return fail(error);
    await tell({ title: "This cannot be done now", text: error.message });
    done({});
  }
}

async function stopStudy(study, act) {
  const text = "Waiting and running trials are cancelled. Completed trials and their results are kept. Resume undoes it.";
  if (await ask({ title: `Stop ${study.name}?`, text, confirm: "Stop study" })) await act();
}

async function erase(study, { at, go, fail, end }) {
  const text = "The study, its trials and their curves are deleted. This cannot be undone.";
  if (!(await ask({ title: `Delete ${study.name}?`, text, confirm: "Delete study" }))) return;
  end(); // nothing may request the study while it is being deleted
  await remove(at).then(() => go("/"), fail);
}
