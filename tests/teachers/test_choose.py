"""From settings to a teacher, and that every block in the README is one that works."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest

from edgedistill import teachers
from edgedistill.config import Label, LabelTeacher, Price, read_request
from edgedistill.errors import InputError
from edgedistill.teachers import local
from edgedistill.teachers.api import Anthropic, OpenAI
from edgedistill.teachers.causal import Causal
from edgedistill.teachers.choose import choose, kind_of
from edgedistill.teachers.encoder import Encoder
from edgedistill.teachers.provider_batch import OpenAIBatch
from tests.teachers.asks import LABELS
from tests.teachers.checkpoints import decoder

KINDS = get_args(LabelTeacher.model_fields["kind"].annotation)
README = Path(teachers.__file__).with_name("README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
ENVIRONMENT = dict.fromkeys(re.findall(r'key_env = "(\w+)"', README), "sk-not-for-anybody")


def settings(kind: str, model: str | Path, **more: Any) -> LabelTeacher:
    return LabelTeacher.model_validate({"kind": kind, "model": str(model), **more})


@pytest.fixture(scope="session")
def classifier(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with a head for the labels."""
    folder = tmp_path_factory.mktemp("classifier")
    local.save(local.load(tiny_teacher, LABELS), folder)
    (folder / "tokenizer.json").write_bytes((tiny_teacher / "tokenizer.json").read_bytes())
    return folder


@pytest.fixture(scope="session")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder."""
    return decoder(tmp_path_factory.mktemp("writer"))


def test_a_local_teacher_is_known_by_its_suffix_or_by_its_config(classifier: Path, writer: Path) -> None:
    assert kind_of("/nowhere/model.Q4_1.gguf") == "gguf"
    assert kind_of(str(classifier)) == "encoder"
    assert kind_of(str(writer)) == "transformers"


@pytest.mark.parametrize("name", ["owner/name", "nowhere", "/no/such/folder", ""])
def test_a_name_that_is_no_folder_is_taken_for_a_model_that_writes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of(name) == "transformers"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "7", "{}", '{"architectures": null}', '{"architectures": 7}', '{"architectures": [7]}']
)
def test_a_config_that_says_nothing_is_no_classifier(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert kind_of(str(tmp_path)) == "transformers"


def test_each_kind_comes_to_its_teacher(classifier: Path, writer: Path) -> None:
    url = "http://127.0.0.1:1/v1"
    assert type(choose(settings("openai", "big", base_url=url), LABELS)) is OpenAI
    assert type(choose(settings("openai", "big", base_url=url, batch=True), LABELS)) is OpenAIBatch
    assert type(choose(settings("anthropic", "claude", base_url=url), LABELS)) is Anthropic
    assert type(choose(settings("transformers", writer), LABELS)) is Causal
    assert type(choose(settings("encoder", classifier), LABELS)) is Encoder


def test_a_key_is_looked_up_where_it_is_said_to_be() -> None:
    teacher = settings("openai", "big", key_env="TEACHER_KEY")
    assert isinstance(choose(teacher, LABELS, {"TEACHER_KEY": "sk-x"}), OpenAI)
    with pytest.raises(InputError, match="TEACHER_KEY is not set"):
        choose(teacher, LABELS, {})


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "openai"])
def test_batches_are_for_openai_alone_and_refused_before_anything_is_looked_for(kind: str) -> None:
    with pytest.raises(InputError, match="batch mode needs kind = 'openai'"):
        choose(settings(kind, "/no/such/thing", batch=True), LABELS)


@pytest.mark.parametrize("kind", ["gguf", "transformers", "encoder"])
def test_a_local_teacher_that_is_not_there_is_named(kind: str) -> None:
    with pytest.raises(InputError, match="/no/such/thing"):
        choose(settings(kind, "/no/such/thing"), LABELS)


def test_a_text_that_is_called_gguf_never_reaches_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("these are notes")
    monkeypatch.setattr(importlib, "import_module", lambda *_: pytest.fail("llama.cpp was called"))
    with pytest.raises(InputError, match="is not a GGUF file"):
        choose(settings(kind_of(str(path)), path), LABELS)


def test_a_classifier_for_other_labels_and_a_decoder_as_a_classifier_are_refused(
    classifier: Path, writer: Path
) -> None:
    with pytest.raises(InputError, match="no head for the 2 labels"):
        choose(settings("encoder", classifier), LABELS[:2])
    with pytest.raises(InputError, match="family 'llama'"):
        choose(settings("encoder", writer), LABELS)


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: " ".join(re.findall(r'^name = "(.*)"', block, re.MULTILINE))
)
def test_every_block_of_the_readme_is_a_request(block: str, tmp_path: Path) -> None:
    path = tmp_path / "edgedistill.toml"
    path.write_text(block, encoding="utf-8")
    values = tomllib.loads(block)
    label = read_request(path).label
    assert label == Label.model_validate(values["label"])
    assert len(label.teachers) == len(values["label"]["teachers"]) >= 1
    for teacher in label.teachers:
        if teacher.kind in ("openai", "anthropic"):
            assert choose(teacher, label.labels, ENVIRONMENT).name == teacher.title


def test_the_readme_has_a_block_for_every_kind_and_documents_each() -> None:
    shown = [teacher["kind"] for block in BLOCKS for teacher in tomllib.loads(block)["label"]["teachers"]]
    assert set(shown) == set(KINDS)
    assert len(BLOCKS) > 10
    for section in ("## Kinds and signals", "## What to install"):
        table = README.partition(section)[2].partition("\n## ")[0]
        rows = [line for line in table.splitlines() if line.startswith("| `")]
        assert sorted(re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in rows))) == sorted(KINDS)


def test_the_readme_documents_every_key_and_no_other() -> None:
    run, _, one = README.partition("## Keys")[2].partition("\n## ")[0].partition("`[[label.teachers]]`")
    for text, section in ((run, Label), (one, LabelTeacher)):
        rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        documented = re.findall(r"`(\w+)`", " ".join(rows))
        assert sorted(documented) == sorted(set(section.model_fields) - {"teachers"})
    prices = next(line for line in run.splitlines() if line.startswith("| `prices`"))
    assert set(re.search(r"\{(.*?)\}", prices)[1].split(", ")) == set(Price.model_fields)  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_gives_the_signals_that_the_readme_promises(kind: str, classifier: Path, writer: Path) -> None:
    row = next(line for line in README.splitlines() if line.startswith(f"| `{kind}` |"))
    text, labels, probabilities = (cell.strip() for cell in row.split("|")[3:6])
    local_model = {"encoder": classifier, "transformers": writer}.get(kind)
    if kind == "gguf":
        pytest.skip("tests/teachers/test_llama.py has its model")
    url = {} if local_model else {"base_url": "http://127.0.0.1:1"}
    gives = choose(settings(kind, local_model or "big", logprobs=5, **url), LABELS).gives
    assert ("text" in gives) is (text == "yes")
    assert ("labels" in gives) is (labels == "yes")
    assert ("top-k log-probabilities" in gives) is probabilities.startswith("top-k")
    assert ("class probabilities" in gives) is (probabilities == "of every class")
