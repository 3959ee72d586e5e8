"""`edgedistill evaluate` with a judge: real checkpoints, a real endpoint, one journal."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from edgedistill import pipeline
from edgedistill.config import Judge as Settings
from edgedistill.config import Request, read_request
from edgedistill.errors import BudgetMissed, StageError
from edgedistill.teachers.local import quiet
from edgedistill.terminal import judge_table
from tests.evaluate.judges import Judge, longer
from tests.pipeline.requests import settings


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, tiny_writer: Path) -> Path:
    """The teacher with other weights, so that it writes other answers."""
    folder = Path(shutil.copytree(tiny_writer, tmp_path_factory.mktemp("other") / "writer"))
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)
        model.save_pretrained(folder)
    return folder


def with_judge(folder: Path, rows: Path, teacher: Path, url: str, **judge: Any) -> Request:
    request = settings(folder, "conversation", rows, teacher, max_tokens=96)
    made = Settings(kind="openai", model="stub", base_url=url, retries=0, **judge)
    return request.model_copy(update={"judge": made})


def test_a_judge_compares_the_answers_of_both_and_is_asked_once(
    tmp_path: Path, talks: Path, tiny_writer: Path, other: Path
) -> None:
    server = Judge()
    server.verdict = longer
    with server.running():
        request = with_judge(tmp_path, talks, tiny_writer, server.url)
        found = pipeline.evaluate(request, other, against=tiny_writer, rows=6)
        asked = sum(server.accepted.values())
        again = pipeline.evaluate(request, other, against=tiny_writer, rows=6)
    lengths = {name: [len(text) for text in texts] for name, texts in found.answers.items()}
    wins = [(a > b) - (a < b) for a, b in zip(lengths["student"], lengths["teacher"], strict=True)]
    assert found.judged is not None
    assert list(found.judged.outcomes) == wins
    assert any(wins)
    assert again.judged == found.judged
    assert 0 < asked == sum(server.accepted.values()) <= 12
    assert judge_table(found.judged)


def test_without_another_checkpoint_nobody_is_asked(tmp_path: Path, talks: Path, tiny_writer: Path) -> None:
    request = with_judge(tmp_path, talks, tiny_writer, "http://127.0.0.1:1/v1")
    assert pipeline.evaluate(request, tiny_writer, rows=2).judged is None


def test_what_may_cost_more_than_there_is_is_not_begun(
    tmp_path: Path, talks: Path, tiny_writer: Path, other: Path
) -> None:
    server = Judge()
    server.verdict = longer
    price = {"input": 1.0, "output": 10.0}
    with server.running():
        request = with_judge(tmp_path, talks, tiny_writer, server.url, price=price, budget=0.001)
        with pytest.raises(BudgetMissed, match="may cost"):
            pipeline.evaluate(request, other, against=tiny_writer, rows=6)
        assert not server.keys
        request = with_judge(tmp_path, talks, tiny_writer, server.url, price=price, budget=0.2)
        assert pipeline.evaluate(request, other, against=tiny_writer, rows=6).judged is not None


def test_a_judge_that_cannot_be_reached_is_one_error_that_says_so(
    tmp_path: Path, talks: Path, tiny_writer: Path, other: Path
) -> None:
    request = with_judge(tmp_path, talks, tiny_writer, "http://127.0.0.1:1/v1")
    with pytest.raises(StageError, match="the first request to"):
        pipeline.evaluate(request, other, against=tiny_writer, rows=2)


@pytest.mark.parametrize(
    ("task", "judge", "said"),
    [
        ("nli", {"kind": "openai"}, "judge has no effect for nli"),
        ("conversation", {"kind": "encoder"}, "must be one that writes"),
        ("conversation", {"kind": "openai", "batch": True}, r"judge\.batch has no effect"),
    ],
)
def test_a_judge_that_could_not_judge_is_refused(task: str, judge: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Request.model_validate({"task": task, "judge": {"model": "m", **judge}})


def test_the_path_of_a_judge_is_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "judge.gguf").touch()
    path = tmp_path / "edgedistill.toml"
    path.write_text('task = "conversation"\n[judge]\nkind = "gguf"\nmodel = "judge.gguf"\n')
    judge = read_request(path).judge
    assert judge is not None
    assert judge.model == str(tmp_path / "judge.gguf")
