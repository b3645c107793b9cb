"use strict";
// The page with the queue: sends files, asks what becomes of them. The table shows it.

const UPLOADS_AT_ONCE = 4, POLL_MS = 1000, RETRY_MS = 3000, ANNOUNCE_MS = 15000, KEPT_MODEL = "deepfake-model";
const add = $("add"), problem = $("problem");
const waiting = [];            // uploads that have not begun
const uploads = new Map();     // row key -> upload
const files = new Map();       // id -> file, as the server last told
let version = -1, sending = 0, polling = null, lost = false, nUploads = 0, lastSummary = "", lastView = "", announced = 0;

// The token has opened the session; it need not stand in the address, nor in the history.
if (location.search) history.replaceState(null, "", location.pathname);

function say(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

// To who cannot see it. Of what changes again and again, only now and then.
function announce(text, isNews = true) {
  if (!isNews && Date.now() - announced < ANNOUNCE_MS) return;
  announced = Date.now();
  $("announcement").textContent = text;
}

// Uploads

async function send(list) {
  await known;               // where the list goes on
  const most = Number(add.dataset.maxFiles), largest = Number(add.dataset.maxBytes);
  const coming = [...uploads.values()].filter(upload => upload.state !== "failed").length;
  const room = Math.max(0, most - files.size - coming);
  say("");
  if (!list.length) return;
  if (list.length > room) say(`${plural(list.length, "file")} are more than the ${room} that still have room; the first ${room} were taken. Remove some from the list.`);
  const model = $("model") ? $("model").value : "";
  let position = 1 + Math.max(-1, ...items().map(item => item.position));
  for (const {file, name} of list.slice(0, room)) {
    const upload = {key: `upload-${nUploads++}`, path: name, position: position++, size: file.size, model, file, sent: 0, state: "waiting", error: ""};
    if (file.size > largest) Object.assign(upload, {state: "failed", error: "larger than this server takes"});
    uploads.set(upload.key, upload);
    if (upload.state === "waiting") waiting.push(upload);
  }
  if (isFiltered()) changeView({kind: "", name: ""});   // what has come must be seen
  draw();
  next();
}

function next() {
  while (sending < UPLOADS_AT_ONCE && waiting.length) start(waiting.shift());
}

function start(upload) {
  const request = new XMLHttpRequest(), form = new FormData();
  if (upload.model) form.append("model", upload.model);
  form.append("position", upload.position);
  form.append("files", upload.file, upload.path);
  upload.request = request;
  upload.state = "sending";
  sending += 1;
  request.upload.addEventListener("progress", event => { upload.sent = event.loaded; drawUpload(upload); });
  request.addEventListener("loadend", () => {
    sending -= 1;
    if (request.status === 503) {          // busy for the moment
      upload.state = "waiting";
      setTimeout(() => {
        if (!uploads.has(upload.key)) return;    // cancelled meanwhile
        waiting.unshift(upload);
        next();
      }, RETRY_MS);
    } else if (request.status === 202) {
      uploads.delete(upload.key);
      JSON.parse(request.response).files.forEach(learn);
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

function sendAgain(upload) {
  Object.assign(upload, {state: "waiting", sent: 0, error: ""});
  waiting.push(upload);
  draw();
  next();
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

function learn(file) {
  files.set(file.id, {...file, key: file.id});
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
    news.files.forEach(learn);
    if (news.n_files !== files.size && version >= 0) {   // some were removed elsewhere
      const all = await ask("GET", "/api/queue");
      files.clear();
      all.files.forEach(learn);
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

// Showing

const items = () => [...files.values(), ...uploads.values()];

function draw(news) {
  const keys = new Set([...files.keys(), ...uploads.keys()]);
  for (const key of [...rowOf.keys()]) if (!keys.has(key)) removeRow(key);
  for (const file of files.values()) drawFile(file);
  for (const upload of uploads.values()) drawUpload(upload);
  $("queue").hidden = keys.size === 0;
  $("filters").hidden = keys.size < 2 && !isFiltered();
  drawView(isInUse());
  drawSummary(news);
}

function drawView(isLeft) {
  if (isLeft) return;
  const all = items(), text = describeView(arrange(all), all.length);
  $("view").hidden = !text;
  if (text !== lastView) $("view").textContent = lastView = text;
}

function drawSummary(news) {
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
  // Of files that are not sent yet, the server knows nothing.
  if (busy && news && news.time_left_s !== null) text += `; about ${duration(news.time_left_s * (busy + open) / busy)} left`;
  if (text === lastSummary) return;
  $("summary").textContent = lastSummary = text;
  announce(text, busy + open === 0);
}

function duration(seconds) {
  if (seconds < 60) return plural(Math.max(1, Math.round(seconds)), "second");
  if (seconds < 3600) return plural(Math.round(seconds / 60), "minute");
  return plural(Math.round(seconds / 360) / 10, "hour");
}

function drawUpload(upload) {
  if (!uploads.has(upload.key)) return;
  const percent = upload.size ? Math.floor(100 * upload.sent / upload.size) : 0;
  fill(findRow(upload.key), [upload.state, percent], () => {
    const failed = upload.state === "failed";
    const verdict = failed ? statusOf("not sent") : upload.state === "waiting" ? statusOf("waits to be sent")
      : statusOf(`sending, ${percent} %`, element("progress", {max: 100, value: percent, "aria-label": `Upload of ${upload.path}`}));
    const acts = [button(failed ? "Remove" : "Cancel", upload.path, () => dropUpload(upload))];
    if (failed && upload.request) acts.unshift(button("Send again", upload.path, () => sendAgain(upload)), " ");
    return [blank(), upload.path, verdict, nothing(), nothing(), failed ? upload.error : nothing(), acts];
  });
}

const modelNames = new Map($("model") ? [...$("model").options].map(one => [one.value, one.textContent]) : []);

function drawFile(file) {
  const {faces, ...state} = file;
  fill(findRow(file.id), state, () => {
    const name = [element("a", {href: `/file/${file.id}`, "data-act": "open", text: file.path})];
    if (modelNames.size) name.push(element("small", {text: modelNames.get(file.model) || "a model that is not offered any more"}));
    const thumbnail = file.has_thumbnail
      ? element("img", {class: "thumb", src: `/api/files/${file.id}/thumbnail`, alt: "", width: 64, height: 64, loading: "lazy"}) : blank();
    const act = isBusy(file) ? button("Cancel", file.path, () => cancel(file)) : button("Remove", file.path, () => remove(file));
    return [thumbnail, name, verdictOf(file), scoreOf(file), peopleOf(file), remarksOf(file), act];
  });
}

// What people do

async function cancel(file) {
  const changed = await act("POST", `/api/files/${file.id}/cancel`);
  if (changed) learn(changed);
  poll();
}

async function remove(file) {
  const isThere = row => row && !row.hidden, row = findRow(file.id);
  const near = [row.nextElementSibling, row.previousElementSibling].find(isThere);
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
  const all = plural(files.size + uploads.size, "file");
  if (!confirm(`Remove ${all} and their answers from the server? This cannot be undone.`)) return;
  for (const upload of [...uploads.values()]) dropUpload(upload);
  if (await act("DELETE", "/api/files") === undefined) return;
  files.clear();
  draw();
  $("files").focus();
});
if ($("model")) {
  const tell = () => { $("about").textContent = $("model").selectedOptions[0].dataset.about; };
  const {key} = recall(KEPT_MODEL);
  if (modelNames.has(key)) $("model").value = key;
  $("model").addEventListener("change", () => { keep(KEPT_MODEL, {key: $("model").value}); tell(); });
  tell();
}
if ($("path-form")) $("path-form").addEventListener("submit", async event => {
  event.preventDefault();
  const model = $("model") ? $("model").value : "";
  const added = await act("POST", "/api/paths", {path: $("path").value, model});
  if (!added) return;
  added.files.forEach(learn);
  $("path").value = "";
  if (isFiltered()) changeView({kind: "", name: ""});
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
const changeView = watchView(() => {
  drawView(false);
  announce(lastView || "All files shown, as they were added.");
});
const known = poll();
