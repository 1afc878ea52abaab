// @ts-check
/** A trend: the values of a tag over time, with its limits. */
import { shownValue, time } from "./shown.js";

/** @typedef {import("./shown.js").Tag} Tag */

/** Draw a trend; `marks` are moments with what happened then.
 * @param {HTMLCanvasElement} canvas @param {[number, number | null, number][]} points @param {Tag | undefined} tag @param {[number, string][]} [marks] */
export function draw(canvas, points, tag, marks = []) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const ink = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  ink.scale(scale, scale);
  ink.font = "11px system-ui, sans-serif";
  const numbers = points.map((one) => one[1]).filter((one) => one !== null);
  if (!numbers.length) {
    ink.fillStyle = "#59636e";
    ink.fillText("no numbers yet", 8, 16);
    return;
  }
  const limits = [["HH", tag?.hh], ["H", tag?.h], ["L", tag?.l], ["LL", tag?.ll]].filter((one) => one[1] !== undefined);
  const shown = [...numbers, ...limits.map((one) => /** @type {number} */ (one[1]))];
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const room = (high - low || Math.abs(high) || 1) * 0.08;
  const [from, to] = [points[0][0], Math.max(points[points.length - 1][0], points[0][0] + 1)];
  const x = (/** @type {number} */ ms) => 48 + ((ms - from) / (to - from)) * (width - 56);
  const y = (/** @type {number} */ value) => height - 16 - ((value - low + room) / (high - low + 2 * room)) * (height - 22);
  ink.fillStyle = "#59636e";
  ink.fillText(shownValue(Number(high.toPrecision(4))), 4, y(high) + 4);
  if (high > low) ink.fillText(shownValue(Number(low.toPrecision(4))), 4, y(low) + 4);
  ink.fillText(time(from), 48, height - 4);
  ink.fillText(time(to), Math.max(width - 8 - ink.measureText(time(to)).width, 120), height - 4);
  ink.setLineDash([4, 3]);
  for (const [name, value] of limits) {
    ink.strokeStyle = String(name).length === 2 ? "#a40e26" : "#8a5a00";
    ink.beginPath();
    ink.moveTo(48, y(/** @type {number} */ (value)));
    ink.lineTo(width - 8, y(/** @type {number} */ (value)));
    ink.stroke();
    ink.fillText(String(name), width - 22, y(/** @type {number} */ (value)) - 2);
  }
  ink.setLineDash([]);
  ink.strokeStyle = "#59636e";
  for (const [ms, name] of marks.filter((one) => one[0] >= from && one[0] <= to)) {
    ink.beginPath();
    ink.moveTo(x(ms), 6);
    ink.lineTo(x(ms), height - 16);
    ink.stroke();
    ink.fillText(name, Math.min(x(ms) + 3, width - 8 - ink.measureText(name).width), 14);
  }
  ink.strokeStyle = "#24292e";
  ink.lineWidth = 1.4;
  ink.beginPath();
  /** @type {number | null} */
  let before = null;
  for (const [ms, value] of points) {
    if (value === null) {
      before = null;
      continue;
    }
    if (before === null) ink.moveTo(x(ms), y(value));
    else {
      if (tag?.stepped) ink.lineTo(x(ms), y(before));
      ink.lineTo(x(ms), y(value));
    }
    if (points.length === 1) ink.arc(x(ms), y(value), 2, 0, 7);
    before = value;
  }
  ink.stroke();
}
