"""Every task's metrics, row by row and over all rows together."""

from __future__ import annotations

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from edgedistill.tasks import TASKS, find
from edgedistill.tasks.classification import macro_f1
from edgedistill.tasks.task import Task
from edgedistill.tasks.text import ORDERS, bleu, bleu_counts, chrf

METRICS = {
    "classification": {"accuracy"},
    "nli": {"accuracy"},
    "qa": {"exact_match", "token_f1"},
    "math": {"accuracy"},
    "summarization": {"rouge1", "rouge2", "rougeL", "chrf"},
    "conversation": {"chrf", "rougeL"},
}
ANSWERS = [
    "The train leaves at ten past nine from platform two.",
    "I have booked a table for two people at seven.",
    "Sure, what time would you like to go there?",
    "No.",
]
REFERENCES = [
    ["The train leaves at nine from platform two today.", "It leaves at ten past nine."],
    ["I booked the table for two at seven for you."],
    ["What time would you like to go?"],
    ["Yes, of course, I can do that for you."],
]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_names_its_metrics_and_compares_by_one_of_them(task: Task) -> None:
    right = "#### 12" if task.name == "math" else "twelve apples lie there"
    found = task.scores(right, [right])
    assert found.keys() == METRICS[task.name]
    assert all(value == pytest.approx(1) for value in found.values())
    other = task.scores("#### 12" if task.name == "math" else "twelve pears", [right.replace("12", "13")])
    assert other[task.headline] == pytest.approx(task.score("twelve pears", right) if task.name != "math" else 0)
    assert other[task.headline] < 1


def test_of_several_references_each_metric_takes_the_best() -> None:
    assert find("qa").scores("the red table", ["a chair", "red table", "table"]) == {"exact_match": 1, "token_f1": 1}
    task = find("summarization")
    singles = [task.scores(ANSWERS[0], [reference]) for reference in REFERENCES[0]]
    assert task.scores(ANSWERS[0], REFERENCES[0]) == {n: max(single[n] for single in singles) for n in singles[0]}


def test_a_summary_is_judged_by_every_human_one_and_other_rows_by_their_answer() -> None:
    assert find("summarization").references({"text": "t", "references": ["a", "b"]}) == ("a", "b")
    assert find("summarization").references({"text": "t", "summary": "a"}) == ("a",)
    assert find("math").references({"question": "q"}) == ()


@pytest.mark.parametrize("rows", [slice(0, 4), slice(0, 1), slice(3, 4), slice(2, 4)])
def test_bleu_of_summed_counts_is_sacrebleus(rows: slice) -> None:
    answers, references = ANSWERS[rows], REFERENCES[rows]
    counts = find("conversation").pooled(answers, references)["bleu"].counts
    assert counts.shape == (2 * ORDERS + 2, len(answers))
    widest = max(map(len, references))
    columns = [[of_row[n] if n < len(of_row) else None for of_row in references] for n in range(widest)]
    assert bleu(counts.sum(axis=1)) == pytest.approx(BLEU().corpus_score(answers, columns).score / 100)


def test_bleu_of_several_sums_at_once_is_that_of_each() -> None:
    counts = np.array([bleu_counts(a, r) for a, r in zip(ANSWERS, REFERENCES, strict=True)]).T
    sums = np.stack([counts.sum(axis=1), counts[:, 0], counts[:, 3], np.zeros(len(counts))], axis=1)
    assert bleu(sums).tolist() == pytest.approx([float(bleu(column)) for column in sums.T])
    assert bleu(sums)[2] == bleu(sums)[3] == 0


def test_chrf_is_sacrebleus() -> None:
    assert chrf(ANSWERS[0], REFERENCES[0][0]) == pytest.approx(
        CHRF().sentence_score(ANSWERS[0], REFERENCES[0][:1]).score / 100
    )


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_of_answers_is_that_of_classes(seed: int) -> None:
    chance = np.random.default_rng(seed)
    truth, said = chance.integers(4, size=30), chance.integers(6, size=30)  # two answers are no label at all
    pooled = find("nli").pooled([f"l{n}" for n in said], [(f"l{n}",) for n in truth])["macro_f1"]
    assert float(pooled.score(pooled.counts.sum(axis=1))) == pytest.approx(macro_f1(said, truth))
    drawn = chance.integers(30, size=30)
    assert float(pooled.score(pooled.counts[:, drawn].sum(axis=1))) == pytest.approx(
        macro_f1(said[drawn], truth[drawn])
    )


def test_tasks_without_labels_or_corpus_metrics_pool_nothing() -> None:
    for name in ("qa", "math", "summarization"):
        assert find(name).pooled(["a"], [["a"]]) == {}
