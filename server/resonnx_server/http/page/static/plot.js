// Plots in SVG: a value against the batch size, whose axis is logarithmic.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 208;
const LEFT = 60;
const RIGHT = 12;
const TOP = 32;
const BOTTOM = 40;

function draw(tag, attributes, text = "") {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** Returns the steps of an axis from 0: 1, 2 or 5 times a power of ten, five at most. */
export function ticks(most) {
  if (!(most > 0)) return [0, 1];
  const power = 10 ** Math.floor(Math.log10(most / 4));
  const step = [1, 2, 5, 10].map((each) => each * power).find((each) => most / each <= 4.0001);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Returns a plot of `[[batch size, value]]`; `format` returns the text of a value. */
export function plot(title, points, format) {
  const sizes = points.map(([size]) => size);
  const steps = ticks(Math.max(...points.map(([, value]) => value)));
  const [least, most] = [Math.log2(sizes[0]), Math.log2(sizes.at(-1))];
  const x = (size) => LEFT + ((Math.log2(size) - least) / (most - least || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - (value / steps.at(-1)) * (HEIGHT - TOP - BOTTOM);
  const ends = [points[0], points.at(-1)].map(([size, value]) => `${format(value)} at a batch of ${size}`);
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${ends.join(", ")}` });
  svg.append(draw("text", { x: 4, y: 16, class: "title" }, title));
  for (const step of steps) {
    svg.append(draw("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(step), y2: y(step), class: step ? "grid" : "axis" }));
    svg.append(draw("text", { x: LEFT - 6, y: y(step) + 4, "text-anchor": "end" }, format(step)));
  }
  for (const size of shownSizes(sizes, x)) {
    svg.append(draw("text", { x: x(size), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, String(size)));
  }
  svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "batch size"));
  const path = points.map(([size, value], i) => `${i ? "L" : "M"}${x(size).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  svg.append(draw("path", { d: path, class: "line" }));
  for (const [size, value] of points) {
    const mark = draw("circle", { cx: x(size), cy: y(value), r: 3, class: "mark" });
    mark.append(draw("title", {}, `batch of ${size}: ${format(value)}`));
    svg.append(mark);
  }
  return svg;
}

/** Returns the sizes whose numbers have room on the axis. */
function shownSizes(sizes, x) {
  let last = -Infinity;
  return sizes.filter((size) => {
    const fits = x(size) - last >= 22;
    if (fits) last = x(size);
    return fits;
  });
}
