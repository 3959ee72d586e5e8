"""Whole trainings with two teachers: one of them is wrong where it does not serve, and the student must not hear it."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from edgedistill import pipeline
from edgedistill.config import Request
from edgedistill.data import rows as data
from edgedistill.distill import teach
from edgedistill.errors import InputError, PlanRefused
from edgedistill.pipeline import Distilled
from edgedistill.store import Store
from edgedistill.teachers import local
from tests.conftest import LABELS
from tests.pipeline.requests import write_rows

DOMAIN = {"light": "home", "music": "home", "door": "security"}
SWAPPED = {"light": "music", "music": "light", "door": "door"}
COLUMN = {"combine": "column", "column": "domain"}


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """Rows with a domain; a teacher that is right about all, and one that is right about security alone."""

    folder: Path
    rows: Path
    right: str
    wrong: str

    def request(self, teacher: dict[str, Any], distill: dict[str, Any]) -> Request:
        settings = {"epochs": 5, "learning_rate": 2e-3, "batch_tokens": 64, "kd_weight": 1.0, "hidden_weight": 0.0}
        return Request.model_validate(
            {
                "name": "toy",
                "out": self.folder / "dist",
                "data": {"folder": str(self.rows), "max_tokens": 32},
                "teacher": {"model": self.right, **teacher},
                "student": {"layers": 2},
                "distill": {**settings, **distill},
                "goals": {"size_ratio": 1.0},
            }
        )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: Path) -> House:
    folder = tmp_path_factory.mktemp("house")
    chance = random.Random(4)
    labels, fillers = list(LABELS), ["the", "please", "now", "my", "in", "very", "hall", "kitchen"]

    made: dict[str, dict[str, Any]] = {}
    while len(made) < 240:
        label = labels[len(made) % 3]
        text = " ".join([*chance.sample(fillers, 3), chance.choice(LABELS[label])])
        made.setdefault(text, {"text": text, "label": label, "domain": DOMAIN[label]})
    rows = list(made.values())
    split = {"train": rows[:150], "validation": rows[150:180], "test": rows[180:]}
    wrong = {name: [{**row, "label": SWAPPED[row["label"]]} for row in of_split] for name, of_split in split.items()}
    for row in (row for name in ("validation", "test") for row in split[name]):
        del row["domain"]  # nobody teaches them
    found = {}
    for name, given in (("right", split), ("wrong", wrong)):
        place = write_rows(folder / f"{name} rows", given)
        request = Request.model_validate(
            {
                "data": {"folder": str(place), "max_tokens": 32},
                "teacher": {"epochs": 5, "learning_rate": 2e-3, "batch_tokens": 64},
            }
        )
        with Store(folder / "made") as store:
            read, _ = data.prepare(request.data, seed=0, store=store)
            head = teach.teach(
                local.find(str(tiny_teacher), read.labels), read, data.read(read, "train"), request, store=store
            )
            assert head is not None
            shutil.copytree(head.path, folder / name)
        found[name] = str(folder / name)
    return House(folder=folder, rows=folder / "right rows", **found)


def accuracy(done: Distilled, arm: str = "student") -> float:
    return float(next(one for one in done.training["arms"] if one["name"] == arm)["metrics"]["accuracy"]["value"])


@pytest.fixture(scope="module")
def served(house: House) -> tuple[Request, Distilled]:
    """A student whose teachers serve what they know."""
    teachers = [{"model": house.wrong, "serves": ["security"]}]
    request = house.request({"serves": ["home"]}, {**COLUMN, "teachers": teachers}).model_copy(
        update={"name": "served"}
    )
    return request, pipeline.distill(request)


def test_a_teacher_does_no_harm_where_it_does_not_serve(house: House, served: tuple[Request, Distilled]) -> None:
    done = served[1]
    assert accuracy(done) > 0.9
    teachers = [{"model": house.wrong, "serves": ["home"]}]
    misled = pipeline.distill(house.request({"serves": ["security"]}, {**COLUMN, "teachers": teachers}))
    assert accuracy(misled) < 0.6
    assert accuracy(misled, "control") == accuracy(done, "control")


def test_the_explanation_names_the_teachers(house: House, served: tuple[Request, Distilled]) -> None:
    told = "\n".join(served[1].training["explanation"])
    assert "teacher 1: right, weight 1, for domain = home: 100 rows" in told
    assert "teacher 2: wrong, weight 1, for domain = security: 50 rows" in told
    assert "of the validation rows right, 67% of the divergence" in told
    assert "of the validation rows right, 33% of the divergence" in told
    assert str(house.folder) not in json.dumps(served[1].training)


def test_a_second_training_finds_nothing_to_do(served: tuple[Request, Distilled]) -> None:
    assert not pipeline.distill(served[0]).changed


def test_a_weight_of_nothing_leaves_the_training_of_one_teacher(house: House) -> None:
    curves, weights = [], []
    for teachers in ([{"model": house.wrong, "weight": 0}], []):
        done = pipeline.distill(house.request({}, {"teachers": teachers, "hidden_weight": 1.0, "epochs": 2}))
        curves.append(done.training["curves"])
        weights.append((done.folder / "model.safetensors").read_bytes())
    assert curves[0] == curves[1]
    assert weights[0] == weights[1]


def test_by_agreement_the_worse_teacher_has_the_smaller_share(house: House) -> None:
    settings = {"combine": "agreement", "teachers": [{"model": house.wrong}], "epochs": 1}
    told = pipeline.distill(house.request({}, settings)).training["explanation"]
    shares = [int(line.split("% of the divergence")[0].rsplit(" ", 1)[1]) for line in told[-2:]]
    assert sum(shares) in (99, 100, 101)
    assert shares[0] > 65


def test_a_static_student_has_several_teachers_too(house: House) -> None:
    found = []
    for first, second in (("home", "security"), ("security", "home")):
        teachers = [{"model": house.wrong, "serves": [second]}]
        request = house.request({"serves": [first]}, {**COLUMN, "teachers": teachers, "epochs": 8})
        plain = request.model_dump(mode="json")
        plain["student"], plain["distill"]["hidden_weight"] = {"kind": "static", "vocabulary": 120}, 1.0
        found.append(accuracy(pipeline.distill(Request.model_validate(plain))))
    assert found[0] > 0.9 > 0.6 > found[1]


@pytest.mark.parametrize(
    ("serves", "column", "said"),
    [(["kitchen"], "domain", "no teacher serves domain = 'security'"), (["security"], "room", "does not say which")],
)
def test_rows_that_nobody_teaches_are_refused_before_any_training(
    house: House, serves: list[str], column: str, said: str
) -> None:
    settings = {"combine": "column", "column": column, "teachers": [{"model": house.wrong, "serves": serves}]}
    with pytest.raises(InputError, match=said):
        pipeline.distill(house.request({"serves": ["home"]}, settings))


def test_a_copy_of_a_teacher_is_no_second_teacher(house: House, tmp_path: Path) -> None:
    shutil.copytree(house.right, tmp_path / "copy")
    with pytest.raises(InputError, match="one and the same checkpoint"):
        pipeline.distill(house.request({}, {"teachers": [{"model": str(tmp_path / "copy")}]}))


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory, tiny_writer: Path, talks: Path) -> tuple[Path, Path, Path]:
    """A second teacher that writes, rows with a domain, and where students go."""
    folder = tmp_path_factory.mktemp("writers")
    shutil.copytree(tiny_writer, folder / "other")
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_writer)
    chance = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
    model.save_pretrained(folder / "other")
    splits = {}
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (talks / f"{split}.jsonl").read_text().splitlines()]
        splits[split] = [{**row, "domain": "even" if i % 2 == 0 else "odd"} for i, row in enumerate(rows)]
    return folder / "other", write_rows(folder / "rows", splits), folder / "dist"


def written(writers: tuple[Path, Path, Path], teacher: dict[str, Any], distill: dict[str, Any]) -> Request:
    settings = {"epochs": 1, "learning_rate": 2e-3, "batch_tokens": 256}
    return Request.model_validate(
        {
            "name": "talk",
            "task": "conversation",
            "out": writers[2],
            "data": {"folder": str(writers[1]), "max_tokens": 96},
            "teacher": teacher,
            "student": {"layers": 2},
            "distill": {**settings, **distill},
        }
    )


def test_decoders_teach_together_token_by_token(writers: tuple[Path, Path, Path], tiny_writer: Path) -> None:
    first, second = {"model": str(tiny_writer)}, {"model": str(writers[0])}
    alone = pipeline.distill(written(writers, first, {}))
    nothing = pipeline.distill(written(writers, first, {"teachers": [{**second, "weight": 0}]}))
    for point, expected in zip(*(one.training["curves"]["student"] for one in (nothing, alone)), strict=True):
        assert point == pytest.approx(expected, rel=1e-5)
    by_column = written(writers, {**first, "serves": ["even"]}, {**COLUMN, "teachers": [{**second, "serves": ["odd"]}]})
    done = pipeline.distill(by_column)
    assert done.training["route"] == "tokens"
    assert f"teacher 2: {writers[0].name}, weight 1, for domain = odd: 30 rows" in done.training["explanation"]
    kd, before = (one.training["curves"]["student"][0]["kd"] for one in (done, alone))
    assert abs(kd - before) > 0.05 * before
    assert not pipeline.distill(by_column).changed


def test_a_teacher_with_other_tokens_is_refused_by_name(
    writers: tuple[Path, Path, Path], tiny_writer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(writers[0], folder)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "helper")
    tokenizer.save_pretrained(folder)
    request = written(writers, {"model": str(tiny_writer)}, {"teachers": [{"model": str(folder)}]})
    with pytest.raises(PlanRefused, match=r"foreign cannot teach beside the first teacher.*templates differ"):
        pipeline.distill(request)
