"""From checkpoints in folders to arms with intervals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from edgedistill.errors import InputError
from edgedistill.evaluate.arms import Name
from edgedistill.evaluate.evaluate import evaluate
from edgedistill.tasks.task import Style
from edgedistill.teachers import local
from tests.conftest import LABELS
from tests.distill.conftest import shake
from tests.teachers.checkpoints import WORDS, decoder


@pytest.fixture
def decoders(tmp_path: Path) -> dict[Name, Path]:
    """A teacher, a control that is far from it and a student that is near."""
    from transformers import AutoModelForCausalLM

    folders: dict[Name, Path] = {name: decoder(tmp_path / name) for name in ("teacher", "control", "student")}
    for name, noise in (("control", 0.3), ("student", 0.03)):
        model: Any = AutoModelForCausalLM.from_pretrained(folders[name])  # type: ignore[index]
        chance = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=noise)
        with local.quiet():
            model.save_pretrained(folders[name])  # type: ignore[index]
    return folders


def talks(count: int) -> list[dict[str, Any]]:
    turns = [
        (f"{WORDS[n % 50]} {WORDS[n % 7]}", f"{WORDS[n % 11]} {WORDS[n % 13]} {WORDS[n % 5]}") for n in range(count)
    ]
    return [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in turns]


def test_decoders_are_judged_by_text_and_by_token(decoders: dict[Name, Path]) -> None:
    found = evaluate("conversation", talks(20), decoders, max_tokens=40, max_new_tokens=5)
    arms = {arm.name: arm.metrics for arm in found.arms}
    assert list(arms) == ["teacher", "control", "student"]
    assert arms["student"].keys() == {"chrf", "rougeL", "bleu", "cross_entropy", "kl"}
    assert "kl" not in arms["teacher"]
    assert arms["student"]["kl"].high < arms["control"]["kl"].low
    contrasts = {contrast.name: contrast for contrast in found.contrasts}
    assert contrasts["retained"].title == "student / teacher"
    assert contrasts["distillation_kl"].estimate.low > 0
    assert (found.rows, found.scored_rows, found.left_out) == (20, 20, ())
    assert all(len(texts) == 20 for texts in found.answers.values())


def test_rows_that_an_arm_cannot_read_count_for_none(decoders: dict[Name, Path]) -> None:
    rows = talks(8)
    rows[3]["messages"][-1]["content"] = " ".join(WORDS)
    found = evaluate("conversation", rows, decoders, max_tokens=40, max_new_tokens=5)
    assert found.rows == 7
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("row 3: ")


def test_encoders_are_judged_by_label(tiny_teacher: Path, tiny_rows: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = shake(local.load(tiny_teacher, sorted(LABELS)))
    folders: dict[Name, Path] = {"teacher": tmp_path / "teacher", "student": tmp_path / "student"}
    for folder in folders.values():
        local.save(model, folder)
        (folder / "tokenizer.json").write_bytes((tiny_teacher / "tokenizer.json").read_bytes())
    rows = [json.loads(line) for line in (tiny_rows / "test.jsonl").read_text().splitlines()]
    found = evaluate("classification", rows, folders)
    assert [arm.name for arm in found.arms] == ["teacher", "student"]
    right = sum(said == row["label"] for said, row in zip(found.answers["teacher"], rows, strict=True))
    assert found.arms[0].metrics["accuracy"].value == pytest.approx(right / len(rows))
    assert {contrast.name: contrast.estimate.value for contrast in found.contrasts} == {"retained": 1.0}


def test_a_decoder_is_compared_with_a_classifier_by_the_labels_it_writes(
    decoders: dict[Name, Path], tiny_teacher: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    folder = tmp_path / "classifier"
    local.save(shake(local.load(tiny_teacher, WORDS[:3])), folder)
    (folder / "tokenizer.json").write_bytes((tiny_teacher / "tokenizer.json").read_bytes())
    rows = [{"text": f"open {WORDS[n]}", "label": WORDS[n % 3]} for n in range(12)]
    style = Style(labels=WORDS[:3], instruction="w9 {labels}")
    student = decoders["student"]
    found = evaluate("classification", rows, {"teacher": folder, "student": student}, style=style, max_tokens=40)
    assert [arm.name for arm in found.arms] == ["teacher", "student"]
    assert found.arms[0].metrics.keys() == {"accuracy", "macro_f1"}
    right = sum(said == row["label"] for said, row in zip(found.answers["teacher"], rows, strict=True))
    assert found.arms[0].metrics["accuracy"].value == pytest.approx(right / 12)
    with pytest.raises(InputError, match="is a classifier, and conversation has no labels"):
        evaluate("conversation", talks(3), {"teacher": folder})
    with pytest.raises(InputError, match="no checkpoint knows the label 'w7'"):
        evaluate("classification", [{"text": "open", "label": "w7"}], {"teacher": folder})


def test_rows_and_checkpoints_that_do_not_fit_are_named(decoders: dict[Name, Path]) -> None:
    with pytest.raises(InputError, match="row 0 has no answer"):
        evaluate("conversation", [{"messages": [{"role": "user", "content": "w1"}]}], decoders)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate("conversation", [], decoders)
    with pytest.raises(InputError, match="no row can be given to every checkpoint"):
        evaluate("conversation", talks(3), decoders, max_tokens=3)
