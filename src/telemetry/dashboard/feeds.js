// What the page requests beside the updates: history, events and findings. Older agents have none of them. `fetchJson` belongs to
// the transport: `link.js`, or that of the hub.

const RETRY_SECONDS = 30;
/** Events that are repeated are requested again. */
const OVERLAP_SECONDS = 2;

const newestEvent = () => Math.max(0, ...[...events.values()].map(each => each.last_unix_seconds));

const feeds = {
  history: {
    every: Infinity,
    load: async () => {
      const { range } = history;
      fillStore(range, await fetchJson(`history?range=${range}`));
    },
  },
  events: {
    every: 10,
    load: async () => addEvents(await fetchJson(`events?since=${Math.floor(
      Math.max(agentNow() - 86_400, feeds.events.isDone ? newestEvent() - OVERLAP_SECONDS : 0))}`)),
  },
  health: { every: 10, load: async () => { health = await fetchJson("health"); } },
};

/** Why there is no response, or nothing. */
const whyMissing = ({ isDone, reason }) => (isDone ? "" : reason || (link.isUnavailable ? "The node is not connected." : ""));

const isDue = feed => !feed.isBusy && clock() >= (feed.dueAt ?? 0);

const loadFeed = async feed => {
  Object.assign(feed, { isBusy: true, dueAt: Infinity });
  try {
    await feed.load();
    Object.assign(feed, { isDone: true, reason: "", next: feed.every });
  } catch (error) {
    Object.assign(feed, { isDone: false, reason: error.message, next: RETRY_SECONDS });
    if (feed === feeds.health) health = null;
  }
  Object.assign(feed, { isBusy: false, dueAt: Math.min(feed.dueAt, clock() + feed.next) });
  scheduleRedraw();
};

/** Requests what is due, while the page is visible and receives updates. */
const refreshFeeds = () => {
  if (!update || document.hidden || link.state !== "live") return;
  for (const feed of Object.values(feeds)) if (isDue(feed)) loadFeed(feed);
};

/** Of another host, or after a logout. */
const clearFeeds = () => {
  clearHistory();
  events.clear();
  health = null;
  for (const feed of Object.values(feeds)) Object.assign(feed, { isDone: false, reason: "", dueAt: 0 });
};

const selectRange = range => {
  history.range = range;
  for (const each of ["1h", "24h"]) setAttr($(`range-${each}`), "aria-pressed", String(each === range));
  feeds.history.dueAt = 0;
  refreshFeeds();
  scheduleRedraw();
};

for (const range of ["1h", "24h"]) $(`range-${range}`).addEventListener("click", () => selectRange(range));
