const $ = id => document.getElementById(id)
const number = new Intl.NumberFormat("en")
const element = (name, text, parent, cls) => {
  const made = document.createElement(name)
  if (text !== null) made.textContent = text
  if (cls) made.className = cls
  parent.append(made)
  return made
}
const clock = ms => new Date(ms).toISOString().slice(11, 19)
function figures(state) {
  const shown = [
    [number.format(state.received), "messages received"],
    [number.format(Math.round(state.rate)) + " /s", "throughput, last 10 s"],
    [number.format(state.fingerprints), "fingerprints written"],
    [state.watermark_ms ? clock(state.watermark_ms) : "none yet", "watermark, UTC"],
    [number.format(state.lag), "messages waiting"],
    [(state.commit_seconds * 1000).toFixed(1) + " ms", "last commit, epoch " + number.format(state.epoch)],
  ]
  $("figures").replaceChildren()
  for (const [value, label] of shown) {
    const box = element("div", null, $("figures"), "figure")
    element("b", value, box)
    element("span", label, box)
  }
}
function prints(latest) {
  if (!latest.length) return
  $("prints").replaceChildren()
  for (const print of latest) {
    const box = element("div", null, $("prints"), "print")
    box.title = "uuid " + print.uuid
    const head = element("h3", "Equipment " + print.equip_id, box)
    element("span", clock(print.start_ms) + " to " + clock(print.end_ms), head)
    for (const [sensor, value] of Object.entries(print.data)) {
      const row = element("div", null, box, "sensor")
      element("span", sensor, row)
      const range = element("div", null, row, "range")
      if (value.min !== null && value.max !== null) {
        const bar = element("i", null, range)
        bar.style.left = value.min + "%"
        bar.style.width = Math.max(value.max - value.min, 0.5) + "%"
      }
      if (value.median !== null) element("u", null, range).style.left = value.median + "%"
      element("em", fixed(value.mean) + " ± " + fixed(value.std_dev), row)
      row.title = `min ${value.min}, median ${value.median}, max ${value.max}`
    }
  }
}
// An aggregate is NULL where it has no value, or none that is finite.
function fixed(value) {
  return value === null ? "–" : value.toFixed(1)
}
function ledger(sources) {
  $("ledger").replaceChildren()
  const fates = ["received", "accepted", "malformed", "future", "duplicate", "late", "filtered", "shed"]
  const head = element("tr", null, $("ledger"))
  for (const name of ["topic", ...fates]) element("th", name, head)
  for (const [topic, counts] of Object.entries(sources)) {
    const row = element("tr", null, $("ledger"))
    element("td", topic, row)
    for (const fate of fates) element("td", number.format(counts[fate]), row)
  }
}
async function look() {
  try {
    const state = await (await fetch("state")).json()
    $("status").textContent = state.status === "ok" ? "running" : state.status
    $("status").className = state.status === "ok" ? "ok" : "bad"
    $("home").textContent = `pipeline ${state.pipeline}, version ${state.version}`
    figures(state); prints(state.latest); ledger(state.ledger)
  } catch (error) {
    $("status").textContent = "not answering"
    $("status").className = "bad"
  }
  setTimeout(look, 1000)
}
look()
