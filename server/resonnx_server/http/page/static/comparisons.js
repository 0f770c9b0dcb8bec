// Comparisons of new versions with the serving ones: shadow and canary.

import { byId, make, say, tell } from "./dom.js";
import { count, number, percent } from "./wording.js";

const cards = new Map();

/** Shows comparisons; each model has at most one. */
export function showComparisons(comparisons) {
  byId("comparisons").hidden = !comparisons.length;
  const names = comparisons.map((each) => each.model);
  for (const [name, card] of cards) {
    if (!names.includes(name)) {
      card.item.remove();
      cards.delete(name);
    }
  }
  for (const comparison of comparisons) {
    if (!cards.has(comparison.model)) {
      const [title, state, facts] = [make("span"), make("span", { class: "state" }), make("dl", { class: "facts" })];
      const item = make("li", { class: "card" }, make("h3", {}, title, state), facts);
      cards.set(comparison.model, { item, title, state, facts });
      byId("comparison-list").append(item);
    }
    fill(cards.get(comparison.model), comparison);
  }
}

function fill(card, it) {
  say(card.title, `${it.model}: version ${it.version} beside ${it.serving_version}`);
  card.state.className = `state ${it.state === "running" ? "ready" : it.state}`;
  say(card.state, it.state.replace("_", " "));
  const of = it.mode === "canary" ? "callers are answered by it" : "requests are run on it as well";
  const equal = it.answers ? `, ${percent(it.equal / it.answers)} equal` : "";
  tell(card.facts, [
    ["Mode", `${it.mode}: ${percent(it.share)} of ${of}`],
    ["Promoted if", it.promote_if || "somebody promotes it"],
    ["Now", it.reason || "–"],
    ["Answers", `${count(it.answers, "picture")}${equal}, ${count(it.errors, "error")}`],
    ...(it.dropped ? [["Not compared", count(it.dropped, "picture")]] : []),
    ...(it.max_probability_difference ? [["Largest difference", `${number(it.max_probability_difference)} of a probability`]] : []),
    ...(it.mean_edit_distance ? [["Mean edit distance", `${number(it.mean_edit_distance)} words`]] : []),
    ...(it.compute_ratio ? [["Compute time", `${number(it.compute_ratio)} times the serving version's`]] : []),
    ...(it.mode === "canary" ? [["Calls", `${it.calls} by it, ${it.serving_calls} by the serving version`]] : []),
    ...(it.p99_ms ? [["p99", `${number(it.p99_ms)} ms, serving version ${number(it.serving_p99_ms)} ms`]] : []),
  ]);
}
