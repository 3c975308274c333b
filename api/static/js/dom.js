/**
 * Building the page. Text enters only as text nodes: nothing here can turn a string into markup.
 */

import { ROOT } from "./place.js";

/**
 * @typedef {Node | string | number | null | undefined | false | Child[]} Child
 */

/**
 * Create an element. Properties named `on...` are event listeners, `true` sets an empty attribute, and null, undefined
 * and false leave the attribute out.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2).toLowerCase(), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

/**
 * Replace the content of a node.
 *
 * @param {Element} node
 * @param {...Child} children
 */
export function fill(node, ...children) {
  keepingFocus(node, () => {
    node.replaceChildren();
    append(node, children);
  });
}

/**
 * Show a list of items as elements, one each. An item whose data is the same keeps its element, wherever it has moved.
 *
 * @param {Element} node
 * @param {any[]} items plain JSON values
 * @param {(item: any) => string | number} key
 * @param {(item: any) => HTMLElement} build
 */
export function rebuild(node, items, key, build) {
  const before = new Map([...node.children].map((element) => [element.dataset.key, element]));
  const elements = items.map((item) => {
    const [name, data] = [String(key(item)), JSON.stringify(item)];
    const old = before.get(name);
    if (old?.dataset.shown === data) return old;
    const element = build(item);
    Object.assign(element.dataset, { key: name, shown: data });
    return element;
  });
  keepingFocus(node, () => node.replaceChildren(...elements));
}

/**
 * Change the content of a node, and focus again what had the focus in it: the element with the same address or text.
 *
 * @param {Element} node
 * @param {() => void} change
 */
function keepingFocus(node, change) {
  const focused = node.contains(document.activeElement) && node !== document.activeElement ? document.activeElement : null;
  const same = (element) => ["tagName", "href", "id", "textContent"].every((name) => element[name] === focused[name]);
  change();
  if (!focused || focused.isConnected && focused === document.activeElement) return;
  const found = [...node.querySelectorAll(focused.tagName)].find(same);
  found?.focus({ preventScroll: true });
}

/**
 * Rebuild the content of a node only when the data it shows has changed, so that focus, selection and opened details
 * survive.
 *
 * @param {HTMLElement} node
 * @param {unknown} value all data that `build` shows, as JSON values
 * @param {() => Child} build
 */
export function replace(node, value, build) {
  const now = JSON.stringify(value);
  if (node.dataset.shown === now) return;
  const details = (element) => [...element.querySelectorAll("details[data-key]")];
  const before = new Map(details(node).map((item) => [item.dataset.key, item.open]));
  node.dataset.shown = now;
  fill(node, build());
  for (const item of details(node)) item.open = before.get(item.dataset.key) ?? item.open;
}

/**
 * A titled card.
 *
 * @param {string} title
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function card(title, ...children) {
  return h("section", { class: "card", "aria-label": title }, h("h2", {}, title), ...children);
}

/**
 * A coloured label for a state.
 *
 * @param {string} state
 * @returns {HTMLElement}
 */
export function badge(state) {
  return h("span", { class: `badge state-${state}` }, state);
}

/**
 * A link to a page inside the application.
 *
 * @param {string} href a path inside the application
 * @param {...Child} children
 * @returns {HTMLElement}
 */
export function link(href, ...children) {
  return h("a", { href: ROOT + href }, ...children);
}

/**
 * Ask for confirmation before something that cannot be undone.
 *
 * @param {{title: string, text: string, confirm: string}} question
 * @returns {Promise<boolean>} whether the user agreed
 */
export function ask({ title, text, confirm }) {
  return new Promise((resolve) => {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "ask-title" },
      h(
        "form",
        { method: "dialog" },
        h("h2", { id: "ask-title" }, title),
        h("p", {}, text),
        h(
          "p",
          { class: "actions" },
          h("button", { value: "no", autofocus: true }, "Cancel"),
          h("button", { value: "yes", class: "danger" }, confirm),
        ),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * Say something that the user has to know.
 *
 * @param {{title: string, text: string}} what
 * @returns {Promise<void>} once it was read
 */
export function tell({ title, text }) {
  return new Promise((resolve) => {
    const close = h("p", { class: "actions" }, h("button", { autofocus: true }, "Close"));
    const form = h("form", { method: "dialog" }, h("h2", { id: "tell-title" }, title), h("p", {}, text), close);
    const dialog = h("dialog", { "aria-labelledby": "tell-title" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/**
 * @param {Element} element
 * @param {Child[]} children
 */
function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child instanceof Node) element.append(child);
    else if (child !== null && child !== undefined && child !== false) element.append(String(child));
  }
}
