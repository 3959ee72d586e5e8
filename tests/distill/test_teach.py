"""A teacher is trained only when it must be, and its new head starts from its features."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from edgedistill.config import Request
from edgedistill.data import rows as data
from edgedistill.distill import logits, teach
from edgedistill.distill.classes import Classes, Examples
from edgedistill.distill.trainer import Schedule, fit
from edgedistill.errors import IntegrityError
from edgedistill.store import Store
from edgedistill.teachers import local
from edgedistill.types import SPLITS, Rows

Make = Callable[[], PreTrainedModel]
LABELS = ("door", "light", "music")


@pytest.fixture
def request_for(tiny_rows: Path) -> Request:
    return Request.model_validate({"data": {"folder": str(tiny_rows)}, "teacher": {"epochs": 1}})


def test_a_teacher_with_the_head_is_taken_as_it_is(
    classifier: Make, tiny_teacher: Path, request_for: Request, tmp_path: Path
) -> None:
    local.save(classifier(), tmp_path / "tuned")
    shutil.copy(tiny_teacher / "tokenizer.json", tmp_path / "tuned")
    teacher = local.find(str(tmp_path / "tuned"), LABELS)
    with Store(tmp_path / "store") as store:
        rows, _ = data.prepare(request_for.data, seed=0, store=store)
        assert teach.teach(teacher, rows, data.read(rows, "train"), request_for, store=store) is None
        assert [path.name.split("-")[0] for path in (tmp_path / "store" / "outputs").iterdir()] == ["rows"]


def test_an_encoder_without_a_head_becomes_a_checkpoint_that_has_one(
    tiny_teacher: Path, request_for: Request, tmp_path: Path
) -> None:
    with Store(tmp_path) as store:
        rows, _ = data.prepare(request_for.data, seed=0, store=store)
        train = data.read(rows, "train")
        tuned = teach.teach(local.find(str(tiny_teacher), LABELS), rows, train, request_for, store=store)
        assert tuned is not None
        assert local.find(str(tuned.path), LABELS).has_head
        assert teach.curve(tuned)[-1]["step"] > 0


def test_answers_for_other_rows_are_refused(
    classifier: Make, tiny_teacher: Path, request_for: Request, tmp_path: Path
) -> None:
    local.save(classifier(), tmp_path / "tuned")
    shutil.copy(tiny_teacher / "tokenizer.json", tmp_path / "tuned")
    with Store(tmp_path / "store") as store:
        rows: Rows
        rows, _ = data.prepare(request_for.data, seed=0, store=store)
        splits = {split: data.read(rows, split) for split in SPLITS}
        answers = teach.ask(tmp_path / "tuned", "its hash", rows, splits, 32, store=store)
        assert teach.signal(answers, "train", splits["train"]).hidden is not None
        assert teach.signal(answers, "test", splits["test"]).hidden is None
        with pytest.raises(IntegrityError):
            teach.signal(answers, "train", list(reversed(splits["train"])))
        with pytest.raises(IntegrityError):
            teach.signal(answers, "test", splits["validation"])


def accuracy(model: PreTrainedModel, examples: Examples) -> float:
    found = logits.ask(model, examples.ids, [""] * len(examples.ids), hidden=False).logits.argmax(dim=1)
    return (found == torch.tensor(examples.classes)).float().mean().item()


def test_a_probed_head_finds_what_the_features_say_and_leaves_them_alone(
    classifier: Make, toy: Examples, tmp_path: Path
) -> None:
    model = classifier()
    fit(
        model,
        Classes(toy),
        Schedule(epochs=6, learning_rate=5e-3, batch_tokens=64, checkpoint_steps=1000, seed=0),
        work=tmp_path,
    )
    head = model.get_submodule("classifier")
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    before = {name: weight.clone() for name, weight in model.get_submodule("bert").state_dict().items()}
    assert accuracy(model, toy) < 0.9
    teach.probe_head(model, toy)
    assert accuracy(model, toy) > 0.97
    assert all(torch.equal(weight, before[name]) for name, weight in model.get_submodule("bert").state_dict().items())


def test_a_probed_head_does_not_depend_on_the_head_before_it(classifier: Make, toy: Examples) -> None:
    heads = []
    for seed in (1, 2):
        model = classifier()
        torch.manual_seed(seed)
        head = model.get_submodule("classifier")
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.normal_()
        teach.probe_head(model, toy)
        heads.append(head.state_dict())
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
