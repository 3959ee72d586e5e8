// The measuring loop of a page: what runtime/measure.py does in a process. Times are milliseconds.
//
// A page's clock is coarse, 5 µs in steps where the page is isolated, so calls that are short against it are timed
// several times in a row, and the samples say how many times.

import { engine, load } from "/answer.js";

const WINDOW = 20;
const STEADY_WITHIN = 0.05;
const MAX_WINDOWS = 15;
const ANCHORS = 20;
const LEAST_STEPS = 100; // of the clock, that one sample must take
const LONGEST_GROUP = 1000;

let request;
let texts;
let answer;
let group = 1;

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Half the 95 % interval of the median, as a share of it: between order statistics, by the normal approximation of the
// binomial (Conover, Practical Nonparametric Statistics, section 3.2).
function uncertainty(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const count = sorted.length;
  const reach = 1.96 * Math.sqrt(count) / 2;
  const low = Math.floor(count / 2 - reach);
  const high = Math.ceil(count / 2 + reach);
  if (low < 0 || high >= count) return Infinity;
  return (sorted[high] - sorted[low]) / 2 / median(values);
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

async function warmUp() {
  const sample = Array.from({ length: WINDOW }, (_, at) => texts[at % texts.length]);
  let before = median(await singles(sample));
  for (let windows = 2; windows <= MAX_WINDOWS; windows += 1) {
    const now = median(await singles(sample));
    if (Math.abs(now - before) <= STEADY_WITHIN * before) return { warm_up_calls: windows * WINDOW, steady: true };
    before = now;
  }
  return { warm_up_calls: MAX_WINDOWS * WINDOW, steady: false };
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
  Object.assign(found, await warmUp());
  const typical = median(await singles(texts.slice(0, WINDOW)));
  group = Math.min(LONGEST_GROUP, Math.max(1, Math.ceil((LEAST_STEPS * found.clock_step_ms) / Math.max(typical, 1e-3))));
  return { ...found, calls_a_sample: group, anchors_ms: await singles(texts.slice(0, ANCHORS)) };
}

async function timed() {
  const { within, limitMs } = request;
  const latency = [];
  const started = performance.now();
  const over = () => performance.now() - started >= limitMs;
  let ended = "time";
  passes: for (;;) {
    for (const text of texts) {
      if (within !== null && over()) break passes;
      latency.push(await once([text]));
    }
    if (within === null) ended = "once";
    else if (uncertainty(latency) <= within) ended = "interval";
    else continue;
    break;
  }
  return { latency_ms: latency, ended_by: ended };
}

async function finish() {
  const { batchRows } = request;
  const after = await singles(texts.slice(0, ANCHORS));
  const batches = [];
  for (let at = 0; at + batchRows <= texts.length; at += batchRows) batches.push(texts.slice(at, at + batchRows));
  if (!batches.length) batches.push(texts);
  group = 1;
  for (const batch of batches.slice(0, 2)) await answer(batch);
  const throughput = [];
  for (const batch of batches) throughput.push(batch.length / ((await once(batch)) / 1e3));
  return { anchors_ms: after, throughput_rows_s: throughput };
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
