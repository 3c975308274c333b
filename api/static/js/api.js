/**
 * The server: the only user of fetch and EventSource.
 *
 * Every failed request is an `ApiError` with a human-readable message. If the server does not respond, the connection
 * is set to "lost"; the next response of any kind sets it back. Listeners of `onConnection` are told of each change
 * once.
 */

import { keep, recall } from "./known.js";
import { ROOT } from "./place.js";
import { contend } from "./share.js";

const BASE = `${ROOT}/api/v1`;
const listeners = new Set();
const loginListeners = new Set();
let lost = false;

/** A request that the server rejected, or that never reached it (status 0). */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * Read a resource.
 *
 * @param {string} path below /api/v1
 * @param {Record<string, string | number | null | undefined>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function get(path, query = {}, signal = undefined) {
  return (await read(path, query, signal)).value;
}

/**
 * Read a resource that is asked for again and again.
 *
 * @param {string} path below /api/v1
 * @param {Record<string, string | number | null | undefined>} [query]
 * @param {AbortSignal} [signal]
 * @returns {Promise<{value: any, isSame: boolean, againMs: number}>} `isSame`: it is what was read before. `againMs`: the
 *   server knows of something newer, and says it after so long; otherwise 0
 */
export async function read(path, query = {}, signal = undefined) {
  const address = path + search(query);
  const before = recall(address);
  const headers = before ? { "If-None-Match": before.etag } : {};
  const { response, json } = await exchange("GET", address, { headers, signal });
  const againMs = 1000 * Number(response.headers.get("Tuner-Behind-S") ?? 0);
  if (response.status === 304) return { value: before.value, isSame: true, againMs };
  const etag = response.headers.get("ETag");
  if (etag) keep(address, { etag, value: json });
  return { value: json, isSame: false, againMs };
}

function search(query) {
  const pairs = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return pairs.length ? `?${new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]))}` : "";
}

/**
 * Ask the server to do something.
 *
 * @param {string} path below /api/v1
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export function post(path, body = undefined) {
  return request("POST", path, body);
}

/**
 * Delete a resource.
 *
 * @param {string} path below /api/v1
 * @returns {Promise<any>}
 */
export function remove(path) {
  return request("DELETE", path);
}

/**
 * The path of a study, a trial or a resource below it, with every part escaped.
 *
 * @param {...(string | number)} parts
 */
export function path(...parts) {
  return "/" + parts.map((part) => encodeURIComponent(String(part))).join("/");
}

/**
 * Subscribe to whether the server can be reached.
 *
 * @param {(lost: boolean) => void} listener
 */
export function onConnection(listener) {
  listeners.add(listener);
}

/**
 * Subscribe to whether a login cookie of ours was accepted: then there is something to log out of.
 *
 * @param {(isLoggedIn: boolean) => void} listener
 */
export function onLogin(listener) {
  loginListeners.add(listener);
}

/**
 * Call a function now and every few seconds, except while the tab is hidden; immediately when it is shown again.
 *
 * @param {() => Promise<void> | void} work
 * @param {number} everyMs
 * @returns {() => void} stops it
 */
export function poll(work, everyMs) {
  let timer = 0;
  let ended = false;
  const turn = async () => {
    clearTimeout(timer);
    if (!document.hidden) await work();
    if (!ended) timer = setTimeout(turn, everyMs);
  };
  const shown = () => !document.hidden && turn();
  document.addEventListener("visibilitychange", shown);
  turn();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", shown);
  };
}

/**
 * Follow a study. One tab of the browser holds the stream (share.js) and passes on what it hears; it is closed while the
 * tab is hidden. `onOpen` runs whenever news may have been missed.
 *
 * @param {string} study
 * @param {{onOpen: () => void, onChange: () => void, onAdvanced: () => void, onDeleted: () => void}} hooks
 * @returns {{end: () => void, isLive: () => boolean}} `isLive`: whether this tab holds the stream; otherwise it must poll
 */
export function follow(study, { onOpen, onChange, onAdvanced, onDeleted }) {
  const hooks = { change: onChange, advanced: onAdvanced, deleted: onDeleted };
  let source = null;
  let timer = 0;
  let delay = 500;

  const close = () => {
    clearTimeout(timer);
    source?.close();
    source = null;
  };
  const again = () => {
    close();
    timer = setTimeout(open, delay);
    delay = Math.min(delay * 2, 8000);
  };
  const open = () => {
    close();
    source = new EventSource(`${BASE}${path("studies", study, "events")}`);
    source.onopen = () => {
      delay = 500;
      connection(false);
      onOpen();
    };
    for (const name of Object.keys(hooks)) source.addEventListener(name, () => told(name));
    source.addEventListener("closing", again);
    source.onerror = () => {
      if (source.readyState === EventSource.CONNECTING) connection(true); // CLOSED means rejected, not lost
      again();
    };
  };
  const told = (name) => {
    shared.tell({ study, name });
    if (name === "deleted") close();
    hooks[name]();
  };
  const shared = contend({ gained: open, lost: close, heard: (message) => message.study === study && hooks[message.name]() });
  const visibility = () => (document.hidden ? shared.release() : shared.claim());

  document.addEventListener("visibilitychange", visibility);
  addEventListener("pagehide", shared.release);
  addEventListener("pageshow", visibility);
  visibility();
  return {
    isLive: shared.holds,
    end: () => {
      document.removeEventListener("visibilitychange", visibility);
      removeEventListener("pagehide", shared.release);
      removeEventListener("pageshow", visibility);
      shared.end();
    },
  };
}

async function request(method, path, body = undefined) {
  const sent = body === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return (await exchange(method, path, sent)).json;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {RequestInit} options
 * @returns {Promise<{response: Response, json: any}>}
 */
async function exchange(method, path, options) {
  let response;
  try {
    response = await fetch(BASE + path, { method, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    connection(true);
    throw new ApiError(0, "The server does not respond.");
  }
  connection(false);
  const isLoggedIn = response.headers.get("Tuner-Login") === "cookie";
  for (const listener of loginListeners) listener(isLoggedIn);
  const text = await response.text(); // a response without content may still claim to be JSON
  const json = text && response.headers.get("Content-Type")?.includes("json") ? JSON.parse(text) : null;
  if (!response.ok && response.status !== 304) throw new ApiError(response.status, problem(response.status, json));
  return { response, json };
}

/**
 * @param {number} status
 * @param {any} body a problem document (RFC 9457), if it is one
 */
function problem(status, body) {
  if (!body) return `The server responded with status ${status}.`;
  const faults = (body.errors ?? []).map((fault) => (fault.field ? `${fault.field}: ${fault.message}` : fault.message));
  return [body.detail ?? body.title ?? `The server responded with status ${status}.`, ...faults].join(" ");
}

/** @param {boolean} isLost */
function connection(isLost) {
  if (isLost === lost) return;
  lost = isLost;
  for (const listener of listeners) listener(lost);
}
