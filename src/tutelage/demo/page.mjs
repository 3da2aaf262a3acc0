// One image is asked about at a time: the student here, as soon as the image changes; the teacher, and the times, once
// it rests.

import * as ort from "/vendor/ort.wasm.min.mjs";
import { Sheet, paint } from "/canvas.mjs";

const REST = 180; // ms without a change until the teacher is asked and calls are timed
const FEWEST = 10, MOST = 200, ENOUGH = 250; // calls that are timed, and ms after which they are enough
const at = (id) => document.getElementById(id);
const words = Object.fromEntries(
  [...at("words").content.querySelectorAll("[data-word]")].map((one) => [one.dataset.word, one.textContent]),
);
const say = (key, ...gaps) => words[key].replace(/\{(\d)\}/g, (_, number) => gaps[number]);

let facts, sheet, pixels;
let session; // the promise of the one that was chosen
let turn = 0; // of the image now shown; an answer to an earlier one is dropped
let rest = 0;
let queue = Promise.resolve(); // a session answers one question at a time
const best = {}; // "student", "teacher" -> the class each says
const sessions = new Map();

function trouble(text) {
  at("trouble").textContent = text;
  at("trouble").hidden = !text;
}

// ---- asking ---------------------------------------------------------------------------------------------------------

function open(key) {
  if (!sessions.has(key)) {
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    const made = fetch(`/student/${key}`).then(async (answer) => {
      if (!answer.ok) throw new Error(answer.statusText);
      return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), options);
    });
    made.catch(() => sessions.delete(key)); // another try may do better
    sessions.set(key, made);
  }
  return sessions.get(key);
}

// The logits of an image; nothing where another one was taken up before its turn came.
function ask(values, mine) {
  const asked = queue.then(async () => {
    const own = await session;
    if (mine !== turn) return null;
    const input = new ort.Tensor("float32", values, [1, ...facts.shape]);
    return (await own.run({ input })).logits.data;
  });
  queue = asked.catch(() => {});
  return asked;
}

async function student(mine) {
  const logits = await ask(pixels, mine);
  if (!logits || mine !== turn) return;
  answer("student", [...logits].slice(0, facts.classes.length));
}

async function time(mine) {
  const values = pixels, spent = [];
  let whole = 0;
  while (spent.length < FEWEST || (spent.length < MOST && whole < ENOUGH)) {
    const begun = performance.now();
    await ask(values, mine);
    spent.push(performance.now() - begun);
    whole += spent.at(-1);
    if (mine !== turn) return;
  }
  spent.sort((a, b) => a - b);
  const middle = spent.length >> 1;
  took("student", spent.length % 2 ? spent[middle] : (spent[middle - 1] + spent[middle]) / 2, say("calls", spent.length));
}

async function post(path, body) {
  const headers = { "Content-Type": "application/octet-stream" };
  let found;
  try {
    found = await fetch(path, { method: "POST", headers, body });
  } catch {
    throw new Error(words.unreached);
  }
  if (!found.ok) throw new Error((await found.json()).error);
  return found;
}

async function teacher(mine) {
  const found = await (await post("/teacher", pixels)).json();
  if (mine !== turn) return;
  answer("teacher", found.logits);
  took("teacher", found.ms, say("served", found.calls));
}

// ---- showing --------------------------------------------------------------------------------------------------------

function answer(whose, logits) {
  const most = Math.max(...logits);
  const parts = logits.map((one) => Math.exp(one - most));
  const sum = parts.reduce((a, b) => a + b, 0);
  const order = logits.map((_, index) => index).sort((a, b) => logits[b] - logits[a] || a - b);
  [...at(`${whose}-top`).children].forEach((line, place) => {
    const share = place < order.length ? parts[order[place]] / sum : 0;
    line.hidden = place >= order.length;
    line.querySelector(".name").textContent = facts.classes[order[place]] ?? "";
    line.querySelector(".share").textContent = `${(100 * share).toFixed(1)} %`;
    line.querySelector("i").style.width = `${100 * share}%`;
  });
  at(whose).dataset.logits = JSON.stringify(logits);
  best[whose] = order[0];
  verdict();
}

function took(whose, milliseconds, how) {
  const digits = milliseconds < 1 ? 3 : milliseconds < 100 ? 2 : 0;
  at(`${whose}-time`).textContent = `${milliseconds.toFixed(digits)} ms`;
  at(`${whose}-how`).textContent = how;
  at(whose).setAttribute("aria-busy", "false");
}

function verdict() {
  const [mine, theirs] = [best.student, best.teacher].map((one) => facts.classes[one]);
  const both = mine !== undefined && theirs !== undefined;
  const same = both && best.student === best.teacher;
  at("verdict").className = `card verdict tone-${!both ? "none" : same ? "gain" : "worse"}`;
  at("said").textContent = same ? say("same", mine) : both ? say("differ", mine, theirs) : say("alone", mine ?? "…");
}

function forget() {
  for (const whose of ["student", "teacher"]) {
    delete best[whose];
    delete at(whose).dataset.logits;
    for (const line of at(`${whose}-top`).children) {
      for (const part of line.querySelectorAll(".name, .share")) part.textContent = "";
      line.querySelector("i").style.width = "0";
    }
    at(`${whose}-time`).textContent = "–";
    at(`${whose}-how`).textContent = "";
    at(whose).setAttribute("aria-busy", "false");
  }
  at("verdict").className = "card verdict tone-none";
  at("said").textContent = words.empty;
}

// Take up an image: pixels (C, H, W) in [0, 1].
function take(found, { truth = "", pressed = null, empty = false } = {}) {
  pixels = found;
  turn += 1;
  document.body.dataset.turn = turn;
  clearTimeout(rest);
  trouble("");
  paint(at("seen").getContext("2d", { willReadFrequently: true }), pixels, facts.shape);
  for (const id of ["truth", "also"]) at(id).textContent = truth;
  for (const one of document.querySelectorAll(".strip button")) {
    one.setAttribute("aria-pressed", String(one === pressed));
  }
  at("hint").hidden = true;
  if (empty) return forget();
  const mine = turn;
  delete best.teacher;
  for (const whose of ["student", "teacher"]) at(whose).setAttribute("aria-busy", "true");
  const failed = (error) => mine === turn && trouble(error.message);
  student(mine).catch(failed);
  rest = setTimeout(() => {
    teacher(mine).catch(failed);
    time(mine).catch(failed);
  }, REST);
}

// ---- where images come from -----------------------------------------------------------------------------------------

async function upload(file) {
  if (!file) return;
  if (file.size > facts.most_bytes) return trouble(say("large", facts.most_bytes / 2 ** 20));
  try {
    const found = await post("/image", await file.arrayBuffer());
    const values = new Float32Array(await found.arrayBuffer());
    sheet.show(values);
    take(values);
    const light = border(values) > 0.5;
    at("hint").textContent = words[facts.light_ground ? "light" : "dark"];
    at("hint").hidden = light === facts.light_ground;
  } catch (error) {
    trouble(error.message);
  }
}

// The mean of what lies at the edge of an image.
function border(values) {
  const [channels, height, width] = facts.shape;
  let sum = 0, count = 0;
  values.forEach((value, index) => {
    const row = Math.floor(index / width) % height, column = index % width;
    if (row && column && row < height - 1 && column < width - 1) return;
    sum += value;
    count += 1;
  });
  return sum / count;
}

function strip(tests) {
  const size = facts.shape.reduce((a, b) => a * b, 1), name = (one) => facts.classes[one];
  for (const list of document.querySelectorAll(".strip")) {
    for (let index = Number(list.dataset.from); index < Number(list.dataset.to); index++) {
      const one = facts.picked[index], own = tests.slice(index * size, (index + 1) * size);
      const button = document.createElement("button"), thumb = document.createElement("canvas");
      [thumb.height, thumb.width] = facts.shape.slice(1);
      paint(thumb.getContext("2d"), own, facts.shape);
      thumb.setAttribute("aria-hidden", "true");
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-label", say("thumb", name(one.true), name(one.teacher), name(one.student)));
      button.append(thumb, name(one.true));
      button.addEventListener("click", () => {
        sheet.show(own);
        take(own, { truth: say("truth", name(one.true)), pressed: button });
      });
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
    }
  }
}

function controls() {
  const [, height, width] = facts.shape, pen = at("pen");
  pen.max = Math.max(2, Math.round(Math.max(height, width) / 5));
  pen.value = sheet.pen = Math.max(1, Math.round(Math.max(height, width) / 12));
  pen.addEventListener("input", () => (sheet.pen = Number(pen.value)));
  at("rubber").addEventListener("change", (event) => (sheet.erases = event.target.checked));
  const colour = at("paint");
  if (colour) {
    colour.value = sheet.ink;
    colour.addEventListener("input", () => (sheet.ink = colour.value));
  }
  at("clear").addEventListener("click", () => {
    sheet.clear();
    take(sheet.read(), { empty: true });
  });
  at("invert").addEventListener("click", () => {
    const turned = pixels.map((value) => 1 - value);
    sheet.show(turned);
    take(turned);
  });
  at("upload").addEventListener("change", (event) => {
    upload(event.target.files[0]);
    event.target.value = ""; // the same file may be chosen again
  });
  const paper = document.querySelector(".paper");
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    paper.addEventListener(kind, (event) => {
      event.preventDefault();
      paper.classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop") upload(event.dataTransfer.files[0]);
    });
  }
  for (const one of document.querySelectorAll("[name=format]")) {
    one.addEventListener("change", () => {
      choose(one.value).then(() => best.student !== undefined && take(pixels, shown()), () => {});
    });
  }
}

// What is known of the image now shown, to take it up again.
function shown() {
  return { truth: at("truth").textContent, pressed: document.querySelector(".strip [aria-pressed=true]") };
}

async function choose(key) {
  session = open(key);
  try {
    await session;
  } catch (error) {
    trouble(say("unstarted", error.message));
    throw error;
  }
}

async function start() {
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = {
    mjs: "/vendor/ort-wasm-simd-threaded.mjs",
    wasm: "/vendor/ort-wasm-simd-threaded.wasm",
  };
  facts = await (await fetch("/facts.json")).json();
  const [, height, width] = facts.shape;
  [at("seen").height, at("seen").width] = [height, width];
  let waiting = false;
  sheet = new Sheet(at("paper"), at("cross"), facts.shape, facts.light_ground, () => {
    if (waiting) return;
    waiting = true; // of many moves between two frames one is asked about
    requestAnimationFrame(() => {
      waiting = false;
      take(sheet.read());
    });
  });
  pixels = sheet.read();
  const chosen = choose(document.querySelector("[name=format]:checked").value);
  controls();
  strip(new Float32Array(await (await fetch("/tests")).arrayBuffer()));
  await chosen;
  const first = document.querySelector(".strip button");
  if (!turn && first) first.click(); // unless somebody was faster
  else if (!turn) take(pixels, { empty: true });
  document.body.dataset.state = "ready";
}

start().catch((error) => {
  if (at("trouble").hidden) trouble(say("unstarted", error.message));
  document.body.dataset.state = "failed";
});
