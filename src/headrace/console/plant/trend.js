// @ts-check
/** A trend: the values of a tag over time, with its limits. Drawn by uPlot; dragging over it enlarges a part, a double click shows all. */
import { plant, shownValue, time } from "./shown.js";

/** @typedef {import("./shown.js").Tag} Tag */

const uPlot = /** @type {any} */ (globalThis).uPlot;
const MARGIN = 0.08;

/** What is drawn in a place: the plot, and what it was made from. @type {WeakMap<HTMLElement, {plot: any, made: string}>} */
const plots = new WeakMap();

/** Draw a trend into a place; `marks` are moments with what happened then.
 * @param {HTMLElement} place @param {[number, number | null, number][]} points @param {Tag | undefined} tag @param {[number, string][]} [marks] */
export function draw(place, points, tag, marks = []) {
  const old = plots.get(place);
  if (!points.some((one) => one[1] !== null)) {
    old?.plot.destroy();
    plots.delete(place);
    place.textContent = "no numbers yet";
    return;
  }
  const sorted = [...points].sort((one, other) => one[0] - other[0]);
  const data = [sorted.map((one) => one[0]), sorted.map((one) => one[1])];
  const limits = /** @type {[string, number][]} */ ([["HH", tag?.hh], ["H", tag?.h], ["L", tag?.l], ["LL", tag?.ll]].filter((one) => one[1] !== undefined));
  const size = { width: place.clientWidth, height: place.clientHeight };
  const made = JSON.stringify([limits, marks, tag?.stepped, plant.zone]);
  if (old?.made === made) {
    if (old.plot.width !== size.width || old.plot.height !== size.height) old.plot.setSize(size);
    const whole = isWhole(old.plot);
    old.plot.setData(data, whole);
    if (!whole) old.plot.redraw();
    return;
  }
  old?.plot.destroy();
  place.textContent = "";
  plots.set(place, { made, plot: new uPlot({ ...options(limits, marks, tag), ...size }, data, place) });
}

/** Whether all is shown; a part that somebody has enlarged stays as it is when values come. @param {any} plot */
function isWhole(plot) {
  const times = plot.data[0];
  return plot.scales.x.min <= times[0] && plot.scales.x.max >= times[times.length - 1];
}

/** @param {[string, number][]} limits @param {[number, string][]} marks @param {Tag | undefined} tag */
function options(limits, marks, tag) {
  const axis = { stroke: "#59636e", font: "11px system-ui, sans-serif", grid: { stroke: "#e6e9ec", width: 1 }, ticks: { show: false } };
  const clock = (/** @type {number} */ ms, /** @type {number} */ step) => time(ms).slice(-8, step >= 60_000 ? -3 : undefined);
  return {
    ms: 1,
    tzDate: (/** @type {number} */ ms) => uPlot.tzDate(new Date(ms), plant.zone),
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (/** @type {any} */ _plot, /** @type {number} */ low, /** @type {number} */ high) => range([low, high, ...limits.map((one) => one[1])]) } },
    axes: [
      { ...axis, size: 22, space: 80, values: (/** @type {any} */ _plot, /** @type {number[]} */ at, /** @type {any} */ _axis, /** @type {any} */ _space, /** @type {number} */ step) => at.map((ms) => clock(ms, step)) },
      { ...axis, size: 52, values: (/** @type {any} */ _plot, /** @type {number[]} */ at) => at.map(shownValue) },
    ],
    series: [{}, { stroke: "#24292e", width: 1.4, points: { show: false }, ...(tag?.stepped ? { paths: uPlot.paths.stepped({ align: 1 }) } : {}) }],
    hooks: {
      draw: [(/** @type {any} */ plot) => drawLimits(plot, limits, marks)],
      setCursor: [(/** @type {any} */ plot) => showCursor(plot)],
    },
  };
}

/** @param {number[]} values */
function range(values) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = (high - low || Math.abs(high) || 1) * MARGIN;
  return [low - room, high + room];
}

/** @param {any} plot @param {[string, number][]} limits @param {[number, string][]} marks */
function drawLimits(plot, limits, marks) {
  const { ctx, bbox } = plot;
  const ratio = window.devicePixelRatio || 1;
  const line = (/** @type {number[]} */ from, /** @type {number[]} */ to) => {
    ctx.beginPath();
    ctx.moveTo(from[0], from[1]);
    ctx.lineTo(to[0], to[1]);
    ctx.stroke();
  };
  ctx.save();
  ctx.font = `${11 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "right";
  ctx.fillStyle = "#59636e";
  ctx.lineWidth = ratio;
  ctx.setLineDash([4 * ratio, 3 * ratio]);
  const right = bbox.left + bbox.width;
  for (const [name, value] of limits) {
    const y = plot.valToPos(value, "y", true);
    ctx.strokeStyle = name.length === 2 ? "#a40e26" : "#8a5a00";
    line([bbox.left, y], [right, y]);
    ctx.fillText(`${name} ${shownValue(value)}`, right - 2, y - 3 * ratio);
  }
  ctx.setLineDash([]);
  ctx.strokeStyle = "#59636e";
  for (const [ms, name] of marks) {
    const x = plot.valToPos(ms, "x", true);
    if (x < bbox.left || x > right) continue;
    line([x, bbox.top], [x, bbox.top + bbox.height]);
    ctx.fillText(name, Math.max(x - 3 * ratio, bbox.left + ctx.measureText(name).width), bbox.top + 11 * ratio);
  }
  ctx.restore();
}

/** Show the value under the cursor as the title of the plot. @param {any} plot */
function showCursor(plot) {
  const place = plot.cursor.idx;
  plot.root.title = place === null || place === undefined ? "" : `${time(plot.data[0][place])}: ${shownValue(plot.data[1][place])}`;
}
