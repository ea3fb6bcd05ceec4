"use strict";
// The map is the ellipsoid seen from straight above its centre (orthographic): exact in both
// directions, also at the poles and across the antimeridian, and true to scale within 0.01 % for
// 80 km about. Data are latitudes and longitudes; metres east and north of the centre are made here.

const data = JSON.parse(document.getElementById("data").textContent);
const COLOURS = ["#d1495b", "#2a6fdb", "#2e8b57", "#b5651d", "#7b4fb5", "#00838f", "#c2388b", "#6d7a1e"];
const MAX_NAMES = 400;
const MAX_OUTLINES = 40;
const byId = (id) => document.getElementById(id);
const canvas = byId("map");
const ink = canvas.getContext("2d");
const RAD = Math.PI / 180;

// --- the ellipsoid (WGS 84) ---
const A = 6378137, F = 1 / 298.257223563, E2 = F * (2 - F), B = A * (1 - F);

function ecef(lat, lon) {
  const s = Math.sin(lat * RAD), c = Math.cos(lat * RAD), n = A / Math.sqrt(1 - E2 * s * s);
  return [n * c * Math.cos(lon * RAD), n * c * Math.sin(lon * RAD), n * (1 - E2) * s];
}

function middle() {
  // The mean direction, so that neither poles nor the antimeridian matter.
  const places = data.finds.map((f) => [f.latitude, f.longitude]);
  for (const line of data.lines) places.push(line[0], line[Math.floor(line.length / 2)], line[line.length - 1]);
  if (!places.length) for (const ring of data.footprints) places.push(...ring);
  if (!places.length) return [0, 0];
  const sum = [0, 0, 0];
  for (const [lat, lon] of places) ecef(lat, lon).forEach((value, i) => { sum[i] += value; });
  return [Math.atan2(sum[2], (1 - E2) * Math.hypot(sum[0], sum[1])) / RAD, Math.atan2(sum[1], sum[0]) / RAD];
}

const [LAT0, LON0] = middle();
const ORIGIN = ecef(LAT0, LON0);
const [S, C, SL, CL] = [Math.sin(LAT0 * RAD), Math.cos(LAT0 * RAD), Math.sin(LON0 * RAD), Math.cos(LON0 * RAD)];
const EAST = [-SL, CL, 0], NORTH = [-S * CL, -S * SL, C], UP = [C * CL, C * SL, S];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];

/** Metres east and north of the centre. */
function project(lat, lon) {
  const at = ecef(lat, lon).map((value, i) => value - ORIGIN[i]);
  return [dot(at, EAST), dot(at, NORTH)];
}

/** [latitude, longitude] of metres east and north, or null beyond the Earth's edge. */
function unproject([x, y]) {
  const p = ORIGIN.map((value, i) => value + x * EAST[i] + y * NORTH[i]);
  const scaled = (v) => [v[0] / A, v[1] / A, v[2] / B];
  const [q, u] = [scaled(p), scaled(UP)];
  const a = dot(u, u), b = dot(q, u), c = dot(q, q) - 1, root = b * b - a * c;
  if (root < 0) return null;
  const rise = (Math.sqrt(root) - b) / a;
  const at = p.map((value, i) => value + rise * UP[i]);
  return [Math.atan2(at[2], (1 - E2) * Math.hypot(at[0], at[1])) / RAD, Math.atan2(at[1], at[0]) / RAD];
}

// --- text ---
const number = (value) => value.toLocaleString("en");

function dms(value, letters, step) {
  const letter = letters[value < 0 ? 1 : 0];
  const digits = step < 1 / 3600 ? Math.max(0, Math.ceil(-Math.log10(step * 3600))) : 0;
  const seconds = Math.round(Math.abs(value) * 3600 * 10 ** digits) / 10 ** digits;
  const d = Math.floor(seconds / 3600), m = Math.floor((seconds - d * 3600) / 60);
  const rest = (seconds - d * 3600 - m * 60).toFixed(digits);
  let text = `${d}°`;
  if (step < 1) text += `${String(m).padStart(2, "0")}′`;
  if (step < 1 / 60) text += `${rest.padStart(digits ? 3 + digits : 2, "0")}″`;
  return text + letter;
}
const placeText = (lat, lon) => `${lat.toFixed(6)}, ${lon.toFixed(6)}`;
const dmsText = (lat, lon) => `${dms(lat, "NS", 1e-5)} ${dms(lon, "EW", 1e-5)}`;

// --- what is shown ---
const classes = [...new Set(data.finds.map((f) => f.class_name))];
const colourOf = new Map(classes.map((name, i) => [name, COLOURS[i % COLOURS.length]]));
const hidden = new Set();
const finds = data.finds.map((find) => ({ ...find, xy: project(find.latitude, find.longitude) }));
const lines = data.lines.map((line) => line.map(([lat, lon]) => project(lat, lon)));
const rings = data.footprints.map((ring) => {
  const points = ring.map(([lat, lon]) => project(lat, lon));
  let area = 0;
  points.forEach(([x, y], i) => { const [u, v] = points[(i + 1) % points.length]; area += x * v - u * y; });
  return area < 0 ? points.reverse() : points; // one direction, so that overlaps fill as one
});
const visible = () => finds.filter((f) => !hidden.has(f.class_name) && f.score >= Number(byId("score").value));
let selected = null, hovered = null;

// --- view: the centre in metres, and px of the screen a metre ---
const view = { x: 0, y: 0, scale: 1 };
let width = 0, height = 0, frame = 0;
const toScreen = ([x, y]) => [width / 2 + (x - view.x) * view.scale, height / 2 - (y - view.y) * view.scale];
const toGround = ([x, y]) => [view.x + (x - width / 2) / view.scale, view.y - (y - height / 2) / view.scale];

function fit(points = null) {
  if (!points) {
    points = finds.flatMap((f) => [-1, 1].map((s) => [f.xy[0] + s * f.semi_major, f.xy[1] + s * f.semi_major]));
    points = points.concat(lines.flat(), rings.flat());
  }
  if (!points.length) points = [[-100, -100], [100, 100]];
  const bounds = [Infinity, Infinity, -Infinity, -Infinity];
  for (const [x, y] of points) {
    bounds[0] = Math.min(bounds[0], x); bounds[1] = Math.min(bounds[1], y);
    bounds[2] = Math.max(bounds[2], x); bounds[3] = Math.max(bounds[3], y);
  }
  view.x = (bounds[0] + bounds[2]) / 2;
  view.y = (bounds[1] + bounds[3]) / 2;
  const room = [width - 130, height - 230].map((side) => Math.max(side, 60));
  view.scale = Math.min(room[0] / Math.max(bounds[2] - bounds[0], 20), room[1] / Math.max(bounds[3] - bounds[1], 20));
  draw();
}

function zoom(factor, [x, y] = [width / 2, height / 2]) {
  const before = toGround([x, y]);
  view.scale = Math.min(500, Math.max(5e-5, view.scale * factor));
  const after = toGround([x, y]);
  view.x += before[0] - after[0];
  view.y += before[1] - after[1];
  draw();
}

function draw() {
  if (!frame) frame = requestAnimationFrame(paint);
}

let palette = {};
function readPalette() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["paper", "graticule", "label", "flight", "halo", "seen", "seen-line", "text"])
    palette[name] = style.getPropertyValue(`--${name}`).trim();
}

function paint() {
  frame = 0;
  const ratio = window.devicePixelRatio || 1;
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.fillStyle = palette.paper;
  ink.fillRect(0, 0, width, height);
  if (byId("show-seen").checked) paintSeen();
  const labels = paintGraticule();
  if (byId("show-flight").checked) paintFlight();
  paintFinds();
  paintLabels(labels);
  paintScale();
}

function trace(points, closed) {
  points.forEach((point, i) => { const [x, y] = toScreen(point); if (i) ink.lineTo(x, y); else ink.moveTo(x, y); });
  if (closed) ink.closePath();
}

function paintSeen() {
  ink.beginPath();
  for (const ring of rings) trace(ring, true);
  ink.globalAlpha = 0.28;
  ink.fillStyle = palette.seen;
  ink.fill("nonzero");
  ink.globalAlpha = 0.55;
  ink.strokeStyle = palette["seen-line"];
  ink.lineWidth = 1;
  if (rings.length <= MAX_OUTLINES) ink.stroke(); // of many only the area tells
  ink.globalAlpha = 1;
}

const STEPS = [30, 20, 10, 5, 2, 1];
const NICE = [...STEPS, ...STEPS.map((s) => s / 60), ...STEPS.map((s) => s / 3600), 0.5 / 3600, 0.2 / 3600,
  0.1 / 3600, 0.05 / 3600, 0.02 / 3600, 0.01 / 3600];
const niceStep = (degrees) => NICE.filter((s) => s >= degrees).pop() ?? 30;

function paintGraticule() {
  const labels = [];
  // The bounds of the view in degrees, longitudes about the centre's.
  let [south, north, west, east] = [90, -90, Infinity, -Infinity];
  const [lat, lon] = unproject([view.x, view.y]) ?? [LAT0, LON0];
  const about = (value) => value - 360 * Math.round((value - lon) / 360);
  for (let i = 0; i <= 8; i++) for (let j = 0; j <= 8; j++) {
    const at = unproject(toGround([width * i / 8, height * j / 8]));
    if (!at) continue;
    south = Math.min(south, at[0]); north = Math.max(north, at[0]);
    west = Math.min(west, about(at[1])); east = Math.max(east, about(at[1]));
  }
  let around = false; // a pole is in sight
  for (const pole of [90, -90]) {
    const [x, y] = toScreen(project(pole, 0));
    if (Math.abs(LAT0 - pole) < 90 && x > 0 && x < width && y > 0 && y < height) {
      [west, east, around] = [lon - 180, lon + 180 - 1e-9, true];
      if (pole > 0) north = 90; else south = -90;
    }
  }
  const degree = 111200 * view.scale;
  const stepLat = niceStep(130 / degree);
  const stepLon = around ? 30 : niceStep(150 / (degree * Math.max(Math.cos(lat * RAD), 0.01)));
  ink.strokeStyle = palette.graticule;
  ink.lineWidth = 1;
  const pieces = around ? 128 : 32;
  const run = (from, to, step, line, edge, letters) => {
    const first = Math.ceil(from / step - 1e-9);
    for (let k = first; k * step <= to + 1e-12 && k - first < 400; k++) {
      const points = [];
      for (let i = 0; i <= pieces; i++) points.push(line(k * step, i / pieces));
      ink.beginPath();
      trace(points, false);
      ink.stroke();
      const wrapped = letters === "EW" ? k * step - 360 * Math.round(k * step / 360) : k * step;
      labels.push({ points: points.map(toScreen), text: dms(wrapped, letters, step), edge });
    }
  };
  run(Math.max(south, -89.999999), Math.min(north, 89.999999), stepLat,
    (value, share) => project(value, west + share * (east - west)), "left", "NS");
  run(west, east, stepLon, (value, share) => project(south + share * (north - south), value), "bottom", "EW");
  return labels;
}

function paintLabels(labels) {
  ink.font = "12px system-ui, sans-serif";
  ink.fillStyle = palette.label;
  ink.strokeStyle = palette.paper;
  ink.lineWidth = 4;
  ink.lineJoin = "round";
  for (const { points, text, edge } of labels) {
    for (let i = 1; i < points.length; i++) {
      const [a, b] = [points[i - 1], points[i]];
      const axis = edge === "left" ? 0 : 1, place = edge === "left" ? 6 : height - 8;
      const [from, to] = [a[axis] - place, b[axis] - place];
      if (from * to > 0 || from === to) continue;
      const other = a[1 - axis] + (b[1 - axis] - a[1 - axis]) * from / (from - to);
      if (edge === "left" ? other < 70 || other > height - 90 : other < 60 || other > width - 60) break;
      ink.textAlign = edge === "left" ? "left" : "center";
      const [x, y] = edge === "left" ? [6, other - 5] : [other, height - 8];
      ink.strokeText(text, x, y);
      ink.fillText(text, x, y);
      break;
    }
  }
}

function paintFlight() {
  ink.lineJoin = ink.lineCap = "round";
  for (const [colour, thick] of [[palette.halo, 5.5], [palette.flight, 2.5]]) {
    ink.strokeStyle = colour;
    ink.lineWidth = thick;
    for (const line of lines) { ink.beginPath(); trace(line, false); ink.stroke(); }
  }
  ink.fillStyle = palette.flight;
  for (const line of lines) paintArrows(line.map(toScreen));
  if (!lines.length) return;
  const last = lines[lines.length - 1];
  const ends = [toScreen(lines[0][0]), toScreen(last[last.length - 1])];
  const together = Math.hypot(ends[0][0] - ends[1][0], ends[0][1] - ends[1][1]) < 45;
  ends.forEach(([x, y], i) => {
    ink.beginPath();
    ink.rect(x - 5, y - 5, 10, 10);
    ink.fillStyle = i ? palette.flight : palette.halo;
    ink.strokeStyle = palette.flight;
    ink.lineWidth = 2.5;
    ink.fill();
    ink.stroke();
    if (i || !together) words(together ? "start, end" : ["start", "end"][i], x + 10, y + 17, palette.flight, "600 12px");
  });
}

function paintArrows(points) {
  let left = 60;
  for (let i = 1; i < points.length; i++) {
    const [ax, ay] = points[i - 1], [bx, by] = points[i];
    const length = Math.hypot(bx - ax, by - ay);
    if (length > 40000) return;
    while (left < length) {
      const [ux, uy] = [(bx - ax) / length, (by - ay) / length];
      const [x, y] = [ax + ux * left, ay + uy * left];
      if (x > -20 && y > -20 && x < width + 20 && y < height + 20) {
        ink.beginPath();
        ink.moveTo(x + 7 * ux, y + 7 * uy);
        ink.lineTo(x - 5 * ux - 5 * uy, y - 5 * uy + 5 * ux);
        ink.lineTo(x - 5 * ux + 5 * uy, y - 5 * uy - 5 * ux);
        ink.fill();
      }
      left += 110;
    }
    left -= length;
  }
}

function words(text, x, y, colour, font) {
  ink.font = `${font} system-ui, sans-serif`;
  ink.textAlign = "left";
  ink.lineWidth = 3.5;
  ink.lineJoin = "round";
  ink.strokeStyle = palette.halo;
  ink.strokeText(text, x, y);
  ink.fillStyle = colour;
  ink.fillText(text, x, y);
}

function paintFinds() {
  const shown = visible();
  const near = shown.map((find) => [find, toScreen(find.xy)]).filter(([find, [x, y]]) => {
    const reach = find.semi_major * view.scale + 20;
    return x > -reach && y > -reach && x < width + reach && y < height + reach;
  });
  if (byId("show-ellipses").checked) {
    for (const [find, [x, y]] of near) {
      const turn = (find.azimuth - 90) * RAD; // the canvas turns clockwise, from the east
      ink.beginPath();
      ink.ellipse(x, y, find.semi_major * view.scale, find.semi_minor * view.scale, turn, 0, 2 * Math.PI);
      ink.fillStyle = ink.strokeStyle = colourOf.get(find.class_name);
      ink.globalAlpha = find === selected ? 0.28 : 0.13;
      ink.fill();
      ink.globalAlpha = find === selected ? 1 : 0.75;
      ink.lineWidth = find === selected ? 2.5 : 1.5;
      ink.stroke();
      ink.globalAlpha = 1;
    }
  }
  for (const [find, [x, y]] of near) disc(find, x, y, find === hovered ? 7.5 : 6);
  const active = near.find(([find]) => find === selected);
  if (active) disc(active[0], ...active[1], 9);
  if (byId("show-names").checked) paintNames(near);
}

function disc(find, x, y, radius) {
  ink.beginPath();
  ink.arc(x, y, radius, 0, 2 * Math.PI);
  ink.fillStyle = colourOf.get(find.class_name);
  ink.fill();
  ink.lineWidth = 2.5;
  ink.strokeStyle = palette.halo;
  ink.stroke();
  if (find === selected) {
    ink.beginPath();
    ink.arc(x, y, radius + 4, 0, 2 * Math.PI);
    ink.lineWidth = 2;
    ink.strokeStyle = palette.text;
    ink.stroke();
  }
}

function paintNames(near) {
  // Best scores first; a name that would lie on another one, or on another find, is left out.
  const taken = near.length > MAX_NAMES ? [] : near.map(([, [x, y]]) => [x - 6, y - 6, x + 6, y + 6]);
  const first = (find) => (find === selected ? 2 : find === hovered ? 1.5 : find.score);
  ink.font = "600 13px system-ui, sans-serif";
  for (const [find, [x, y]] of [...near].sort((a, b) => first(b[0]) - first(a[0])).slice(0, MAX_NAMES)) {
    const long = ink.measureText(find.name).width;
    for (const [left, top] of [[x + 11, y - 8], [x - 11 - long, y - 8], [x - long / 2, y - 26], [x - long / 2, y + 11]]) {
      const box = [left, top, left + long, top + 15];
      if (taken.some((t) => t[0] < box[2] && box[0] < t[2] && t[1] < box[3] && box[1] < t[3])) continue;
      taken.push(box);
      words(find.name, left, top + 12, palette.text, "600 13px");
      break;
    }
  }
}

function paintScale() {
  const limit = Math.min(170, width / 4) / view.scale;
  const power = 10 ** Math.floor(Math.log10(limit));
  const length = [5, 2, 1].map((k) => k * power).find((value) => value <= limit);
  byId("scale-bar").style.width = `${length * view.scale}px`;
  byId("scale-text").textContent = length >= 1000 ? `${number(length / 1000)} km`
    : length >= 1 ? `${number(length)} m` : `${number(length * 100)} cm`;
}

// --- the list and its filters ---
function badge(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  for (const [key, value] of Object.entries({ cx: 8, cy: 8, r: 7, fill: colourOf.get(name) }))
    circle.setAttribute(key, value);
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  svg.append(circle);
  return svg;
}

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

function makeChips() {
  for (const name of classes) {
    const chip = element("label", "", "chip"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.addEventListener("change", () => { if (box.checked) hidden.delete(name); else hidden.add(name); list(); });
    const count = finds.filter((f) => f.class_name === name).length;
    chip.append(box, badge(name), element("span", `${name} (${number(count)})`));
    byId("classes").append(chip);
  }
}

function list() {
  const order = byId("order").value, shown = visible();
  shown.sort((a, b) => (order === "score" ? b.score - a.score : a[order] - b[order]));
  byId("score-text").textContent = Number(byId("score").value).toFixed(2);
  byId("count").textContent = `${number(shown.length)} of ${number(finds.length)} finds`;
  byId("empty").hidden = shown.length > 0;
  byId("finds").replaceChildren(...shown.map((find) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button";
    button.dataset.id = find.id;
    button.append(badge(find.class_name), element("b", find.name), element("span", find.score.toFixed(2)),
      element("span", `${placeText(find.latitude, find.longitude)} ±${find.semi_major.toFixed(find.semi_major < 10 ? 1 : 0)} m`, "at"));
    button.addEventListener("click", () => select(find, true));
    item.append(button);
    return item;
  }));
  if (selected && !shown.includes(selected)) select(null);
  mark();
  draw();
}

function mark() {
  for (const button of byId("finds").querySelectorAll("button")) {
    const current = Boolean(selected) && button.dataset.id === String(selected.id);
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest" });
  }
}

function select(find, move = false) {
  selected = find;
  byId("details").hidden = !find;
  if (find) {
    showDetails(find);
    if (move) {
      view.scale = Math.max(view.scale, Math.min(60 / find.semi_major, 20));
      [view.x, view.y] = find.xy;
    }
  }
  mark();
  draw();
}

function showDetails(find) {
  const metres = (value) => `${value.toFixed(1)} m`;
  byId("details").querySelector("h2").textContent = find.name;
  byId("decimal").value = placeText(find.latitude, find.longitude);
  byId("dms").value = dmsText(find.latitude, find.longitude);
  const seconds = find.pts === undefined ? undefined : `${find.pts.toFixed(2)} s`;
  const altitude = `${metres(find.altitude)} above ${{ msl: "sea level", takeoff: "the take-off point", ellipsoid: "the ellipsoid" }[find.altitude_reference]}`;
  const rows = [
    ["Class", find.class_name], ["Score", find.score.toFixed(2)],
    ["95 % within", `${metres(find.semi_major)} × ${metres(find.semi_minor)}, longer axis ${find.azimuth.toFixed(0)}°`],
    ["Altitude", altitude], ["Seen in", find.count > 1 ? `${number(find.count)} frames` : undefined],
    ["From camera", metres(find.distance)], ["Time", find.time], ["Video time", seconds],
    ["Source", find.source], ["Image", find.file], ["Frame", find.file ? undefined : find.frame],
  ];
  byId("details").querySelector("dl").replaceChildren(...rows.filter(([, value]) => value !== undefined)
    .flatMap(([key, value]) => [element("dt", key), element("dd", String(value))]));
}

function step(by) {
  const ids = [...byId("finds").querySelectorAll("button")].map((button) => Number(button.dataset.id));
  if (!ids.length) return;
  const at = selected ? ids.indexOf(selected.id) : by > 0 ? -1 : ids.length;
  const id = ids[Math.min(ids.length - 1, Math.max(0, at + by))];
  select(finds.find((f) => f.id === id), true);
}

// --- hands on the map ---
function findAt([x, y]) {
  let best = null, least = 14;
  for (const find of visible()) {
    const [u, v] = toScreen(find.xy), away = Math.hypot(u - x, v - y);
    if (away < least) [best, least] = [find, away];
  }
  return best;
}

const pointers = new Map();
let moved = 0;
const placeOf = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  if (!pointers.size) moved = 0;
  pointers.set(event.pointerId, placeOf(event));
});
canvas.addEventListener("pointermove", (event) => {
  const at = placeOf(event), before = pointers.get(event.pointerId);
  if (!before) {
    tellPlace(at);
    const over = findAt(at);
    canvas.style.cursor = over ? "pointer" : "";
    if (over !== hovered) { hovered = over; draw(); }
    return;
  }
  moved += Math.hypot(at[0] - before[0], at[1] - before[1]);
  if (pointers.size === 2) {
    const [other] = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const spread = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
    zoom(spread(at) / Math.max(spread(before), 1), other);
  }
  if (pointers.size === 1 && moved > 3) {
    canvas.classList.add("dragging");
    view.x -= (at[0] - before[0]) / view.scale;
    view.y += (at[1] - before[1]) / view.scale;
    draw();
  }
  pointers.set(event.pointerId, at);
  tellPlace(at);
});
function tellPlace(at) {
  const ground = unproject(toGround(at));
  byId("cursor").textContent = ground ? `${placeText(...ground)}  ·  ${dmsText(...ground)}` : "";
}
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => {
  if (!pointers.delete(event.pointerId) || pointers.size) return;
  canvas.classList.remove("dragging");
  if (kind === "pointerup" && moved <= 3) select(findAt(placeOf(event)));
});
canvas.addEventListener("pointerleave", () => { byId("cursor").textContent = ""; });
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const pixels = event.deltaMode ? event.deltaY * 30 : event.deltaY;
  zoom(Math.exp(-Math.max(-300, Math.min(300, pixels)) / 350), placeOf(event));
}, { passive: false });
canvas.addEventListener("dblclick", (event) => zoom(2, placeOf(event)));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select")) return;
  const pan = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (pan && event.target === canvas) {
    view.x += pan[0] * 80 / view.scale;
    view.y += pan[1] * 80 / view.scale;
    draw();
  } else if (event.key === "+" || event.key === "=") zoom(1.5);
  else if (event.key === "-") zoom(1 / 1.5);
  else if (event.key === "0") fit();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "Escape") select(null);
  else return;
  event.preventDefault();
});

// --- begin ---
byId("summary").textContent = `${number(data.finds.length)} finds from ${number(data.positions)} positions in ${number(data.frames)} frames`;
const refused = data.refusals.reduce((sum, { count }) => sum + count, 0);
if (refused) {
  byId("refused").hidden = false;
  byId("refused").querySelector("summary").textContent = `${number(refused)} ${refused === 1 ? "point" : "points"} without a position`;
  byId("refused").querySelector("ul").append(...data.refusals.map(({ code, reason, count }) => element("li", `${number(count)}: ${reason} (${code})`)));
}
makeChips();
byId("in").addEventListener("click", () => zoom(1.6));
byId("out").addEventListener("click", () => zoom(1 / 1.6));
byId("fit").addEventListener("click", () => fit());
byId("close").addEventListener("click", () => select(null));
byId("copy").addEventListener("click", () => {
  byId("decimal").select();
  if (navigator.clipboard) navigator.clipboard.writeText(byId("decimal").value).catch(() => document.execCommand("copy"));
  else document.execCommand("copy");
});
for (const id of ["score", "order"]) byId(id).addEventListener("input", list);
for (const id of ["show-flight", "show-seen", "show-ellipses", "show-names"]) byId(id).addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readPalette(); draw(); });
let begun = false;
new ResizeObserver(() => {
  const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  [width, height] = [box.width, box.height];
  [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (begun) draw(); else { begun = true; readPalette(); list(); fit(); }
}).observe(canvas);
