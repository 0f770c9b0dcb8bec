// Calls of the server, with the key. The key is in this variable only: not in the address, a cookie or a store.

// Of a file, in MB, that the server or a proxy may refuse by closing the connection while it is sent.
const LARGE = 1;
let key = "";

/** A call that failed: its HTTP status, 0 if the server did not answer, and what it says. */
export class Failure extends Error {
  constructor(status, message, reason = "") {
    super(message);
    this.status = status;
    this.reason = reason;
  }
}

/** Sets the key of later calls; "" for none. */
export function useKey(text) {
  key = text;
}

/** Returns whether calls have a key. */
export function hasKey() {
  return key !== "";
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const size = Math.round((options.body?.size ?? 0) / 1e6);
    throw new Failure(0, size > LARGE ? `The server does not answer, or takes no files of ${size} MB.` : "The server does not answer.");
  }
  if (!response.ok) throw await failureOf(response);
  return response;
}

async function failureOf(response) {
  const text = await response.text();
  try {
    const body = JSON.parse(text);
    return new Failure(response.status, String(body.error), String(body.reason ?? ""));
  } catch {
    // Proxies answer with pages.
    const isText = (response.headers.get("Content-Type") ?? "").startsWith("text/plain");
    return new Failure(response.status, (isText && text.trim()) || `HTTP ${response.status} ${response.statusText}`.trim());
  }
}

/** Returns a page's JSON. */
export async function getJson(path) {
  return (await call(path)).json();
}

/** Returns a page's text. */
export async function getText(path) {
  return (await call(path)).text();
}

/** Posts a picture and returns the answer's JSON. */
export async function post(path, picture, signal) {
  return (await call(path, { method: "POST", body: picture, signal })).json();
}

/** Posts a picture and yields the events of the answer: `[name, data]`. */
export async function* postForEvents(path, picture, signal) {
  const headers = { Accept: "text/event-stream" };
  const response = await call(path, { method: "POST", body: picture, headers, signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) break;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) yield eventOf(block);
  }
}

function eventOf(block) {
  const fields = new Map(block.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
  const data = JSON.parse(fields.get("data"));
  if (fields.get("event") === "error") throw new Failure(200, String(data.error), String(data.reason ?? ""));
  return [fields.get("event"), data];
}

/** Returns the path of a page of a model: names are not trusted. */
export function pathOf(task, name, options = {}) {
  const query = new URLSearchParams(options).toString();
  return `v1/${task}/${encodeURIComponent(name)}${query ? `?${query}` : ""}`;
}
