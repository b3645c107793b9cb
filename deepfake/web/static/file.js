"use strict";
// The page of one file: boxes over the picture or the video, jumps, the explanation.

const $ = id => document.getElementById(id);
const {file: id, state, explanation} = document.body.dataset;
const one = `/api/files/${id}`, SVG = "http://www.w3.org/2000/svg", POLL_MS = 1000;
const frames = new Map([...document.querySelectorAll(".frame")].map(item => [Number(item.dataset.frame), item]));
const video = $("video"), still = $("still"), boxes = $("boxes");
let faces = [], times = [], shownFrame = null, limits = null, isUnclear = false, deciders = new Set(), isTurnedBack = false;

async function ask(method = "GET", path = one) {
  let answer;
  try {
    answer = await fetch(path, {method});
  } catch {
    throw new Error("The server does not answer; is it still running?");
  }
  const content = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(content.error || `The server answered ${answer.status}.`);
  return content;
}

function write(id, text) {
  const place = $(id);
  if (place && place.textContent !== text) place.textContent = text;
}

if (state === "queued" || state === "running") {
  const waits = $("waiting").textContent;
  const wait = async () => {
    try {
      const file = await ask();
      if (file.state !== state) return location.reload();
      write("waiting", waits);
    } catch (error) {
      write("waiting", `${error.message} This page asks again.`);
    }
    setTimeout(wait, POLL_MS);
  };
  setTimeout(wait, POLL_MS);
} else if (boxes || $("explain")) {
  begin();
}

async function begin() {
  let file;
  try {
    file = await ask();
  } catch (error) {
    for (const place of ["stage-note", "explain-state"]) write(place, `${error.message} Load this page again.`);
    return;
  }
  faces = file.faces || [];
  limits = file.limits;
  isUnclear = file.verdict === "unclear";
  deciders = new Set((file.people || []).filter(one => one.p_fake === file.p_fake).map(one => one.person));
  times = [...new Map(faces.map(face => [face.frame_index, face.time_s]))].sort((a, b) => a[1] - b[1]);
  if (boxes) {
    if (video) followVideo();
    else drawBoxes(frames.size ? [...frames.keys()][0] : (faces[0] || {}).frame_index);
  }
  for (const item of document.querySelectorAll(".jump")) {
    item.addEventListener("click", () => jump(Number(item.dataset.frame), Number(item.dataset.time)));
  }
  if ($("curve")) followCurve($("curve"));
  if ($("explain")) showExplanation(file.explanation, file.explanation_error);
}

// Boxes

function verdictOf(face) {
  const own = face.p_fake >= limits[1] ? "fake" : face.p_fake <= limits[0] ? "real" : "unclear";
  // A file may be unclear although a face is beyond a limit: that one is unlike all training faces.
  return isUnclear && (own === "fake" || deciders.has(face.person)) ? "unclear" : own;
}

function drawBoxes(frame, turnBack = isTurnedBack) {
  boxes.replaceChildren();
  isTurnedBack = turnBack;
  shownFrame = frame;
  for (const item of document.querySelectorAll(".jump")) {
    item.toggleAttribute("data-current", Number(item.dataset.frame) === frame);
  }
  if (!limits) return;
  const width = boxes.viewBox.baseVal.width, height = boxes.viewBox.baseVal.height;
  // At least as large as the text of the page, however small the picture is shown.
  const size = Math.max(width / 45, 13 * width / (boxes.getBoundingClientRect().width || width));
  for (const face of faces.filter(face => face.frame_index === frame)) {
    let [x0, y0, x1, y1] = face.box_xyxy;
    if (turnBack) [x0, y0, x1, y1] = [width - x1, height - y1, width - x0, height - y0];
    const group = document.createElementNS(SVG, "g"), verdict = verdictOf(face);
    for (const css of ["rim", verdict]) {
      const box = document.createElementNS(SVG, "rect");
      Object.entries({x: x0, y: y0, width: x1 - x0, height: y1 - y0, class: css}).forEach(([name, value]) => box.setAttribute(name, value));
      group.append(box);
    }
    const label = document.createElementNS(SVG, "text");
    label.textContent = `${face.person + 1}: ${face.p_fake.toFixed(2)} ${verdict}`;
    Object.entries({x: Math.max(0, x0), y: y0 > 1.4 * size ? y0 - 0.4 * size : Math.min(height - 0.2 * size, y1 + size), "stroke-width": size / 4}).forEach(([name, value]) => label.setAttribute(name, value));
    label.style.fontSize = `${size}px`;   // stronger than the size that charts have
    group.append(label);
    boxes.append(group);
  }
}

addEventListener("resize", () => { if (boxes && shownFrame !== null) drawBoxes(shownFrame); });

function showStill(frame) {
  const item = frames.get(frame);
  if (item) {
    still.src = `${one}/frames/${frame}`;
    still.alt = `The frame at ${Number(item.dataset.time).toFixed(1)} s; boxes are drawn over its faces`;
    boxes.setAttribute("viewBox", `0 0 ${item.dataset.width} ${item.dataset.height}`);
  }
  drawBoxes(frame, false);
}

function jump(frame, time) {
  if (video && !video.hidden) {
    video.pause();
    video.currentTime = time;
  } else if (frames.size) {
    showStill(frame);
  } else {
    drawBoxes(frame);
  }
  mark(time);
  if (frames.size) {
    $("stage").scrollIntoView({block: "nearest", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth"});
    write("stage-note", `At ${time.toFixed(1)} s.`);
  }
}

// The nearest scored frame, if it is so near that faces have hardly moved since.
function nearest(time) {
  let best = null;
  times.forEach(([frame, at], place) => {
    const gap = Math.min(at - (times[place - 1] || [0, -Infinity])[1], (times[place + 1] || [0, Infinity])[1] - at);
    const near = Math.abs(at - time);
    if (near <= Math.min(gap / 2, 0.15) + 0.02 && (!best || near < best[1])) best = [frame, near];
  });
  return best ? best[0] : null;
}

function followVideo() {
  const follow = () => {
    if (video.hidden) return;
    const frame = nearest(video.currentTime), item = frames.get(frame);
    if (frame !== shownFrame) drawBoxes(frame, Boolean(item && item.dataset.turned));
    mark(video.currentTime);
  };
  const tick = () => { follow(); if (!video.paused) requestAnimationFrame(tick); };
  video.addEventListener("play", tick);
  for (const event of ["timeupdate", "seeked", "loadeddata"]) video.addEventListener(event, follow);
  follow();
  const refuse = () => {
    video.pause();
    video.hidden = true;
    still.hidden = false;
    showStill([...frames.keys()][0]);
    write("stage-note", "This browser does not play the video; these are its scored frames.");
  };
  // Of a codec that it does not know it may play the sound alone.
  const look = () => { if (!video.videoWidth) refuse(); };
  video.addEventListener("error", refuse);
  video.addEventListener("loadedmetadata", look);
  if (video.error) refuse();
  else if (video.readyState) look();
}

// The curve: a click is a time. With the keyboard, the frames and faces do the same.

function followCurve(curve) {
  const drawing = curve.querySelector("svg"), {left, right, last} = curve.dataset;
  drawing.addEventListener("click", event => {
    const box = drawing.getBoundingClientRect(), view = drawing.viewBox.baseVal;
    const at = (event.clientX - box.left) * view.width / box.width;
    const time = Math.min(Math.max((at - left) / (right - left), 0), 1) * last;
    const closest = times.reduce((a, b) => Math.abs(b[1] - time) < Math.abs(a[1] - time) ? b : a);
    if (video && !video.hidden) jump(closest[0], time);
    else jump(closest[0], closest[1]);
  });
}

function mark(time) {
  const curve = $("curve");
  if (!curve) return;
  const drawing = curve.querySelector("svg"), {left, right, last} = curve.dataset;
  let line = drawing.querySelector(".now");
  if (!line) {
    line = document.createElementNS(SVG, "line");
    line.setAttribute("class", "now");
    drawing.append(line);
  }
  const x = Number(left) + Math.min(1, time / last) * (right - left);
  Object.entries({x1: x, x2: x, y1: 8, y2: drawing.viewBox.baseVal.height - 38}).forEach(([name, value]) => line.setAttribute(name, value));
}

// The explanation

const WORDS = {
  none: "Saliency maps show which parts of the face the score depends on. They are checked, and shown only if they pass. It takes a while.",
  queued: "It waits for its turn.",
  running: "It is being made ...",
  done: "It is ready.",
  cancelled: "It was cancelled.",
};

function showExplanation(now, error) {
  write("explain-state", now === "failed" ? `It could not be made: ${error}.` : WORDS[now]);
  $("explain-button").hidden = !["none", "failed", "cancelled"].includes(now);
  $("explain-link").hidden = now !== "done";
  if (now === "queued" || now === "running") setTimeout(followExplanation, POLL_MS);
}

async function followExplanation() {
  try {
    const file = await ask();
    showExplanation(file.explanation, file.explanation_error);
  } catch (error) {
    write("explain-state", error.message);
    setTimeout(followExplanation, POLL_MS);
  }
}

if ($("explain-button")) $("explain-button").addEventListener("click", async () => {
  try {
    const file = await ask("POST", `${one}/explanation`);
    showExplanation(file.explanation, file.explanation_error);
  } catch (error) {
    write("explain-state", error.message);
  }
});
