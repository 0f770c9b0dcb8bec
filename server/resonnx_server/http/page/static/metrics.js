// Rates of an interval from two readings of /metrics (Prometheus' text format).

const NAME = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const COUNTERS = new Map([
  ["nv_inference_request_success", "requests"],
  ["nv_inference_count", "rows"],
]);
const BUCKET = "resonnx_request_duration_seconds_bucket";

/** Returns the counters of each version, by `keyOf`. */
export function read(text, atMs) {
  const versions = new Map();
  for (const line of text.split("\n")) {
    const match = NAME.exec(line);
    if (match === null || !(COUNTERS.has(match[1]) || match[1] === BUCKET)) continue;
    const labels = labelsOf(match[2] ?? "");
    const key = keyOf(labels.model, labels.version);
    const found = versions.get(key) ?? { requests: 0, rows: 0, buckets: [] };
    versions.set(key, found);
    if (match[1] === BUCKET) found.buckets.push([Number(labels.le.replace("+Inf", "Infinity")), Number(match[3])]);
    else found[COUNTERS.get(match[1])] += Number(match[3]);
  }
  return { atMs, versions };
}

function labelsOf(text) {
  const unescaped = { n: "\n" };
  const pairs = [...text.matchAll(LABEL)];
  return Object.fromEntries(pairs.map(([, name, value]) => [name, value.replace(/\\(.)/g, (_, it) => unescaped[it] ?? it)]));
}

/** Returns the key of a version in maps. */
export function keyOf(name, version) {
  return JSON.stringify([name, String(version)]);
}

/** Returns the rates of a version between two readings; null if they do not tell. */
export function rates(before, after, key) {
  const old = before?.versions.get(key);
  const now = after?.versions.get(key);
  if (old === undefined || now === undefined || now.requests < old.requests || now.rows < old.rows) return null;
  const seconds = (after.atMs - before.atMs) / 1000;
  const counts = differences(old.buckets, now.buckets);
  return {
    requests: (now.requests - old.requests) / seconds,
    rows: (now.rows - old.rows) / seconds,
    p50: quantile(counts, 0.5),
    p99: quantile(counts, 0.99),
  };
}

/** Returns `[upper bound, requests]` of each bucket of a histogram in the interval. */
function differences(before, after) {
  const known = new Map(before);
  let last = 0;
  return after.map(([bound, total]) => {
    const sum = total - (known.get(bound) ?? 0);
    const own = sum - last;
    last = sum;
    return [bound, own];
  });
}

/** Returns a quantile in seconds, linear within its bucket as Prometheus has it; NaN without requests. */
export function quantile(counts, share) {
  const total = counts.reduce((sum, [, own]) => sum + own, 0);
  if (total <= 0) return NaN;
  let left = share * total;
  let lower = 0;
  for (const [bound, own] of counts) {
    if (own > 0 && left <= own) return Number.isFinite(bound) ? lower + ((bound - lower) * left) / own : lower;
    left -= own;
    if (Number.isFinite(bound)) lower = bound;
  }
  return lower;
}
