// What the service sends, as it comes (server-sent events `hello` and `view`; see feed.py), drawn by the browser's clock.
// All that is kept has a limit, and whatever comes from outside is put in as text, never as markup.
"use strict";

const MAX_TURNS = 256; // of the decision
const MAX_POINTS = 3600; // in the chart: four a second for 15 minutes
const POINT_MS = 250;
const MAX_LATENCIES = 4000;
const MAX_LINES = 100;
const MAX_ROWS = 64; // of any table or list
const MAX_CAMERAS = 8;
const MIN_WIDTH = 640;
const SHOWN_TURNS = 30;
const SHOWN_LABELS = 8;
const SILENT_S = 2;
const TEXT_EVERY_MS = 2000; // what canvases say in words, for those who do not see them
const AGAIN_MS = 5000;

// Okabe and Ito, "Color Universal Design" (2008), a light grey for black, in an order whose neighbours differ in
// lightness.
const PALETTE = ["#0072b2", "#f0e442", "#d55e00", "#56b4e9", "#cc79a7", "#009e73", "#e69f00", "#c9c9c9"];
const DARK_ON = new Set(["#f0e442", "#56b4e9", "#e69f00", "#cc79a7", "#c9c9c9"]);
const FASTEST_MS = 0.5;
const SLOWEST_MS = 2000;
const BINS = 40;

const state = {
  shows: [],
  decision: null,
  status: null,
  slots: null,
  labels: [], // in order, of the newest decision that names them: one that is safe may name none
  turns: [],
  points: [], // [when, confidence], thinned
  latencies: [], // the newest ones
  lines: [],
  pictures: new Map(), // by camera: {canvas, caption, image, busy}
  silent: null,
  heardAt: 0,
  live: null, // whether the service is heard; not yet known at first
};

const $ = (id) => document.getElementById(id);

$("stuck").remove(); // all that the page needs has come

// Taking in what comes ---------------------------------------------------------------------------------------------

function take(kind, view) {
  if (kind === "hello") {
    state.turns = [];
    state.points = [];
    state.latencies = [];
    state.lines = [];
    state.shows = view.shows ?? [];
  }
  state.silent = view.silent_s ?? null;
  state.heardAt = performance.now();
  if (view.decision) {
    state.decision = view.decision;
    const labels = Object.keys(view.decision.probabilities);
    if (labels.length) state.labels = labels.sort();
  }
  if (view.status) state.status = view.status;
  if (view.slots) state.slots = view.slots;
  for (const turn of view.turns ?? []) {
    restartAt(turn.at_ms, state.turns.at(-1)?.at_ms);
    keep(state.turns, turn, MAX_TURNS);
  }
  for (const [at, confidence, latency] of view.points ?? []) {
    const last = state.points.at(-1);
    restartAt(at, last?.[0]);
    if (!last || at - last[0] >= POINT_MS) keep(state.points, [at, confidence], MAX_POINTS);
    if (latency != null) keep(state.latencies, latency, MAX_LATENCIES);
  }
  for (const line of view.lines ?? []) keep(state.lines, line, MAX_LINES);
  for (const picture of view.pictures ?? []) takePicture(picture);
  plan();
}

function keep(list, item, most) {
  list.push(item);
  if (list.length > most) list.splice(0, list.length - most);
}

// A clock that goes back is another start of the machine: what came before cannot be drawn beside it.
function restartAt(at, before) {
  if (at < before) {
    state.turns = [];
    state.points = [];
    state.latencies = [];
  }
}

function takePicture({ camera, jpeg }) {
  let place = state.pictures.get(camera);
  if (!place) {
    if (state.pictures.size >= MAX_CAMERAS) return;
    place = placeFor(camera);
  }
  if (place.busy) return; // the browser is behind: the next one will do
  place.busy = true;
  const bytes = Uint8Array.from(atob(jpeg), (character) => character.charCodeAt(0));
  createImageBitmap(new Blob([bytes], { type: "image/jpeg" })).then(
    (image) => {
      place.image?.close();
      place.image = image;
      place.busy = false;
      plan();
    },
    () => { place.busy = false; },
  );
}

function placeFor(camera) {
  const figure = document.createElement("figure");
  const canvas = document.createElement("canvas");
  const caption = document.createElement("figcaption");
  canvas.setAttribute("role", "img");
  caption.textContent = camera;
  figure.append(canvas, caption);
  $("pictures").append(figure);
  const place = { canvas, image: null, busy: false };
  state.pictures.set(camera, place);
  return place;
}

// Drawing ----------------------------------------------------------------------------------------------------------

let planned = false;
let saidAt = -Infinity;

function plan() {
  if (planned) return;
  planned = true;
  requestAnimationFrame(() => { planned = false; render(); });
}

function render() {
  const now = performance.now();
  const says = now - saidAt >= TEXT_EVERY_MS;
  if (says) saidAt = now;
  renderHeader();
  if (state.decision) {
    renderDecision(state.decision);
    renderInputs(state.decision);
  }
  renderPictures(says);
  renderTimeline(says);
  renderHistogram(says);
  if (state.status) renderStatus(state.status);
  renderSlots();
  renderLog();
}

function renderHeader() {
  const { status, decision } = state;
  const silent = silence();
  const told = status?.state ?? "starting";
  const lost = state.live === false;
  badge($("state"), lost ? "no connection" : state.live === null ? "connecting" : told, lost || told === "degraded" ? "bad" : told === "ready" ? "good" : "starting");
  text($("name"), status?.name ?? decision?.name ?? "edge-runtime");
  document.title = `${status?.name ?? "edge-runtime"}: ${decision?.label ?? "–"}`;
  text($("about"), status ? `${status.bundle.name} ${status.bundle.version} · up ${duration(status.uptime_s)} · ${number(status.memory_mb, 0)} MB${status.temperature_c == null ? "" : ` · ${number(status.temperature_c, 0)} °C`}` : "");
  const troubles = [];
  if (paused) troubles.push("Paused: what is shown here is old.");
  else if (lost) troubles.push("No connection to the service; trying again.");
  else if (decision && silent > SILENT_S) troubles.push("No decision comes any more: what is shown here is old.");
  if (!lost && status?.reason) troubles.push(status.reason);
  text($("trouble"), troubles.join(" "));
  $("trouble").hidden = troubles.length === 0;
}

function silence() {
  return (state.silent ?? 0) + (performance.now() - state.heardAt) / 1000;
}

function renderDecision(decision) {
  text($("label"), decision.label);
  const safe = decision.source === "safe";
  badge($("source"), safe ? `safe: ${decision.reason ?? "no reason"}` : "by the model", safe ? "bad" : "good");
  const facts = [["Confidence", number(decision.confidence, 3)]];
  if (decision.tags.length) facts.push(["Tags", decision.tags.slice(0, MAX_ROWS).join(", ")]);
  for (const [name, value] of Object.entries(decision.values ?? {}).slice(0, 8)) facts.push([name, number(value, 3)]);
  for (const [name, head] of Object.entries(decision.heads ?? {}).slice(0, 8)) {
    const values = Object.entries(head.values ?? {}).map(([key, value]) => ` ${key} ${number(value, 3)}`).join("");
    facts.push([name, `${head.label} ${number(head.confidence, 2)}${values}${head.source === "safe" ? ` (safe: ${head.reason})` : ""}`]);
  }
  const silent = silence();
  facts.push(["Number", String(decision.seq)]);
  facts.push(["At", `${clock(decision.wall_time)}${silent > SILENT_S ? `, ${duration(silent)} ago` : ""}`]);
  factList($("facts"), facts);
  bars($("probabilities"), likely(decision).map(([label, share]) => ({ name: label, told: number(share, 3), share, look: "" })));
}

// A few labels keep their places, so that the eye may rest; of many the likeliest are shown.
function likely(decision) {
  const all = Object.entries(decision.probabilities);
  if (all.length <= SHOWN_LABELS) return all.sort((a, b) => (a[0] < b[0] ? -1 : 1));
  return all.sort((a, b) => b[1] - a[1]).slice(0, SHOWN_LABELS);
}

function renderInputs(decision) {
  bars($("inputs"), Object.entries(decision.inputs).slice(0, MAX_ROWS).map(([name, input]) => {
    const limit = state.status?.streams[name]?.max_age_ms ?? null;
    const age = input.age_ms;
    const told = age == null ? "" : `${milliseconds(age)}${limit == null ? "" : ` of ${milliseconds(limit)}`}`;
    if (!input.present) return { name, told: `${input.reason ?? "absent"}${told ? `, ${told}` : ""}`, share: 1, look: "over" };
    const share = limit == null || age == null ? 0 : age / limit;
    return { name, told, share, look: share > 0.7 ? "near" : "" };
  }));
}

function renderPictures(says) {
  const things = seen(state.decision);
  const cameras = state.pictures.size;
  if (cameras === 0 && things.length) placeFor("what is seen");
  for (const [camera, place] of state.pictures) {
    const { canvas, image } = place;
    const width = Math.max(MIN_WIDTH, image?.width ?? 0); // a small picture is enlarged, the words on it are not
    const height = Math.round((width * (image?.height ?? 9)) / (image?.width ?? 16));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    if (image) context.drawImage(image, 0, 0, width, height);
    else context.clearRect(0, 0, width, height);
    // Of several cameras nobody can say whose the boxes are.
    if (state.pictures.size === 1) for (const thing of things) drawBox(context, thing, width, height);
    if (says) canvas.setAttribute("aria-label", `${camera}: ${things.length ? things.map(words).join(", ") : "nothing is marked"}`);
  }
  const without = !state.pictures.size && (state.status || state.decision);
  $("no-pictures").hidden = !without;
  if (without) text($("no-pictures"), state.shows.includes("pictures") ? "No picture has come yet." : "Pictures are on the page that the service serves itself: [dashboard] in its configuration.");
  items($("detections"), things.slice(0, MAX_ROWS).map(words));
}

function seen(decision) {
  if (!decision) return [];
  return [decision, ...Object.values(decision.heads ?? {})].flatMap((one) => one.detections ?? []);
}

function words(thing) {
  const zones = thing.zones?.length ? ` in ${thing.zones.join(", ")}` : "";
  return `${thing.class} ${number(thing.score, 2)}${thing.track == null ? "" : ` #${thing.track}`}${zones}`;
}

function drawBox(context, thing, width, height) {
  const [left, top, right, bottom] = thing.box;
  const scale = Math.max(1, width / 480);
  const place = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  const colour = PALETTE[hash(thing.class) % PALETTE.length];
  // Twice, so that it stands out of dark and bright pictures alike.
  context.lineWidth = 4 * scale;
  context.strokeStyle = "#000";
  context.strokeRect(...place);
  context.lineWidth = 2 * scale;
  context.strokeStyle = colour;
  context.strokeRect(...place);
  const said = `${thing.class} ${number(thing.score, 2)}${thing.track == null ? "" : ` #${thing.track}`}`;
  context.font = `600 ${Math.round(11 * scale)}px system-ui, sans-serif`;
  const wide = context.measureText(said).width + 6 * scale;
  const high = 15 * scale;
  const x = Math.min(Math.max(0, place[0]), Math.max(0, width - wide));
  const y = place[1] >= high ? place[1] - high : Math.max(0, place[1]);
  context.fillStyle = colour;
  context.fillRect(x, y, wide, high);
  context.fillStyle = DARK_ON.has(colour) ? "#000" : "#fff";
  context.fillText(said, x + 3 * scale, y + 11 * scale);
}

// Charts -----------------------------------------------------------------------------------------------------------

const css = getComputedStyle(document.documentElement);
const colour = (name) => css.getPropertyValue(`--${name}`).trim();

function chart(canvas) {
  const ratio = Math.min(3, window.devicePixelRatio || 1);
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "alphabetic";
  context.textAlign = "left";
  return { context, width, height };
}

// The colour of a label, and whether what lies on it must be dark: the same on every page that shows this bundle.
function look(label) {
  const place = state.labels.indexOf(label);
  const chosen = PALETTE[(place < 0 ? hash(label) : place) % PALETTE.length];
  return { chosen, ink: DARK_ON.has(chosen) ? "#000" : "#fff" };
}

function hash(word) {
  let sum = 0;
  for (const character of String(word)) sum = (sum * 31 + character.codePointAt(0)) >>> 0;
  return sum;
}

function hatch(context, x, y, width, height) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = "rgba(0,0,0,.75)";
  context.lineWidth = 2;
  context.beginPath();
  for (let at = x - height; at < x + width; at += 8) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

function renderTimeline(says) {
  const { context, width, height } = chart($("timeline"));
  const span = Number($("span").value) * 1000;
  const newest = Math.max(state.turns.at(-1)?.at_ms ?? 0, state.points.at(-1)?.[0] ?? 0);
  const end = newest + Math.min(silence() * 1000, span);
  const left = 34;
  const x = (at) => left + Math.max(0, (at - (end - span)) / span) * (width - left - 4);
  const band = 34;
  const base = height - 18;
  context.fillStyle = colour("quiet");
  context.textAlign = "right";
  for (const level of [0, 0.5, 1]) {
    const y = base - level * (base - band - 14);
    context.fillText(String(level), left - 6, y + 4);
    context.fillStyle = colour("edge");
    context.fillRect(left, Math.round(y), width - left, 1);
    context.fillStyle = colour("quiet");
  }
  const step = span / (width > 500 ? 5 : 2);
  for (let back = 0; back <= span; back += step) {
    context.textAlign = back === 0 ? "right" : back === span ? "left" : "center";
    context.fillText(back === 0 ? "now" : `−${duration(back / 1000)}`, x(end - back), height - 3);
  }
  const shown = new Map();
  state.turns.forEach((turn, place) => {
    const until = state.turns[place + 1]?.at_ms ?? end;
    if (until < end - span) return;
    const from = x(turn.at_ms);
    const wide = Math.max(1, x(until) - from);
    const { chosen, ink } = look(turn.label);
    context.fillStyle = chosen;
    context.fillRect(from, 0, wide, band);
    const safe = turn.source === "safe";
    if (safe) hatch(context, from, 0, wide, band);
    if (!safe && wide > context.measureText(turn.label).width + 8) {
      context.fillStyle = ink;
      context.textAlign = "left";
      context.fillText(turn.label, from + 4, 22);
    }
    if (shown.size < 16) shown.set(`${turn.label}${safe ? " (safe)" : ""}`, { label: turn.label, safe });
  });
  context.strokeStyle = colour("good");
  context.lineWidth = 1.5;
  context.beginPath();
  let before = null;
  for (const [at, confidence] of state.points) {
    if (at < end - span) continue;
    const y = base - confidence * (base - band - 14);
    if (before === null || at - before > 8 * POINT_MS) context.moveTo(x(at), y);
    else context.lineTo(x(at), y);
    before = at;
  }
  context.stroke();
  renderLegend(shown);
  if (says) {
    const changes = state.turns.slice(-3).map((turn) => `${turn.label} by ${turn.source} at ${clock(turn.wall_time)}`);
    $("timeline").setAttribute("aria-label", `Decisions over time, and their confidence below. The last changes: ${changes.join("; ") || "none"}`);
  }
  rows($("turns"), state.turns.slice(-SHOWN_TURNS).reverse().map((turn) => [clock(turn.wall_time), turn.label, turn.source, turn.reason ?? ""]));
}

let legend = "";

function renderLegend(shown) {
  const names = [...shown.keys()].join("\n");
  if (names === legend) return;
  legend = names;
  $("legend").replaceChildren(...[...shown].map(([name, { label, safe }]) => {
    const entry = document.createElement("span");
    const patch = document.createElement("canvas");
    patch.width = patch.height = 14;
    patch.setAttribute("aria-hidden", "true");
    const context = patch.getContext("2d");
    context.fillStyle = look(label).chosen;
    context.fillRect(0, 0, 14, 14);
    if (safe) hatch(context, 0, 0, 14, 14);
    entry.append(patch, name);
    return entry;
  }));
}

const bin = (latency) => Math.floor((Math.log(latency / FASTEST_MS) / Math.log(SLOWEST_MS / FASTEST_MS)) * BINS);

function renderHistogram(says) {
  const { context, width, height } = chart($("histogram"));
  const counts = new Array(BINS).fill(0);
  for (const latency of state.latencies) counts[Math.min(BINS - 1, Math.max(0, bin(latency)))] += 1;
  const most = Math.max(1, ...counts);
  const base = height - 18;
  const wide = width / BINS;
  const x = (latency) => (Math.log(latency / FASTEST_MS) / Math.log(SLOWEST_MS / FASTEST_MS)) * width;
  context.fillStyle = colour("good");
  counts.forEach((count, place) => {
    if (count) context.fillRect(place * wide + 1, base - (count / most) * (base - 18), wide - 2, Math.max(2, (count / most) * (base - 18)));
  });
  context.fillStyle = colour("edge");
  context.fillRect(0, base, width, 1);
  context.fillStyle = colour("quiet");
  context.textAlign = "center";
  for (const latency of [1, 3, 10, 30, 100, 300, 1000]) context.fillText(latency < 1000 ? `${latency}` : "1 s", x(latency), height - 3);
  context.textAlign = "left";
  context.fillText("ms", 0, height - 3);
  const minute = state.status?.timings?.last_minute.latency;
  mark(context, x, base, state.status?.timings?.deadline_ms, "one period", [6, 4], width, 40);
  mark(context, x, base, minute?.p50, "p50", [2, 3], width, 12);
  mark(context, x, base, minute?.p99, "p99", [2, 3], width, 26);
  if (says) $("histogram").setAttribute("aria-label", `Latency of ${state.latencies.length} decisions; in the last minute p50 ${milliseconds(minute?.p50)}, p99 ${milliseconds(minute?.p99)}`);
}

function mark(context, x, base, latency, name, dashes, width, y) {
  if (latency == null || latency < FASTEST_MS || latency > SLOWEST_MS) return;
  context.save();
  context.strokeStyle = context.fillStyle = colour("text");
  context.setLineDash(dashes);
  context.beginPath();
  context.moveTo(x(latency), base);
  context.lineTo(x(latency), y - 8);
  context.stroke();
  context.textAlign = x(latency) > width - 70 ? "right" : "left";
  context.fillText(name, x(latency) + (context.textAlign === "left" ? 4 : -4), y);
  context.restore();
}

// Tables -----------------------------------------------------------------------------------------------------------

function renderStatus(status) {
  const times = Object.entries(status.timings?.last_minute ?? {}).slice(0, MAX_ROWS);
  rows($("times"), times.map(([name, one]) => [name, ...[one.p50, one.p90, one.p99, one.max].map((value) => number(value, 2))]));
  rows($("streams"), Object.entries(status.streams).slice(0, MAX_ROWS).map(([name, one]) => [
    name + (one.alive ? "" : " (silent)"), `${number(one.rate_hz, 1)} of ${number(one.expected_hz, 1)} Hz`, String(one.captured), String(one.decided), String(one.in_flight), reasons(one.dropped),
  ]));
  const unrouted = reasons(status.unrouted);
  text($("conserved"), `${status.conserved ? "Captured = decided + dropped + in flight." : "The accounts do not balance."}${unrouted === "0" ? "" : ` Refused before they had a stream: ${unrouted}.`} ${status.decisions} decisions, ${status.safe_decisions} of them safe.`);
  const engines = Object.entries(status.backend).slice(0, MAX_ROWS).map(([stage, backend]) => `${stage}: ${backend} ${status.precision[stage] ?? ""}`).join("; ");
  factList($("bundle"), [
    ["Bundle", `${status.bundle.name} ${status.bundle.version}`],
    ["Digest", status.bundle.digest],
    ["Signed by", status.signed_by ?? "nobody"],
    ["Engines", engines || "–"],
    ["Opened again", String(status.engine_restarts)],
    ["Clock jumps", String(status.wall_clock_jumps)],
  ]);
  const sources = status.sources.map((one) => [one.name, one.state, "", one.reason ?? ""]);
  const sinks = Object.entries(status.sinks).map(([name, one]) => [`sink ${name}`, one.state, String(one.dropped), one.reason ?? ""]);
  rows($("ends"), [...sources, ...sinks].slice(0, MAX_ROWS));
}

function reasons(counts) {
  return Object.entries(counts).slice(0, MAX_ROWS).map(([reason, count]) => `${reason} ${count}`).join(", ") || "0";
}

function renderSlots() {
  $("slots-part").hidden = !state.slots;
  if (state.slots) rows($("slots"), state.slots.slice(0, 4).map((one) => [`${one.name} ${one.version}${one.runs ? " (current)" : ""}`, one.state, clock(one.installed, true), one.reason]));
}

function renderLog() {
  $("log-part").hidden = !state.shows.includes("log");
  const lines = [...state.lines].reverse();
  rows($("log"), lines.map((one) => [clock(one.time), one.level, one.text]), lines.map((one) => one.level));
}

// The page's parts: made once and used again, so that their number depends on what is shown and on nothing else ------

function text(element, said) {
  if (element.textContent !== said) element.textContent = said;
}

function badge(element, said, kind) {
  text(element, said);
  if (element.dataset.state !== kind) element.dataset.state = kind;
}

function children(parent, count, make) {
  while (parent.childElementCount > count) parent.lastElementChild.remove();
  while (parent.childElementCount < count) parent.append(make());
  return parent.children;
}

function rows(body, wanted, levels = []) {
  const all = children(body, wanted.length, () => document.createElement("tr"));
  wanted.forEach((cells, place) => {
    const row = all[place];
    const found = children(row, cells.length, () => document.createElement("td"));
    cells.forEach((cell, column) => text(found[column], cell));
    if (levels[place] !== undefined && row.dataset.level !== levels[place]) row.dataset.level = levels[place];
  });
}

function items(list, wanted) {
  const all = children(list, wanted.length, () => document.createElement("li"));
  wanted.forEach((said, place) => text(all[place], said));
}

function factList(list, facts) {
  const all = children(list, facts.length * 2, () => document.createElement(list.childElementCount % 2 ? "dd" : "dt"));
  facts.forEach(([name, said], place) => {
    text(all[2 * place], name);
    text(all[2 * place + 1], said);
  });
}

function bars(list, wanted) {
  const all = children(list, wanted.length, () => {
    const item = document.createElement("li");
    const row = document.createElement("div");
    const track = document.createElement("div");
    const fill = document.createElement("div");
    row.className = "row";
    row.append(document.createElement("span"), document.createElement("span"));
    track.className = "track";
    track.append(fill);
    item.append(row, track);
    return item;
  });
  wanted.forEach(({ name, told, share, look }, place) => {
    const [row, track] = all[place].children;
    text(row.children[0], name);
    text(row.children[1], told);
    const fill = track.firstElementChild;
    const wide = `${Math.round(1000 * Math.min(1, Math.max(0, share))) / 10}%`;
    if (fill.style.width !== wide) fill.style.width = wide;
    const kind = `fill ${look}`.trim();
    if (fill.className !== kind) fill.className = kind;
  });
}

// Words ------------------------------------------------------------------------------------------------------------

function number(value, digits) {
  return value == null || !Number.isFinite(value) ? "–" : value.toFixed(digits);
}

function milliseconds(value) {
  if (value == null) return "–";
  return value >= 10000 ? `${number(value / 1000, 0)} s` : `${number(value, value < 10 ? 1 : 0)} ms`;
}

function duration(seconds) {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}

function clock(wall, withDay = false) {
  const at = new Date(wall);
  if (Number.isNaN(at.getTime())) return String(wall);
  return withDay ? at.toLocaleString() : at.toLocaleTimeString();
}

// The connection ---------------------------------------------------------------------------------------------------

let events = null;
let paused = false;
let again = 0;

// A page that nobody sees asks for nothing: the service then does nothing for it.
function connect() {
  clearTimeout(again);
  events?.close();
  events = null;
  if (paused || document.hidden) return;
  events = new EventSource("events");
  for (const kind of ["hello", "view"]) {
    events.addEventListener(kind, (event) => {
      state.live = true;
      take(kind, JSON.parse(event.data));
    });
  }
  events.onerror = () => {
    state.live = false;
    plan();
    if (events?.readyState === EventSource.CLOSED) again = setTimeout(askAgain, AGAIN_MS);
  };
}

// Refused: too many look, or the service was started anew and asks for the token again.
async function askAgain() {
  try {
    const answer = await fetch("page.js", { method: "GET", cache: "no-store" });
    if (answer.status === 401) location.reload();
    else connect();
  } catch {
    again = setTimeout(askAgain, AGAIN_MS);
  }
}

$("pause").addEventListener("click", () => {
  paused = !paused;
  text($("pause"), paused ? "Go on" : "Pause");
  $("pause").setAttribute("aria-pressed", String(paused));
  connect();
  plan();
});
$("span").addEventListener("change", plan);
document.addEventListener("visibilitychange", connect);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", plan);
new ResizeObserver(plan).observe(document.querySelector("main"));
setInterval(() => { if (!document.hidden) plan(); }, 500);
connect();

// For whoever wants to look behind it, and for tests.
globalThis.dashboard = {
  take,
  render,
  sizes: () => ({
    turns: state.turns.length, points: state.points.length, latencies: state.latencies.length,
    lines: state.lines.length, pictures: state.pictures.size, nodes: document.querySelectorAll("*").length,
  }),
};
