// The page as a whole: what is asked every two seconds, which version is chosen, the key, and pictures and clips.

import { Failure, getJson, getText, hasKey, pathOf, useKey } from "./api.js";
import { showAbout } from "./about.js";
import { ask, redraw, replay, stop, takesClip } from "./ask.js";
import { showComparisons } from "./comparisons.js";
import { byId, say } from "./dom.js";
import { keyOf, read } from "./metrics.js";
import { showModels } from "./models.js";

const INTERVAL_MS = 2000;
const MOST_MS = 16000;
// Latency tables move slowly.
const DESCRIBED_EVERY = 5;

let timer = 0;
let waitMs = INTERVAL_MS;
let turn = 0;
let last = null;
let chosen = "";
let described = null;
let given = null;
let locked = false;

/** Asks for everything that moves, and again after the interval while the page is looked at. */
async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    await update(mine);
    waitMs = INTERVAL_MS;
  } catch (error) {
    if (mine !== turn) return;
    last = null;
    waitMs = Math.min(MOST_MS, 2 * waitMs);
    if (error instanceof Failure) failed(error);
    else throw error;
  } finally {
    if (mine === turn && !document.hidden && !locked) timer = setTimeout(refresh, waitMs);
  }
}

async function update(mine) {
  const [{ models }, { comparisons }, text] = await Promise.all([
    getJson("v1/models"), getJson("v1/comparisons"), getText("metrics"),
  ]);
  if (mine !== turn) return;
  unlock();
  const now = read(text, performance.now());
  const serving = models.filter((each) => each.sessions !== undefined);
  if (chosen && !serving.some((each) => keyOf(each.name, each.version) === chosen)) {
    forgetChosen();
    // Nobody has asked another version.
    given = null;
  }
  const first = serving.find((each) => each.is_default && takesPicture(each)) ?? serving.find(takesClip) ?? serving[0];
  if (!chosen && first !== undefined) chosen = keyOf(first.name, first.version);
  const version = serving.find((each) => keyOf(each.name, each.version) === chosen);
  showModels(models, chosen, last, now, choose);
  last = document.hidden ? null : now;
  byId("models").hidden = false;
  showComparisons(comparisons);
  say(byId("state"), summary(models, serving));
  if (version !== undefined && (described === null || mine % DESCRIBED_EVERY === 0)) await describe(version);
}

async function describe(version) {
  const wanted = chosen;
  const model = await getJson(pathOf("models", version.name, { version: version.version }));
  if (wanted !== chosen) return;
  const isFirst = described === null;
  described = model;
  showAbout(model);
  byId("picture").hidden = !takesFiles(model);
  if (takesFiles(model)) askFor(model);
  if (isFirst && given !== null) askWith(given);
}

/** Whether a model answers for single pictures. */
function takesPicture(model) {
  return model.task === "classifier" || model.task === "captioner";
}

/** Whether a described model answers for files: one over given features does not. */
function takesFiles(model) {
  return takesPicture(model) || (takesClip(model) && model.pictures !== undefined);
}

/** Says what to ask a model with. */
function askFor(model) {
  const isClip = takesClip(model);
  say(byId("picture-title"), `Ask ${model.name}, version ${model.version}, with a ${isClip ? "clip" : "picture"}`);
  say(byId("skip"), `Skip to the ${isClip ? "clip" : "picture"}`);
  say(byId("file-label"), isClip ? "Choose a clip" : "Choose a picture");
  say(byId("file-hint"), isClip ? " or its frames in the order of the numbers in their names, drop them anywhere on this page, or paste a clip." : ", drop one anywhere on this page, or paste one.");
  byId("file").multiple = isClip;
  byId("file").accept = isClip ? "image/*,video/*" : "image/*";
}

function choose(version) {
  if (keyOf(version.name, version.version) === chosen) return;
  forgetChosen();
  chosen = keyOf(version.name, version.version);
  refresh();
}

function forgetChosen() {
  chosen = "";
  described = null;
  stop();
  byId("picture").hidden = byId("about").hidden = true;
}

function summary(models, serving) {
  const refused = models.filter((each) => each.state === "refused").length;
  const coming = models.filter((each) => ["found", "verifying", "loading", "warming"].includes(each.state)).length;
  const parts = [`${serving.length} serving`];
  if (coming) parts.push(`${coming} loading`);
  if (refused) parts.push(`${refused} refused`);
  return `Versions: ${parts.join(", ")}`;
}

function failed(error) {
  if (error.status === 401) lock(hasKey() ? error.message : "");
  else if (error.status === 404) say(byId("state"), "The version does not serve any more.");
  else say(byId("state"), error.status ? `${error.message}${error.reason ? ` (${error.reason})` : ""}` : `${error.message} Trying again.`);
}

/** Asks for a key, and for nothing else until there is one. */
function lock(problem) {
  locked = true;
  useKey("");
  forgetChosen();
  for (const id of ["models", "comparisons", "forget"]) byId(id).hidden = true;
  byId("key-form").hidden = false;
  say(byId("key-problem"), problem);
  say(byId("state"), "The server asks for a key.");
  byId("key").focus();
}

function unlock() {
  locked = false;
  byId("key-form").hidden = true;
  say(byId("key-problem"), "");
  byId("forget").hidden = !hasKey();
}

/** Asks the chosen version, as soon as it is described. */
function askWith(files) {
  given = files;
  if (described === null || !takesFiles(described)) return;
  ask(described, files).catch(failed);
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key").value = "";
  locked = false;
  refresh();
});
byId("forget").addEventListener("click", () => {
  turn += 1;
  given = null;
  lock("");
});
byId("file").addEventListener("change", () => byId("file").files.length && askWith([...byId("file").files]));
byId("overlay").addEventListener("change", redraw);
byId("play").addEventListener("change", replay);
document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => /^(image|video)\//.test(each.type));
  if (file !== undefined) askWith([file]);
});
// A file that misses the field would replace the page.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
document.addEventListener("dragleave", (event) => event.relatedTarget ?? document.body.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) askWith([...event.dataTransfer.files]);
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    clearTimeout(timer);
    last = null;
  } else if (!locked) refresh();
});
refresh();
