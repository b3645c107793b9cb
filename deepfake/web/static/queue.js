"use strict";
// The page with the queue: sends files, shows what becomes of them. Whatever a server or a file
// says is put in as text, never as HTML.

const UPLOADS_AT_ONCE = 4, POLL_MS = 1000, RETRY_MS = 3000;
const $ = id => document.getElementById(id);
const add = $("add"), rows = $("rows"), problem = $("problem");
const waiting = [];            // uploads that have not begun
const uploads = new Map();     // row key -> upload
const files = new Map();       // id -> file, as the server last told
let version = -1, sending = 0, polling = null, lost = false, nUploads = 0, lastSummary = "";

// The token has opened the session; it need not stand in the address, nor in the history.
if (location.search) history.replaceState(null, "", location.pathname);

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

function say(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const shown = value => value.toFixed(3);

// Uploads

function send(list) {
  const most = Number(add.dataset.maxFiles), largest = Number(add.dataset.maxBytes);
  const room = most - files.size - uploads.size;
  say("");
  if (!list.length) return;
  if (list.length > room) say(`${plural(list.length, "file")} are more than the ${room} that still have room; the first ${room} were taken. Remove some from the list.`);
  const model = $("model") ? $("model").value : "";
  for (const {file, name} of list.slice(0, Math.max(0, room))) {
    const upload = {key: `upload-${nUploads++}`, name, size: file.size, model, file, sent: 0, state: "waiting", error: ""};
    if (file.size > largest) Object.assign(upload, {state: "failed", error: "larger than this server takes"});
    uploads.set(upload.key, upload);
    if (upload.state === "waiting") waiting.push(upload);
  }
  draw();
  next();
}

function next() {
  while (sending < UPLOADS_AT_ONCE && waiting.length) start(waiting.shift());
}

function start(upload) {
  const request = new XMLHttpRequest(), form = new FormData();
  if (upload.model) form.append("model", upload.model);
  form.append("files", upload.file, upload.name);
  upload.request = request;
  upload.state = "sending";
  sending += 1;
  request.upload.addEventListener("progress", event => { upload.sent = event.loaded; drawUpload(upload); });
  request.addEventListener("loadend", () => {
    sending -= 1;
    if (request.status === 503) {          // busy for the moment
      upload.state = "waiting";
      setTimeout(() => { waiting.unshift(upload); next(); }, RETRY_MS);
    } else if (request.status === 202) {
      uploads.delete(upload.key);
      for (const file of JSON.parse(request.response).files) files.set(file.id, file);
      poll();
    } else if (upload.state === "sending") {
      upload.state = "failed";
      upload.error = reason(request);
    }
    draw();
    next();
  });
  request.open("POST", "/api/files");
  request.send(form);
  drawUpload(upload);
}

function reason(request) {
  if (!request.status) return "the connection broke off; is the server still running?";
  try {
    return JSON.parse(request.response).error;
  } catch {
    return `the server answered ${request.status}`;
  }
}

function dropUpload(upload) {
  upload.state = "dropped";
  const place = waiting.indexOf(upload);
  if (place >= 0) waiting.splice(place, 1);
  if (upload.request) upload.request.abort();
  uploads.delete(upload.key);
  draw();
}

async function walk(entry, path, found) {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    found.push({file, name: path + file.name});
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!part.length) return;
    for (const inner of part) await walk(inner, `${path}${entry.name}/`, found);
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map(item => item.webkitGetAsEntry && item.webkitGetAsEntry()).filter(Boolean);
  const plain = [...transfer.files];
  const found = [];
  if (entries.length) {
    try {
      for (const entry of entries) await walk(entry, "", found);
    } catch {
      say("A file or folder could not be read; check that you may open it.");
    }
  } else {
    for (const file of plain) found.push({file, name: file.name});
  }
  send(found.filter(({name}) => !name.split("/").pop().startsWith(".")));
}

// Asking

async function ask(method, path, body) {
  const options = {method, headers: body ? {"Content-Type": "application/json"} : {}, body: body && JSON.stringify(body)};
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  if (answer.status === 401) throw new Error("This page is no longer open: open the address that the server has printed.");
  const content = answer.status === 204 ? null : await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(content && content.error ? content.error : `The server answered ${answer.status}.`);
  return content;
}

async function act(method, path, body) {
  try {
    const answer = await ask(method, path, body);
    say("");
    return answer;
  } catch (error) {
    say(error.message);
    return undefined;
  }
}

let asking = false;
async function poll() {
  clearTimeout(polling);
  if (asking) { polling = setTimeout(poll, 100); return; }
  asking = true;
  try {
    const news = await ask("GET", `/api/queue?since=${version}`);
    if (lost) { lost = false; say(""); }
    version = news.version;
    for (const file of news.files) files.set(file.id, file);
    if (news.n_files !== files.size && version >= 0) {   // some were removed elsewhere
      const all = await ask("GET", "/api/queue");
      files.clear();
      for (const file of all.files) files.set(file.id, file);
      version = all.version;
    }
    draw(news);
  } catch (error) {
    lost = true;
    say(error.message);
  } finally {
    asking = false;
  }
  const busy = [...files.values()].some(isBusy);
  polling = setTimeout(poll, lost ? RETRY_MS : busy ? POLL_MS : 5 * POLL_MS);
}

const isBusy = file => file.state === "queued" || file.state === "running";

// Showing

function draw(news) {
  const keys = new Set([...files.keys(), ...uploads.keys()]);
  for (const row of [...rows.children]) if (!keys.has(row.dataset.key)) row.remove();
  for (const file of files.values()) drawFile(file);
  for (const upload of uploads.values()) drawUpload(upload);
  $("queue").hidden = keys.size === 0;
  const all = [...files.values()], busy = all.filter(isBusy).length, open = uploads.size;
  const done = all.length - busy;
  $("cancel-all").hidden = busy === 0;
  $("evidence").hidden = done === 0;
  $("overall").hidden = busy + open === 0;
  $("overall").max = Math.max(1, all.length + open);
  $("overall").value = done;
  if (!news && busy) return;   // the time left is only known from the server
  const counts = ["fake", "unclear", "real"].map(word => [all.filter(file => file.verdict === word).length, word]);
  const verdicts = counts.filter(([number]) => number).map(([number, word]) => `${number} ${word}`);
  const without = done - counts.reduce((sum, [number]) => sum + number, 0);
  if (without) verdicts.push(`${without} without an answer`);
  let text = busy + open ? `${done} of ${plural(all.length + open, "file")} done` : `${plural(done, "file")} done`;
  if (verdicts.length) text += `: ${verdicts.join(", ")}`;
  if (busy && news && news.time_left_s !== null) text += `; about ${duration(news.time_left_s)} left`;
  if (text !== lastSummary) $("summary").textContent = lastSummary = text;
}

function duration(seconds) {
  if (seconds < 60) return plural(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 3600) return plural(Math.round(seconds / 60), "minute");
  return plural(Math.round(seconds / 360) / 10, "hour");
}

const LABELS = ["", "File", "Verdict", "Score", "People", "Remarks", ""];

function rowOf(key) {
  let row = [...rows.children].find(one => one.dataset.key === key);
  if (!row) {
    // The roles stay where a narrow screen lays the table out as cards.
    row = element("tr", {"data-key": key, role: "row"});
    LABELS.forEach((label, number) => row.append(number === 1
      ? element("th", {scope: "row", role: "rowheader"}) : element("td", {role: "cell", "data-label": label})));
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

function button(word, name, act) {
  return element("button", {type: "button", class: "plain small", "data-act": word, "aria-label": `${word} ${name}`, text: word, on: {click: act}});
}

const nothing = () => element("span", {class: "soft", "data-nothing": true, text: "\u2013"});
const blank = () => element("span", {class: "thumb"});
const statusOf = (...parts) => element("span", {class: "state"}, ...parts);

function drawUpload(upload) {
  if (!uploads.has(upload.key)) return;
  const percent = upload.size ? Math.floor(100 * upload.sent / upload.size) : 0;
  fill(rowOf(upload.key), [upload.state, percent], () => {
    const failed = upload.state === "failed";
    const verdict = failed ? statusOf("not sent") : upload.state === "waiting" ? statusOf("waits to be sent")
      : statusOf(`sending, ${percent} %`, element("progress", {max: 100, value: percent, "aria-label": `Upload of ${upload.name}`}));
    return [blank(), upload.name, verdict, nothing(), nothing(), failed ? upload.error : nothing(),
      button(failed ? "Remove" : "Cancel", upload.name, () => dropUpload(upload))];
  });
}

function drawFile(file) {
  const {faces, ...state} = file;
  fill(rowOf(file.id), state, () => {
    const link = element("a", {href: `/file/${file.id}`, "data-act": "open", text: file.path});
    const thumbnail = file.has_thumbnail
      ? element("img", {class: "thumb", src: `/api/files/${file.id}/thumbnail`, alt: "", width: 64, height: 64, loading: "lazy"}) : blank();
    const busy = isBusy(file);
    const act = busy ? button("Cancel", file.path, () => cancel(file)) : button("Remove", file.path, () => remove(file));
    return [thumbnail, link, verdictOf(file), scoreOf(file), peopleOf(file), remarksOf(file), act];
  });
}

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

// What people do

async function cancel(file) {
  const changed = await act("POST", `/api/files/${file.id}/cancel`);
  if (changed) files.set(changed.id, changed);
  poll();
}

async function remove(file) {
  const row = rowOf(file.id), near = row.nextElementSibling || row.previousElementSibling;
  if (await act("DELETE", `/api/files/${file.id}`) === undefined) return;
  files.delete(file.id);
  draw();
  ((near && near.querySelector("a, button")) || $("files")).focus();
  poll();
}

$("files").addEventListener("change", event => {
  send([...event.target.files].map(file => ({file, name: file.name})));
  event.target.value = "";
});
$("folder").addEventListener("change", event => {
  const list = [...event.target.files].filter(file => !file.name.startsWith("."));
  send(list.map(file => ({file, name: file.webkitRelativePath || file.name})));
  event.target.value = "";
});
$("cancel-all").addEventListener("click", async () => { await act("POST", "/api/cancel"); poll(); });
$("remove-all").addEventListener("click", async () => {
  for (const upload of [...uploads.values()]) dropUpload(upload);
  if (await act("DELETE", "/api/files") === undefined) return;
  files.clear();
  draw();
  $("files").focus();
});
if ($("model")) $("model").addEventListener("change", event => {
  $("about").textContent = event.target.selectedOptions[0].dataset.about;
});
if ($("path-form")) $("path-form").addEventListener("submit", async event => {
  event.preventDefault();
  const model = $("model") ? $("model").value : "";
  const added = await act("POST", "/api/paths", {path: $("path").value, model});
  if (!added) return;
  for (const file of added.files) files.set(file.id, file);
  $("path").value = "";
  draw();
  poll();
});

// The whole page takes files, so that a drop beside the field does not open the file instead.
let depth = 0;
addEventListener("dragenter", event => { event.preventDefault(); depth += 1; $("drop").classList.add("over"); });
addEventListener("dragleave", () => { depth -= 1; if (depth <= 0) $("drop").classList.remove("over"); });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => {
  event.preventDefault();
  depth = 0;
  $("drop").classList.remove("over");
  dropped(event.dataTransfer);
});
addEventListener("beforeunload", event => { if (uploads.size && sending) event.preventDefault(); });
poll();
