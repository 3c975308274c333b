/**
 * The workers: their devices and how busy they are.
 */

import { get, poll } from "../api.js";
import { badge, fill, h } from "../dom.js";
import { ago, count } from "../format.js";

const EVERY_MS = 3000;
const COLUMNS = ["Worker", "State", "Devices", "Trials held", "Workloads", "Version", "Last seen"];

/**
 * @param {HTMLElement} root
 * @param {{fail: (error: Error) => void}} context
 * @returns {() => void} stops polling
 */
export function render(root, { fail }) {
  document.title = "Workers · Tuner";
  const list = h("div");
  fill(root, h("div", { class: "heading" }, h("h1", {}, "Workers")), list);
  return poll(async () => {
    try {
      const answer = await get("/workers");
      const workers = answer.items ?? answer;
      fill(list, workers.length ? table(workers) : none());
    } catch (error) {
      fail(error);
    }
  }, EVERY_MS);
}

function table(workers) {
  return h(
    "div",
    { class: "card flush scroll" },
    h(
      "table",
      { class: "workers" },
      h("caption", { class: "hidden" }, "Workers"),
      h("thead", {}, h("tr", {}, COLUMNS.map((name) => h("th", { scope: "col", class: name === "Trials held" ? "num" : null }, name)))),
      h("tbody", {}, workers.map(row)),
    ),
  );
}

function row(worker) {
  const known = worker.devices.every((device) => device.width !== null); // otherwise it depends on the work
  const slots = worker.devices.reduce((sum, device) => sum + device.width, 0);
  return h(
    "tr",
    { "data-worker": worker.id },
    h("th", { scope: "row" }, worker.name, h("span", { class: "sub" }, `id ${worker.id}`)),
    h("td", {}, badge(worker.state)),
    h("td", {}, worker.devices.map((device) => h("div", {}, device.device, h("span", { class: "sub" }, device.description)))),
    h("td", { class: "num" }, known ? `${count(worker.held)} / ${count(slots)}` : count(worker.held)),
    h("td", {}, worker.workloads.join(", ")),
    h("td", {}, worker.version || "–"),
    h("td", { class: "nowrap" }, ago(worker.last_seen)),
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
