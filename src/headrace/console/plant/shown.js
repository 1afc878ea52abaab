// @ts-check
/** What the parts of the page share: elements, values and times as they are shown, and requests. Text is only ever set as text. */

/** @typedef {{path: string, name: string, unit: string, stepped: boolean, low?: number, high?: number, ll?: number, l?: number, h?: number, hh?: number}} Tag */
/** @typedef {[string, number, number | string | boolean | null, number, string | null]} Row */

/** The tags of the list, by path. @type {Map<string, Tag>} */
export const tags = new Map();
/** The latest value of each tag. @type {Map<string, Row>} */
export const values = new Map();
/** The time zone of the plant, and whether something can be ordered. */
export const plant = { zone: "UTC" };

/** The elements of the page itself: a drawing may have the same ids. */
const places = new Map([...document.querySelectorAll("[id]")].map((one) => [one.id, one]));
export const at = (/** @type {string} */ id) => /** @type {HTMLElement} */ (places.get(id));

/** @param {string} name @param {string | null} [text] @param {string} [kind] */
export function element(name, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

/** @param {number} ms */
export function time(ms) {
  const options = /** @type {const} */ ({ timeZone: plant.zone, hour12: false, hour: "2-digit", minute: "2-digit", second: "2-digit" });
  const day = { timeZone: plant.zone, year: "numeric", month: "2-digit", day: "2-digit" };
  const date = new Date(ms);
  const shown = (/** @type {any} */ wanted, /** @type {Date} */ one) => new Intl.DateTimeFormat("sv-SE", wanted).format(one);
  const sameDay = shown(day, date) === shown(day, new Date());
  return sameDay ? shown(options, date) : `${shown(day, date)} ${shown(options, date)}`;
}

/** @param {unknown} value */
export function shownValue(value) {
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  return value === null || value === undefined ? "–" : String(value);
}

/** @param {number} quality */
export function severity(quality) {
  return quality >= 0x80000000 ? "bad" : quality >= 0x40000000 ? "uncertain" : "good";
}

/** Return the limit that a value is beyond, as people write it. @param {Tag | undefined} tag @param {unknown} value */
export function beyond(tag, value) {
  if (!tag || typeof value !== "number") return "";
  if (tag.hh !== undefined && value >= tag.hh) return "HH";
  if (tag.ll !== undefined && value <= tag.ll) return "LL";
  if (tag.h !== undefined && value >= tag.h) return "H";
  if (tag.l !== undefined && value <= tag.l) return "L";
  return "";
}

/** @param {string} path */
export async function ask(path) {
  const answer = await fetch(path, { signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Post a value, and return the answer with its status; a log that is locked is waited for 30 s before there is one. @param {string} path @param {unknown} value */
export async function post(path, value) {
  const sent = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value), signal: AbortSignal.timeout(60000) };
  const answer = await fetch(path, sent);
  return { ok: answer.ok, ...(await answer.json()) };
}
