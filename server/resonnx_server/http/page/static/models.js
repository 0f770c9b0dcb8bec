// The list of versions: their state, how they run, and what they do at present.

import { byId, make, say, tell } from "./dom.js";
import { keyOf, rates } from "./metrics.js";
import { duration, number, reference, running } from "./wording.js";

const cards = new Map();

/** Shows the versions; `choose(version)` is called with one whose button is pressed. */
export function showModels(versions, chosen, before, after, choose) {
  const list = byId("model-list");
  const keys = versions.map((each) => keyOf(each.name, each.version));
  byId("no-models").hidden = versions.length > 0;
  for (const [key, card] of cards) {
    if (!keys.includes(key)) {
      card.item.remove();
      cards.delete(key);
    }
  }
  versions.forEach((version, i) => {
    if (!cards.has(keys[i])) cards.set(keys[i], newCard());
    const card = cards.get(keys[i]);
    if (list.children[i] !== card.item) list.insertBefore(card.item, list.children[i] ?? null);
    fill(card, version, keys[i] === chosen, rates(before, after, keys[i]), choose);
  });
}

function newCard() {
  const button = make("button", { type: "button" });
  const state = make("span", { class: "state" });
  const reason = make("p", { class: "problem" });
  const facts = make("dl", { class: "facts" });
  const item = make("li", { class: "card" }, make("h3", {}, button, state), reason, facts);
  return { item, button, state, reason, facts };
}

function fill(card, version, isChosen, measured, choose) {
  const serves = version.sessions !== undefined;
  say(card.button, `${version.name} ${version.version || ""}`.trim());
  card.button.disabled = !serves;
  card.button.setAttribute("aria-pressed", String(isChosen));
  card.button.onclick = () => choose(version);
  card.item.classList.toggle("chosen", isChosen);
  card.state.className = `state ${version.state}`;
  say(card.state, version.state);
  card.reason.hidden = !version.reason;
  card.reason.className = version.state === "refused" ? "problem" : "note";
  say(card.reason, version.reason);
  tell(card.facts, serves ? factsOf(version, measured) : labelled(version));
}

function labelled(version) {
  return version.labels.length ? [["Labels", version.labels.join(", ")]] : [];
}

function factsOf(version, measured) {
  const use = version.is_default ? "answers calls without a version" : "answers calls that name it";
  return [
    ["Task", version.task],
    ["Runs on", running(version.sessions)],
    ["Compared with", reference(version.verified_against)],
    ["Use", use],
    ...labelled(version),
    ["Requests", measured ? `${number(measured.requests)} /s` : "–"],
    ["Rows", measured ? `${number(measured.rows)} /s` : "–"],
    ["Latency p50, p99", measured?.requests ? `${duration(measured.p50)}, ${duration(measured.p99)}` : "–"],
  ];
}
