"""The laws of a smaller vocabulary, checked on thousands of texts that were written to break them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import Tokenizer

from edgedistill.distill.vocab import Trimmed, pieces_of

CORPUS = [
    "turn the lights in the kitchen lower, please",
    "which restaurants are open tomorrow at 18:30? book a table for 24 people",
    "the lowest fare from San Jose to Palo Alto costs $128.50",
    "unbelievable unrelated international nationality nations notional",
    "def lower(words): return [word.lower() for word in words if word != '']",
    "größere Häuser heißen anders; die größten heißen gleich",
    "привет, какая сегодня погода? погода хорошая",
    "今天天气很好 今天的水很好",
    "नमस्ते दुनिया नमस्ते",
    "👩🏽‍🚀 👩🏽‍🚀 😀 lower lowest lowering newer newest wider widest",
]
WORDS = sorted({word for line in CORPUS for word in line.split()})
SCRIPTS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCXYZ",
    "0123456789",
    " \t\n\r\u00a0\u3000",
    "éüßñçå",
    "的一是水火電",
    "かなカナ",
    "한국어",
    "привет",
    "שלוםمرحبا",
    "हिन्दी",
    "e\u0300\u0301\u0323\u20e3\ufe0f\u200d\u200b\u202e",
    "\x00\x01\x07\x1b\x7f\ufeff\ufffd",
    "😀👩🏽🚀🇩🇪",
    "{}[]()<>=;:_+-*/\\|&^%$#@!~`'\",.?",
    "▁Ġ##</w>",
]
WHOLE = ["a" * 300, "ab" * 200, " " * 40, "<unk>", "<s>", "</s>", "<|end|>", "<0x41>", "<0xE6>", "x = {'k': [1, 2]}\n"]


def hostile(count: int, seed: int) -> list[str]:
    """Texts of corpus words, of single scripts, of all scripts mixed, and of any code points at all."""
    chance = random.Random(seed)

    def any_character() -> str:
        point = chance.randrange(0x110000 - 0x800)
        return chr(point if point < 0xD800 else point + 0x800)  # without the surrogates, which no text holds

    def part() -> str:
        kind = chance.randrange(6)
        if kind < 3:
            return chance.choice(WORDS)
        if kind == 3:
            return "".join(chance.choices(chance.choice(SCRIPTS), k=chance.randint(1, 12)))
        if kind == 4:
            return chance.choice(WHOLE)
        return "".join(any_character() for _ in range(chance.randint(1, 3)))

    plain = [" ".join(chance.choices(WORDS, k=chance.randint(1, 6))) for _ in range(count // 2)]
    wild = [
        chance.choice(["", " "]).join(part() for _ in range(chance.randint(0, 8))) for _ in range(count - len(plain))
    ]
    return plain + wild


def check(teacher: Tokenizer, small: Trimmed, texts: Sequence[str], *, unknown: int | None = None) -> int:
    """Asserts that whole texts keep their pieces, that nothing becomes unknown and that decoding gives the same.

    Returns:
        How many texts had all of their pieces kept, so that a test can see that there were such and others.
    """
    old = {number: piece for piece, number in teacher.get_vocab().items()}
    new = small.tokenizer.get_vocab()
    assert sorted(new.values()) == list(range(len(small.kept)))
    assert {piece: old[small.kept[number]] for piece, number in new.items()} == {piece: piece for piece in new}
    kept = set(small.kept)
    before, after = pieces_of(teacher, texts), pieces_of(small.tokenizer, texts)
    whole = 0
    for text, was, found in zip(texts, before, after, strict=True):
        now = [small.kept[i] for i in found]
        if kept.issuperset(was):
            assert now == was, repr(text)
            whole += 1
        assert now.count(unknown) <= was.count(unknown), repr(text)
    assert small.tokenizer.decode_batch(after, skip_special_tokens=False) == teacher.decode_batch(
        before, skip_special_tokens=False
    )
    return whole
