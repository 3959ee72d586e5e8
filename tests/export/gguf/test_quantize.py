from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from edgedistill import catalog
from edgedistill.errors import IntegrityError, StageError
from edgedistill.export.gguf import byte_level, header
from edgedistill.export.gguf.imatrix import importance
from edgedistill.export.gguf.lint import lint
from edgedistill.export.gguf.quantize import SCHEMES, quantize
from edgedistill.export.gguf.writer import to_gguf
from tests.export.gguf.checkpoints import SIZES, bytes_bpe, causal

Q = GGMLQuantizationType
ROWS = [[5, 9, 200, 17, 33, 150], [7, 7, 300, 21]]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows blocks of 256 divide."""
    sizes = SIZES | {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    return causal("Llama", sizes, bytes_bpe(byte_level.QWEN2), tmp_path_factory.mktemp("wide"))


@pytest.fixture(scope="module")
def source(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "wide.gguf"
    to_gguf(wide, path, precision="f32")
    return path


def error_of(path: Path, source: Path, name: str) -> np.ndarray:
    """The rounding error of one tensor. Shape: [rows, width]."""
    full, small = ({one.name: one for one in GGUFReader(file).tensors}[name] for file in (source, path))
    return dequantize(small.data, small.tensor_type) - full.data


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_recipe_makes_the_types_it_is_named_after(scheme: str, source: Path, tmp_path: Path) -> None:
    recipe = catalog.recipe(f"gguf-{scheme}")
    quantize(source, tmp_path / "small.gguf", recipe)
    found = header.read(tmp_path / "small.gguf")
    types = {one.name: one.type for one in found.tensors}
    assert types["blk.0.ffn_up.weight"] == SCHEMES[scheme][1]
    assert types["blk.0.attn_norm.weight"] == Q.F32
    assert found.metadata["general.file_type"] == SCHEMES[scheme][0]
    assert lint(tmp_path / "small.gguf") == ()
    bits = found.file_bytes / header.read(source).file_bytes
    assert bits < {16: 0.6, 8: 0.4, 6: 0.35, 5: 0.3, 4: 0.3}[recipe.bits]


@pytest.mark.parametrize("scheme", ["q6_k", "q5_k_m", "q4_k_m"])
def test_k_quants_are_refused_on_widths_that_would_fall_back(
    scheme: str, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    to_gguf(checkpoint("smollm2"), tmp_path / "model.gguf", precision="f16")
    with pytest.raises(
        StageError, match=r"rows of 64, 96, which blocks of 256 do not divide.*would write them as Q"
    ) as e:
        quantize(tmp_path / "model.gguf", tmp_path / "small.gguf", catalog.recipe(f"gguf-{scheme}"))
    assert "gguf-q4_0" in str(e.value.hint)
    assert not (tmp_path / "small.gguf").exists()


def test_a_quantized_source_is_refused(source: Path, tmp_path: Path) -> None:
    quantize(source, tmp_path / "small.gguf", catalog.recipe("gguf-q8_0"))
    with pytest.raises(StageError, match="quantized already"):
        quantize(tmp_path / "small.gguf", tmp_path / "smaller.gguf", catalog.recipe("gguf-q4_0"))


def test_a_recipe_for_another_format_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not one for GGUF"):
        quantize(source, tmp_path / "small.gguf", catalog.recipe("onnx-fp32"))


def test_a_broken_source_is_refused_before_the_engine_sees_it(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    with pytest.raises(IntegrityError):
        quantize(tmp_path / "broken.gguf", tmp_path / "small.gguf", catalog.recipe("gguf-q8_0"))


@pytest.mark.parametrize("scheme", ["q4_0", "q4_k_m"])
def test_importance_moves_the_error_away_from_the_columns_that_matter(
    scheme: str, source: Path, tmp_path: Path
) -> None:
    name = "blk.0.ffn_up.weight"
    weights = np.full(256, 1e-3, dtype=np.float32)
    weights[::8] = 100.0
    recipe = catalog.recipe(f"gguf-{scheme}")
    quantize(source, tmp_path / "plain.gguf", recipe)
    quantize(source, tmp_path / "weighed.gguf", recipe, importance={name: weights, "no.such.weight": weights})
    plain, weighed = (error_of(tmp_path / f"{file}.gguf", source, name) for file in ("plain", "weighed"))
    assert np.square(weighed[:, ::8]).mean() < 0.7 * np.square(plain[:, ::8]).mean()


def test_importance_of_another_width_is_refused(source: Path, tmp_path: Path) -> None:
    wrong = {"blk.0.ffn_up.weight": np.ones(255, dtype=np.float32)}
    with pytest.raises(StageError, match="rows are 256 wide"):
        quantize(source, tmp_path / "small.gguf", catalog.recipe("gguf-q4_0"), importance=wrong)


def test_importance_covers_every_matrix_of_the_file_and_lessens_its_error(
    wide: Path, source: Path, tmp_path: Path
) -> None:
    weights = importance(wide, ROWS)
    matrices = {one.name for one in header.read(source).tensors if len(one.shape) == 2}
    assert set(weights) == matrices - {"token_embd.weight"}
    recipe = catalog.recipe("gguf-q4_0")
    quantize(source, tmp_path / "plain.gguf", recipe)
    quantize(source, tmp_path / "weighed.gguf", recipe, importance=weights)
    name = "blk.0.attn_q.weight"
    costs = [
        float((np.square(error_of(tmp_path / f"{file}.gguf", source, name)) * weights[name]).mean())
        for file in ("plain", "weighed")
    ]
    assert costs[1] < costs[0]
