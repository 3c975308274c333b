/**
 * The router: maps the address to a page, and moves between pages without reloading the document.
 *
 * A view is `render(root, context)`; it returns a function that stops everything it started. The context is
 * `{params, go, fail}`: parts of the address, a function that moves to another page, and one that shows an error.
 */

import { ApiError, get, onConnection, onLogin, post } from "./api.js";
import { fill, h, link } from "./dom.js";
import { ROOT, here, inside } from "./place.js";
import * as login from "./views/login.js";
import * as studies from "./views/studies.js";
import * as study from "./views/study.js";
import * as trial from "./views/trial.js";
import * as workers from "./views/workers.js";

const ROUTES = [
  [/^\/(?:studies\/?)?$/, studies],
  [/^\/studies\/(?<study>[^/]+)\/?$/, study],
  [/^\/studies\/(?<study>[^/]+)\/trials\/(?<number>\d+)\/?$/, trial],
  [/^\/workers\/?$/, workers],
];

const root = document.getElementById("main");
const banner = document.getElementById("banner");
const logout = document.getElementById("logout");
let leave = () => {};

/**
 * Go to a page of the application.
 *
 * @param {string} href a path inside the application
 */
function go(href) {
  if (href !== here() + location.search) history.pushState(null, "", ROOT + href);
  show();
  scrollTo(0, 0);
  root.focus({ preventScroll: true });
}

function show() {
  leave();
  fill(root);
  markCurrent();
  for (const [pattern, view] of ROUTES) {
    const match = here().match(pattern);
    if (match) {
      const params = decoded(match.groups ?? {});
      if (!params) break;
      leave = view.render(root, { params, go, fail });
      return;
    }
  }
  leave = () => {};
  fail(new ApiError(404, "This page does not exist."));
}

/**
 * @param {Record<string, string>} groups parts of the address, escaped
 * @returns {Record<string, string> | null} unescaped; null if one is no escaped text
 */
function decoded(groups) {
  try {
    return Object.fromEntries(Object.entries(groups).map(([name, value]) => [name, decodeURIComponent(value)]));
  } catch {
    return null;
  }
}

/**
 * Show an error in place of the page; if the token is missing or wrong, show the login form.
 *
 * @param {Error & {status?: number}} error
 */
function fail(error) {
  if (error.status === 0) return; // the banner shows this, and the page recovers by itself
  leave();
  leave = () => {};
  if (error.status === 401) {
    leave = login.render(root, { done: enter, why: error.message });
    return;
  }
  document.title = "Tuner";
  const title = error.status === 404 ? "Not found" : "Something went wrong";
  fill(root, h("div", { class: "empty" }, h("h1", {}, title), h("p", {}, error.message), h("p", {}, link("/", "All studies"))));
}

/** Learn who the reader is, then show the page: a viewer gets no buttons that would be refused. */
async function enter() {
  try {
    document.body.dataset.role = (await get("/session")).role;
  } catch (error) {
    if (error.status === 401) return fail(error);
  }
  show();
}

function markCurrent() {
  for (const anchor of document.querySelectorAll("header.top nav a")) {
    const target = inside(anchor.pathname);
    const current = target === "/" ? /^\/(studies|$)/.test(here()) : here().startsWith(target);
    if (current) anchor.setAttribute("aria-current", "page");
    else anchor.removeAttribute("aria-current");
  }
}

document.addEventListener("click", (event) => {
  const anchor = event.target.closest?.("a[href]");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!anchor || !plain || event.defaultPrevented || anchor.origin !== location.origin || anchor.target) return;
  if (anchor.hash || /^\/(api|static)\//.test(inside(anchor.pathname))) return;
  event.preventDefault();
  go(inside(anchor.pathname) + anchor.search);
});

logout.addEventListener("click", async () => {
  await post("/logout").then(enter, fail);
});
onLogin((isLoggedIn) => (logout.hidden = !isLoggedIn));

addEventListener("popstate", show);
onConnection((lost) => {
  banner.textContent = lost ? "Connection lost, retrying …" : "";
  banner.hidden = !lost;
});
enter();
