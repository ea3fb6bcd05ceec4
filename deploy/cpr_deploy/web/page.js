"use strict";
// Texts from the program are set as text, never as HTML.
const SECONDS = 600;
const STATES = {
  online: "online",
  connecting: "connecting",
  stale: "BLIND: no new frame",
  lost: "BLIND: connection lost, trying again",
  frozen: "FROZEN: the picture does not change",
  failed: "FAILED: given up",
  ended: "ended",
};
const ROWS = [
  ["frames processed", (s) => s.processed],
  ["dropped", (s) => s.dropped],
  ["damaged", (s) => s.damaged],
  ["frames a second", (s) => s.frames_per_second.toFixed(1)],
  ["age of the result", (s) => (s.age_ms === null ? "-" : s.age_ms.toFixed(0) + " ms")],
  ["blind in all", (s) => s.blind_seconds.toFixed(1) + " s"],
  ["gaps, reconnects", (s) => s.gaps + ", " + s.reconnects],
  ["picture", (s) => s.width + " x " + s.height],
];
const sections = new Map();

function sectionOf(stream) {
  if (!sections.has(stream.stream)) {
    const section = document.getElementById("stream").content.firstElementChild.cloneNode(true);
    for (const [label] of ROWS) {
      const row = section.querySelector("tbody").insertRow();
      row.insertCell().textContent = label;
      row.insertCell();
    }
    document.getElementById("streams").append(section);
    sections.set(stream.stream, section);
    showPictures(section.querySelector("img"), stream.stream);
  }
  return sections.get(stream.stream);
}

function showPictures(image, number) {
  let count = 0;
  const next = () => { image.src = `frame/${number}.jpg?${count++}`; };
  image.addEventListener("load", () => {
    image.hidden = false;
    setTimeout(next, 100);
  });
  image.addEventListener("error", () => setTimeout(next, 1000));
  next();
}

function show(stream) {
  const section = sectionOf(stream);
  section.querySelector("h2").textContent = `${stream.stream}: ${stream.source}`;
  const state = section.querySelector(".state");
  let text = STATES[stream.state] || stream.state;
  if (stream.state !== "ended" && stream.seconds_since_frame > 2) {
    text += ` for ${stream.seconds_since_frame.toFixed(0)} s`;
  }
  state.textContent = text;
  state.className = `state ${stream.state}`;
  const blind = !["online", "ended"].includes(stream.state);
  section.classList.toggle("blind", blind);
  const found = Object.entries(stream.found).map(([name, count]) => `${name}: ${count}`);
  // Without a picture nobody knows; "no points" would say that nobody is there.
  section.querySelector(".found").textContent = blind ? "not known" : found.join(", ") || "no points";
  ROWS.forEach(([, value], index) => {
    section.querySelector("tbody").rows[index].cells[1].textContent = value(stream);
  });
  const most = Math.max(0, ...stream.history.map((entry) => entry[1]));
  const points = stream.history.map(([second, count]) =>
    `${SECONDS - (stream.now - second)},${78 - 74 * count / Math.max(1, most)}`);
  section.querySelector("polyline").setAttribute("points", points.join(" "));
  section.querySelector(".scale").textContent = `points in the last 10 minutes, at most ${most}`;
}

async function refresh() {
  try {
    const answer = await fetch("status.json", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.statusText);
    (await answer.json()).streams.forEach(show);
    document.getElementById("alarm").hidden = true;
  } catch {
    document.getElementById("alarm").hidden = false;
  }
  setTimeout(refresh, 1000);
}
refresh();
