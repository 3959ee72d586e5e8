"""Tiny real things: a three-layer BERT encoder with a tokenizer of its own, and rows that it can learn."""

from __future__ import annotations

import gc
import json
import os
import random
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from edgedistill.teachers.local import quiet

LABELS = {
    "light": ["light", "lamp", "bright", "dark"],
    "music": ["song", "music", "louder", "jazz"],
    "door": ["door", "lock", "open", "key"],
}
FILLER = ["the", "please", "now", "a", "in", "kitchen", "hall", "my", "turn", "make", "it", "very", "today"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


LONGEST = (
    "test_several.py",
    "test_build_kills.py",
    "test_house.py",
    "test_pipeline.py",
    "pipeline/test_exporting.py",
    "pipeline/test_distilling.py",
    "pipeline/test_several_teachers.py",
    "links/test_emulated.py",
    "labeling/test_build.py",
    "labeling/test_command.py",
)
"""Files that take longer than others, from the longest down."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first, so that two processes end at about the same time."""
    items.sort(key=lambda item: next((i for i, end in enumerate(LONGEST) if item.path.match(end)), len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """So that results do not depend on the machine, and tests side by side do not wait for each other.

    The children that tests start inherit it: two OpenMP threads on a busy core made a tiny build take 216 s, not 33 s.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """So that nobody waits for the disk: what a killed process has written is safe with the system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_old_to_collect() -> None:
    """So that whoever collects garbage looks at what is new since the file before.

    accelerate does so after each training, and to look at all that torch and transformers import takes longer than a
    tiny training.
    """
    gc.collect()
    gc.freeze()


def tiny_tokenizer() -> Tokenizer:
    """WordPiece over letters, the words of the rows and some of their parts."""
    letters = list(string.ascii_lowercase + string.digits + "é水!?.'")
    words = [word for of_label in LABELS.values() for word in of_label] + FILLER
    parts = [f"##{word[i:]}" for word in words for i in (2, 3) if len(word) > i + 1]
    pieces = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *words, *parts])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    ids = {piece: tokenizer.token_to_id(piece) for piece in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=list(ids.items())
    )
    return tokenizer


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random encoder without a head, as a pretrained checkpoint comes."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = tiny_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    with quiet():
        BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 150 training, 30 validation and 60 test rows of three labels."""
    folder = tmp_path_factory.mktemp("rows")
    chance = random.Random(0)
    seen: set[str] = set()
    for split, count in (("train", 50), ("validation", 10), ("test", 20)):
        rows = []
        for label, words in LABELS.items():
            while sum(row["label"] == label for row in rows) < count:
                text = " ".join(
                    chance.sample([chance.choice(words), *chance.sample(FILLER, chance.randint(2, 6))], k=3)
                )
                if text not in seen and any(word in text.split() for word in words):
                    seen.add(text)
                    rows.append({"text": text, "label": label})
        chance.shuffle(rows)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
