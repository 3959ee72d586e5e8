"""The default data set: large and varied enough, the same for a seed, and without leaks between the splits."""

from __future__ import annotations

import collections
import itertools
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.data.smarthome import (
    OUT_OF_SCOPE,
    draw,
    frames,
    generate,
    grammar,
    normalized,
    parse,
    size,
    unfolded,
    write,
)
from edgedistill.errors import InputError
from edgedistill.types import SPLITS

Data = dict[str, list[dict[str, str]]]

SLOTS = {"room": ["kitchen", "attic"], "door": ["front door"]}

plain = st.text(alphabet="abc xyz'", min_size=1, max_size=8).filter(str.strip)
nested = st.recursive(
    plain | st.just("{room}"),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda options: f"({'|'.join(options)})"),
        inner.map(lambda option: f"[{option}]"),
        st.lists(inner, min_size=2, max_size=3).map(" ".join),
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def data() -> Data:
    return generate(0)


def test_there_are_thirty_intents_and_out_of_scope_in_every_split(data: Data) -> None:
    for split in SPLITS:
        labels = {row["label"] for row in data[split]}
        assert len(labels) == 31
        assert labels == set(grammar()["frames"])
        assert OUT_OF_SCOPE in labels


@pytest.mark.parametrize("seed", range(6))
def test_every_seed_fills_all_splits(seed: int) -> None:
    assert {split: len(rows) for split, rows in generate(seed).items()} == {
        "train": 3000,
        "validation": 398,
        "test": 1022,
    }


def test_training_rows_are_balanced_over_the_intents(data: Data) -> None:
    counts = collections.Counter(row["label"] for row in data["train"])
    assert 0.08 < counts.pop(OUT_OF_SCOPE) / len(data["train"]) < 0.1
    assert min(counts.values()) == max(counts.values()) >= 80


def test_the_same_seed_gives_the_same_rows(data: Data) -> None:
    assert generate(0) == data


def test_another_seed_gives_other_rows_and_another_split_of_the_frames(data: Data) -> None:
    assert generate(1) != data
    assert frames(1)["test"] != frames(0)["test"]


def test_no_text_occurs_twice_whatever_its_case_and_punctuation(data: Data) -> None:
    counts = collections.Counter(normalized(row["text"]) for rows in data.values() for row in rows)
    assert counts.most_common(1)[0][1] == 1


@pytest.mark.parametrize("seed", range(3))
def test_a_frame_is_in_one_split_and_of_one_label_only(seed: int) -> None:
    everywhere = [frame for labels in frames(seed).values() for patterns in labels.values() for frame in patterns]
    assert len(everywhere) == len(set(everywhere))


def test_every_label_has_enough_frames_in_every_split() -> None:
    for split, least in (("train", 10), ("validation", 2), ("test", 4)):
        assert min(len(patterns) for patterns in frames(0)[split].values()) >= least


def test_held_out_slot_values_are_in_the_test_rows_only(data: Data) -> None:
    held_out = [value.lower() for slot in grammar()["slots"].values() for value in slot.get("test_only", [])]
    pattern = re.compile(rf"\b({'|'.join(re.escape(value) for value in held_out)})\b")
    found = {split: sum(bool(pattern.search(row["text"].lower())) for row in data[split]) for split in SPLITS}
    assert found["test"] > 150
    assert found["train"] == found["validation"] == 0


def test_texts_are_clean_and_of_a_speakable_length(data: Data) -> None:
    for row in itertools.chain.from_iterable(data.values()):
        assert set(row) == {"text", "label"}
        assert re.fullmatch(r"[A-Za-zéÉ0-9',.:?! ]+", row["text"]), row
        assert row["text"] == " ".join(row["text"].split())
        assert not re.search(r" [,.?!]|[,.?!]{2}", row["text"]), row
        assert 2 <= len(row["text"].split()) <= 20, row


def test_the_written_files_hold_the_generated_rows(tmp_path: Path, data: Data) -> None:
    write(tmp_path / "new" / "folder", 0)
    for split in SPLITS:
        lines = (tmp_path / "new" / "folder" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == data[split]


@pytest.mark.parametrize(
    ("frame", "texts"),
    [
        ("lights on", {"lights on"}),
        ("(turn|switch) it on", {"turn it on", "switch it on"}),
        ("lights on [please]", {"lights on", "lights on please"}),
        ("open the {door}[, please]", {"open the front door", "open the front door, please"}),
        ("in the {room}", {"in the kitchen", "in the attic"}),
        ("[in the ({room}|hall)] now", {"now", "in the kitchen now", "in the attic now", "in the hall now"}),
        ("is it on [now] ?", {"is it on?", "is it on now?"}),
        ("[up|down] now", {"now", "up now", "down now"}),
    ],
)
def test_a_frame_gives_exactly_these_texts(frame: str, texts: set[str]) -> None:
    node, rng = parse(frame, SLOTS), random.Random(0)
    assert {draw(node, rng) for _ in range(200)} == texts
    assert size(node) == len(texts)


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ("(turn|switch it on", r"'\(' is not closed"),
        ("lights on [please", r"'\[' is not closed"),
        ("(on] please", r"'\(' is not closed"),
        ("lights on) please", r"'\)' stands outside"),
        ("on|off", r"'\|' stands outside"),
        ("turn (on|) the light", "an empty part"),
        ("turn [] on", "an empty part"),
        ("", "an empty part"),
        ("in the {cellar}", r"no slot \{cellar\}; there are door, room"),
        ("in the {room", r"a stray '\{'"),
        ("in the room}", r"a stray '\}'"),
    ],
)
def test_a_broken_frame_is_refused_and_named(frame: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem) as caught:
        parse(frame, SLOTS)
    assert repr(frame) in str(caught.value)


def test_angle_brackets_make_one_frame_of_each_alternative() -> None:
    assert unfolded("<open|shut> the door <now|please>") == [
        "open the door now",
        "open the door please",
        "shut the door now",
        "shut the door please",
    ]


@pytest.mark.parametrize("line", ["<open|shut the door", "<open|(shut|close)> it", "<a|<b|c>> it", "open shut> it"])
def test_broken_angle_brackets_are_refused(line: str) -> None:
    with pytest.raises(InputError):
        [parse(frame, SLOTS) for frame in unfolded(line)]


@given(frame=nested, seed=st.integers(0, 9))
def test_any_well_formed_frame_draws_plain_text(frame: str, seed: int) -> None:
    node = parse(frame, SLOTS)
    text = draw(node, random.Random(seed))
    assert not set(text) & set("[](){}|")
    assert text == " ".join(text.split())
    assert size(node) >= 1


@given(frame=st.text(alphabet="ab []()|{}", max_size=12))
def test_any_string_is_either_a_frame_or_an_input_error(frame: str) -> None:
    try:
        parse(frame, SLOTS)
    except InputError as error:
        assert error.hint
