"""A build whose rows have no labels: a teacher labels them first, and the report says what that cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgedistill import pipeline
from edgedistill.config import read_request
from edgedistill.errors import BudgetMissed, PlanRefused
from tests.conftest import LABELS
from tests.labeling.server import Endpoint
from tests.test_pipeline import working_in, write_config

LABEL = """
[label]
labels = ["door", "light", "music"]
budget = {budget}
[[label.teachers]]
kind = "openai"
model = "big"
base_url = "{url}"
price = {{input = 100.0, output = 100.0}}
[gates]
near_duplicates = 0
"""


def gold(text: str) -> str:
    """What a perfect teacher says to the tiny rows."""
    return next(label for label, words in LABELS.items() if set(words) & set(text.split()))


@pytest.fixture
def project(tmp_path: Path, tiny_rows: Path, tiny_teacher: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose training and validation rows have no labels; nothing is emulated."""
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(tmp_path / "none"))
    rows = tmp_path / "rows"
    shutil.copytree(tiny_rows, rows)
    for split in ("train", "validation"):
        found = [json.loads(line) for line in (rows / f"{split}.jsonl").read_text().splitlines()]
        (rows / f"{split}.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in found))
    write_config(tmp_path, rows, tiny_teacher, epochs=2)
    return tmp_path


def configure(project: Path, url: str, budget: float) -> None:
    path = project / "edgedistill.toml"
    path.write_text(path.read_text().partition("\n[label]")[0] + LABEL.format(url=url, budget=budget))


def test_a_teacher_labels_the_rows_of_a_build_and_the_ledger_goes_into_report_and_card(project: Path) -> None:
    with Endpoint(says=gold).running() as endpoint, working_in(project):
        configure(project, endpoint.url, 0.05)
        with pytest.raises(BudgetMissed, match="budget"):
            pipeline.build(read_request())
        configure(project, endpoint.url, 50.0)
        built = pipeline.build(read_request())
        again = pipeline.build(read_request())
        assert endpoint.accepted.total() == 180
        assert max(endpoint.accepted.values()) == 1
    assert built.changed
    assert not again.changed
    ledger = built.report["data"]["labelling"]
    assert ledger["splits"]["train"]["accepted"] == 150
    assert ledger["splits"]["test"] | {"kept": 60, "decided": 0} == ledger["splits"]["test"]
    assert ledger["spent_usd"] == pytest.approx(180 * 58 * 100 / 1e6)
    assert "180 answers" in (project / built.bundle / "README.md").read_text()
    assert "What the teachers cost" in (project / built.page).read_text()


def test_a_task_without_students_is_refused_before_anything_is_asked(project: Path) -> None:
    with Endpoint(says=gold).running() as endpoint, working_in(project):
        configure(project, endpoint.url, 1.0)
        with pytest.raises(PlanRefused, match="students for the task 'qa'"):
            pipeline.build(read_request(task="qa"))
        assert not endpoint.keys
