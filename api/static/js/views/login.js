/**
 * The login form, shown when the server requires a token. The token goes into an HttpOnly cookie, never into storage.
 */

import { post } from "../api.js";
import { fill, h } from "../dom.js";

/**
 * @param {HTMLElement} root
 * @param {{done: () => void, why: string}} context `done` shows the page that was requested; `why` it was refused
 * @returns {() => void}
 */
export function render(root, { done, why }) {
  document.title = "Log in · Tuner";
  const field = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true });
  const error = h("p", { class: "error", role: "alert" });
  const submit = async (event) => {
    event.preventDefault();
    try {
      await post("/login", { token: field.value });
      done();
    } catch (problem) {
      error.textContent = problem.status === 401 ? "This token is not valid." : problem.message;
      field.select();
    }
  };
  fill(
    root,
    h(
      "form",
      { class: "card narrow", onSubmit: submit },
      h("h1", {}, "Log in"),
      h("p", { class: "muted" }, "This server requires a token: yours, or the value of its TUNER_TOKEN."),
      why.includes("not the server") && h("p", { class: "reason" }, "You were logged in with another token; it has changed."),
      h("label", { for: "token" }, "Token"),
      field,
      error,
      h("p", { class: "actions" }, h("button", { class: "primary" }, "Log in")),
    ),
  );
  field.focus();
  return () => {};
}
