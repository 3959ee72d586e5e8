"""Unigram with and without byte fallback: the laws on hostile texts, and on random scores full of ties."""

from __future__ import annotations

import itertools
import json
import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from edgedistill.distill.vocab import pieces_of, trim
from edgedistill.errors import InputError
from tests.distill.vocab.laws import CORPUS, check, hostile

TEXTS = CORPUS[:3]
# The library reads a literal "<0xE6>" as that byte. Such a text is damaged before any piece is dropped.
HOSTILE = [text for text in hostile(4000, seed=4) if "<0x" not in text]
SPECIAL = ["<s>", "</s>", "<unk>"]


def trained(*, byte_fallback: bool) -> Tokenizer:
    """As in XLM-R: special tokens first, marks for spaces, a template around a text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    if byte_fallback:
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.UnigramTrainer(vocab_size=350, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 5, trainer)
    spec = json.loads(tokenizer.to_str())
    if byte_fallback:
        spec["model"]["byte_fallback"] = True
        spec["model"]["vocab"] += [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    tokenizer = Tokenizer.from_str(json.dumps(spec))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("<s>", "</s>")]
    )
    tokenizer.add_tokens(["zigbee"])
    return Tokenizer.from_str(tokenizer.to_str())  # with the scores as a file holds them


@pytest.mark.parametrize("byte_fallback", [False, True])
def test_the_laws_hold(byte_fallback: bool) -> None:
    teacher = trained(byte_fallback=byte_fallback)
    small = trim(teacher, TEXTS)
    assert len(small.kept) < teacher.get_vocab_size()
    assert 300 < check(teacher, small, HOSTILE, unknown=teacher.token_to_id("<unk>")) < 0.9 * len(HOSTILE)


def test_random_scores_with_ties_cannot_break_the_laws() -> None:
    chance = random.Random(5)
    texts = ["".join(letters) for n in range(1, 6) for letters in itertools.product("abcü", repeat=n)]
    longer = ["".join(letters) for n in range(2, 4) for letters in itertools.product("abc", repeat=n)]
    letters = [f"<0x{byte:02X}>" for byte in range(256)]
    whole = 0
    for trial in range(30):
        pieces = ["<unk>", *"abc", *chance.sample(longer, 25), *(letters if trial % 2 else [])]
        vocabulary = [(piece, -float(chance.randint(1, 4))) for piece in pieces]
        teacher = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=bool(trial % 2)))
        teacher.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
        small = trim(teacher, chance.sample(texts, 3))
        whole += check(teacher, small, texts, unknown=0)
    assert 0.02 * 30 * len(texts) < whole < 0.9 * 30 * len(texts)


def test_the_cost_of_an_unknown_character_does_not_change() -> None:
    """It is the lowest score less 10: -40. Without `ba` it would be -30, and `abb` with an unknown `x` would win."""
    scores = {"<unk>": -1.0, "a": -20.0, "b": -20.0, "ab": -20.0, "bx": -20.0, "abb": -1.0, "ba": -30.0}
    teacher = Tokenizer(models.Unigram(list(scores.items()), 0, byte_fallback=False))
    small = trim(teacher, ["ab", "abb"])
    assert small.tokenizer.encode("abbx").tokens == teacher.encode("abbx").tokens == ["ab", "bx"]


def test_characters_stay_without_byte_fallback_and_become_bytes_with_it() -> None:
    for byte_fallback in (False, True):
        teacher = trained(byte_fallback=byte_fallback)
        small = trim(teacher, ["the light"]).tokenizer
        assert teacher.token_to_id("水") is not None
        assert (small.token_to_id("水") is None) == byte_fallback
        spelled = ["<0xE6>", "<0xB0>", "<0xB4>"] if byte_fallback else ["水"]
        assert small.encode("水", add_special_tokens=False).tokens == ["▁", *spelled]


def test_characters_stay_where_bytes_cannot_be_reached() -> None:
    """Without an unknown piece the library stops at a character that is no piece."""
    pieces = [*"ab水", *(f"<0x{byte:02X}>" for byte in range(256))]
    teacher = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], None, byte_fallback=True))
    assert trim(teacher, []).tokenizer.encode("a水").tokens == ["a", "水"]


def test_special_and_added_tokens_keep_their_part() -> None:
    teacher = trained(byte_fallback=False)
    small = trim(teacher, TEXTS)
    text = "zigbee</s>the light"
    assert small.tokenizer.encode(text).tokens == teacher.encode(text).tokens
    assert [small.kept[i] for i in small.tokenizer.encode(text).ids] == teacher.encode(text).ids
    assert small.kept[-1] == teacher.token_to_id("zigbee")


def test_a_size_is_met_exactly_or_refused() -> None:
    teacher = trained(byte_fallback=True)
    needed = len(trim(teacher, []).kept)
    with pytest.raises(InputError, match=f"{needed} are needed"):
        trim(teacher, TEXTS, size=needed - 1)
    for size in range(needed, teacher.get_vocab_size() + 1, 20):
        small = trim(teacher, TEXTS, size=size)
        assert len(small.kept) == size
        assert pieces_of(small.tokenizer, TEXTS)
