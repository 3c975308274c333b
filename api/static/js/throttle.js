/**
 * Rate limiting: a burst of events costs one request.
 */

/**
 * Wrap a function so that calls closer together than `everyMs` become one later call; calls never overlap.
 *
 * @param {() => Promise<number | void>} work may return after how many milliseconds it wants to be called again
 * @param {number} everyMs
 * @returns {{call: () => void, now: () => void, end: () => void}} `now` does not wait, for calls that a user waits for; `end`
 *   drops pending calls
 */
export function throttle(work, everyMs) {
  let timer = 0;
  let last = -Infinity;
  let busy = false;
  let again = false;
  let ended = false;

  const run = async () => {
    timer = 0;
    busy = true;
    last = performance.now();
    let inMs = 0;
    try {
      inMs = (await work()) || 0;
    } finally {
      busy = false;
      if (again && !ended) call();
      else if (inMs > 0 && !ended) timer = setTimeout(run, Math.max(inMs, everyMs));
    }
  };
  const call = () => {
    if (ended || timer) return;
    again = busy;
    if (!busy) timer = setTimeout(run, Math.max(0, last + everyMs - performance.now()));
  };
  return {
    call,
    now: () => {
      clearTimeout(timer);
      timer = 0;
      last = -Infinity;
      call();
    },
    end: () => {
      ended = true;
      clearTimeout(timer);
    },
  };
}
