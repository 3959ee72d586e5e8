"""The static engine answers as its file says, computed here by hand, whatever texts come together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from edgedistill.runtime.engine_static import Classifier, probabilities, tensors

LABELS = ["door", "light", "music"]
TEXTS = ["turn the lamp very bright", "song", "", "please lock my door now today in the hall, it is dark!"]
MAX_TOKENS = 9
Floats = NDArray[np.float32]
Make = Callable[[int], Path]


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes a bundle of random numbers whose rows have so many texts."""

    def make(texts: int) -> Path:
        folder = tmp_path_factory.mktemp("bundle")
        tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
        tokenizer.enable_padding(length=40)  # as some teachers' tokenizers come
        tokenizer.save(str(folder / "tokenizer.json"))
        chance = np.random.default_rng(2)
        pieces, features = tokenizer.get_vocab_size(), 5
        tables = chance.integers(-127, 128, (pieces + 1, 3, features), dtype=np.int8)
        tables[-1] = 0
        width = 2 * features * (4 if texts == 2 else 1)
        weights = {
            "tables": tables,
            "table_scales": chance.uniform(0.001, 0.01, (pieces + 1, 3)).astype(np.float32),
            "bias": chance.normal(size=features).astype(np.float32),
            "head": chance.integers(-127, 128, (3, width), dtype=np.int8),
            "head_scales": chance.uniform(0.001, 0.01, 3).astype(np.float32),
            "head_bias": chance.normal(size=3).astype(np.float32),
        }
        (folder / "model").mkdir()
        save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "np"})
        described = {"file": "model/model.safetensors", "labels": LABELS, "max_tokens": MAX_TOKENS}
        (folder / "manifest.json").write_text(json.dumps({"model": described}))
        return folder

    return make


def vector(folder: Path, text: str) -> Floats:
    """One text by hand: position by position, number by number."""
    weights = tensors(folder / "model" / "model.safetensors")
    tables = weights["tables"] * weights["table_scales"][..., None]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = tokenizer.encode(text).ids
    ids = ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]
    features = []
    for at in range(len(ids)):
        total = weights["bias"] + tables[ids[at], 1]
        total = total + (tables[ids[at - 1], 0] if at else 0)
        total = total + (tables[ids[at + 1], 2] if at + 1 < len(ids) else 0)
        features.append(np.maximum(total, 0))
    return np.concatenate((np.max(features, axis=0), np.mean(features, axis=0)))


def scored(folder: Path, vector: Floats) -> Floats:
    weights = tensors(folder / "model" / "model.safetensors")
    head = weights["head"] * weights["head_scales"][:, None]
    result: Floats = head @ vector + weights["head_bias"]
    return result


def test_a_text_is_answered_as_the_file_says(bundle: Make) -> None:
    folder = bundle(1)
    classifier = Classifier(folder)
    assert classifier.labels == LABELS
    for text in TEXTS:
        np.testing.assert_allclose(classifier([text])[0], scored(folder, vector(folder, text)), rtol=1e-4, atol=1e-5)


def test_a_pair_is_answered_as_the_file_says(bundle: Make) -> None:
    folder = bundle(2)
    u, v = vector(folder, TEXTS[0]), vector(folder, TEXTS[3])
    expected = scored(folder, np.concatenate((u, v, np.abs(u - v), u * v)))
    np.testing.assert_allclose(Classifier(folder)([(TEXTS[0], TEXTS[3])])[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("texts", [1, 2])
def test_a_batch_is_answered_like_each_of_its_rows(bundle: Make, texts: int) -> None:
    classifier = Classifier(bundle(texts), threads=1)
    rows: list[Any] = TEXTS if texts == 1 else list(zip(TEXTS, reversed(TEXTS), strict=True))
    expected = np.concatenate([classifier([row]) for row in rows])
    np.testing.assert_allclose(classifier(rows), expected, rtol=1e-5, atol=1e-6)
    assert classifier(rows).shape == (4, 3)


def test_a_text_of_no_pieces_is_nothing_but_the_bias_of_the_head(bundle: Make) -> None:
    folder = bundle(1)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    bias = tensors(folder / "model" / "model.safetensors")["head_bias"]
    found = Classifier(folder)(["", "song", ""])
    np.testing.assert_allclose(found[0], bias, rtol=1e-6)
    np.testing.assert_allclose(found[2], bias, rtol=1e-6)
    assert not np.allclose(found[1], bias)


def test_a_file_is_read_as_safetensors_wrote_it(tmp_path: Path) -> None:
    written = {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array([1.5, -2.0], dtype=np.float32)}
    save_file(written, tmp_path / "x.safetensors", metadata={"k": "v"})
    found = tensors(tmp_path / "x.safetensors")
    assert found.keys() == written.keys()
    for name, value in written.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_torn_file_is_an_error(bundle: Make, keep: int) -> None:
    folder = bundle(1)
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises((ValueError, KeyError)):
        Classifier(folder)


def test_probabilities_are_a_softmax_that_does_not_overflow() -> None:
    found = probabilities(np.array([[1.0, 2.0, 3.0], [1e4, 0.0, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(found[0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum(), rtol=1e-6)
    np.testing.assert_allclose(found[1], [1, 0, 0])
