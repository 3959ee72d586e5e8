from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType

from edgedistill import catalog
from edgedistill.export.gguf import byte_level, header
from edgedistill.export.gguf.lint import Finding, lint
from edgedistill.export.gguf.quantize import quantize
from edgedistill.export.gguf.writer import to_gguf
from tests.export.gguf.checkpoints import SIZES, bytes_bpe, causal

Q = GGMLQuantizationType
ASK = "{{ messages[0].content }}"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file in Q4_0 with a head of its own."""
    folder = tmp_path_factory.mktemp("good")
    checkpoint = causal("Llama", SIZES | {"intermediate_size": 128}, bytes_bpe(byte_level.QWEN2), folder / "checkpoint")
    to_gguf(checkpoint, folder / "full.gguf", precision="f32")
    quantize(folder / "full.gguf", folder / "good.gguf", catalog.recipe("gguf-q4_0"))
    return folder / "good.gguf"


def altered(
    good: Path,
    path: Path,
    keys: Mapping[str, Any] | None = None,
    tensors: Callable[[str, np.ndarray, Q], tuple[np.ndarray, Q]] = lambda _name, data, kind: (data, kind),
) -> Path:
    """The file again with other values of some keys (None drops a key) and other tensors."""
    reader = GGUFReader(good)
    writer = GGUFWriter(path, "llama")
    keys = dict(keys or {})
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value = keys.get(field.name, field.contents())
        if value is not None:
            inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(field.name, value, field.types[0], inner)
    for one in reader.tensors:
        data, kind = tensors(one.name, one.data, one.tensor_type)
        writer.add_tensor(one.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def only(findings: tuple[Finding, ...]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_a_file_of_ours_has_no_findings(good: Path, tmp_path: Path) -> None:
    assert lint(good) == ()
    assert lint(altered(good, tmp_path / "same.gguf")) == ()


@pytest.mark.parametrize(
    ("template", "what"),
    [
        (None, "is missing"),
        ("{% for message in messages %}{{ message.content }}", "fails on one question"),
        ("{{ messages[7].content.upper() }}", "fails on one question"),
        ("{% for message in messages %}{{ message.role }}{% endfor %}", "leaves the question out"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "does not end"),
    ],
)
def test_a_broken_chat_template_is_found(template: str | None, what: str, good: Path, tmp_path: Path) -> None:
    found = only(lint(altered(good, tmp_path / "x.gguf", {"tokenizer.chat_template": template})))
    assert found.where == "tokenizer.chat_template"
    assert found.severity == "error"
    assert what in found.what


def test_a_head_left_unquantized_is_found_with_what_it_costs(good: Path, tmp_path: Path) -> None:
    rows = header.read(good).metadata["tokenizer.ggml.tokens"]
    half = np.zeros((len(rows), 64), dtype=np.float16)

    def change(name: str, data: np.ndarray, kind: Q) -> tuple[np.ndarray, Q]:
        return (half, Q.F16) if name == "output.weight" else (data, kind)

    found = only(lint(altered(good, tmp_path / "x.gguf", tensors=change)))
    assert (found.severity, found.where) == ("cost", "output.weight")
    assert "F16 in a file of Q4_0" in found.what
    assert f"{half.nbytes - half.size // 32 * 34:,} bytes" in found.cost


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("tokenizer.ggml.eos_token_id", None, "is missing"),
        ("tokenizer.ggml.eos_token_id", 10_000, "is 10000, and there are"),
        ("tokenizer.ggml.eos_token_id", 100, "is no control token"),
        ("tokenizer.ggml.pre", "nobody", "is 'nobody', which llama.cpp does not know"),
        ("tokenizer.ggml.pre", None, "is missing"),
        ("tokenizer.ggml.tokens", None, "is missing"),
        ("tokenizer.ggml.token_type", [1, 1, 1], "has 3 entries"),
        ("general.file_type", 15, "most of the weights are Q4_0"),
    ],
)
def test_wrong_metadata_is_found_by_its_key(key: str, value: object, what: str, good: Path, tmp_path: Path) -> None:
    findings = lint(altered(good, tmp_path / "x.gguf", {key: value}))
    assert any(one.where == key and what in one.what for one in findings), findings


def test_a_mixture_that_is_named_after_its_bits_is_no_fault(good: Path, tmp_path: Path) -> None:
    mixture = int(LlamaFileType.MOSTLY_IQ3_XS)
    assert not lint(altered(good, tmp_path / "mixture.gguf", {"general.file_type": mixture}))


def test_a_vocabulary_of_another_size_than_the_embeddings_is_found(good: Path, tmp_path: Path) -> None:
    tokens = header.read(good).metadata["tokenizer.ggml.tokens"]
    types = header.read(good).metadata["tokenizer.ggml.token_type"]
    short = {"tokenizer.ggml.tokens": tokens[:-4], "tokenizer.ggml.token_type": types[:-4]}
    findings = lint(altered(good, tmp_path / "x.gguf", short))
    assert {one.where for one in findings} == {"token_embd.weight", "output.weight"}
    assert f"has {len(tokens)} rows for {len(tokens) - 4} tokens" in findings[0].what


@pytest.mark.parametrize(
    ("name", "what"), [("blk.1.ffn_up.weight", "1 block scales"), ("output_norm.weight", "1 numbers")]
)
def test_numbers_that_are_not_finite_are_found(name: str, what: str, good: Path, tmp_path: Path) -> None:
    def change(tensor: str, data: np.ndarray, kind: Q) -> tuple[np.ndarray, Q]:
        if tensor != name:
            return data, kind
        data = data.copy()
        if kind == Q.F32:
            data[3] = np.nan
        else:
            data[0, :2] = [0x00, 0x7E]  # a float16 that is not a number, where the first block has its scale
        return data, kind

    path = altered(good, tmp_path / "x.gguf", tensors=change)
    found = only(lint(path))
    assert (found.where, found.severity) == (name, "error")
    assert what in found.what
    assert lint(path, weights=False) == ()


def test_rows_that_fell_back_are_found_with_what_they_cost(good: Path, tmp_path: Path) -> None:
    quantize(good.with_name("full.gguf"), tmp_path / "eight.gguf", catalog.recipe("gguf-q8_0"))
    findings = lint(altered(tmp_path / "eight.gguf", tmp_path / "x.gguf", {"general.file_type": 18}))
    matrices = {one.name: one for one in header.read(tmp_path / "x.gguf").tensors if one.name.startswith("blk")}
    fell = {one.where: one for one in findings}
    assert fell.keys() == {name for name, one in matrices.items() if len(one.shape) == 2}
    finding = fell["blk.0.ffn_up.weight"]
    assert finding.what == "fell back to Q8_0: rows of 64 are no multiple of 256"
    more = matrices["blk.0.ffn_up.weight"].bytes - 64 * 128 // 256 * 210
    assert finding.cost.startswith(f"{more:,} bytes more than Q6_K")


def test_a_tensor_out_of_its_place_is_found(good: Path, tmp_path: Path) -> None:
    data = bytearray(good.read_bytes())
    # The offset of a tensor is the last field of its entry: name, dimensions, two sizes, type, offset.
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 8 + 8 + 4
    data[at : at + 8] = (int.from_bytes(data[at : at + 8], "little") + 4).to_bytes(8, "little")
    (tmp_path / "x.gguf").write_bytes(bytes(data))
    findings = lint(tmp_path / "x.gguf", weights=False)
    assert any(one.where == "blk.0.attn_q.weight" and "not aligned to 32" in one.what for one in findings)


def test_phi_3_past_its_window_is_found(checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    reader = checkpoint("phi3")
    to_gguf(reader, tmp_path / "x.gguf", precision="f16")
    assert lint(tmp_path / "x.gguf") == ()
    data = bytearray((tmp_path / "x.gguf").read_bytes())
    at = data.index(b"phi3.attention.sliding_window") + len(b"phi3.attention.sliding_window") + 4
    data[at : at + 4] = (16).to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(bytes(data))
    assert "differ from the checkpoint's past 16 tokens" in only(lint(tmp_path / "x.gguf")).cost
