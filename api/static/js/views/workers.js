/**
 * The workers: their devices and how busy they are.
 */

import { get, path, poll, post } from "../api.js";
import { ask, badge, fill, h } from "../dom.js";
import { ago, count } from "../format.js";

const EVERY_MS = 3000;
const DRAINS = "It stores the states of its trials, hands them back and ends. The trials go on elsewhere.";
const COLUMNS = ["Worker", "State", "Devices", "Trials held", "Workloads", "Version", "Last seen", ""];

/**
 * @param {HTMLElement} root
 * @param {{fail: (error: Error) => void}} context
 * @returns {() => void} stops polling
 */
export function render(root, { fail }) {
  document.title = "Workers · Tuner";
  const list = h("div");
  fill(root, h("div", { class: "heading" }, h("h1", {}, "Workers")), list);
  const show = async () => {
    try {
      const answer = await get("/workers");
      const workers = answer.items ?? answer;
      fill(list, workers.length ? table(workers, act) : none());
    } catch (error) {
      fail(error);
    }
  };
  const act = async (worker, order) => {
    if (order === "drain" && !(await ask({ title: `Drain ${worker.name}?`, text: DRAINS, confirm: "Drain worker" }))) return;
    await post(`${path("workers", worker.id)}/${order}`).then(show, fail);
  };
  return poll(show, EVERY_MS);
}

function table(workers, act) {
  return h(
    "div",
    { class: "card flush scroll" },
    h(
      "table",
      { class: "workers" },
      h("caption", { class: "hidden" }, "Workers"),
      h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col", class: name === "Trials held" ? "num" : null }, name)))),
      h("tbody", {}, workers.map((worker) => row(worker, act))),
    ),
  );
}

function row(worker, act) {
  const known = worker.devices.every((device) => device.width !== null); // otherwise it depends on the work
  const slots = worker.devices.reduce((sum, device) => sum + device.width, 0);
  return h(
    "tr",
    { "data-worker": worker.id },
    h("th", { scope: "row" }, worker.name, h("span", { class: "sub" }, `id ${worker.id}`)),
    h("td", {}, badge(worker.state), worker.why && h("span", { class: "sub" }, worker.why)),
    h("td", {}, worker.devices.map((device) => h("div", {}, device.device, h("span", { class: "sub" }, device.description)))),
    h("td", { class: "num" }, known ? `${count(worker.held)} / ${count(slots)}` : count(worker.held)),
    h("td", {}, worker.workloads.join(", ")),
    h("td", {}, worker.version || "–"),
    h("td", { class: "nowrap" }, ago(worker.last_seen)),
    h(
      "td",
      { class: "orders" },
      worker.state === "quarantined" && h("button", { onClick: () => act(worker, "release") }, "Release"),
      ["busy", "idle", "quarantined"].includes(worker.state) && h("button", { onClick: () => act(worker, "drain") }, "Drain"),
    ),
  );
}

function none() {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No workers"),
    h("p", {}, "Trials wait until a worker connects. Start one on any machine that can reach this server:"),
    h("pre", {}, `tuner worker --server ${location.origin}`),
  );
}
