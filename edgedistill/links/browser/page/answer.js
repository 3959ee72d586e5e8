// A classifier or a reader on onnxruntime-web: what engine_onnx.py and spans.py of the runtime do, in a page.

import * as ort from "/ort.js";
import { padded, Texts } from "/tokens.js";

const LONGEST_ANSWER = 30;

// The engine is there when a model of one node has run in it: its file is fetched, compiled and has its threads.
export async function engine(threads) {
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { wasm: new URL("/ort.wasm", location.href).href };
  ort.env.logLevel = "error";
  const session = await ort.InferenceSession.create("/engine.onnx", options());
  await session.run({ x: new ort.Tensor("float32", [0], [1]) });
  await session.release();
}

// What answers a list of texts, pairs, or questions with their contexts.
export async function load({ file, beside, reader, apart, maxTokens, padId }) {
  const [tokenizer, session] = await Promise.all([
    fetch("/tokenizer.json").then((found) => found.json()),
    ort.InferenceSession.create(file, {
      ...options(),
      externalData: beside.map((path) => ({ path, data: `/model/${path}` })),
    }),
  ]);
  const texts = new Texts(tokenizer, { maxTokens, padId });
  if (reader) return (rows) => each(rows, ([question, context]) => span(session, texts, question, context));
  return (rows) => logits(session, texts.batch(apart ? rows.flat() : rows));
}

function options() {
  return { executionProviders: ["wasm"], logSeverityLevel: 3 };
}

async function each(rows, work) {
  const found = [];
  for (const row of rows) found.push(await work(row));
  return found;
}

// Logits of each row: [rows][labels], or of one row [pieces × 2].
async function logits(session, { ids, mask, types, shape }) {
  const all = { input_ids: ids, attention_mask: mask, token_type_ids: types };
  const inputs = Object.fromEntries(
    session.inputNames.map((name) => [name, new ort.Tensor("int64", all[name], shape)]),
  );
  const { logits: found } = await session.run(inputs, ["logits"]);
  const rows = found.dims[0];
  const wide = found.data.length / rows;
  return Array.from({ length: rows }, (_, row) => found.data.slice(row * wide, (row + 1) * wide));
}

// [start, end, score] of the likeliest answer: `best` of spans.py.
async function span(session, texts, question, context) {
  let likeliest = { sum: -Infinity };
  const sums = [];
  for (const window of texts.windows(question, context)) {
    const [scores] = await logits(session, padded([window], 0));
    const { part, first } = window;
    // By how many pieces follow, then by the first piece: where sums are equal, the runtime takes the earliest in this
    // order too.
    for (let more = 0; more < Math.min(LONGEST_ANSWER, part.length); more += 1) {
      for (let start = 0; start + more < part.length; start += 1) {
        const sum = Math.fround(scores[2 * (first + start)] + scores[2 * (first + start + more) + 1]);
        sums.push(sum);
        if (sum > likeliest.sum) likeliest = { sum, start: part[start].start, end: part[start + more].end };
      }
    }
  }
  const total = sums.reduce((whole, sum) => whole + Math.exp(sum - likeliest.sum), 0);
  return [likeliest.start, likeliest.end, 1 / total];
}
