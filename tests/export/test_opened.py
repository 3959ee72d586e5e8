"""A foreign file is opened by a child with limits; whatever is wrong with it is one clear error."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from edgedistill.errors import IntegrityError
from edgedistill.export.onnx import to_onnx
from edgedistill.export.opened import open_checked


@pytest.fixture
def model(student: Path, tmp_path: Path) -> Path:
    to_onnx(student, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_a_good_file_says_what_it_takes_and_gives(model: Path) -> None:
    opened = open_checked(model, labels=5)
    assert opened.inputs == {"input_ids": ["texts", "tokens"], "attention_mask": ["texts", "tokens"]}
    assert opened.outputs == {"logits": ["texts", 5]}
    assert opened.findings == ()


def test_data_beside_the_file_is_read_and_counts(model: Path) -> None:
    loaded = onnx.load(model)
    onnx.save_model(loaded, str(model), save_as_external_data=True, location="weights.bin", size_threshold=1024)
    assert open_checked(model).outputs == {"logits": ["texts", 5]}
    with pytest.raises(IntegrityError, match="with its external data"):
        open_checked(model, max_bytes=model.stat().st_size + 10)


def test_nothing_beside_the_file_is_imported(model: Path) -> None:
    for name in ("json", "numpy", "onnx"):
        model.with_name(f"{name}.py").write_text("raise SystemExit(open('run', 'w').write('it ran'))")
    assert open_checked(model, labels=5).findings == ()
    assert not model.with_name("run").exists()


def test_data_elsewhere_is_refused(model: Path) -> None:
    loaded = onnx.load(model)
    tensor = loaded.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    onnx.save_model(loaded, str(model))
    with pytest.raises(IntegrityError, match=r"outside the file's folder"):
        open_checked(model)


def test_rubbish_a_cut_file_and_one_that_is_too_large_are_refused(model: Path) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        open_checked(model)
    model.write_bytes(b"\xff" * 1000)
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        open_checked(model)
    with pytest.raises(IntegrityError, match="1000 bytes; 10 are allowed"):
        open_checked(model, max_bytes=10)
    with pytest.raises(IntegrityError, match="is no file"):
        open_checked(model.with_name("missing.onnx"))


def test_other_labels_are_refused(model: Path) -> None:
    with pytest.raises(IntegrityError, match="gives 5 scores"):
        open_checked(model, labels=6)
