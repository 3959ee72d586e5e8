"""Which checkpoints are taken as teachers, which are refused and why, and how a head is read."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import BertForSequenceClassification

from edgedistill.errors import EdgeDistillError, InputError, MissingExtra, StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.teachers import local

LABELS = ("door", "light", "music")
OTHER_ORDER = ("music", "door", "light")


@pytest.fixture
def checkpoint(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_teacher, folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def with_head(tiny_teacher: Path, folder: Path, labels: tuple[str, ...]) -> Path:
    """A fine-tuned checkpoint whose head names these labels, in this order."""
    torch.manual_seed(3)
    model = local.load(tiny_teacher, labels)
    with torch.no_grad():
        for parameter in model.get_submodule("classifier").parameters():
            parameter.normal_()
    local.save(model, folder)
    shutil.copy(tiny_teacher / "tokenizer.json", folder)
    return folder


def test_a_folder_is_found_and_its_facts_are_read(tiny_teacher: Path) -> None:
    teacher = local.find(str(tiny_teacher), LABELS)
    assert teacher.path == tiny_teacher
    assert teacher.name == tiny_teacher.name
    assert teacher.shape.layers == (0, 1, 2)
    assert (teacher.shape.hidden, teacher.shape.ffn, teacher.shape.heads) == (32, 64, 4)
    assert teacher.shape.labels == 3
    assert teacher.weight_bytes == (tiny_teacher / "model.safetensors").stat().st_size
    assert not teacher.has_head


def test_an_installed_package_that_carries_the_model_comes_first(
    tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "packages" / "carries_a_model"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copytree(tiny_teacher, package / "model")
    shutil.copytree(tiny_teacher, tmp_path / "owner" / "name")
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setitem(local.PACKAGES, "owner/name", "carries_a_model")
    monkeypatch.chdir(tmp_path)
    assert local.find("owner/name", LABELS).path == package / "model"


def test_a_folder_comes_before_the_hub(tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_teacher, tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    assert local.find("owner/name", LABELS).path == Path("owner/name")


def test_a_name_on_the_hub_is_downloaded_without_pickled_weights(
    tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []

    def download(name: str, *, allow_patterns: list[str], **_: Any) -> str:
        asked.append((name, allow_patterns))
        return str(tiny_teacher)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    teacher = local.find("owner/name", LABELS)
    assert teacher.name == "owner/name"
    ((name, patterns),) = asked
    assert name == "owner/name"
    assert "model.safetensors" in patterns
    assert not [pattern for pattern in patterns if pattern.endswith((".bin", ".pt", ".ckpt", "*"))]


@pytest.mark.parametrize("name", ["nowhere", "./owner/name", "/no/such/folder", "~/model", "a/b/c", ""])
def test_what_is_neither_a_folder_nor_a_name_on_the_hub_is_refused_without_asking_it(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(InputError):
        local.find(name, LABELS)


def test_without_a_network_a_name_on_the_hub_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    started = time.monotonic()
    with pytest.raises(InputError, match="the hub cannot be reached") as caught:
        local.find("nobody/has-this-model", LABELS)
    assert time.monotonic() - started < 10
    assert "folder" in str(caught.value.hint)


def test_without_a_network_a_model_that_a_package_carries_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setitem(local.PACKAGES, "owner/name", "a_package_that_nobody_installed")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(MissingExtra, match="owner/name") as caught:
        local.find("owner/name", LABELS)
    assert "edgedistill[demo]" in str(caught.value.hint)


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sprung,)


def test_pickled_weights_are_named_and_never_loaded(checkpoint: Path, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*never loaded"):
        local.find(str(checkpoint), LABELS)
    with pytest.raises(OSError, match="safetensors"):
        local.load(checkpoint, LABELS)
    assert not sprung.exists()


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named_and_pickled_weights_beside_it_are_no_reason(checkpoint: Path, file: str) -> None:
    (checkpoint / file).unlink()
    (checkpoint / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match=f"has no {file}") as caught:
        local.find(str(checkpoint), LABELS)
    assert "pickled" not in str(caught.value)


def test_a_checkpoint_that_wants_to_run_its_own_code_is_refused(checkpoint: Path) -> None:
    edit_config(checkpoint, auto_map={"AutoModel": "modeling.Mine"})
    with pytest.raises(InputError, match="its own code"):
        local.find(str(checkpoint), LABELS)


@pytest.mark.parametrize("family", ["roberta", "llama", None])
def test_another_family_is_refused_by_its_name(checkpoint: Path, family: str | None) -> None:
    edit_config(checkpoint, model_type=family)
    with pytest.raises(InputError, match=f"family {family!r}"):
        local.find(str(checkpoint), LABELS)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", '{"model_type": "bert"}', '{"model_type": "bert", "id2label": []}']
)
def test_a_config_that_is_none_is_an_error_about_the_teacher(checkpoint: Path, content: str) -> None:
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(InputError, match="teacher"):
        local.find(str(checkpoint), LABELS)


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "WordPiece"}}'])
def test_a_tokenizer_that_cannot_be_read_is_an_error_about_the_teacher(checkpoint: Path, content: str) -> None:
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json that cannot be read"):
        local.find(str(checkpoint), LABELS)


def test_a_tokenizer_with_pieces_that_the_model_has_not_is_refused(checkpoint: Path) -> None:
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.add_tokens(["zigbee"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(InputError, match=r"piece number \d+, and its model has \d+ pieces"):
        local.find(str(checkpoint), LABELS)


@pytest.mark.parametrize("activation", ["relu", "gelu_new", None])
def test_an_activation_that_cannot_be_exported_is_refused_before_any_training(
    checkpoint: Path, activation: str | None
) -> None:
    edit_config(checkpoint, hidden_act=activation)
    reason = f"has hidden_act {activation!r}, and only 'gelu' can be exported so far"
    with pytest.raises(InputError, match=reason):
        local.find(str(checkpoint), LABELS)
    with pytest.raises(StageError, match=reason):
        to_onnx(checkpoint, checkpoint / "model.onnx")
    assert local.inspect(checkpoint, LABELS, name="labels rows and is never exported").shape.hidden == 32


def test_what_a_user_has_of_a_teacher_is_weights_and_tokenizer(tiny_teacher: Path) -> None:
    files = [tiny_teacher / "model.safetensors", tiny_teacher / "tokenizer.json"]
    assert local.user_bytes(local.find(str(tiny_teacher), LABELS)) == sum(file.stat().st_size for file in files)


def header(content: bytes, *, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if size is None else size) + content


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        b"not a safetensors file at all",
        header(b"{}", size=2**63),
        header(b"{}", size=100_000_000),
        header(b"{"),
        header(b"\xff\xfe"),
        header(b"7"),
        header(b"[1]"),
        header(b'{"classifier.weight": 1}'),
        header(b"[" * 100_000),
        header(b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}') + b"short",
    ],
    ids=["empty", "a byte", "text", "huge", "big", "cut", "no text", "number", "list", "no tensor", "deep", "short"],
)
def test_junk_in_place_of_weights_is_an_error_about_the_teacher(checkpoint: Path, content: bytes) -> None:
    (checkpoint / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="teacher"):
        local.find(str(checkpoint), LABELS)


def test_weights_cut_off_anywhere_are_found_before_any_work(checkpoint: Path) -> None:
    whole = (checkpoint / "model.safetensors").read_bytes()
    for end in (7, 8, 100, len(whole) // 2, len(whole) - 1):
        (checkpoint / "model.safetensors").write_bytes(whole[:end])
        with pytest.raises(InputError, match="cannot be read"):
            local.find(str(checkpoint), LABELS)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (LABELS, True),
        (OTHER_ORDER, True),
        (("door", "light"), False),
        (("door", "light", "sound"), False),
        (("door", "light", "music", "heat"), False),
    ],
)
def test_a_teacher_has_the_head_only_for_exactly_the_labels(
    tiny_teacher: Path, tmp_path: Path, labels: tuple[str, ...], expected: bool
) -> None:
    folder = with_head(tiny_teacher, tmp_path, LABELS)
    assert local.find(str(folder), labels).has_head is expected


def test_the_right_names_in_the_config_are_no_head_when_the_weights_have_none(checkpoint: Path) -> None:
    edit_config(checkpoint, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)})
    assert not local.find(str(checkpoint), LABELS).has_head


def test_a_head_in_another_order_is_permuted_to_the_order_of_our_labels(tiny_teacher: Path, tmp_path: Path) -> None:
    folder = with_head(tiny_teacher, tmp_path, OTHER_ORDER)
    original = BertForSequenceClassification.from_pretrained(folder).train(False)
    ids = torch.randint(5, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        theirs, ours = original(input_ids=ids).logits, local.load(folder, LABELS)(input_ids=ids).logits
    assert theirs.std() > 0.1
    for column, label in enumerate(LABELS):
        assert torch.equal(ours[:, column], theirs[:, OTHER_ORDER.index(label)])


def test_a_permuted_head_names_its_labels_in_the_new_order(tiny_teacher: Path, tmp_path: Path) -> None:
    config = local.load(with_head(tiny_teacher, tmp_path, OTHER_ORDER), LABELS).config
    assert config.id2label == dict(enumerate(LABELS))
    assert config.label2id == {label: i for i, label in enumerate(LABELS)}


def test_a_head_for_other_labels_is_replaced(tiny_teacher: Path, tmp_path: Path) -> None:
    folder = with_head(tiny_teacher, tmp_path, ("good", "bad"))
    model = local.load(folder, LABELS)
    assert model.get_submodule("classifier").weight.shape == (3, 32)
    assert torch.isfinite(model(input_ids=torch.tensor([[2, 7, 3]])).logits).all()


@pytest.mark.parametrize("changes", [{"num_hidden_layers": 4}, {"intermediate_size": 96}])
def test_an_encoder_that_does_not_fit_its_config_is_never_filled_up_with_random_weights(
    checkpoint: Path, changes: dict[str, int]
) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(InputError, match=r"lacks \d+ weights .* bert\.encoder\.layer"):
        local.load(checkpoint, LABELS)


def test_weights_are_read_in_float32_ready_to_answer(tiny_teacher: Path, tmp_path: Path) -> None:
    half = local.load(tiny_teacher, LABELS)
    for parameter in half.parameters():
        parameter.data = parameter.data.to(torch.float16)
    local.save(half, tmp_path)
    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.float16}
    model = local.load(tmp_path, LABELS)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training


def test_errors_about_a_teacher_end_with_status_2(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(EdgeDistillError) as caught:
        local.find(str(checkpoint), LABELS)
    assert caught.value.exit_code == 2
    assert caught.value.hint
