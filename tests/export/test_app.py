"""The file for apps reads text as the tokenizer does, whatever the text, and answers as the model behind it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from edgedistill.errors import MissingExtra, StageError
from edgedistill.export.app import app_answer, app_session, characters, check, to_app
from edgedistill.export.onnx import to_onnx
from edgedistill.runtime.engine_onnx import logits, probabilities, session
from edgedistill.teachers import local
from tests.conftest import LABELS, tiny_tokenizer

NAMES = list(LABELS)
MAX_TOKENS = 12
HOSTILE = [
    *("café", "CAFÉ", "cafe\u0301", "naïve Ünïcödé", "ẞ straße", "İstanbul ıI", "Żółć łódź Ø", "Tiếng Việt", "Ё ё Й"),
    *("水 is 好的", "a水b", "日本語テスト", "한국어", "हिन्दी", "ไทย", "אֱלֹהִים", "العَرَبِيَّة", "ΣΊΣΥΦΟΣ ς", "𠀀𪜶豈"),
    *("🙂 lamp 👍🏽", "a🙂b", "👨\u200d👩\u200d👧", "❤\ufe0f", "🇩🇪"),
    *("\x01x", "tab\there\nnew\r\nline", "zero\u200bwidth", "\u00a0nbsp\u00a0x", "\ufeffbom", "soft\u00adhyphen"),
    *("x\ufffdy", "\ue000pua", "\U000f0000x", "\u2028line\u2029para", "\u3000ideo", "\x85nel", "\x7fdel", "\u0300a"),
    *(
        "",
        " ",
        "   a   ",
        "a" * 100,
        "a" * 101,
        "á" * 101,
        "lamp " * 300,
        "x" * 5000,
        "don't!!",
        "...",
        "$100 €5",
        "C++",
    ),
    *("[CLS] [SEP] [MASK]", "[UNK]x", "x[MASK]y", "[sep]", "tur", "lampx\u4e01", "the lampé q"),
]


@pytest.fixture(scope="module")
def student(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random classifier as an ONNX file, with its tokenizer beside it."""
    folder = tmp_path_factory.mktemp("student")
    local.save(local.load(tiny_teacher, NAMES), folder)
    to_onnx(folder, folder / "model.onnx")
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="module")
def app(student: Path) -> Any:
    to_app(
        student / "model.onnx", student / "tokenizer.json", student / "app.onnx", labels=NAMES, max_tokens=MAX_TOKENS
    )
    return app_session(student / "app.onnx")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_text_is_answered_like_its_ids(app: Any, student: Path, text: str) -> None:
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    ids = np.array([tokenizer.encode(text).ids])
    expected = probabilities(logits(session(student / "model.onnx", threads=1), ids, np.ones_like(ids)))[0]
    label, found = app_answer(app, text)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert label == NAMES[int(expected.argmax())]


def echo(path: Path) -> None:
    """A model whose logits are the ids themselves."""
    ids = [helper.make_tensor_value_info(name, TensorProto.INT64, [1, "n"]) for name in ("input_ids", "attention_mask")]
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["words"]),
        helper.make_node("Cast", ["words"], ["logits"], to=TensorProto.FLOAT),
    ]
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "n"])
    graph = helper.make_graph(nodes, "echo", ids, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize(
    "settings",
    [{"lowercase": True}, {"lowercase": False}, {"lowercase": False, "strip_accents": True, "clean_text": False}],
    ids=["uncased", "cased", "odd"],
)
def test_the_ids_are_the_tokenizers_own_however_it_makes_texts_normal(
    tmp_path: Path, settings: dict[str, bool]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer(**settings)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    echo(tmp_path / "model.onnx")
    labels = [str(number) for number in range(64)]
    to_app(tmp_path / "model.onnx", tmp_path / "tokenizer.json", tmp_path / "app.onnx", labels=labels, max_tokens=64)
    model = onnx.load(tmp_path / "app.onnx")
    model.graph.output.append(helper.make_tensor_value_info("input_ids", TensorProto.INT64, None))
    onnx.save(model, tmp_path / "open.onnx")
    engine = app_session(tmp_path / "open.onnx")
    tokenizer.enable_truncation(64)
    wrong = {}
    for text in HOSTILE:
        (found,) = engine.run(["input_ids"], {"text": np.array([text], dtype=object)})
        if found[0].tolist() != tokenizer.encode(text).ids:
            wrong[text] = [tokenizer.id_to_token(number) for number in found[0]], tokenizer.encode(text).tokens
    assert wrong == {}


def test_a_character_is_listed_when_it_changes_or_parts_words() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.normalizer = normalizers.BertNormalizer()
    found = characters(tokenizer)
    expected = {
        "É": "e",
        "\u0301": "",
        "水": " 水 ",
        ".": " . ",
        "\t": " ",
        "\u200b": "",
        "ß": None,
        "a": None,
        "A": "a",
    }
    assert {key: found.get(key) for key in expected} == expected


def test_tokenizers_of_other_kinds_are_refused(tmp_path: Path) -> None:
    echo(tmp_path / "model.onnx")
    other = Tokenizer(models.BPE())
    other.pre_tokenizer = pre_tokenizers.ByteLevel()
    flagged = tiny_tokenizer()
    flagged.add_special_tokens([AddedToken("[X]", lstrip=True)])
    no_normal = tiny_tokenizer()
    no_normal.normalizer = normalizers.Lowercase()
    for number, (tokenizer, reason) in enumerate([(other, "BPE"), (flagged, "lstrip"), (no_normal, "Lowercase")]):
        file = tmp_path / f"{number}.json"
        tokenizer.save(str(file))
        with pytest.raises(StageError, match=reason):
            to_app(tmp_path / "model.onnx", file, tmp_path / "app.onnx", labels=["x"], max_tokens=8)
    assert not (tmp_path / "app.onnx").exists()


def test_a_model_that_does_not_take_the_ids_of_a_text_is_refused(student: Path, tmp_path: Path) -> None:
    model = onnx.load(student / "model.onnx")
    model.graph.input[1].name = "lengths"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(StageError, match="lengths"):
        to_app(tmp_path / "other.onnx", student / "tokenizer.json", tmp_path / "app.onnx", labels=NAMES, max_tokens=8)


def test_another_number_of_labels_than_the_model_has_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="2 labels"):
        to_app(
            student / "model.onnx",
            student / "tokenizer.json",
            tmp_path / "app.onnx",
            labels=NAMES[:2],
            max_tokens=8,
        )


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    for ask in (app_session, check):
        with pytest.raises(MissingExtra) as found:
            ask(tmp_path / "app.onnx")
        assert "edgedistill[app]" in str(found.value.hint)
