// @ts-check
/** The alarms of the plant: which are active, operators' commands, and the explanation of an alarm with its trend. */
import { ask, at, element, plant, post, severity, shownValue, tags, time, values } from "./shown.js";
import { draw } from "./trend.js";

/** @typedef {{topic: string, alarm_id: string, kind: string | null, priority: number | null, state: string, active: boolean, sequence: number, time: number,
 *    raised: number, value: number | null, limit: number | null, by: string | null, reason: string | null, until: number | null, action: string | null,
 *    consequence: string | null, attack: string[] | null, cause: string | null, level: number, consequences: number}} Alarm */

const ASIDE = { shelved: "unshelve", suppressed: "unsuppress", out_of_service: "in_service" };
const WORDS = { acknowledge: "Acknowledge", reset: "Reset", unshelve: "Unshelve", unsuppress: "Unsuppress", in_service: "Return to service" };
const WAIT = new Set(["unacknowledged", "returned", "latched_unacknowledged"]);
const MARGIN_MS = 60_000; // of the trend of an explanation, before the raise
const SHAPES = { 1: "square", 2: "triangle", 3: "diamond", 4: "circle" };

/** @type {Map<string, HTMLTableRowElement>} */
const rows = new Map();
/** @type {Map<string, Alarm>} */
const alarms = new Map();
let seen = -1;
let commands = false;

const key = (/** @type {Alarm} */ alarm) => `${alarm.topic} ${alarm.alarm_id}`;
const words = (/** @type {string} */ name) => name.replaceAll("_", " ");
const tagOf = (/** @type {string} */ id) => id.slice(0, id.lastIndexOf("/"));
const operator = /** @type {HTMLInputElement} */ (at("operator"));

/** The most important active alarm of each tag, which the picture of the plant shows. @returns {Map<string, Alarm>} */
export function alarmsByTag() {
  /** @type {Map<string, Alarm>} */
  const found = new Map();
  for (const alarm of alarms.values()) {
    const tag = tagOf(alarm.alarm_id);
    const before = found.get(tag);
    if (alarm.active && !(alarm.state in ASIDE) && (!before || (alarm.priority ?? 5) < (before.priority ?? 5))) found.set(tag, alarm);
  }
  return found;
}

/** Ask which alarms there are, if that has changed, and show their live values. */
export async function showAlarms() {
  const found = await ask(`/api/alarms?since=${seen}`);
  at("alarms").hidden = !found.boards;
  if (found.alarms) {
    seen = found.number;
    commands = found.commands;
    showRows(found.alarms, found.total);
  }
  for (const [name, row] of rows) showValue(/** @type {Alarm} */ (alarms.get(name)), row);
}

/** Have all be asked for again, as after a restart of the plant. */
export function forgetAlarms() {
  seen = -1;
}

/** @param {Alarm[]} found @param {number} total */
function showRows(found, total) {
  const focused = focusedButton();
  alarms.clear();
  for (const alarm of found) alarms.set(key(alarm), alarm);
  for (const [name, row] of rows) {
    if (alarms.has(name)) continue;
    row.remove();
    rows.delete(name);
  }
  const aside = found.filter((one) => one.state in ASIDE);
  const active = found.filter((one) => !(one.state in ASIDE));
  fill(at("active-alarms"), active);
  fill(at("aside-alarms"), aside);
  at("no-alarms").hidden = active.length > 0;
  at("active-table").hidden = active.length === 0;
  at("aside").hidden = aside.length === 0;
  const waiting = active.filter((one) => WAIT.has(one.state)).length;
  const more = total > found.length ? `, the first ${found.length.toLocaleString("en")} of ${total.toLocaleString("en")}` : "";
  const under = active.filter((one) => one.cause).length;
  const caused = under ? ` (${under} caused by others)` : "";
  at("alarm-counts").textContent = `${active.length} active${caused}, ${waiting} to acknowledge, ${aside.length} set aside${more}`;
  at("operator-label").hidden = !commands;
  at("no-commands").hidden = commands;
  focused?.();
}

/** Return what puts the focus back to the button that has it, if that is one of an alarm. */
function focusedButton() {
  const button = /** @type {HTMLElement | null} */ (document.activeElement);
  const row = button?.closest("tr");
  const name = row?.dataset.key;
  const what = button?.dataset.command;
  if (!name || !what) return undefined;
  return () => {
    const there = rows.get(name);
    const same = /** @type {HTMLElement | undefined} */ ([...(there?.querySelectorAll("button") ?? [])].find((one) => one.dataset.command === what));
    if (document.activeElement !== same) same?.focus();
  };
}

/** Bring the rows of a table into their order. @param {HTMLElement} body @param {Alarm[]} found */
function fill(body, found) {
  found.forEach((alarm, place) => {
    const old = rows.get(key(alarm));
    const row = old ?? document.createElement("tr");
    rows.set(key(alarm), row);
    if (body.children[place] !== row) body.insertBefore(row, body.children[place] ?? null);
    const version = JSON.stringify(alarm) + commands;
    if (row.dataset.version === version) return;
    row.dataset.key = key(alarm);
    row.dataset.version = version;
    row.className = `${alarm.active && !(alarm.state in ASIDE) ? "abnormal" : "normal"} ${WAIT.has(alarm.state) ? "waits" : ""}`;
    row.replaceChildren(...cells(alarm));
  });
}

/** @param {string} label @param {Node | string | null} content @param {string} [kind] */
function cell(label, content, kind) {
  const made = element("td", null, kind);
  made.dataset.label = label;
  made.append(content ?? "–");
  return made;
}

/** @param {Alarm} alarm */
function cells(alarm) {
  const aside = alarm.state in ASIDE;
  const priority = document.createElement("span");
  priority.className = `priority p${alarm.priority ?? 4}`;
  const mark = element("span", "", `mark ${SHAPES[/** @type {1} */ (alarm.priority ?? 4)]}`);
  mark.setAttribute("aria-hidden", "true");
  priority.append(mark, `P${alarm.priority ?? "–"}`);
  const name = element("span", null, "alarm");
  const tag = tags.get(tagOf(alarm.alarm_id));
  const definition = alarm.alarm_id.slice(alarm.alarm_id.lastIndexOf("/") + 1);
  name.append(element("strong", `${tag ? tag.name : tagOf(alarm.alarm_id)} ${definition}`));
  name.title = alarm.alarm_id;
  name.style.marginInlineStart = `${Math.min(alarm.level, 6) * 1.2}rem`;
  const below = alarm.consequences === 1 ? "1 consequence" : `${alarm.consequences} consequences`;
  const group = alarm.cause ? `caused by ${alarm.cause}` : "";
  if (group || alarm.consequences) name.append(element("small", [group, alarm.consequences ? below : ""].filter(Boolean).join(", "), "group"));
  const guidance = [alarm.consequence, alarm.action, alarm.attack?.length ? `ATT&CK ${alarm.attack.join(", ")}` : null].filter(Boolean).join(" ");
  if (guidance) name.append(element("small", guidance));
  const note = [alarm.by === "system" ? null : alarm.by, alarm.reason].filter(Boolean).join(": ");
  const buttons = document.createElement("span");
  buttons.className = "buttons";
  buttons.append(...actions(alarm).map(([what, text]) => button(alarm, what, text)));
  const unit = tag?.unit ? ` ${tag.unit}` : "";
  const limit = alarm.limit === null ? null : shownValue(alarm.limit) + unit;
  const since = time(aside ? alarm.time : alarm.raised);
  const last = aside && alarm.until !== null ? `until ${time(alarm.until)}` : null;
  return [
    cell("Priority", priority), cell("State", words(alarm.state) + (last ? ` ${last}` : ""), "state"), cell("Alarm", name), cell("Value", "–", "number live"),
    cell("Limit", limit, "number"), cell("Since", since, "time"), cell("By", note || null, "note"), cell("", buttons, "actions"),
  ];
}

/** Show the value of the tag as it is now, else that of the last transition. @param {Alarm} alarm @param {HTMLTableRowElement} row */
function showValue(alarm, row) {
  const [, , value, quality] = values.get(tagOf(alarm.alarm_id)) ?? [null, 0, alarm.value, 0, null];
  const unit = tags.get(tagOf(alarm.alarm_id))?.unit ?? "";
  const shown = severity(quality) === "bad" ? "bad quality" : `${shownValue(value)} ${unit}`;
  const live = /** @type {HTMLElement} */ (row.querySelector(".live"));
  if (live.textContent !== shown) live.textContent = shown;
}

/** The commands that fit the state. @param {Alarm} alarm @returns {[string, string][]} */
function actions(alarm) {
  /** @type {[string, string][]} */
  const found = [];
  const end = ASIDE[/** @type {"shelved"} */ (alarm.state)];
  if (commands) {
    if (end) found.push([end, WORDS[/** @type {"reset"} */ (end)]]);
    if (WAIT.has(alarm.state)) found.push(["acknowledge", WORDS.acknowledge]);
    if (alarm.state.startsWith("latched")) found.push(["reset", WORDS.reset]);
    if (!end) found.push(["shelve", "Shelve…"]);
    found.push(["comment", "Comment…"]);
  }
  if (alarm.sequence) found.push(["explain", "Explain"]);
  return found;
}

/** @param {Alarm} alarm @param {string} what @param {string} text */
function button(alarm, what, text) {
  const made = /** @type {HTMLButtonElement} */ (element("button", text));
  made.type = "button";
  made.dataset.command = what;
  made.setAttribute("aria-label", `${text} ${alarm.alarm_id}`);
  made.addEventListener("click", () => {
    const now = alarms.get(key(alarm)) ?? alarm;
    if (what === "explain") void explain(now);
    else if (what === "shelve" || what === "comment") askWhy(now, what);
    else void send(now, { command: what });
  });
  return made;
}

/** @param {string} text @param {boolean} [wrong] */
function say(text, wrong) {
  at("alarm-said").textContent = text;
  at("alarm-said").className = wrong ? "failed" : "";
}

/** Return whether the operator has a name; if not, ask for it. */
function named() {
  if (operator.value.trim()) return true;
  say("Write your name first.", true);
  operator.focus();
  return false;
}

/** Post a command, and say what became of it. @param {Alarm} alarm @param {{command: string, reason?: string, seconds?: number, one_shot?: boolean}} wanted */
async function send(alarm, wanted) {
  if (!named()) return;
  const next = nextRow(alarm);
  const command = { alarm: alarm.alarm_id, topic: alarm.topic, by: operator.value.trim(), ...wanted };
  const what = `${words(wanted.command)} ${alarm.alarm_id}`;
  say(`Sent ${what}.`);
  try {
    const answer = await post("/api/command", wanted.command === "acknowledge" ? { ...command, sequence: alarm.sequence } : command);
    const now = answer.alarm && answer.alarm.by !== "system" && answer.alarm.by !== command.by ? ` Last change: by ${answer.alarm.by}, ${time(answer.alarm.time)}.` : "";
    if (!answer.ok) say(`Not sent: ${what}: ${answer.error}.`, true);
    else if (answer.outcome === "refused") say(`Refused: ${what}: ${answer.reason}.${now}`, true);
    else if (answer.outcome === "pending") say(`Sent ${what}; ${answer.reason}.`);
    else say(`Done: ${what}: now ${words(answer.state)}.`);
    await showAlarms();
    if (answer.ok && wanted.command === "acknowledge") focusOn(next);
  } catch {
    say(`No answer: ${what}. Whether it was accepted is not known; look at the list.`, true);
  }
}

/** @param {Alarm} alarm */
function nextRow(alarm) {
  const row = rows.get(key(alarm));
  const next = /** @type {HTMLElement | null | undefined} */ (row?.nextElementSibling ?? row?.previousElementSibling);
  return next?.dataset.key;
}

/** Put the focus on the first button of a row; on the heading if the row is gone. @param {string | undefined} name */
function focusOn(name) {
  const first = name ? rows.get(name)?.querySelector("button") : null;
  (first ?? at("alarms-title")).focus();
}

/** Ask for the reason, and for how long an alarm is shelved. @param {Alarm} alarm @param {"shelve" | "comment"} what */
function askWhy(alarm, what) {
  if (!named()) return;
  const dialog = /** @type {HTMLDialogElement} */ (at("why"));
  const form = /** @type {HTMLFormElement} */ (at("why-form"));
  const reason = /** @type {HTMLInputElement} */ (at("reason"));
  const span = /** @type {HTMLSelectElement} */ (at("shelve-for"));
  at("why-title").textContent = `${what === "shelve" ? "Shelve" : "Comment on"} ${alarm.alarm_id}`;
  at("shelve-label").hidden = what !== "shelve";
  at("reason-label").firstChild?.replaceWith(what === "shelve" ? "Reason " : "Comment ");
  at("why-send").textContent = what === "shelve" ? "Shelve" : "Comment";
  reason.value = "";
  form.onsubmit = () => {
    const shelve = span.value === "clear" ? { one_shot: true } : { seconds: Number(span.value) };
    void send(alarm, { command: what, reason: reason.value.trim(), ...(what === "shelve" ? shelve : {}) });
  };
  dialog.showModal();
  reason.focus();
}

/** @param {string[]} head @param {(string | null)[][]} body @param {string} caption */
function table(head, body, caption) {
  const made = document.createElement("table");
  made.append(element("caption", caption));
  const top = document.createElement("tr");
  for (const name of head) {
    const title = /** @type {HTMLTableCellElement} */ (element("th", name));
    title.scope = "col";
    top.append(title);
  }
  made.append(document.createElement("thead"), document.createElement("tbody"));
  made.tHead?.append(top);
  for (const line of body) {
    const row = document.createElement("tr");
    row.append(...line.map((one) => element("td", one ?? "–")));
    made.tBodies[0].append(row);
  }
  return made;
}

/** Show why an alarm was raised, as `headrace explain` does. @param {Alarm} alarm */
async function explain(alarm) {
  const dialog = /** @type {HTMLDialogElement} */ (at("explanation"));
  const body = at("explanation-body");
  at("explanation-title").textContent = `${alarm.alarm_id}, occurrence ${alarm.sequence}`;
  body.replaceChildren(element("p", "The explanation is being computed from the log.", "empty"));
  if (!dialog.open) dialog.showModal();
  const asked = new URLSearchParams({ topic: alarm.topic, alarm: alarm.alarm_id, sequence: String(alarm.sequence) });
  let found;
  try {
    const answer = await fetch(`/api/explanation?${asked}`, { signal: AbortSignal.timeout(30000) });
    found = await answer.json();
  } catch {
    found = { error: "the plant does not answer" };
  }
  if (found.error) {
    body.replaceChildren(element("p", `There is no explanation: ${found.error}.`, "failed"));
    return;
  }
  const { definition, readings, transitions } = found;
  const place = (/** @type {any} */ one) => (one.offset === null ? "derived" : `${one.topic}/${one.partition} offset ${one.offset}`);
  const quality = (/** @type {number | null} */ code) => (code === null || code === undefined ? null : `${severity(code)} 0x${code.toString(16).toUpperCase().padStart(8, "0")}`);
  const settings = Object.entries(definition).filter(([name]) => !["version", "from", "tag", "definition"].includes(name));
  const plot = element("div", null, "plot");
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", `Values of ${tagOf(alarm.alarm_id)}, with the limit and the transitions; the values are in the table of readings`);
  body.replaceChildren(
    element("p", `State before: ${words(found.state_before)}, after: ${words(found.state_after)}.`),
    plot,
    table(["Time", "Event", "From", "To", "Value", "By", "Reason"], transitions.map((/** @type {any} */ one) => [
      time(one.time), words(one.event), words(one.from), words(one.to), shownValue(one.value), one.by, one.reason,
    ]), "Transitions"),
    table(["Record", "Time", "Value", "Quality", "Event"], nearRaise(readings).map((/** @type {any} */ one) => [
      place(one), time(one.time), shownValue(one.value), quality(one.quality), [one.event, one.evidence ? "evidence" : null].filter(Boolean).join(", ") || null,
    ]), "Readings near the raise"),
    table(["Setting", "Value"], settings.map(([name, value]) => [words(name), String(value)]), `Definition, version ${definition.version}, from ${definition.from}`),
  );
  if (found.causes.length) {
    body.append(table(["Time", "Event", "Alarm", "Cause"], found.causes.map((/** @type {any} */ one) => [
      time(one.time), one.event, one.alarm_id, one.cause,
    ]), "Causes"));
  }
  if (found.commands.length) {
    body.append(table(["Record", "Arrived", "Command", "By", "Reason"], found.commands.map((/** @type {any} */ one) => [
      place(one), time(one.arrived), one.command, one.by, one.reason,
    ]), "Commands"));
  }
  const kind = String(definition.kind ?? "");
  const limits = ["hh", "h", "l", "ll"].includes(kind.toLowerCase()) ? { [kind.toLowerCase()]: definition.limit } : {};
  const known = tags.get(tagOf(alarm.alarm_id));
  const shown = { path: "", name: "", unit: known?.unit ?? "", stepped: known?.stepped ?? false, ...limits };
  const moved = transitions.map((/** @type {any} */ one) => /** @type {[number, string]} */ ([one.time, words(one.event)]));
  const [raised, ended] = [transitions[0].time, transitions[transitions.length - 1].time];
  const margin = Math.max(MARGIN_MS, ended - raised);
  const near = readings.filter((/** @type {any} */ one) => one.time >= raised - margin && one.time <= ended + margin);
  draw(plot, near.map((/** @type {any} */ one) => [one.time, one.value, one.quality ?? 0]), shown, moved);
}

/** The readings next to the raise, and those that moved the alarm or are evidence. @param {any[]} readings */
function nearRaise(readings) {
  const before = readings.filter((one) => one.before).length;
  return readings.filter((one, place) => Math.abs(place - before + 0.5) < 8 || one.event || one.evidence).slice(0, 100);
}

try {
  operator.value = localStorage.getItem("headrace operator") ?? "";
} catch {
  // a browser without storage asks each time
}
operator.addEventListener("change", () => {
  try {
    localStorage.setItem("headrace operator", operator.value.trim());
  } catch {
    // as above
  }
});
at("why-cancel").addEventListener("click", () => /** @type {HTMLDialogElement} */ (at("why")).close());
at("explanation-close").addEventListener("click", () => /** @type {HTMLDialogElement} */ (at("explanation")).close());
