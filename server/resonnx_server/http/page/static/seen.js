// The picture as the model sees it, and a map of weights over it.

import { byId } from "./dom.js";

const SIDE = 640;
// Colours of weights from 0 to 1: red, green, blue, opacity. They differ in brightness too.
const COLOURS = [
  [20, 10, 60, 0.55],
  [110, 20, 110, 0.5],
  [200, 50, 80, 0.45],
  [250, 140, 20, 0.45],
  [255, 240, 120, 0.5],
];
// Of what speaks for a label, and against it.
const FOR = [215, 25, 28];
const AGAINST = [20, 70, 220];
const STRONGEST = 0.75;

/** A picture on the page's canvas. */
export class Seen {
  constructor(bitmap, input) {
    const box = boxOf(bitmap, input);
    const scale = SIDE / Math.max(box.width, box.height);
    this.canvas = byId("canvas");
    this.canvas.width = Math.max(1, Math.round(box.width * scale));
    this.canvas.height = Math.max(1, Math.round(box.height * scale));
    this.whole = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    const context = this.whole.getContext("2d");
    context.drawImage(bitmap, box.left, box.top, box.width, box.height, 0, 0, this.canvas.width, this.canvas.height);
    this.show();
  }

  /**
   * Shows the picture, with a map over it if there is one: `rows` times `columns` weights from the top left. With `most`
   * they have signs, and this is the largest without it.
   */
  show(map = null) {
    const { width, height } = this.canvas;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    context.drawImage(this.whole, 0, 0);
    if (map === null) return;
    context.imageSmoothingQuality = "high";
    context.drawImage(coloured(map), 0, 0, width, height);
  }
}

/** Returns the picture of a file, turned as the model turns it; null if the browser cannot show it. */
export async function bitmapOf(file, orientation) {
  try {
    return await createImageBitmap(file, { imageOrientation: orientation === "apply" ? "from-image" : "none" });
  } catch {
    return null;
  }
}

/** Returns the part of a picture that the model is given: all of it, or the middle of its short side's crop. */
export function boxOf({ width, height }, input) {
  if (input?.resize !== "short_side_crop") return { left: 0, top: 0, width, height };
  const scale = Math.min(width, height) / input.resize_short_side;
  const left = Math.max(0, (width - input.width * scale) / 2);
  const top = Math.max(0, (height - input.height * scale) / 2);
  return { left, top, width: width - 2 * left, height: height - 2 * top };
}

function coloured({ weights, rows, columns, most }) {
  const least = Math.min(...weights);
  const span = Math.max(...weights) - least || 1;
  const image = new ImageData(columns, rows);
  const of = most === undefined ? (weight) => colour((weight - least) / span) : (weight) => signed(weight / (most || 1));
  weights.forEach((weight, i) => image.data.set(of(weight), 4 * i));
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(image, 0, 0);
  return small;
}

/** Returns the colour of a weight from 0 to 1, each part from 0 to 255. */
export function colour(weight) {
  const position = weight * (COLOURS.length - 1);
  const index = Math.min(COLOURS.length - 2, Math.floor(position));
  const mixed = COLOURS[index].map((part, i) => part + (COLOURS[index + 1][i] - part) * (position - index));
  return [mixed[0], mixed[1], mixed[2], 255 * mixed[3]];
}

/** Returns the colour of a weight from -1, against a label, to 1, for it. */
export function signed(weight) {
  return [...(weight < 0 ? AGAINST : FOR), 255 * STRONGEST * Math.abs(weight)];
}
