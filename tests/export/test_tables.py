"""A static student as an ONNX graph: the answers of the numpy engine, whatever the texts; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from edgedistill import catalog
from edgedistill.distill import static
from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.export.lint import lint
from edgedistill.export.tables import checkpoint, ladder
from edgedistill.export.tables.checkpoint import read
from edgedistill.runtime.engine_onnx import logits, session
from edgedistill.runtime.engine_static import Classifier
from edgedistill.store import Store

LABELS = ("door", "light", "music")
TEXTS = ("turn the lamp very bright", "song", "", "please lock my door now today in the hall, it is dark! " * 3)
PAIRS = tuple(zip(TEXTS, reversed(TEXTS), strict=True))
ONNX = ("onnx-int8-tables", "onnx-fp16", "onnx-fp32")
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Saves a random static student, of single texts or of pairs."""

    def made(*, pairs: bool = False) -> Path:
        folder = tmp_path_factory.mktemp("static")
        tokenizer = Tokenizer.from_file(str(tiny_teacher / "tokenizer.json"))
        shape = static.StaticShape(width=8, features=24, labels=3, pairs=pairs)
        torch.manual_seed(5)
        student = static.StaticStudent(torch.randn(tokenizer.get_vocab_size(), 8), shape)
        torch.nn.init.normal_(student.bias)
        static.save(student, tokenizer, folder)
        static.write_manifest(folder, LABELS, 12)
        return folder

    return made


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.mark.parametrize("name", ONNX)
@pytest.mark.parametrize("pairs", [False, True], ids=["texts", "pairs"])
def test_the_graph_answers_like_the_numpy_engine(make: Make, name: str, pairs: bool, tmp_path: Path) -> None:
    student, recipe = read(make(pairs=pairs)), catalog.recipe(name)
    texts: Any = PAIRS if pairs else TEXTS
    file = ladder.write(student, tmp_path, recipe)
    expected = Classifier(student.path)(texts)
    assert not np.allclose(expected[0], expected[1], atol=0.1)
    np.testing.assert_allclose(ladder.answers(student, file, texts), expected, atol=0.01 if "16" in name else 1e-5)
    for at in range(len(texts)):
        alone = ladder.answers(student, file, texts[at : at + 1])
        np.testing.assert_allclose(alone[0], expected[at], atol=0.01 if "16" in name else 1e-5)
    assert lint(file, recipe=recipe, labels=3) == ()


def test_a_text_of_no_pieces_is_answered_and_tables_stay_in_8_bits(make: Make, tmp_path: Path) -> None:
    student = read(make())
    small, full = (ladder.write(student, tmp_path, catalog.recipe(name)).stat().st_size for name in ONNX[::2])
    assert small < 0.4 * full
    ladder.write(student, tmp_path, catalog.recipe("onnx-int8-tables"))
    empty = np.zeros((1, 0), dtype=np.int64)
    found = logits(session(tmp_path / "model.onnx", 1), empty, empty)
    np.testing.assert_allclose(found[0], student.weights["head_bias"], atol=1e-6)


def export(folder: Path, names: tuple[str, ...], store: Store, **changes: Any) -> Any:
    student = read(folder)
    said = Classifier(folder)(TEXTS)
    given: dict[str, Any] = {"texts": TEXTS, "truth": said.argmax(axis=1), "logits": said, "metric": "agreement"}
    return ladder.export(student, [catalog.recipe(name) for name in names], **(given | changes), store=store)


def test_the_first_recipe_holds_and_its_file_is_the_students_own(make: Make, store: Store) -> None:
    folder = make()
    exported, output = export(folder, ("numpy-int8", *ONNX), store)
    assert (exported.recipe, exported.path.name) == ("numpy-int8", "model.safetensors")
    assert exported.path.read_bytes() == (folder / "model.safetensors").read_bytes()
    assert exported.parity["max_error"] == 0
    assert not output.cached
    assert export(folder, ("numpy-int8", *ONNX), store)[1].cached


def test_a_graph_that_answers_otherwise_does_not_hold_whatever_the_tolerance(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ladder.to_onnx

    def swapped(weights: Any, path: Path, *, in_8_bits: bool) -> None:
        real({**weights, "table_scales": weights["table_scales"][:, ::-1].copy()}, path, in_8_bits=in_8_bits)

    monkeypatch.setattr(ladder, "to_onnx", swapped)  # before and after change places
    with pytest.raises(StageError, match="no recipe answers like the checkpoint: a float32 logit differs"):
        export(make(), ("onnx-fp32",), store, tolerance=1.0)


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        ("labels", InputError, "is int8 .3, 48., and with 2 labels int8 .2, 48. is needed"),
        ("head", InputError, "has no weight head_scales"),
        ("type", InputError, "tables that is float32"),
        ("pieces", InputError, "a tokenizer with the piece number"),
        ("torn", InputError, "cannot be read"),
        ("manifest", InputError, "cannot be read"),
        ("tokenizer", InputError, "has no tokenizer.json"),
        ("nan", IntegrityError, "bias has values that are not finite"),
    ],
)
def test_a_spoiled_student_is_one_clear_error(make: Make, spoil: str, error: type[Exception], said: str) -> None:
    folder = make()
    file, weights = folder / checkpoint.MODEL, load_file(folder / checkpoint.MODEL)
    if spoil == "labels":
        static.write_manifest(folder, LABELS[:2], 12)
    elif spoil == "head":
        del weights["head_scales"]
    elif spoil == "type":
        weights["tables"] = weights["tables"].astype(np.float32)
    elif spoil == "pieces":
        weights["tables"], weights["table_scales"] = weights["tables"][:-9], weights["table_scales"][:-9]
    elif spoil == "nan":
        weights["bias"][2] = np.nan
    elif spoil == "manifest":
        (folder / "manifest.json").write_text(json.dumps({"engine": {"name": "static"}}))
    elif spoil == "tokenizer":
        (folder / "tokenizer.json").unlink()
    save_file(weights, file)
    if spoil == "torn":
        file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(error, match=said):
        read(folder)


def test_a_recipe_is_asked_more_than_it_can_hold_and_the_next_one_ships(make: Make, store: Store) -> None:
    folder = make()
    said = Classifier(folder)(TEXTS)
    recipes = [replace(catalog.recipe("onnx-int8-tables"), tolerance=-1.0), catalog.recipe("numpy-int8")]
    exported, _ = ladder.export(
        read(folder), recipes, texts=TEXTS, truth=said.argmax(axis=1), logits=said, metric="agreement", store=store
    )
    assert [step["passed"] for step in exported.ladder] == [False, True]
    assert sorted(path.name for path in exported.path.parent.iterdir()) == [
        "entry.json",
        "export.json",
        exported.path.name,
    ]
