/**
 * Doing something at most every so often: bursts of events cost one request.
 */

/**
 * Wrap a piece of work so that calls closer together than `everyMs` become one later call; calls never overlap.
 *
 * @param {() => Promise<void>} work
 * @param {number} everyMs
 * @returns {{call: () => void, now: () => void, end: () => void}} `now` does not wait, because somebody does; `end` drops
 *   what is still to come
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
    try {
      await work();
    } finally {
      busy = false;
      if (again && !ended) call();
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
