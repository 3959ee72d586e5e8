"""Each fault, planted in a good file, is named with its node or tensor and its cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgedistill import catalog
from edgedistill.export.lint import Finding, lint
from edgedistill.export.onnx import to_onnx
from edgedistill.export.quantize import base_of, products, quantize


@pytest.fixture
def weight_only(student: Path, tmp_path: Path) -> Path:
    recipe = catalog.recipe("onnx-int4")
    to_onnx(student, tmp_path / "fused.onnx", **base_of(recipe))
    quantize(tmp_path / "fused.onnx", tmp_path / "model.onnx", recipe)
    return tmp_path / "model.onnx"


def spoil(path: Path, change: Callable[[ModelProto], None]) -> tuple[Finding, ...]:
    model = onnx.load(path)
    change(model)
    onnx.save_model(model, str(path))
    return lint(path, recipe=catalog.recipe("onnx-int4"), labels=5)


def only(found: tuple[Finding, ...]) -> Finding:
    (finding,) = found
    return finding


def test_a_good_file_has_no_findings(weight_only: Path) -> None:
    assert spoil(weight_only, lambda model: None) == ()


def test_a_product_without_an_accuracy_level_is_named(weight_only: Path) -> None:
    def change(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "MatMulNBits")
        node.attribute.remove(next(found for found in node.attribute if found.name == "accuracy_level"))

    finding = only(spoil(weight_only, change))
    assert (finding.rule, finding.severity) == ("accuracy-level", "warning")
    assert finding.where.startswith("0.query_out")
    assert "twice the time" in finding.cost


def test_an_unquantized_head_is_named_with_what_it_weighs(student: Path, tmp_path: Path) -> None:
    recipe = catalog.recipe("onnx-int8-int4emb")
    to_onnx(student, tmp_path / "fused.onnx", **base_of(recipe))
    wide = products(tmp_path / "fused.onnx", recipe)[1:4]
    quantize(tmp_path / "fused.onnx", tmp_path / "model.onnx", recipe, exclude=wide)
    import edgedistill.export.lint as linting

    assert linting.LARGE > 64 * 32  # the toy's matrices are too small to matter
    model = onnx.load(tmp_path / "model.onnx")
    head = np.ones((64, 128), dtype=np.float32)
    model.graph.initializer.append(numpy_helper.from_array(head, "head.wide"))
    model.graph.node.append(helper.make_node("MatMul", ["logits", "head.wide"], ["more"], "more/MatMul"))
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    finding = only(lint(tmp_path / "model.onnx", recipe=recipe))
    assert (finding.rule, finding.where) == ("unquantized", "head.wide")
    assert "0.02 MB more than in 8 bits" in finding.cost


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_stops(weight_only: Path, value: float) -> None:
    def change(model: ModelProto) -> None:
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "1.wide_bias")
        spoiled = numpy_helper.to_array(tensor).copy()
        spoiled[3] = value
        tensor.CopyFrom(numpy_helper.from_array(spoiled, tensor.name))

    finding = only(spoil(weight_only, change))
    assert (finding.rule, finding.where, finding.severity) == ("not-finite", "1.wide_bias", "stop")


def test_a_constant_of_a_node_is_looked_at_too(weight_only: Path) -> None:
    def change(model: ModelProto) -> None:
        value = numpy_helper.from_array(np.array([np.nan], dtype=np.float32), "hidden")
        model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], "c", value=value))

    assert only(spoil(weight_only, change)).where == "hidden"


def test_another_number_of_labels_stops(weight_only: Path) -> None:
    finding = only(lint(weight_only, labels=7))
    assert (finding.rule, finding.severity) == ("labels", "stop")
    assert "gives 5 scores and the config names 7 labels" in finding.cost


@pytest.mark.parametrize("what", ["opset", "ir"])
def test_a_file_that_is_too_new_for_the_pinned_engine_stops(weight_only: Path, what: str) -> None:
    def change(model: ModelProto) -> None:
        if what == "ir":
            model.ir_version = 14
        else:
            model.opset_import[0].version = 27

    finding = only(spoil(weight_only, change))
    assert (finding.rule, finding.severity) == ("too-new", "stop")


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "C:\\secret.bin", ""])
def test_external_data_outside_the_folder_stops_before_it_is_read(weight_only: Path, location: str) -> None:
    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    finding = only(spoil(weight_only, change))
    assert (finding.rule, finding.severity) == ("external-data", "stop")
    assert repr(location) in finding.cost


def test_a_link_out_of_the_folder_stops_too(weight_only: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("elsewhere") / "secret.bin"
    secret.write_bytes(b"0" * 4096)
    (weight_only.parent / "link.bin").symlink_to(secret)

    def change(model: ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="link.bin")

    assert only(spoil(weight_only, change)).rule == "external-data"


def plain(nodes: list[onnx.NodeProto], path: Path, *, axis: int | str = "rows") -> set[str]:
    """Rules that are broken by a graph of these nodes, from x to y."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, 4]) for name in ("x", "y")]
    value[0].type.tensor_type.shape.dim[1].dim_param = "width"
    scale = [numpy_helper.from_array(np.array(0.1, np.float32), "s"), numpy_helper.from_array(np.uint8(0), "z")]
    onnx.save_model(helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:], scale)), str(path))
    return {finding.rule for finding in lint(path)} - {"too-new"}


def test_conversions_that_are_undone_at_once_are_named(tmp_path: Path) -> None:
    pair = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], "d"),
    ]
    assert plain(pair, tmp_path / "m.onnx") == {"stray-pair"}
    product = [*pair[:1], helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"], "d")]
    product.append(helper.make_node("MatMul", ["h", "x"], ["y"], "m"))
    assert plain(product, tmp_path / "m.onnx") == set()  # this one the engine takes as bytes
    casts = [helper.make_node("Cast", ["x"], ["h"], "a", to=10), helper.make_node("Cast", ["h"], ["y"], "b", to=1)]
    assert plain(casts, tmp_path / "m.onnx") == {"stray-cast"}


def test_single_steps_of_attention_gelu_and_norms_are_named(tmp_path: Path) -> None:
    soft = [helper.make_node("Softmax", ["x"], ["p"], "s"), helper.make_node("MatMul", ["p", "x"], ["y"], "m")]
    assert plain(soft, tmp_path / "m.onnx") == {"unfused-attention"}
    assert plain([helper.make_node("Erf", ["x"], ["y"], "e")], tmp_path / "m.onnx") == {"unfused-gelu"}
    norm = [
        helper.make_node("Add", ["x", "x"], ["r"], "a"),
        helper.make_node("LayerNormalization", ["r", "s"], ["y"], "l"),
    ]
    assert plain(norm, tmp_path / "m.onnx") == {"unfused-norm"}


def test_an_axis_of_fixed_size_is_named(tmp_path: Path) -> None:
    assert plain([helper.make_node("Erf", ["x"], ["y"], "e")], tmp_path / "m.onnx", axis=8) >= {"fixed-axes"}
