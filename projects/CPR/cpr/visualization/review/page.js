"use strict";
// The review page. Objects are known by their place in the data, which is the order worst first;
// `list` holds the places that the filters leave, in the chosen order, and only the cards near the
// visible part of it exist. Everything that comes from the data is written as text.
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const total = data.id.length;
  const words = Object.keys(data.decisions);
  const placeOf = new Map(data.id.map((id, place) => [id, place]));
  const number = new Intl.NumberFormat("en");
  const plural = (count) => `${number.format(count)} object${count === 1 ? "" : "s"}`;
  const verbs = { accept: "Accept", reject: "Reject", flag: "Flag" };
  const className = (place) => data.classes[data.class[place]];
  const imageName = (place) => data.images[data.image[place]];
  const hasFlag = (place, index) => ((data.bits[place] >> index) & 1) === 1;

  // --- decisions: kept, undone, exported, imported ---

  const storageKey = `cpr-review:${data.key}`;
  let decisions = new Map(); // place -> word
  const history = []; // batches of [place, word before or undefined]
  let saving = 0;

  const load = () => {
    decisions = new Map();
    try {
      const stored = JSON.parse(localStorage.getItem(storageKey) ?? "{}");
      for (const [id, word] of Object.entries(stored)) {
        const place = placeOf.get(Number(id));
        if (place !== undefined && words.includes(word)) decisions.set(place, word);
      }
    } catch {
      warn("This browser keeps no decisions for this page: export them before you close it.");
    }
  };

  const asObject = () =>
    Object.fromEntries([...decisions].map(([place, word]) => [data.id[place], word]));

  const saveNow = () => {
    if (!saving) return;
    clearTimeout(saving);
    saving = 0;
    try {
      localStorage.setItem(storageKey, JSON.stringify(asObject()));
    } catch {
      warn("This browser keeps no decisions for this page: export them before you close it.");
    }
  };

  const save = () => {
    if (!saving) saving = setTimeout(saveNow, 50);
  };

  const put = (place, word) => {
    if (word) decisions.set(place, word);
    else decisions.delete(place);
  };

  // Decides all `places` (word undefined: clears them); one step to undo.
  const decide = (places, word) => {
    const batch = [];
    for (const place of places) {
      const before = decisions.get(place);
      if (before === word) continue;
      batch.push([place, before]);
      put(place, word);
    }
    if (batch.length) {
      history.push(batch);
      save();
    }
    return batch.length;
  };

  const undo = () => {
    const batch = history.pop();
    if (!batch) {
      say("Nothing to undo.");
      return;
    }
    for (const [place, before] of batch) put(place, before);
    save();
    refresh();
    const position = list.indexOf(batch[0][0]);
    if (position >= 0) go(position);
    say(`Undone: ${plural(batch.length)}.`);
  };

  const decided = () => [...decisions].sort((a, b) => data.id[a[0]] - data.id[b[0]]);

  const download = (type, suffix, text) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `decisions_${data.key}.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Exported ${plural(decisions.size)}.`);
  };

  const exportJson = () => {
    const records = decided().map(([place, decision]) => ({ id: data.id[place], decision }));
    const head = { kind: data.kind, version: data.version, data_set: data.key };
    download("application/json", "json", JSON.stringify({ ...head, decisions: records }, null, 1));
  };

  // A spreadsheet would take a name that starts like a formula for one.
  const cell = (value) => {
    const text = String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",;\r\n\t]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };

  const exportCsv = () => {
    const rows = [["version", "data_set", "annotation_id", "decision", "image", "class"]];
    for (const [place, word] of decided()) {
      rows.push([data.version, data.key, data.id[place], word, imageName(place), className(place)]);
    }
    download("text/csv", "csv", rows.map((row) => `${row.map(cell).join(",")}\r\n`).join(""));
  };

  // The decisions of a file as [place, word], or an Error that says what is wrong with it.
  const parseDecisions = (text) => {
    let content;
    try {
      content = JSON.parse(text.replace(/^\ufeff/, ""));
    } catch {
      throw new Error("it is not JSON.");
    }
    if (content?.kind !== data.kind || !Array.isArray(content.decisions)) {
      throw new Error("it is no file of decisions.");
    }
    if (content.version !== data.version) throw new Error("it is of another version of the page.");
    if (content.data_set !== data.key) throw new Error("it belongs to other annotations.");
    const found = new Map();
    for (const record of content.decisions) {
      const place = placeOf.get(record?.id);
      if (place === undefined) throw new Error(`object ${record?.id} is not in this page.`);
      if (!words.includes(record.decision)) {
        throw new Error(`object ${record.id} has the unknown decision "${record.decision}".`);
      }
      if (found.has(place)) throw new Error(`object ${record.id} is in it twice.`);
      found.set(place, record.decision);
    }
    return found;
  };

  const importFile = async (file) => {
    try {
      const batch = [];
      for (const [place, word] of parseDecisions(await file.text())) {
        const before = decisions.get(place);
        if (before !== word) batch.push([place, before]);
        put(place, word);
      }
      if (batch.length) history.push(batch);
      save();
      refresh();
      say(`Imported ${file.name}: ${plural(batch.length)} changed.`);
    } catch (error) {
      warn(`${file.name} was not imported: ${error.message}`);
    }
  };

  // --- what is said ---

  const status = byId("status");
  const say = (text) => {
    status.className = "status";
    status.textContent = text;
  };
  const warn = (text) => {
    status.className = "status warning";
    status.textContent = text;
  };

  // --- filters and order ---

  const collator = new Intl.Collator("en", { numeric: true });
  const orders = {
    severity: (a, b) => a - b,
    distance: (a, b) => data.distance[b] - data.distance[a] || a - b,
    score: (a, b) => (data.score[a] ?? 2) - (data.score[b] ?? 2) || a - b,
    class: (a, b) => collator.compare(className(a), className(b)) || a - b,
    image: (a, b) =>
      collator.compare(imageName(a), imageName(b)) || data.image[a] - data.image[b] || a - b,
  };
  const controls = Object.fromEntries(
    ["flag", "class", "decision", "text", "sort", "size", "reverse", "overlay"].map((name) => [
      name,
      byId(name),
    ]),
  );

  const option = (select, value, text) => {
    const element = document.createElement("option");
    element.value = value;
    element.textContent = text;
    select.append(element);
    return element;
  };

  const fillControls = () => {
    const count = (test) => {
      let found = 0;
      for (let place = 0; place < total; place++) if (test(place)) found++;
      return number.format(found);
    };
    option(controls.flag, "", `all objects (${number.format(total)})`);
    option(controls.flag, "any", `any flag (${count((p) => data.bits[p])})`);
    data.flags.forEach((flag, index) => {
      option(controls.flag, String(index), `${flag.text} (${count((p) => hasFlag(p, index))})`);
    });
    option(controls.flag, "none", `no flag (${count((p) => !data.bits[p])})`);
    option(controls.class, "", "all classes");
    data.classes
      .map((name, index) => [name, index])
      .sort((a, b) => collator.compare(a[0], b[0]))
      .forEach(([name, index]) => {
        option(controls.class, String(index), `${name} (${count((p) => data.class[p] === index)})`);
      });
    option(controls.decision, "", "all");
    option(controls.decision, "none", "undecided");
    for (const word of words) option(controls.decision, word, data.decisions[word]);
  };

  const choose = () => {
    const { flag, decision } = { flag: controls.flag.value, decision: controls.decision.value };
    const classIndex = controls.class.value === "" ? -1 : Number(controls.class.value);
    const text = controls.text.value.trim().toLowerCase();
    const wanted = data.images.map((name) => name.toLowerCase().includes(text));
    const chosen = [];
    for (let place = 0; place < total; place++) {
      if (flag === "any" && !data.bits[place]) continue;
      if (flag === "none" && data.bits[place]) continue;
      if (/^\d+$/.test(flag) && !hasFlag(place, Number(flag))) continue;
      if (classIndex >= 0 && data.class[place] !== classIndex) continue;
      if (decision && (decisions.get(place) ?? "none") !== decision) continue;
      if (!wanted[data.image[place]]) continue;
      chosen.push(place);
    }
    chosen.sort(orders[controls.sort.value]);
    if (controls.reverse.checked) chosen.reverse();
    return chosen;
  };

  // --- pictures ---

  const blocks = new Map(); // number of a block -> its lines; the most recent ones
  const blockLines = (index) => {
    let lines = blocks.get(index);
    if (!lines) {
      const element = byId(`block${index}`);
      // While the page is being read, a block is whole once the next one has begun.
      if (!element || (document.readyState === "loading" && !byId(`block${index + 1}`))) return null;
      lines = element.textContent.split("\n");
      if (blocks.size >= 24) blocks.delete(blocks.keys().next().value);
    }
    blocks.delete(index);
    blocks.set(index, lines);
    return lines;
  };

  // {semantic, picture}, both base64, or null while they are not there yet.
  const pictureOf = (place) => {
    const lines = blockLines(Math.floor(place / data.block));
    if (!lines) return null;
    const [semantic, picture] = lines[place % data.block].split(" ");
    return { semantic, picture };
  };

  const svgElement = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  const dots = (points) => points.map(([x, y]) => `M${x} ${y}h0`).join("");

  const neighbours = new Map(); // image -> places
  for (let place = 0; place < total; place++) {
    const image = data.image[place];
    if (!neighbours.has(image)) neighbours.set(image, []);
    neighbours.get(image).push(place);
  }

  // The marks of an object, in px of its image.
  const marks = (place, semantic) => {
    const [left, top, width, height] = data.crop[place];
    const svg = svgElement("svg", {
      viewBox: `${left} ${top} ${width} ${height}`,
      preserveAspectRatio: "xMidYMid meet",
      "aria-hidden": "true",
    });
    const add = (kind, d) => {
      svg.append(svgElement("path", { class: `${kind}-under under`, d }));
      svg.append(svgElement("path", { class: kind, d }));
    };
    const [clickX, clickY] = data.click[place];
    const [x, y] = data.point[place];
    const reach = data.reach[place];
    if (reach) {
      const circle = { cx: clickX, cy: clickY, r: reach };
      svg.append(svgElement("circle", { class: "bag-under", ...circle }));
      svg.append(svgElement("circle", { class: "bag", ...circle }));
    }
    if (data.box[place]) {
      const [bx, by, bw, bh] = data.box[place];
      add("box", `M${bx} ${by}h${bw}v${bh}h${-bw}z`);
    }
    const others = neighbours
      .get(data.image[place])
      .filter((other) => other !== place)
      .map((other) => data.point[other])
      .filter(([a, b]) => a >= left && b >= top && a <= left + width && b <= top + height);
    if (others.length) add("others", dots(others));
    if (semantic) {
      const bytes = Uint8Array.from(atob(semantic), (character) => character.charCodeAt(0));
      const points = [];
      for (let i = 0; i < bytes.length; i += 2) {
        points.push([
          (left + (bytes[i] / 255) * width).toFixed(1),
          (top + (bytes[i + 1] / 255) * height).toFixed(1),
        ]);
      }
      add("semantic", dots(points));
    }
    const arm = 0.03 * Math.max(width, height);
    const cross = `M${clickX - arm} ${clickY}h${2 * arm}M${clickX} ${clickY - arm}v${2 * arm}`;
    if (data.refined[place]) {
      svg.append(svgElement("path", { class: "way", d: `M${clickX} ${clickY}L${x} ${y}` }));
      add("point", dots([[x, y]]));
    }
    add("click", cross);
    return svg;
  };

  const fillPicture = (thumb, place) => {
    const note = document.createElement("p");
    const problem = data.problems[String(data.image[place])];
    if (problem !== undefined) {
      note.textContent = `The image cannot be read: ${problem}`;
      thumb.replaceChildren(note);
      return;
    }
    const found = pictureOf(place);
    if (!found) {
      thumb.dataset.waiting = "";
      return;
    }
    delete thumb.dataset.waiting;
    if (!data.crop[place].length) return;
    const parts = [];
    if (found.picture) {
      const image = document.createElement("img");
      image.decoding = "async";
      image.alt = `Part of ${imageName(place)} around object ${data.id[place]}`;
      image.src = `data:image/jpeg;base64,${found.picture}`;
      parts.push(image);
    } else {
      note.textContent = "No room for this picture.";
      parts.push(note);
    }
    parts.push(marks(place, found.semantic));
    thumb.replaceChildren(...parts);
  };

  // --- cards ---

  const grid = byId("grid");
  const gap = 12;
  const textHeight = () => 11.5 * parseFloat(getComputedStyle(document.documentElement).fontSize);
  let list = [];
  let current = 0; // position in `list`
  let layout = { columns: 1, width: 200, height: 300 };
  const cards = new Map(); // position -> element

  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  const figures = (place) => {
    const score = data.score[place] === null ? "no score" : `score ${data.score[place].toFixed(2)}`;
    const moved = data.refined[place] ? `moved ${data.distance[place].toFixed(1)} px` : "not moved";
    return `${moved} · ${score}`;
  };

  // "like RBC 0.11, WBC 0.03"
  const classNote = (place) => {
    const other = data.other[place] < 0 ? "another class" : data.classes[data.other[place]];
    const scores = [data.otherScore[place], data.own[place]].map((score) => score.toFixed(2));
    return `like ${other} ${scores[0]}, ${className(place)} ${scores[1]}`;
  };

  const badges = (place) =>
    data.flags.flatMap((flag, index) => {
      if (!hasFlag(place, index)) return [];
      if (flag.name === "class") {
        const badge = make("span", "badge", classNote(place));
        badge.title = `${flag.text}: mean score around the click`;
        return [badge];
      }
      if (flag.name !== "same-place") return [make("span", "badge", flag.text)];
      const partners = data.partners[String(place)] ?? [];
      if (!partners.length) return [make("span", "badge", flag.text)];
      return partners.slice(0, 4).map((partner) => {
        const badge = make("button", "badge", `same place as #${data.id[partner]}`);
        badge.type = "button";
        badge.dataset.show = String(partner);
        badge.title = `${className(partner)}: show it`;
        return badge;
      });
    });

  const label = (position) => {
    const place = list[position];
    const flags = data.flags.filter((_, index) => hasFlag(place, index)).map((flag) => flag.text);
    const word = decisions.get(place);
    const parts = [`${className(place)}, object ${data.id[place]}`, imageName(place)];
    parts.push(figures(place).replace(" · ", ", "), ...flags);
    parts.push(word ? data.decisions[word] : "undecided");
    return parts.join("; ");
  };

  const updateCard = (card, position) => {
    const word = decisions.get(list[position]);
    const isCurrent = position === current;
    card.className = `card${isCurrent ? " current" : ""}${word ? ` decided-${word}` : ""}`;
    card.tabIndex = isCurrent ? 0 : -1;
    card.setAttribute("aria-label", label(position));
    if (isCurrent) card.setAttribute("aria-current", "true");
    else card.removeAttribute("aria-current");
    card.querySelector(".state").textContent = word ? data.decisions[word] : "";
    for (const button of card.querySelectorAll(".decide button")) {
      button.setAttribute("aria-pressed", String(button.dataset.word === word));
    }
  };

  const makeCard = (position) => {
    const place = list[position];
    const card = make("div", "card");
    card.setAttribute("role", "listitem");
    card.setAttribute("aria-posinset", String(position + 1));
    card.setAttribute("aria-setsize", String(list.length));
    card.dataset.position = String(position);
    card.dataset.id = String(data.id[place]);
    const row = Math.floor(position / layout.columns);
    const left = (position % layout.columns) * (layout.width + gap);
    card.style.transform = `translate(${left}px, ${row * (layout.height + gap)}px)`;
    card.style.width = `${layout.width}px`;
    card.style.height = `${layout.height}px`;
    const thumb = make("div", "thumb");
    fillPicture(thumb, place);
    const text = make("div", "text");
    const head = make("div", "row");
    const name = make("span", "name", className(place));
    name.title = className(place);
    const state = make("span", "state");
    head.append(name, state);
    const source = make("div", "row");
    const image = make("span", "image", imageName(place));
    image.title = imageName(place);
    source.append(image, make("span", "id", `#${data.id[place]}`));
    const notes = make("div", "badges");
    notes.append(...badges(place));
    const buttons = make("div", "decide");
    for (const word of words) {
      const button = make("button", word, verbs[word] ?? word);
      button.type = "button";
      button.dataset.word = word;
      buttons.append(button);
    }
    text.append(head, source, make("div", "figures", figures(place)), notes, buttons);
    card.append(thumb, text);
    updateCard(card, position);
    return card;
  };

  const measure = () => {
    const available = grid.clientWidth;
    const size = Number(controls.size.value);
    const columns = Math.max(1, Math.floor((available + gap) / (size + gap)));
    const width = Math.floor((available - gap * (columns - 1)) / columns);
    layout = { columns, width, height: width + textHeight() };
    const rows = Math.ceil(list.length / columns);
    grid.style.height = `${Math.max(0, rows * (layout.height + gap) - gap)}px`;
  };

  // Makes the cards of the visible rows and of one screen around them, removes all others.
  const render = () => {
    const step = layout.height + gap;
    const top = -grid.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((top - innerHeight / 2) / step)) * layout.columns;
    const rows = Math.ceil((2 * innerHeight) / step) + 1;
    const last = Math.min(list.length, first + rows * layout.columns);
    for (const [position, card] of cards) {
      if ((position < first || position >= last) && position !== current) {
        card.remove();
        cards.delete(position);
      }
    }
    let after = null;
    for (let position = last - 1; position >= first; position--) {
      let card = cards.get(position);
      if (!card) {
        card = makeCard(position);
        cards.set(position, card);
        // In the order of the list, which is that of the tab key and of screen readers.
        grid.insertBefore(card, after);
      } else if ("waiting" in card.firstChild.dataset) {
        fillPicture(card.firstChild, list[position]);
      }
      after = card;
    }
  };

  const rebuild = () => {
    for (const card of cards.values()) card.remove();
    cards.clear();
    measure();
    render();
  };

  const showFigures = () => {
    const counts = Object.fromEntries(words.map((word) => [word, 0]));
    for (const word of decisions.values()) counts[word]++;
    const parts = words.map((word) => `${number.format(counts[word])} ${data.decisions[word]}`);
    byId("progress").max = total;
    byId("progress").value = decisions.size;
    byId("progress-text").textContent =
      `${number.format(decisions.size)} of ${number.format(total)} decided: ${parts.join(", ")}`;
    byId("count").textContent =
      list.length === total ? plural(total) : `${number.format(list.length)} of ${plural(total)}`;
    for (const name of ["accept", "reject", "flag", "clear"]) {
      byId(`all-${name}`).disabled = !list.length;
    }
    byId("undo").disabled = !history.length;
    byId("empty").hidden = list.length > 0;
  };

  // After a change of filters or decisions. Without `toTop` the place in the list is kept.
  const refresh = (toTop = false) => {
    list = choose();
    current = toTop ? 0 : Math.max(0, Math.min(current, list.length - 1));
    showFigures();
    rebuild();
    if (toTop && grid.getBoundingClientRect().top < 0) byId("objects").scrollIntoView();
  };

  const markCurrent = (position) => {
    const before = current;
    current = position;
    for (const one of [before, current]) {
      if (cards.has(one)) updateCard(cards.get(one), one);
    }
  };

  // Makes an object the current one, brings it into view and gives it the focus.
  const go = (position) => {
    if (!list.length) return;
    markCurrent(Math.max(0, Math.min(position, list.length - 1)));
    const bar = document.querySelector(".bar");
    const covered = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    const top =
      grid.getBoundingClientRect().top +
      Math.floor(current / layout.columns) * (layout.height + gap);
    if (top < covered + gap) scrollBy(0, top - covered - gap);
    else if (top + layout.height > innerHeight - gap) {
      scrollBy(0, Math.min(top - covered - gap, top + layout.height - innerHeight + gap));
    }
    render();
    cards.get(current)?.focus({ preventScroll: true });
  };

  // Shows an object that the filters may hide.
  const show = (place) => {
    if (!list.includes(place)) {
      resetFilters();
      refresh(true);
    }
    go(list.indexOf(place));
  };

  const resetFilters = () => {
    for (const name of ["flag", "class", "decision", "text"]) controls[name].value = "";
  };

  const decideCurrent = (word) => {
    if (!list.length) return;
    const place = list[current];
    decide([place], word);
    // With the decision as filter the object leaves the list, and the next one takes its position.
    if (controls.decision.value) {
      refresh();
      go(current);
    } else {
      showFigures();
      updateCard(cards.get(current) ?? makeCard(current), current);
      if (word) go(current + 1);
    }
    say(`Object ${data.id[place]} ${word ? data.decisions[word] : "is undecided again"}.`);
  };

  const decideAll = (word) => {
    const changed = decide([...list], word);
    refresh();
    say(`${plural(changed)} ${word ? data.decisions[word] : "undecided again"}. Undo with u.`);
  };

  // --- events ---

  const keys = {
    j: () => go(current + 1),
    k: () => go(current - 1),
    ArrowRight: () => go(current + 1),
    ArrowLeft: () => go(current - 1),
    ArrowDown: () => go(current + layout.columns),
    ArrowUp: () => go(current - layout.columns),
    Home: () => go(0),
    End: () => go(list.length - 1),
    a: () => decideCurrent("accept"),
    r: () => decideCurrent("reject"),
    f: () => decideCurrent("flag"),
    c: () => decideCurrent(undefined),
    u: undo,
    o: () => {
      controls.overlay.checked = !controls.overlay.checked;
      showMarks();
    },
    "/": () => {
      byId("controls").open = true;
      controls.text.focus();
    },
    "?": () => byId("keys").showModal(),
  };

  const showMarks = () => grid.classList.toggle("no-marks", !controls.overlay.checked);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const isField = event.target.matches("select, input:not([type=checkbox])");
    if (event.key === "Escape" && isField) {
      event.preventDefault();
      go(current);
      return;
    }
    if (isField) return;
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });

  grid.addEventListener("click", (event) => {
    const card = event.target.closest(".card");
    if (!card) return;
    const button = event.target.closest("button");
    if (button?.dataset.show) {
      show(Number(button.dataset.show));
      return;
    }
    markCurrent(Number(card.dataset.position));
    if (!button) {
      card.focus({ preventScroll: true });
      return;
    }
    const place = list[current];
    // A second press takes the decision back.
    const word = decisions.get(place) === button.dataset.word ? undefined : button.dataset.word;
    decide([place], word);
    if (controls.decision.value) {
      refresh();
      go(current);
    } else {
      showFigures();
      updateCard(card, current);
    }
    say(`Object ${data.id[place]} ${word ? data.decisions[word] : "is undecided again"}.`);
  });

  grid.addEventListener("focusin", (event) => {
    const card = event.target.closest(".card");
    if (card && Number(card.dataset.position) !== current) markCurrent(Number(card.dataset.position));
  });

  // Whoever chose with the mouse goes on with the keys of the objects; with the keyboard one may
  // still be choosing.
  let byPointer = false;
  addEventListener("pointerdown", () => (byPointer = true), true);
  addEventListener("keydown", () => (byPointer = false), true);
  for (const name of ["flag", "class", "decision", "sort", "reverse"]) {
    controls[name].addEventListener("change", () => {
      refresh(true);
      if (byPointer) controls[name].blur();
    });
  }
  controls.text.addEventListener("input", () => refresh(true));
  controls.size.addEventListener("change", () => {
    rebuild();
    if (byPointer) controls.size.blur();
  });
  controls.overlay.addEventListener("change", showMarks);
  for (const word of words) byId(`all-${word}`).addEventListener("click", () => decideAll(word));
  byId("all-clear").addEventListener("click", () => decideAll(undefined));
  byId("undo").addEventListener("click", undo);
  byId("export-json").addEventListener("click", exportJson);
  byId("export-csv").addEventListener("click", exportCsv);
  byId("import").addEventListener("click", () => byId("file").click());
  byId("file").addEventListener("change", () => {
    const [file] = byId("file").files;
    if (file) importFile(file);
    byId("file").value = "";
  });
  byId("help").addEventListener("click", () => byId("keys").showModal());
  byId("reset").addEventListener("click", () => {
    resetFilters();
    refresh(true);
    go(0);
  });
  // Another window with this page: both show what was decided last.
  addEventListener("storage", (event) => {
    if (event.key !== storageKey || event.storageArea !== localStorage) return;
    load();
    history.length = 0;
    refresh();
  });
  addEventListener("pagehide", saveNow);
  document.addEventListener("visibilitychange", saveNow);

  let waiting = false;
  const later = (work) => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      work();
    });
  };
  addEventListener("scroll", () => later(render), { passive: true });
  let seenWidth = 0;
  new ResizeObserver(() => {
    if (grid.clientWidth !== seenWidth) {
      seenWidth = grid.clientWidth;
      rebuild();
    } else later(render);
  }).observe(document.body);
  addEventListener("resize", () => later(render));

  // On a telephone the objects come first.
  if (innerWidth <= 640) byId("controls").open = false;
  fillControls();
  load();
  refresh();
  // Pictures come after this script; the visible ones are shown as soon as they are there.
  const untilRead = () => {
    render();
    if (document.readyState === "loading") setTimeout(untilRead, 100);
  };
  if (document.readyState === "loading") {
    setTimeout(untilRead, 50);
    document.addEventListener("DOMContentLoaded", render);
  }
})();
