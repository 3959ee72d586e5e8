"""Whole trainings on tiny teachers: classes, pairs and written answers, each to a checkpoint that anyone can load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from edgedistill import pipeline
from edgedistill.config import Request, Student
from edgedistill.errors import InputError, PlanRefused
from edgedistill.runtime.engine_static import Classifier
from edgedistill.store import hashes
from edgedistill.types import Progress, silent
from tests.pipeline.requests import settings


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory, talks: Path, tiny_writer: Path) -> tuple[Request, Any]:
    """A student that writes."""
    request = settings(tmp_path_factory.mktemp("talked"), "conversation", talks, tiny_writer, max_tokens=96)
    return request, pipeline.distill(request)


def test_a_classifier_is_a_checkpoint_that_transformers_loads(
    tmp_path: Path, tiny_rows: Path, tiny_teacher: Path
) -> None:
    done = pipeline.distill(settings(tmp_path, "classification", tiny_rows, tiny_teacher))
    model = AutoModelForSequenceClassification.from_pretrained(done.folder)
    assert sorted(model.config.id2label.values()) == ["door", "light", "music"]
    assert [arm["name"] for arm in done.training["arms"]] == ["teacher", "control", "student"]
    assert done.training["parameters"]["student"] == sum(weight.numel() for weight in model.parameters())
    assert {"ce", "kd", "hidden"} <= done.training["curves"]["student"][0].keys()
    assert json.loads((done.folder / "training.json").read_text()) == done.training


def test_a_static_student_is_judged_by_its_file(tmp_path: Path, pairs: Path, tiny_teacher: Path) -> None:
    request = settings(tmp_path, "nli", pairs, tiny_teacher)
    request = request.model_copy(update={"student": Student(kind="static", vocabulary=120)})
    done = pipeline.distill(request)
    rows = [json.loads(line) for line in (pairs / "test.jsonl").read_text().splitlines()]
    classifier = Classifier(done.folder)
    said = classifier([(row["premise"], row["hypothesis"]) for row in rows]).argmax(axis=1)
    right = sum(classifier.labels[number] == row["label"] for number, row in zip(said, rows, strict=True))
    arm = next(arm for arm in done.training["arms"] if arm["name"] == "student")
    assert arm["metrics"]["accuracy"]["value"] == right / len(rows)
    with pytest.raises(PlanRefused, match="are not built in one go"):
        pipeline.build(request.model_copy(update={"task": "classification"}))


@pytest.mark.parametrize("task", ["classification", "conversation"])
def test_training_stops_when_validation_rows_stop_gaining(
    task: str, tmp_path: Path, tiny_rows: Path, tiny_teacher: Path, talks: Path, tiny_writer: Path
) -> None:
    rows, teacher = (tiny_rows, tiny_teacher) if task == "classification" else (talks, tiny_writer)
    request = settings(tmp_path, task, rows, teacher, max_tokens=96)
    # A learning rate that moves nothing: no epoch is better than the first.
    still = request.distill.model_copy(update={"patience": 2, "epochs": 30, "learning_rate": 1e-12})
    done = pipeline.distill(request.model_copy(update={"distill": still}))
    scores = [point["score"] for point in done.training["curves"]["student"] if "score" in point]
    assert len(scores) == 3


def test_a_single_file_is_judged_on_the_rows_that_were_not_trained_on(
    tmp_path: Path, pairs: Path, tiny_teacher: Path
) -> None:
    one = tmp_path / "rows.jsonl"
    one.write_text("".join((pairs / f"{split}.jsonl").read_text() for split in ("train", "validation", "test")))
    request = settings(tmp_path, "nli", one, tiny_teacher)
    done = pipeline.distill(request)
    found = pipeline.evaluate(request, done.folder)
    trained = next(arm for arm in done.training["arms"] if arm["name"] == "student")
    assert found.rows == done.training["data"]["counts"]["test"] < 60
    assert found.arms[0].metrics["accuracy"].value == trained["metrics"]["accuracy"]["value"]


@pytest.mark.parametrize(
    ("task", "changes", "key"),
    [
        ("conversation", {"student": {"model": "a/b", "width": 64}}, r"student\.width"),
        ("conversation", {"student": {"model": "a/b"}, "distill": {"hidden_weight": 1.0}}, r"distill\.hidden_weight"),
        ("conversation", {"distill": {"route": "sequence", "relation_weight": 1.0}}, r"distill\.relation_weight"),
        ("conversation", {"distill": {"divergence": "reverse"}}, r"distill\.divergence"),
        ("classification", {"distill": {"relation_weight": 1.0}}, r"distill\.relation_weight"),
        ("classification", {"student": {"width": 64}}, r"student\.width"),
        ("classification", {"distill": {"beta": 0.3}}, r"distill\.beta"),
        ("classification", {"distill": {"divergence": "jsd", "skew": 0.3}}, r"distill\.skew"),
        ("conversation", {"student": {"kind": "static"}}, r"student\.kind"),
        ("conversation", {"student": {"model": "a/b", "layers": 2}}, r"student\.layers"),
        ("conversation", {"distill": {"route": "onpolicy", "kd_weight": 0.5}}, r"distill\.kd_weight"),
        ("nli", {"distill": {"route": "tokens"}}, r"distill\.route"),
        ("classification", {"student": {"kind": "static", "layers": 2}}, r"student\.layers"),
        ("classification", {"student": {"lora_rank": 4}}, r"student\.lora_rank"),
    ],
)
def test_what_would_have_no_effect_is_refused(task: str, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"{key} has no effect"):
        Request.model_validate({"task": task, **changes})


def test_a_checkpoint_that_brings_code_is_refused_before_its_tokenizer_is_read(
    tmp_path: Path, talks: Path, tiny_writer: Path
) -> None:
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_writer, folder)
    spec = json.loads((folder / "tokenizer_config.json").read_text())
    spec["auto_map"] = {"AutoTokenizer": ["code.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(spec))
    (folder / "code.py").write_text("raise SystemExit('run')")
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    with pytest.raises(InputError, match="wants to run its own code"):
        pipeline.evaluate(request, folder)


def test_a_static_student_needs_no_board_that_runs_an_engine(
    tmp_path: Path, tiny_rows: Path, tiny_teacher: Path
) -> None:
    request = settings(tmp_path, "classification", tiny_rows, tiny_teacher)
    small = request.model_copy(update={"student": Student(kind="static", vocabulary=120), "target": "iot-armv7"})
    done = pipeline.distill(small)
    found = pipeline.evaluate(small, done.folder)
    assert found.arms[0].metrics["accuracy"].value == done.training["arms"][2]["metrics"]["accuracy"]["value"]


def test_pairs_are_learned_as_pairs(tmp_path: Path, pairs: Path, tiny_teacher: Path) -> None:
    request = settings(tmp_path, "nli", pairs, tiny_teacher)
    done = pipeline.distill(request)
    found = pipeline.evaluate(request, done.folder)
    (arm,) = found.arms
    trained = next(arm for arm in done.training["arms"] if arm["name"] == "student")
    assert arm.metrics["accuracy"].value == trained["metrics"]["accuracy"]["value"]
    assert found.rows == 60


def test_a_student_that_writes_is_a_checkpoint_with_its_tokenizer(talked: tuple[Request, Any]) -> None:
    _, done = talked
    tokenizer = AutoTokenizer.from_pretrained(done.folder)
    model = AutoModelForCausalLM.from_pretrained(done.folder)
    assert model.config.num_hidden_layers == 2
    assert model.config.vocab_size == len(tokenizer)
    assert done.training["route"] == "tokens"
    assert {"ce", "kd"} <= done.training["curves"]["student"][0].keys()
    assert "kd" not in done.training["curves"]["control"][0]
    assert {"teacher", "student", "control"} == done.training["curves"].keys()
    names = [contrast["name"] for contrast in done.training["contrasts"]]
    assert {"distillation", "distillation_cross_entropy", "distillation_kl"} <= {*names}
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "lock the door"}], add_generation_prompt=True)
    assert tokenizer.decode(ids["input_ids"]).endswith("<|im_start|>assistant\n")


class Notes:
    """A watch that keeps what every stage says at its end."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}

    def begin(self, stage: str) -> Progress:
        return silent

    def end(self, stage: str, seconds: float, *, cached: bool, note: str) -> None:
        self.of[stage] = note


def test_rows_that_a_trimmed_student_writes_in_other_tokens_are_counted(
    tmp_path: Path, talked: tuple[Request, Any], talks: Path, tiny_writer: Path
) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    changes = {
        "student": request.student.model_copy(update={"vocabulary": 280}),
        "distill": request.distill.model_copy(update={"epochs": 1}),
    }
    notes = Notes()
    done = pipeline.distill(request.model_copy(update=changes), notes)
    ours, theirs = AutoTokenizer.from_pretrained(done.folder), AutoTokenizer.from_pretrained(tiny_writer)
    assert len(ours) == 280 < len(theirs)
    rows = [json.loads(line)["messages"][1]["content"] for line in (talks / "train.jsonl").read_text().splitlines()]
    other = sum(ours.tokenize(answer) != theirs.tokenize(answer) for answer in rows)
    assert done.training["data"]["unusable"] == other
    assert 0 < other < len(rows)
    assert notes.of["student"].startswith(f"{other} of {len(rows)} rows without the teacher's signals")
    assert not notes.of["control"]
    assert "unusable.json" not in hashes(done.folder)
    assert talked[1].training["data"]["unusable"] == 0


def test_both_arms_take_the_same_steps(talked: tuple[Request, Any]) -> None:
    curves = talked[1].training["curves"]
    assert curves["student"][-1]["step"] == curves["control"][-1]["step"] > 0


def test_a_second_training_finds_nothing_to_do(talked: tuple[Request, Any]) -> None:
    request, done = talked
    before = hashes(done.folder)
    again = pipeline.distill(request)
    assert not again.changed
    assert hashes(again.folder) == before


def test_a_folder_with_a_users_file_is_not_replaced(talked: tuple[Request, Any]) -> None:
    request, done = talked
    notes = done.folder / "notes.txt"
    notes.write_text("mine")
    (done.folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"notes\.txt"):
        pipeline.distill(request)
    notes.unlink()
    assert pipeline.distill(request).changed
    notes.write_text("mine")  # beside a student that is as it should be, it may stay
    assert not pipeline.distill(request).changed
    assert notes.read_text() == "mine"
    notes.unlink()


def test_without_signals_the_students_answers_are_the_teachers_texts(
    tmp_path: Path, talks: Path, tiny_writer: Path
) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    request = request.model_copy(update={"distill": request.distill.model_copy(update={"route": "sequence"})})
    done = pipeline.distill(request)
    assert done.training["route"] == "sequence"
    assert "unusable" not in done.training["data"]
    assert "kd" not in done.training["curves"]["student"][0]
    assert [arm["name"] for arm in done.training["arms"]] == ["teacher", "student"]


def test_a_student_is_judged_by_what_it_writes_itself(tmp_path: Path, talks: Path, tiny_writer: Path) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    changes = {"route": "onpolicy", "epochs": 1, "own_tokens": 6}
    done = pipeline.distill(request.model_copy(update={"distill": request.distill.model_copy(update=changes)}))
    assert done.training["route"] == "onpolicy"
    assert [arm["name"] for arm in done.training["arms"]] == ["teacher", "control", "student"]


def test_a_named_student_learns_texts_of_teachers_that_are_not_here(
    tmp_path: Path, talks: Path, tiny_writer: Path
) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    named = Student(model=str(tiny_writer), lora_rank=2)
    done = pipeline.distill(request.model_copy(update={"teacher": Request().teacher, "student": named}))
    assert done.training["route"] == "sequence"
    assert [arm["name"] for arm in done.training["arms"]] == ["student"]
    names = AutoModelForCausalLM.from_pretrained(done.folder).state_dict()
    assert not [name for name in names if "lora" in name]


def test_a_writing_task_needs_a_teacher_that_writes(tmp_path: Path, talks: Path, tiny_teacher: Path) -> None:
    request = settings(tmp_path, "conversation", talks, tiny_teacher)
    with pytest.raises(InputError, match="tokenizer_config"):
        pipeline.distill(request)
    nobody = request.model_copy(update={"teacher": Request().teacher})
    with pytest.raises(InputError, match="needs a teacher that writes"):
        pipeline.distill(nobody)


def test_a_build_of_a_student_that_writes_is_refused_with_what_works(
    tmp_path: Path, talks: Path, tiny_writer: Path
) -> None:
    with pytest.raises(PlanRefused, match="cannot be exported yet") as caught:
        pipeline.build(settings(tmp_path, "conversation", talks, tiny_writer))
    assert "edgedistill distill" in str(caught.value.hint)


def test_two_processes_train_the_student_of_one(
    tmp_path: Path, talked: tuple[Request, Any], talks: Path, tiny_writer: Path
) -> None:
    settings(tmp_path, "conversation", talks, tiny_writer, max_tokens=96)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [*launch, *plain, "-m", "edgedistill", "distill", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = done.stdout.splitlines()  # one process prints
    found = json.loads(line)["curves"]["student"]
    for point, expected in zip(found, talked[1].training["curves"]["student"], strict=True):
        assert point == pytest.approx(expected, abs=1e-3)
