// Texts of numbers and names.

/** Returns a number with at most three significant digits: 0.0123, 1.23, 12.3, 1,230. */
export function number(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && Math.abs(value) < 1e-3) return value.toExponential(1);
  return Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** Returns a share as a percentage. */
export function percent(share) {
  const value = 100 * share;
  return `${value > 0 && value < 0.1 ? "< 0.1" : value.toFixed(1)} %`;
}

/** Returns a number with its noun. */
export function count(value, noun, nouns = `${noun}s`) {
  return `${value.toLocaleString("en")} ${value === 1 ? noun : nouns}`;
}

/** Returns seconds in ms or s. */
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  return seconds < 1 ? `${number(seconds * 1000)} ms` : `${number(seconds)} s`;
}

const REFERENCES = {
  our_reading: "our reading of the checkpoint",
  user_answers: "answers recorded with the original model",
  user_code: "the user's own code",
  none: "nothing: the file has no manifest",
};

/** Returns what an export was compared with. */
export function reference(name) {
  return REFERENCES[name] ?? name;
}

/** Returns how the files of a version run, each distinct way once. */
export function running(sessions) {
  const ways = sessions.map((each) => `${each.provider.replace("ExecutionProvider", "")}, ${each.precision}`);
  return [...new Set(ways)].join("; ");
}
