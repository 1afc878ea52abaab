// @ts-check
/** The drawing of the plant: an SVG whose elements name tags, and follow their values.
 *
 * `data-tag="PATH"` binds an element to a tag. Below it, `data-show="value"` is a text with the value, and `data-show="level"` a rect that is filled
 * from `data-low` to `data-high`: it ends at `data-bottom`, and `data-full` is its greatest height. With `data-on="2"` the element is on or off.
 * Only what is abnormal has a colour. */
import { alarmsByTag } from "./alarms.js";
import { at, beyond, severity, shownValue, tags, values } from "./shown.js";

const MARKS = { 1: "■", 2: "▲", 3: "◆", 4: "●" };
const SVG = "http://www.w3.org/2000/svg";

/** @type {SVGElement[]} */
let bound = [];

/** Fetch the drawing, if the plant has one. @param {boolean} there */
export async function loadPicture(there) {
  at("picture").hidden = !there;
  bound = [];
  if (!there) return;
  const answer = await fetch("/picture.svg", { signal: AbortSignal.timeout(5000) });
  const drawing = new DOMParser().parseFromString(await answer.text(), "image/svg+xml");
  const place = at("drawing");
  if (drawing.querySelector("parsererror") || drawing.documentElement.localName !== "svg") {
    place.textContent = "The drawing is not an SVG that can be read.";
    return;
  }
  for (const one of drawing.querySelectorAll("script, foreignObject")) one.remove();
  const svg = document.importNode(drawing.documentElement, true);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${drawing.querySelector("title")?.textContent ?? "The plant"}. All values are in the table of tags.`);
  place.replaceChildren(svg);
  bound = /** @type {SVGElement[]} */ ([...svg.querySelectorAll("[data-tag]")]);
}

/** Show the values and the alarms in the drawing. */
export function showPicture() {
  if (!bound.length) return;
  const alarms = alarmsByTag();
  for (const one of bound) {
    const path = one.dataset.tag ?? "";
    const value = values.get(path);
    const alarm = alarms.get(path);
    const tag = tags.get(path);
    const limit = value ? beyond(tag, value[2]) : "";
    const kinds = [value ? severity(value[3]) : "unknown"];
    if (alarm) kinds.push("abnormal", `p${alarm.priority ?? 4}`);
    else if (limit) kinds.push("beyond-limit");
    if (one.dataset.on !== undefined && value) kinds.push(one.dataset.on.split(" ").includes(String(value[2])) ? "on" : "off");
    one.setAttribute("class", kinds.join(" "));
    const text = one.querySelector("[data-show=value]");
    if (text) text.textContent = value && kinds[0] !== "bad" ? `${shownNumber(value[2])} ${tag?.unit ?? ""}${limit ? ` ${limit}` : ""}` : value ? "bad" : "–";
    showLevel(one.querySelector("[data-show=level]"), value ? value[2] : null);
    showMark(one, alarm ? `${MARKS[/** @type {1} */ (alarm.priority ?? 4)]} P${alarm.priority ?? "–"}` : "");
    showTitle(one, `${tag?.name ?? path}: ${shownValue(value?.[2])} ${tag?.unit ?? ""} ${kinds.includes("on") ? "on" : kinds.includes("off") ? "off" : ""}`);
  }
}

/** @param {unknown} value */
function shownNumber(value) {
  return typeof value === "number" ? value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2) : shownValue(value);
}

/** @param {SVGElement | null} rect @param {unknown} value */
function showLevel(rect, value) {
  if (!rect || typeof value !== "number") return;
  const [low, high, bottom, full] = ["low", "high", "bottom", "full"].map((name) => Number(rect.dataset[name]));
  const height = Math.min(Math.max((value - low) / (high - low), 0), 1) * full;
  rect.setAttribute("height", String(height));
  rect.setAttribute("y", String(bottom - height));
}

/** Put the mark of an alarm above an element, or take it away. @param {SVGElement} one @param {string} text */
function showMark(one, text) {
  const old = one.querySelector(".mark");
  if (!text) {
    old?.remove();
    return;
  }
  if (old?.textContent === text) return;
  old?.remove();
  const box = /** @type {SVGGraphicsElement} */ (/** @type {unknown} */ (one)).getBBox();
  const mark = document.createElementNS(SVG, "text");
  mark.setAttribute("class", "mark");
  mark.setAttribute("x", String(box.x + box.width / 2));
  mark.setAttribute("y", String(box.y + box.height + 12));
  mark.textContent = text;
  one.append(mark);
}

/** @param {SVGElement} one @param {string} text */
function showTitle(one, text) {
  const title = one.querySelector("title") ?? one.insertBefore(document.createElementNS(SVG, "title"), one.firstChild);
  if (title.textContent !== text) title.textContent = text;
}
