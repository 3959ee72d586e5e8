// The measuring loop of a page: what runtime/measure.py does in a process. Times are milliseconds.
//
// A page's clock is coarse, 5 µs in steps where the page is isolated, so calls that are short against it are timed
// several times in a row, and the samples say how many times.

import { engine, load } from "/answer.js";

const WINDOW = 20;
const STEADY_WITHIN = 0.05;
const MAX_WINDOWS = 15;
const WARM_MS = 2000; // at least: running scripts and WebAssembly are compiled again, and calls are 10 to 30 % slower
const LEAST_STEPS = 100; // of the clock, that one sample must take
const LONGEST_GROUP = 1000;
const LEAST_MS = 250; // of the timed part, so that it can be told what other programs did meanwhile
const WIDTH = 128; // of the matrices whose product is the reference: each takes 128 kB and stays in the second cache
const REFERENCES = 40; // of about 2 ms each

let request;
let texts;
let answer;
let group = 1;

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Whether the 95 % interval of the median, by order statistics, reaches no further than a share of it to either side:
// `narrow` of the runtime.
function narrow(values, within) {
  const low = Math.floor(values.length / 2 - 0.98 * Math.sqrt(values.length));
  if (low < 1) return false;
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[values.length - low] - sorted[low - 1] <= 2 * within * median(values);
}

function step() {
  let least = Infinity;
  for (let tries = 0; tries < 20; tries += 1) {
    const before = performance.now();
    let now = before;
    while (now === before) now = performance.now();
    least = Math.min(least, now - before);
  }
  return least;
}

async function once(rows) {
  const started = performance.now();
  for (let call = 0; call < group; call += 1) await answer(rows);
  return (performance.now() - started) / group;
}

async function singles(rows) {
  const found = [];
  for (const row of rows) found.push(await once([row]));
  return found;
}

const sample = () => Array.from({ length: WINDOW }, (_, at) => texts[at % texts.length]);

// So long as the engine is compiled again, and until the medians of two windows in a row agree.
async function warmUp() {
  const started = performance.now();
  const over = limit(request.limitMs);
  const compiled = limit(Math.min(WARM_MS, request.limitMs));
  let before = NaN;
  let tried = 0;
  for (let windows = 1; ; windows += 1) {
    const now = median(await singles(sample()));
    if (compiled()) tried += 1;
    const steady = tried > 0 && Math.abs(now - before) <= STEADY_WITHIN * before;
    if (steady || tried >= MAX_WINDOWS || (windows > 1 && over())) {
      return { typical: now, found: { warm_up_calls: windows * WINDOW, warm_up_ms: performance.now() - started, steady } };
    }
    before = now;
  }
}

function limit(milliseconds) {
  const started = performance.now();
  return () => performance.now() - started >= milliseconds;
}

async function ready() {
  const started = performance.now();
  await engine(request.threads);
  return { engine_ms: performance.now() - started, isolated: crossOriginIsolated, clock_step_ms: step() };
}

async function loaded() {
  const started = performance.now();
  answer = await load(request.model);
  return { load_ms: performance.now() - started };
}

// Loads and warms up. Milliseconds of a page begin when the visitor asks for it, so its age is the cold start.
async function prepare() {
  const found = { ...(await ready()), ...(await loaded()) };
  const before = performance.now();
  await answer(texts.slice(0, 1));
  const first = performance.now();
  Object.assign(found, { first_answer_ms: first - before, cold_start_ms: first });
  const warm = await warmUp();
  const least = LEAST_STEPS * found.clock_step_ms;
  group = Math.min(LONGEST_GROUP, Math.max(1, Math.ceil(least / Math.max(warm.typical, found.clock_step_ms))));
  return { ...found, ...warm.found, calls_a_sample: group, anchors_ms: await singles(sample()) };
}

// All texts, again and again, so that each counts alike: the limit of time ends only the first pass among them, and a
// pass that would not end in time is not begun.
async function passed() {
  const { within, limitMs } = request;
  const started = performance.now();
  const found = [];
  for (let passes = 1; ; passes += 1) {
    for (const text of texts) {
      found.push(await once([text]));
      if (within !== null && passes === 1 && performance.now() - started >= limitMs) {
        return { latency_ms: found, ended_by: "time" };
      }
    }
    if (within === null) return { latency_ms: found, ended_by: "once" };
    const spent = performance.now() - started;
    if (spent >= LEAST_MS && narrow(found, within)) return { latency_ms: found, ended_by: "interval" };
    if ((spent * (passes + 1)) / passes > limitMs) return { latency_ms: found, ended_by: "time" };
  }
}

// With the same texts as before, at once: threads that nothing was asked of for a while take long to begin again.
async function timed() {
  return { ...(await passed()), after_ms: await singles(sample()) };
}

async function finish() {
  const { batchRows, within, limitMs } = request;
  group = 1;
  const batches = [];
  for (let at = 0; at + batchRows <= texts.length; at += batchRows) batches.push(texts.slice(at, at + batchRows));
  if (!batches.length) batches.push(texts);
  for (const batch of batches.slice(0, 2)) await answer(batch);
  const over = limit(within === null ? Infinity : limitMs);
  const throughput = [];
  for (const batch of batches) {
    throughput.push(batch.length / ((await once(batch)) / 1e3));
    if (over()) break;
  }
  return { throughput_rows_s: throughput, reference_ms: reference() };
}

// How long a fixed piece of work takes that no bundle changes: reference.py of the runtime, as far as a page can. The
// least of the times is the machine's speed; the first ones, before the script is compiled, are never the least.
function reference() {
  const a = Float64Array.from({ length: WIDTH * WIDTH }, (_, at) => Math.sin(at));
  const found = [];
  for (let calls = 0; calls < REFERENCES; calls += 1) {
    const started = performance.now();
    multiplied(a, a);
    found.push(performance.now() - started);
  }
  return found;
}

function multiplied(a, b) {
  const product = new Float64Array(WIDTH * WIDTH);
  for (let row = 0; row < WIDTH; row += 1) {
    for (let middle = 0; middle < WIDTH; middle += 1) {
      const factor = a[row * WIDTH + middle];
      for (let column = 0; column < WIDTH; column += 1) {
        product[row * WIDTH + column] += factor * b[middle * WIDTH + column];
      }
    }
  }
  return product;
}

// One row at a time, as the device answers them. Readers give spans, classifiers logits.
async function answers() {
  const found = [];
  for (const text of texts) found.push(Array.from((await answer([text]))[0]));
  return found;
}

async function begin() {
  request = await (await fetch("/request.json")).json();
  texts = request.texts;
  return request.what === "timing" ? prepare() : null;
}

const begun = begin();
begun.catch(() => {}); // whoever asks for it gets the error
globalThis.page = { begun, ready, loaded, timed, finish, answers };
