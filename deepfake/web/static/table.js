"use strict";
// The table of the queue: a row a file or upload, in what order, and which of them are shown.
// Whatever a server or a file says is put in as text, never as HTML. Sends nothing.

const $ = id => document.getElementById(id);
const rows = $("rows"), KEPT_VIEW = "deepfake-view";
const rowOf = new Map();       // key -> row

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) made.addEventListener(event, act);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const shown = value => value.toFixed(3);

// Rows

const LABELS = ["", "File", "Verdict", "Score", "People", "Remarks", ""];

function findRow(key) {
  let row = rowOf.get(key);
  if (!row) {
    // The roles stay where a narrow screen lays the table out as cards.
    row = element("tr", {"data-key": key, role: "row"});
    LABELS.forEach((label, number) => row.append(number === 1
      ? element("th", {scope: "row", role: "rowheader"}) : element("td", {role: "cell", "data-label": label})));
    rowOf.set(key, row);
    rows.append(row);
  }
  return row;
}

function fill(row, state, cells) {
  const text = JSON.stringify(state);
  if (row.dataset.shown === text) return;    // nothing moves under a pointer, or loses the focus
  const focused = row.contains(document.activeElement) ? document.activeElement.dataset.act : null;
  row.dataset.shown = text;
  cells().forEach((cell, number) => {
    row.children[number].replaceChildren(...[cell].flat());
    row.children[number].toggleAttribute("data-empty", Boolean(cell.dataset && "nothing" in cell.dataset));
  });
  if (focused) (row.querySelector(`[data-act="${focused}"]`) || row.querySelector("button, a"))?.focus();
}

function removeRow(key) {
  rowOf.get(key).remove();
  rowOf.delete(key);
}

function button(word, name, act) {
  return element("button", {type: "button", class: "plain small", "data-act": word, "aria-label": `${word} ${name}`, text: word, on: {click: act}});
}

const nothing = () => element("span", {class: "soft", "data-nothing": true, text: "\u2013"});
const blank = () => element("span", {class: "thumb"});
const statusOf = (...parts) => element("span", {class: "state"}, ...parts);

function verdictOf(file) {
  if (file.state === "queued") return statusOf("waits");
  if (file.state === "running") return progressOf(file);
  if (file.state === "done" && file.verdict) return element("span", {class: `verdict badge ${file.verdict}`, text: file.verdict});
  return statusOf(file.state === "done" ? file.status.replace("_", " ") : file.state);
}

function progressOf(file) {
  const {n_decoded, n_searched, n_expected} = file.progress || {};
  if (!n_decoded) return statusOf("opening", element("progress", {"aria-label": `Progress of ${file.path}`}));
  const many = n_expected !== 1;
  const text = many ? `frame ${n_decoded}${n_expected ? ` of ${n_expected}` : ""}` : "looking for faces";
  const bar = {"aria-label": `Progress of ${file.path}`};
  if (n_expected) Object.assign(bar, {max: 2 * n_expected, value: n_decoded + n_searched});
  return statusOf(text, element("progress", bar));
}

function scoreOf(file) {
  if (typeof file.p_fake !== "number") return nothing();
  const [real, fake] = file.limits, at = value => Math.min(99, Math.max(0, 100 * value));
  const words = `real up to ${shown(real)}, fake from ${shown(fake)}`;
  const scale = svg("svg", {class: "scale", viewBox: "0 0 100 14", preserveAspectRatio: "none", role: "img", "aria-label": words},
    svg("rect", {class: "ground", width: 100, height: 6, y: 4}),
    svg("rect", {class: `fill ${file.verdict}`, width: 100 * file.p_fake, height: 6, y: 4}),
    svg("rect", {class: "limit", x: at(real), width: 1.2, height: 14}),
    svg("rect", {class: "limit", x: at(fake), width: 1.2, height: 14}));
  return [element("b", {text: shown(file.p_fake)}), scale, element("small", {text: words})];
}

function peopleOf(file) {
  if (!file.people || !file.n_found) return nothing();
  const faces = `${plural(file.n_faces, "face")} scored${file.n_found !== file.n_faces ? ` of ${file.n_found}` : ""}`;
  return [element("span", {text: file.people.length === 1 ? "1 person" : `${file.people.length} people`}), element("small", {text: faces})];
}

function remarksOf(file) {
  const texts = [file.error, file.reason, ...(file.remarks || [])].filter(Boolean);
  if (!texts.length) return nothing();
  if (texts.length === 1) return texts[0];
  return element("ul", {class: "remarks"}, ...texts.map(text => element("li", {text})));
}

// Order and filter. What a column sorts by; what has no such value comes last, either way.

const names = new Intl.Collator("en", {numeric: true, sensitivity: "base"});
const RANKS = {fake: 3, unclear: 2, real: 1};
const COLUMNS = {
  name: {of: item => item.path, words: ["from A to Z", "from Z to A"]},
  verdict: {of: item => RANKS[item.verdict], words: ["real first", "fake first"]},
  score: {of: item => typeof item.p_fake === "number" ? item.p_fake : undefined, words: ["lowest first", "highest first"]},
  people: {of: item => item.people && item.n_found ? item.people.length : undefined, words: ["fewest first", "most first"]},
};
const KINDS = {
  fake: item => item.verdict === "fake",
  unclear: item => item.verdict === "unclear",
  real: item => item.verdict === "real",
  none: item => !item.verdict && !isOpen(item),
  open: item => isOpen(item),
};
const isBusy = item => item.state === "queued" || item.state === "running";
const isOpen = item => isBusy(item) || item.state === "waiting" || item.state === "sending";

const view = {sort: "", isDescending: false, kind: "", name: "", ...recall(KEPT_VIEW)};
if (!(view.sort in COLUMNS)) view.sort = "";
if (!(view.kind in KINDS)) view.kind = "";

function recall(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) || {};
  } catch {
    return {};      // the browser keeps nothing for this page
  }
}

function keep(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch { /* then it is forgotten by a reload */ }
}

function compare(a, b) {
  const {of} = COLUMNS[view.sort] || {};
  if (of) {
    const [x, y] = [of(a), of(b)];
    if (x === undefined || y === undefined) {
      if (x !== y) return x === undefined ? 1 : -1;
    } else {
      const difference = typeof x === "string" ? names.compare(x, y) : x - y;
      if (difference) return view.isDescending ? -difference : difference;
    }
  }
  return a.position - b.position;
}

const isFiltered = () => Boolean(view.kind || view.name);
const isShown = item => (!view.kind || KINDS[view.kind](item)) && item.path.toLowerCase().includes(view.name.toLowerCase());

// Puts the rows of all items in order, and hides those that the filter leaves out. Returns how many
// are shown.
function arrange(items) {
  const focused = document.activeElement, ordered = [...items].sort(compare);
  let at = rows.firstElementChild;
  for (const item of ordered) {
    const row = findRow(item.key);   // one that was just added may not be drawn yet
    row.hidden = !isShown(item);
    if (row === at) at = at.nextElementSibling;
    else rows.insertBefore(row, at);
  }
  if (rows.contains(focused) && document.activeElement !== focused) focused.focus({preventScroll: true});
  return ordered.filter(isShown).length;
}

// A click on the wrong row would be the fault of a row that has just moved.
const isInUse = () => rows.matches(":hover") || rows.contains(document.activeElement);

function describeView(nShown, nAll) {
  const parts = [];
  if (isFiltered()) parts.push(`${nShown} of ${plural(nAll, "file")} shown`);
  if (view.sort) parts.push(`sorted by ${view.sort}, ${COLUMNS[view.sort].words[Number(view.isDescending)]}`);
  const text = parts.join("; ");
  return text && `${text[0].toUpperCase()}${text.slice(1)}.`;
}

function showView() {
  for (const head of document.querySelectorAll("th[data-sort]")) {
    if (head.dataset.sort === view.sort) head.setAttribute("aria-sort", view.isDescending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  $("kind").value = view.kind;
  if ($("named").value !== view.name) $("named").value = view.name;
  $("reset").hidden = !view.sort && !isFiltered();
}

// Tells of every change of the view that somebody makes.
function watchView(onChange) {
  const change = changes => {
    Object.assign(view, changes);
    keep(KEPT_VIEW, view);
    showView();
    onChange();
  };
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const sort = head.dataset.sort, isNew = view.sort !== sort;
      // Of names the first, of all else the most suspicious ones are looked for.
      change({sort, isDescending: isNew ? sort !== "name" : !view.isDescending});
    });
  }
  $("kind").addEventListener("change", event => change({kind: event.target.value}));
  $("named").addEventListener("input", event => change({name: event.target.value}));
  $("reset").addEventListener("click", () => {
    change({sort: "", isDescending: false, kind: "", name: ""});
    $("kind").focus();   // the button has gone
  });
  showView();
  return change;
}
