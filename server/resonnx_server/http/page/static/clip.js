// A clip as it was given: a file of moving pictures, or frames one after the other. It moves only while it may.

import { byId } from "./dom.js";
import { Seen, bitmapOf } from "./seen.js";

// Of frames, whose times nobody tells.
const FRAME_MS = 100;
const ORDER = new Intl.Collator("en", { numeric: true });

/** Returns files in the order of the numbers in their names: 9.png before 10.png. */
export function inOrder(files) {
  return [...files].sort((one, other) => ORDER.compare(one.name, other.name));
}

/** Returns the body of a request for a clip: the file, or a form of several frames. */
export function bodyOf(files) {
  if (files.length === 1) return files[0];
  const form = new FormData();
  for (const file of files) form.append("frame", file);
  return form;
}

/** The clip that the page shows, in place of a picture. */
export class Clip {
  constructor(files, model) {
    this.files = files;
    this.model = model;
    this.turn = 0;
    this.timer = 0;
    this.address = files.length === 1 ? URL.createObjectURL(files[0]) : null;
    byId("play").checked = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("play-choice").hidden = false;
  }

  /** Plays the clip again and again, or shows its first frame, as the checkbox says. */
  play() {
    const moves = byId("play").checked;
    const isFile = this.address !== null;
    this.#still();
    byId("moving").hidden = !(moves && isFile);
    byId("canvas").hidden = moves && isFile;
    byId("canvas").setAttribute("aria-label", moves ? "The clip" : "The first frame of the clip");
    if (moves && isFile) byId("moving").src = this.address;
    else this.#show(0, this.turn, moves);
  }

  /** Stops, and lets go of the file. */
  end() {
    this.#still();
    byId("moving").hidden = true;
    if (this.address !== null) URL.revokeObjectURL(this.address);
  }

  #still() {
    this.turn += 1;
    clearTimeout(this.timer);
    byId("moving").removeAttribute("src");
  }

  /** Shows a frame, and the next ones if the clip moves. One is decoded at a time: there may be thousands. */
  async #show(index, turn, moves) {
    const bitmap = await bitmapOf(this.files[index], this.model.pictures?.exif_orientation);
    if (turn !== this.turn) return;
    if (bitmap !== null) {
      new Seen(bitmap, this.model.input);
      bitmap.close();
    }
    if (moves) this.timer = setTimeout(() => this.#show((index + 1) % this.files.length, turn, moves), FRAME_MS);
  }
}
