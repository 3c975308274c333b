/**
 * Which tab holds the browser's one event stream. A browser opens at most six connections to a server that speaks
 * HTTP/1.1, over all its tabs: with a stream in each, a seventh tab would wait for ever.
 *
 * The tab that was shown last holds the stream and passes on what it hears; the others poll meanwhile. Of two claims
 * the later wins, so that two tabs that claim at once agree. A tab that ends without a word is replaced when another
 * is shown.
 */

const CHANNEL = "tuner-event-stream";
const REST_MS = 300;

/**
 * Take part in who holds the stream.
 *
 * @param {{gained: () => void, lost: () => void, heard: (message: any) => void}} hooks `heard` gets what the holder told
 * @returns {{claim: () => void, release: () => void, tell: (message: any) => void, holds: () => boolean, end: () => void}}
 */
export function contend({ gained, lost, heard }) {
  const channel = globalThis.BroadcastChannel ? new BroadcastChannel(CHANNEL) : null;
  let mine = null; // the mark of our claim, while we hold the stream
  let wants = false;
  let timer = 0;

  const claim = () => {
    clearTimeout(timer);
    wants = true;
    mine = [Date.now(), Math.random()];
    channel?.postMessage({ kind: "claim", mark: mine });
    gained();
  };
  const giveUp = () => {
    mine = null;
    lost();
  };
  const release = () => {
    clearTimeout(timer);
    wants = false;
    if (!mine) return;
    giveUp();
    channel?.postMessage({ kind: "free" });
  };
  if (channel) {
    channel.onmessage = ({ data }) => {
      if (data.kind === "claim") {
        clearTimeout(timer);
        if (mine && later(data.mark, mine)) giveUp();
      } else if (data.kind === "free") {
        if (wants && !mine) timer = setTimeout(claim, REST_MS * Math.random());
      } else if (!mine) heard(data.message);
    };
  }
  return {
    claim,
    release,
    tell: (message) => channel?.postMessage({ kind: "told", message }),
    holds: () => mine !== null,
    end: () => {
      release();
      channel?.close();
    },
  };
}

function later([time, chance], [otherTime, otherChance]) {
  return time === otherTime ? chance > otherChance : time > otherTime;
}
