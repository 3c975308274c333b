/**
 * Where the application lives: below which path of its host, "" for none. The server writes it into the page; a proxy
 * may serve us below one. Paths inside the application are written without it.
 */

export const ROOT = document.querySelector('meta[name="tuner-root"]').content;

/** The path of the page inside the application. */
export function here() {
  return inside(location.pathname);
}

/**
 * @param {string} pathname of an address
 * @returns {string} the same inside the application
 */
export function inside(pathname) {
  return pathname.startsWith(`${ROOT}/`) ? pathname.slice(ROOT.length) : pathname === ROOT ? "/" : pathname;
}
