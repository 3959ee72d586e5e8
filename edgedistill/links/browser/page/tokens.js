// Text to ids as the bundle's runtime makes them: the same truncation and padding around the tokenizer for pages, and
// for readers the place of each piece in the text, which that tokenizer does not tell.

import { Tokenizer } from "/tokenizers.js";

const OVERLAP = 128;
const LEAST_CONTEXT = 8;
const RARE_CHINESE = /[\u{20000}-\u{2A6DF}\u{2A700}-\u{2CEAF}\u{2F800}-\u{2FA1F}]/u;
const HERE = "\u0000"; // in the place of a piece of the context: no tokenizer has it

export class Texts {
  constructor(content, { maxTokens, padId }) {
    this.tokenizer = new Tokenizer(content, {});
    if (content.normalizer?.type === "BertNormalizer") {
      this.tokenizer.normalizer = letterwise(content.normalizer, this.tokenizer.normalizer);
    }
    this.prefix = content.model.continuing_subword_prefix ?? "##";
    this.maxTokens = maxTokens;
    this.padId = padId;
  }

  // One row a text or pair, all as long as the longest.
  batch(texts) {
    const rows = texts.map((text) => (Array.isArray(text) ? this.pair(...text) : this.single(text)));
    return padded(rows, this.padId);
  }

  single(text) {
    const pieces = this.tokenizer.encode_text(text);
    return this.row(pieces.slice(0, Math.max(0, this.maxTokens - this.around(false))), null);
  }

  // The longer text is cut first, then both alike: "longest_first" of the tokenizers package.
  pair(first, second) {
    const [one, other] = [first, second].map((text) => this.tokenizer.encode_text(text));
    const room = Math.max(0, this.maxTokens - this.around(true));
    let [short, long] = [one.length, other.length].sort((a, b) => a - b);
    if (short + long > room) {
      long = short > room ? short : Math.max(short, room - short);
      if (short + long > room) {
        short = Math.floor(room / 2);
        long = short + (room % 2);
      }
    }
    const [a, b] = one.length > other.length ? [long, short] : [short, long];
    return this.row(one.slice(0, a), other.slice(0, b));
  }

  row(pieces, more) {
    const { tokenizer } = this;
    const { tokens, token_type_ids: types } = tokenizer.post_processor
      ? tokenizer.post_processor(pieces, more, true)
      : { tokens: pieces.concat(more ?? []) };
    return { ids: tokens.map((piece) => this.id(piece)), types: types ?? tokens.map(() => 0) };
  }

  id(piece) {
    const { tokenizer } = this;
    return (
      tokenizer.added_tokens_map.get(piece)?.id ??
      tokenizer.model.tokens_to_ids.get(piece) ??
      tokenizer.model.unk_token_id
    );
  }

  // How many special pieces stand around a text, or a pair.
  around(paired) {
    return this.row([], paired ? [] : null).ids.length;
  }

  // A question with as much of the context as fits, as often as it takes: `windows` of the runtime's spans.py.
  windows(question, context) {
    if (!question.trim() || !context.trim()) throw new Error("a question or its context is empty");
    const asked = this.tokenizer.encode_text(question);
    const read = this.placed(context);
    if (!read.length) throw new Error("a context has nothing that the tokenizer knows");
    const room = this.maxTokens - this.around(true) - asked.length;
    const whole = read.length <= room;
    if (!whole && room < LEAST_CONTEXT) throw new Error("a question leaves too few pieces for its context");
    const step = room - Math.min(OVERLAP, Math.floor(room / 2));
    const first = this.tokenizer.post_processor(asked, [HERE], true).tokens.lastIndexOf(HERE);
    const found = [];
    for (let start = 0; ; start += step) {
      const part = whole ? read : read.slice(start, start + room);
      found.push({ ...this.row(asked, part.map(({ piece }) => piece)), part, first });
      if (whole || start + room >= read.length) return found;
    }
  }

  // The pieces of a text, each with its first character and the one behind its last, counted in code points.
  placed(text) {
    const { tokenizer } = this;
    const letters = [];
    [...text].forEach((letter, place) => {
      for (const one of tokenizer.normalizer ? tokenizer.normalizer(letter) : letter) letters.push({ one, place });
    });
    const found = [];
    let at = 0;
    for (const word of tokenizer.pre_tokenizer(letters.map(({ one }) => one).join(""))) {
      while (letters[at].one.trim() === "") at += 1;
      const pieces = tokenizer.model([word]);
      const whole = pieces.length === 1;
      for (const [order, piece] of pieces.entries()) {
        const shown = order ? piece.slice(this.prefix.length) : piece;
        const length = [...(whole ? word : shown)].length;
        found.push({ piece, start: letters[at].place, end: letters[at + length - 1].place + 1 });
        at += length;
      }
    }
    return found;
  }
}

// The package changes a whole text at once: a sigma at the end of a word then becomes another letter than in the middle,
// and Chinese letters beyond U+FFFF, which it reads as two halves, get no space around them. Here as on the device each
// letter is changed alone.
function letterwise({ handle_chinese_chars: spaced }, normalizer) {
  const known = new Map();
  const changed = (letter) => (spaced && RARE_CHINESE.test(letter) ? ` ${letter} ` : normalizer(letter));
  return (text) => {
    let whole = "";
    for (const letter of text) {
      if (!known.has(letter)) known.set(letter, changed(letter));
      whole += known.get(letter);
    }
    return whole;
  };
}

export function padded(rows, padId) {
  const longest = Math.max(...rows.map(({ ids }) => ids.length));
  const [ids, mask, types] = [padId, 0, 0].map((fill) =>
    new BigInt64Array(rows.length * longest).fill(BigInt(fill)),
  );
  rows.forEach((row, at) => {
    row.ids.forEach((id, place) => {
      ids[at * longest + place] = BigInt(id);
      mask[at * longest + place] = 1n;
      types[at * longest + place] = BigInt(row.types[place]);
    });
  });
  return { ids, mask, types, shape: [rows.length, longest] };
}
