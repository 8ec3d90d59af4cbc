// The transport of the dashboard on the hub: polls the snapshot of the node. While the hub gets none, it shows the last one that
// the hub has stored.

/** The path below `ROOT`. The id in it is percent-encoded, unlike `NODE_ID`. */
const NODE_PATH = location.pathname.slice(ROOT.length);
const NODE_ID = (() => {
  const text = NODE_PATH.slice("nodes/".length);
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // it is not percent-encoded
  }
})();

/** After an interruption the agent may have been restarted, so the data of the machine are passed on again. */
let needsInfo = true;

const load = async () => {
  await ensureSession();
  startCommands();
  try {
    const snapshot = await requestJson(`${NODE_PATH}/snapshot`);
    link.isUnavailable = false;
    receive(snapshot, 0);
  } catch (error) {
    needsInfo = true;
    link.isUnavailable = error.status >= 404;
    if (!update && link.isUnavailable) await loadLast();
    throw error;
  }
};

/** Requests a resource of the node. */
const fetchJson = path => requestJson(`${NODE_PATH}/${path}`);

/** Shows the last snapshot that the hub has stored. It may have none. */
const loadLast = async () => {
  try {
    const response = await request(`${NODE_PATH}/last_snapshot`);
    const age = Number(response.headers.get("Age")) || 0;
    receive(await bodyOf(response), age);
  } catch (error) {
    if (!(error instanceof RequestError) || error.status === 401) throw error;
  }
};

/** Passes a snapshot on as the two messages of `/usage`. */
const receive = ({ machine, ...rest }, age) => {
  if (needsInfo) onMessage({ ...machine, type: "system_info", timestamp: rest.timestamp + age });
  needsInfo = age > 0;
  if (rest.timestamp !== update?.timestamp) onMessage({ ...rest, type: "usage_update" });
};

const startLink = () => {
  setText($("host"), NODE_ID);
  setText($("node-id"), NODE_ID);
  setText(document.querySelector("title"), NODE_ID);
  for (const [id, name] of [["raw-metrics", "metrics"], ["raw-snapshot", "snapshot"], ["raw-last", "last_snapshot"]]) {
    setAttr($(id), "href", `${ROOT}${NODE_PATH}/${name}`);
  }
  setAttr($("fleet-link"), "href", ROOT);
  addEventListener("logout", () => {
    clearFeeds();
    hideCommands();
  });
  poll();
};

/** Required by page.js. Each request has its own timeout, so there is nothing to check. */
const checkLink = () => {};
