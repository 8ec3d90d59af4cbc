// Requests to the hub, and polling with backoff and jitter. Each page defines `load`, which requests and renders, and
// `renderConnection`. `ROOT` is the path of the hub, which may be below a proxy's.

const POLL_SECONDS = 2;
const MIN_RETRY_SECONDS = 1;
/** Longest delay between attempts. */
const MAX_RETRY_SECONDS = 15;
const REQUEST_TIMEOUT_MS = 20_000;
const MAX_REASON_CHARS = 300;

const ROOT = location.pathname.replace(/(?<=\/)(nodes\/.*|[^/]*)$/, "");

const link = {
  state: "connecting", // or live, waiting, token (the operator must log in)
  isBusy: false,
  tries: 0,
  retryAt: 0,
  timer: 0,
  reason: "",
  isUnavailable: false, // the hub gets no live snapshot of the node
};

const clock = () => Date.now() / 1000; // unlike performance.now(), it advances while a laptop is suspended

/** A failed request. `status` is 0 if there is no response. */
class RequestError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Sends a request and returns the response if its status is 2xx. */
const request = async (path, options = {}) => {
  const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS);
  let response;
  try {
    response = await fetch(ROOT + path, { cache: "no-store", signal, ...options });
  } catch (error) {
    throw new RequestError(0, error.name === "TimeoutError" ? "The hub has not responded in time." : "No connection to the hub.");
  }
  if (response.ok) return response;
  throw new RequestError(response.status, await reasonOf(response));
};

/** The error text of the hub as a sentence. A proxy may send an HTML page instead. */
const reasonOf = async response => {
  const isText = response.headers.get("Content-Type")?.startsWith("text/plain");
  const text = isText ? (await response.text().catch(() => "")).trim().slice(0, MAX_REASON_CHARS) : "";
  if (!text) return `The hub or a proxy responded with status ${response.status}.`;
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
};

const bodyOf = async response => {
  try {
    return await response.json();
  } catch {
    throw new RequestError(0, "The response of the hub is incomplete.");
  }
};

const requestJson = async (path, options) => bodyOf(await request(path, options));

const post = (path, body) => request(path, {
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
});

/** One request is in flight at a time, and none while the page is hidden. */
const poll = async () => {
  clearTimeout(link.timer);
  if (link.isBusy || document.hidden) return;
  link.isBusy = true;
  if (link.state !== "live") link.state = "connecting";
  try {
    await load();
    Object.assign(link, { state: "live", tries: 0, reason: "", timer: setTimeout(poll, POLL_SECONDS * 1000) });
  } catch (error) {
    onFailure(error);
  } finally {
    link.isBusy = false;
    renderConnection();
  }
};

const onFailure = error => {
  if (error.status === 401) {
    showLogin("");
    return;
  }
  const maxWait = Math.min(MAX_RETRY_SECONDS, MIN_RETRY_SECONDS * 2 ** link.tries++);
  const wait = 0.2 + Math.random() * maxWait; // jitter spreads the requests of many pages
  const isRequestError = error instanceof RequestError;
  const reason = isRequestError ? error.message : "This page has an error; see the console of the browser.";
  Object.assign(link, { state: "waiting", reason, retryAt: clock() + wait, timer: setTimeout(poll, wait * 1000) });
  if (!isRequestError) console.error(error);
};

const retryNow = () => {
  if (link.state === "waiting") poll();
};

document.addEventListener("visibilitychange", () => {
  if (link.state !== "token") poll();
});
