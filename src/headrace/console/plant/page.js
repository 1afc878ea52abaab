// @ts-check
/** The page of a plant. It asks for what has changed once a second; text is only ever set as text. */

import { alarmsByTag, forgetAlarms, showAlarms } from "./alarms.js";
import { loadPicture, showPicture } from "./picture.js";
import { ask, at, beyond, element, plant, severity, shownValue, tags, time, values } from "./shown.js";
import { draw } from "./trend.js";

/** @typedef {import("./shown.js").Row} Row */

const MOST_TRENDS = 4;
const PERIOD_MS = 1000;

/** @type {Map<string, HTMLTableRowElement>} */
const rows = new Map();
/** @type {string[]} */
const chosen = [];
let seen = 0;
try {
  chosen.push(...location.hash.slice(1).split("&").filter(Boolean).slice(0, MOST_TRENDS).map(decodeURIComponent));
} catch {
  // an address that was cut or mistyped chooses nothing
}

/** Add the row of a tag below its assets, in the order of the list. @param {string} path */
function addRow(path) {
  const tag = tags.get(path);
  const parts = path.split("/");
  const asset = parts.slice(0, -1).join(" / ") || (tag ? "" : "Not in the list of tags");
  const group = tag ? asset : "Not in the list of tags";
  const tree = at("tree");
  let last = [...tree.querySelectorAll("tr")].reverse().find((one) => one.dataset.group === group);
  if (!last && group) {
    const heading = document.createElement("tr");
    heading.className = "asset";
    heading.dataset.group = group;
    const cell = document.createElement("th");
    cell.colSpan = 6;
    cell.scope = "rowgroup";
    cell.textContent = group;
    heading.append(cell);
    tree.append(heading);
    last = heading;
  }
  const row = document.createElement("tr");
  row.dataset.group = group;
  row.dataset.path = path;
  const box = document.createElement("input");
  box.type = "checkbox";
  box.setAttribute("aria-label", `${tag ? tag.name : path}: trend`);
  box.checked = chosen.includes(path);
  box.addEventListener("change", () => choose(path, box));
  const first = document.createElement("td");
  first.append(box);
  const name = element("td", tag ? tag.name : path);
  name.title = path;
  row.append(first, name, element("td", "–", "number value"), element("td", tag ? tag.unit : ""), element("td", "no value yet", "quality"), element("td", "", "time"));
  if (last) last.after(row);
  else tree.append(row);
  rows.set(path, row);
  return row;
}

/** @param {string} path @param {HTMLInputElement} box */
function choose(path, box) {
  if (box.checked && chosen.length >= MOST_TRENDS) {
    box.checked = false;
    return;
  }
  if (box.checked) chosen.push(path);
  else chosen.splice(chosen.indexOf(path), 1);
  history.replaceState(null, "", `#${chosen.map(encodeURIComponent).join("&")}`);
  void drawTrends();
}

/** @param {Row} value */
function showValue(value) {
  const [path, ms, given, quality, unit] = value;
  values.set(path, value);
  const row = rows.get(path) ?? addRow(path);
  const tag = tags.get(path);
  const limit = beyond(tag, given);
  const state = severity(quality);
  row.className = [state, limit.length === 2 ? "beyond" : limit ? "limit" : ""].join(" ");
  const cells = row.cells;
  cells[2].textContent = shownValue(given) + (limit ? ` ${limit}` : "");
  if (!tag && unit) cells[3].textContent = unit;
  cells[4].textContent = state === "good" ? "good" : `${state} 0x${quality.toString(16).toUpperCase().padStart(8, "0")}`;
  cells[5].textContent = time(ms);
}

async function describe() {
  const described = await ask("/api/plant");
  plant.zone = described.zone;
  document.title = `${described.name} – headrace`;
  at("plant").textContent = described.name;
  at("links").replaceChildren(...described.links.map((/** @type {[string, string]} */ [name, to]) => {
    const link = /** @type {HTMLAnchorElement} */ (element("a", name));
    link.href = to;
    return link;
  }));
  tags.clear();
  rows.clear();
  at("tree").replaceChildren();
  for (const tag of described.tags) {
    tags.set(tag.path, tag);
    addRow(tag.path);
  }
  seen = 0;
  forgetAlarms();
  await loadPicture(described.picture);
}

/** @param {any} state */
function showState(state) {
  const parts = state.parts.map((/** @type {any} */ part) => {
    const row = document.createElement("tr");
    const counted = Object.values(state.ledgers[part.name]?.ledger ?? {});
    const sum = (/** @type {string[]} */ fates) => counted.reduce((all, one) => all + fates.reduce((some, fate) => some + (one[fate] ?? 0), 0), 0);
    const number = (/** @type {string[]} */ fates) => element("td", counted.length ? sum(fates).toLocaleString("en") : "–", "number");
    const lag = state.ledgers[part.name]?.lag;
    const shown = element("td", part.state + (part.reason ? `: ${part.reason}` : ""), part.state);
    row.append(element("td", part.name), element("td", part.kind), shown, number(["received"]), number(["accepted"]));
    row.append(number(["malformed", "future", "refused", "late"]), number(["shed"]), element("td", lag === null || lag === undefined ? "–" : lag.toLocaleString("en"), "number"));
    return row;
  });
  at("parts").replaceChildren(...parts);
  const ledger = Object.entries(state.ledgers).flatMap(([part, one]) =>
    Object.entries(/** @type {any} */ (one).ledger).map(([topic, counts]) => {
      const { received, ...fates } = /** @type {Record<string, number>} */ (counts);
      const shown = Object.entries(fates).filter(([fate, count]) => count || fate === "accepted").map(([fate, count]) => `${count.toLocaleString("en")} ${fate}`);
      return element("li", `${part}, ${topic}: ${(received ?? 0).toLocaleString("en")} received = ${shown.join(" + ")}`);
    }),
  );
  at("ledger").replaceChildren(...ledger);
  const letters = state.letters.map((/** @type {any} */ one) => {
    const row = document.createElement("tr");
    const place = one.offset === null ? one.topic : `${one.topic} ${one.partition}/${one.offset}`;
    const why = element("td", `${one.reason}: ${one.detail ?? ""}`);
    why.title = one.raw;
    row.append(element("td", time(one.arrived_ms), "time"), element("td", place), why);
    return row;
  });
  at("letters").replaceChildren(...letters);
  const topics = state.topics.map((/** @type {any} */ one) => {
    const row = document.createElement("tr");
    row.append(element("td", one.name), element("td", one.records.toLocaleString("en"), "number"), element("td", one.last, "raw"));
    return row;
  });
  at("topics").replaceChildren(...topics);
}

/** The tag of the most important alarm, which has a trend while none is chosen. */
function mostImportant() {
  const found = [...alarmsByTag()].sort((one, other) => (one[1].priority ?? 5) - (other[1].priority ?? 5));
  return found.slice(0, 1).map(([tag]) => tag);
}

async function drawTrends() {
  const place = at("trends");
  const wanted = chosen.length ? chosen : mostImportant();
  const found = await Promise.all(wanted.map(async (path) => ({ path, points: await ask(`/api/trend?tag=${encodeURIComponent(path)}`) })));
  if (!found.length) {
    place.replaceChildren(element("p", "Choose up to four tags.", "empty"));
    return;
  }
  const figures = found.map(({ path, points }) => {
    const old = /** @type {HTMLElement | undefined} */ ([...place.querySelectorAll("figure")].find((one) => one.dataset.path === path));
    const figure = old ?? document.createElement("figure");
    if (!old) {
      figure.dataset.path = path;
      const plot = element("div", null, "plot");
      plot.setAttribute("role", "img");
      plot.setAttribute("aria-label", `Trend of ${path}`);
      figure.append(document.createElement("figcaption"), plot);
    }
    const tag = tags.get(path);
    const last = values.get(path);
    const caption = /** @type {HTMLElement} */ (figure.querySelector("figcaption"));
    caption.textContent = `${tag ? tag.name : path}: ${shownValue(last?.[2])} ${tag?.unit ?? ""}`;
    figure.dataset.path = path;
    return { figure, points, tag };
  });
  if (figures.length !== place.children.length || figures.some((one, at) => place.children[at] !== one.figure)) place.replaceChildren(...figures.map((one) => one.figure));
  const span = Number(/** @type {HTMLSelectElement} */ (at("span")).value);
  for (const one of figures) {
    const from = span ? Math.max(...one.points.map((/** @type {any} */ point) => point[0])) - span : -Infinity;
    const points = one.points.filter((/** @type {any} */ point) => point[0] >= from);
    draw(/** @type {HTMLElement} */ (one.figure.querySelector(".plot")), points, one.tag);
  }
}

function filter() {
  const wanted = /** @type {HTMLInputElement} */ (at("filter")).value.toLowerCase();
  for (const [path, row] of rows) {
    const name = `${path} ${tags.get(path)?.name ?? ""}`.toLowerCase();
    row.hidden = !name.includes(wanted);
  }
}

let described = false;

async function look() {
  try {
    if (!described) {
      await describe();
      described = true;
    }
    const changed = await ask(`/api/values?since=${seen}`);
    if (changed.number < seen) described = false; // the plant was started again
    for (const value of changed.values) showValue(value);
    seen = changed.number;
    await showAlarms();
    showPicture();
    showState(await ask("/api/state"));
    await drawTrends();
    filter();
    const bad = [...values.values()].filter((one) => severity(one[3]) !== "good").length;
    at("counts").textContent = `${rows.size.toLocaleString("en")} tags, ${bad.toLocaleString("en")} without good quality`;
    at("clock").textContent = `${time(changed.now)} ${plant.zone}`;
    at("link").textContent = changed.fault || "live";
    at("link").className = changed.fault ? "lost" : "";
    document.body.classList.toggle("lost", Boolean(changed.fault));
  } catch {
    described = false;
    at("link").textContent = "connection lost";
    at("link").className = "lost";
    document.body.classList.add("lost");
  }
  setTimeout(look, PERIOD_MS);
}

at("filter").addEventListener("input", filter);
at("span").addEventListener("change", () => void drawTrends());
void look();
