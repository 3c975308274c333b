/**
 * What the server answered last, by address: a page that asks again names the answer's ETag, and is told when nothing
 * has changed. Only the latest answers are kept.
 */

const MOST = 40;
const known = new Map();

/**
 * @param {string} address
 * @returns {{etag: string, value: any} | undefined}
 */
export function recall(address) {
  const found = known.get(address);
  if (found) keep(address, found); // the latest asked for is the last to go
  return found;
}

/**
 * @param {string} address
 * @param {{etag: string, value: any}} answer
 */
export function keep(address, answer) {
  known.delete(address);
  known.set(address, answer);
  if (known.size > MOST) known.delete(known.keys().next().value);
}
