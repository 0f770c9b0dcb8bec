// Asks a model with a picture or a clip, and shows the answer: labels with bars, or a caption word by word.

import { Failure, pathOf, post, postForEvents } from "./api.js";
import { Clip, bodyOf, inOrder } from "./clip.js";
import { byId, make, say } from "./dom.js";
import { Seen, bitmapOf } from "./seen.js";
import { count, percent } from "./wording.js";

const PARTS = ["seen", "labels", "words", "overlay-choice", "play-choice"];
// Labels of an answer, and the most numbers of their heatmaps that an answer over HTTP has.
const LABELS = 5;
const MOST_VALUES = 16384;
let asking = null;
let shown = null;

/** Whether a model answers for clips. */
export function takesClip(model) {
  return model.task === "video_classifier";
}

/**
 * Asks the version that `model` describes with files: of these, a model of pictures takes the first, one of clips a file
 * or several frames. An answer to earlier ones is not waited for.
 */
export async function ask(model, files) {
  asking?.abort();
  asking = new AbortController();
  const { signal } = asking;
  clear(`Asking ${model.name} …`);
  const given = takesClip(model) ? inOrder(files) : files;
  const bitmap = await bitmapOf(given[0], model.pictures?.exif_orientation);
  if (signal.aborted) return;
  if (takesClip(model)) showClip(model, given, bitmap);
  else shown = { seen: seenOf(model, given[0], bitmap), map: null };
  redraw();
  try {
    const answer = await answerOf(model, given, signal);
    say(byId("timing"), timingOf(answer));
  } catch (error) {
    if (signal.aborted) return;
    say(byId("problem"), error.reason ? `${error.message} (${error.reason})` : error.message);
    if (error.status === 401) throw error;
  } finally {
    if (!signal.aborted) say(byId("busy"), "");
  }
}

function answerOf(model, files, signal) {
  if (takesClip(model)) return watch(model, files, signal);
  return (model.task === "captioner" ? caption : classify)(model, files[0], signal);
}

/** Removes the last answer. */
export function clear(busy = "") {
  shown?.clip?.end();
  shown = null;
  for (const id of PARTS) byId(id).hidden = true;
  for (const id of ["problem", "timing", "said"]) say(byId(id), "");
  byId("labels").replaceChildren();
  byId("words").replaceChildren();
  say(byId("busy"), busy);
}

/** Forgets the picture or clip, and ends the request that is under way. */
export function stop() {
  asking?.abort();
  clear();
}

/** Shows or hides the map over the picture, as the checkbox says. */
export function redraw() {
  if (!shown?.seen) return;
  const map = byId("overlay").checked ? shown.map : null;
  shown.seen.show(map);
  const where = map === null ? "" : `, with a map of where it looked for ${map.text}`;
  byId("canvas").setAttribute("aria-label", `The picture as the model sees it${where}`);
}

/** Plays the clip, or shows its first frame, as the checkbox says. */
export function replay() {
  shown?.clip?.play();
}

function showClip(model, files, bitmap) {
  const [file] = files;
  const name = files.length > 1 ? count(files.length, "frame") : file.name || "pasted clip";
  byId("seen").hidden = false;
  byId("canvas").hidden = bitmap === null;
  if (bitmap === null) {
    say(byId("seen-caption"), `${name}: this page cannot show it`);
    return;
  }
  say(byId("seen-caption"), `${name}, ${bitmap.width} × ${bitmap.height} pixels`);
  shown = { clip: new Clip(files, model), map: null };
  replay();
}

function seenOf(model, file, bitmap) {
  byId("seen").hidden = false;
  byId("canvas").hidden = bitmap === null;
  const name = file.name || "pasted picture";
  if (bitmap === null) {
    say(byId("seen-caption"), `${name}: this browser cannot show it`);
    return null;
  }
  say(byId("seen-caption"), `${name}, ${bitmap.width} × ${bitmap.height} pixels, as the model sees it`);
  return new Seen(bitmap, model.input);
}

async function classify(model, file, signal) {
  const positions = (model.heatmap_rows ?? 0) * (model.heatmap_columns ?? 0);
  const maps = positions > 0 ? Math.floor(MOST_VALUES / positions) : 0;
  const labels = Math.min(LABELS, model.classes, maps || LABELS);
  const options = { version: model.version, top_k: labels, ...(maps ? { return_heatmap: "true" } : {}) };
  return showLabels(await post(pathOf("classify", model.name, options), file, signal));
}

async function watch(model, files, signal) {
  const options = { version: model.version, top_k: Math.min(LABELS, model.classes) };
  return showLabels(await post(pathOf("classify-video", model.name, options), bodyOf(files), signal));
}

function showLabels(answer) {
  byId("labels").hidden = false;
  // Maps of different labels are compared: they have one scale.
  const most = Math.max(...answer.predictions.flatMap((each) => each.heatmap ?? []).map(Math.abs));
  byId("labels").replaceChildren(...answer.predictions.map((each) => bar(each, answer, most)));
  byId("labels").querySelector("button")?.onclick();
  const texts = answer.predictions.map((each) => `${each.label}, ${percent(each.score)}`);
  say(byId("said"), `Answer: ${texts.join("; ")}`);
  return answer;
}

function bar({ label, score, heatmap }, answer, most) {
  const filled = make("span", { class: "bar" });
  filled.style.width = `${Math.max(0, Math.min(100, 100 * score))}%`;
  const map = heatmap && { weights: heatmap, rows: answer.heatmap_rows, columns: answer.heatmap_columns, most };
  return make("li", {}, filled, named("label", label, map), make("span", { class: "score" }, percent(score)));
}

/** Returns a text, as a button that shows its map over the picture if there is one and the picture is shown. */
function named(kind, text, map) {
  if (!map || !shown?.seen) return make("span", { class: kind }, text);
  const button = make("button", { type: "button", class: kind, "aria-pressed": "false" }, text);
  const look = () => {
    for (const other of document.querySelectorAll("#labels button, #words button")) {
      other.classList.toggle("shown", other === button);
      other.setAttribute("aria-pressed", String(other === button));
    }
    shown.map = { ...map, text };
    redraw();
  };
  button.onclick = button.onfocus = button.onpointerenter = look;
  byId("overlay-choice").hidden = false;
  say(byId("overlay-text"), kind === "label" ? "Show what speaks for the label (red) and against it (blue)" : "Show where the model looked");
  return button;
}

async function caption(model, file, signal) {
  const options = { version: model.version, ...(model.attention_rows ? { return_attention: "true" } : {}) };
  byId("words").hidden = false;
  let answer = null;
  for await (const [name, data] of postForEvents(pathOf("caption", model.name, options), file, signal)) {
    if (name === "word") addWord(model, data);
    else answer = data;
  }
  if (answer === null) throw new Failure(0, "The answer ended early.");
  const best = answer.captions[0];
  // Beams may end otherwise than the words that came.
  if (byId("words").children.length !== best.words.length) {
    byId("words").replaceChildren();
    best.words.forEach((word) => addWord(model, word));
  }
  say(byId("said"), `Caption: ${best.text || "no words"}`);
  return answer;
}

function addWord(model, { text, attention, log_prob: logProb }) {
  const map = attention && { weights: attention, rows: model.attention_rows, columns: model.attention_columns };
  const word = named("word", text, map);
  word.title = percent(Math.exp(logProb));
  byId("words").append(word);
  word.onclick?.();
}

function timingOf({ version, timing, frames_read: read }) {
  const ms = (us) => `${(us / 1000).toFixed(1)} ms`;
  const parts = [`decoding ${ms(timing.decode_us)}`, `queue ${ms(timing.queue_us)}`, `computing ${ms(timing.compute_us)}`];
  const frames = read ? ` ${count(read.length, "frame")} read.` : "";
  return `Version ${version}: ${parts.join(", ")}, in a batch of ${count(timing.batch_size, "row")}.${frames}`;
}
