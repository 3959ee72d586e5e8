"""Several teachers: who is asked, and what their answers come to."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedistill.tasks import find
from edgedistill.tasks.task import Answer, Task, Unusable
from edgedistill.teachers.panel import Member, Panel, Said

A, B, C = (Member(name=n, weight=w, serves=(n,)) for n, w in (("a", 3.0), ("b", 1.0), ("c", 1.0)))
NLI, TALK = find("nli"), find("conversation")


def said(by: Member, value: str, probabilities: Mapping[str, float] | None = None) -> Said:
    return Said(by=by, answer=Answer(value=value, rationale=f"{by.name} says so"), probabilities=probabilities)


def prompt(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"text {number}"}]


def test_texts_are_drawn_by_weight_and_the_same_prompt_always_goes_to_the_same_member() -> None:
    panel = Panel(members=(A, B, C), combine="weights")
    drawn = [panel.members_for({}, prompt(n), TALK)[0].name for n in range(2000)]
    assert drawn == [panel.members_for({}, prompt(n), TALK)[0].name for n in range(2000)]
    assert {name: count / 2000 for name, count in Counter(drawn).items()} == pytest.approx(
        {"a": 0.6, "b": 0.2, "c": 0.2}, abs=0.04
    )


def test_labels_are_asked_of_all_and_added_by_weight() -> None:
    panel = Panel(members=(A, B, C), combine="weights")
    assert panel.members_for({}, prompt(1), NLI) == (A, B, C)
    one = panel.combined([said(A, "yes"), said(B, "no"), said(C, "no")], NLI)
    assert (one.answer.value, one.by) == ("yes", A)
    assert one.probabilities == pytest.approx({"yes": 0.6, "no": 0.4})
    unsure = panel.combined([said(A, "yes", {"yes": 0.55, "no": 0.45}), said(B, "no"), said(C, "no")], NLI)
    assert unsure.answer.value == "no"
    assert unsure.answer.rationale == "b says so"


def test_a_vote_counts_heads_and_a_tie_is_no_answer() -> None:
    panel = Panel(members=(A, B, C), combine="vote")
    assert panel.combined([said(A, "yes"), said(B, "no"), said(C, "no")], NLI).answer.value == "no"
    with pytest.raises(Unusable, match="divided: no, yes"):
        panel.combined([said(A, "yes"), said(B, "no")], NLI)


def test_of_texts_the_one_that_is_closest_to_the_others_wins() -> None:
    panel = Panel(members=(A, B, C), combine="vote")
    assert panel.members_for({}, prompt(1), TALK) == (A, B, C)
    texts = ["The table is booked for 8.", "The table is booked for eight.", "Zzz."]
    assert panel.combined([said(m, t) for m, t in zip((A, B, C), texts, strict=True)], TALK).by in (A, B)
    with pytest.raises(Unusable, match="nothing in common"):
        Panel(members=(A, B), combine="vote").combined([said(A, "#### 1"), said(B, "#### 2")], find("math"))


def test_a_column_routes_and_a_value_that_nobody_serves_is_said() -> None:
    panel = Panel(members=(A, B), combine="route", route="domain")
    assert panel.members_for({"domain": "b"}, prompt(1), NLI) == (B,)
    with pytest.raises(Unusable, match="no teacher serves domain = 'z'"):
        panel.members_for({"domain": "z"}, prompt(1), NLI)


def test_a_draw_depends_on_the_whole_prompt_and_not_on_the_process() -> None:
    panel = Panel(members=(A, B, C), combine="weights")
    asked = [[{"role": "system", "content": f"You are {n}."}, {"role": "user", "content": "Hi"}] for n in range(40)]
    drawn = [panel.members_for({}, one, TALK)[0].name for one in asked]
    assert len(set(drawn)) == 3
    assert "".join(drawn[:12]) == "aaaaababbcac"


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.1, 0.9), (1e-9, 1e9), (5.0, 1.0, 1.0, 3.0)])
def test_the_draws_are_in_proportion_to_the_weights(weights: tuple[float, ...]) -> None:
    panel = Panel(members=tuple(Member(name=str(n), weight=w) for n, w in enumerate(weights)), combine="weights")
    drawn = Counter(panel.members_for({}, prompt(n), TALK)[0].name for n in range(2000))
    for number, weight in enumerate(weights):
        assert drawn[str(number)] / 2000 == pytest.approx(weight / sum(weights), abs=0.04)


@pytest.mark.parametrize("task", [NLI, TALK])
@pytest.mark.parametrize("combine", ["weights", "vote"])
def test_a_panel_of_one_is_asked_everything_and_is_right(task: Task, combine: Literal["weights", "vote"]) -> None:
    panel = Panel(members=(A,), combine=combine)
    assert panel.members_for({}, prompt(1), task) == (A,)
    alone = said(A, "yes", {"yes": 0.2, "no": 0.8})
    assert panel.combined([alone], task) is alone


def test_a_vote_counts_neither_weights_nor_probabilities() -> None:
    panel = Panel(members=(A, B, C), combine="vote")
    won = panel.combined([said(A, "yes", {"yes": 1.0}), said(B, "no", {"yes": 0.9}), said(C, "no")], NLI)
    assert (won.answer.value, won.by) == ("no", B)
    assert won.probabilities == pytest.approx({"yes": 1 / 3, "no": 2 / 3})


def test_weights_that_balance_are_a_tie_however_they_are_rounded() -> None:
    members = [Member(name=name, weight=weight) for name, weight in (("x", 0.1), ("y", 0.2), ("z", 0.3))]
    x, y, z = (said(by, value) for by, value in zip(members, ("yes", "yes", "no"), strict=True))
    with pytest.raises(Unusable, match="divided: no, yes"):
        Panel(members=tuple(members), combine="weights").combined([x, y, z], NLI)


def test_a_label_that_nobody_said_first_may_win_and_has_no_rationale() -> None:
    panel = Panel(members=(B, C), combine="weights")
    one = said(B, "yes", {"yes": 0.5, "perhaps": 0.45, "no": 0.05})
    other = said(C, "no", {"yes": 0.05, "perhaps": 0.45, "no": 0.5})
    won = panel.combined([one, other], NLI)
    assert (won.answer.value, won.answer.rationale) == ("perhaps", None)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), min_size=2, max_size=5))
def test_weighted_probabilities_add_up_to_one(members: list[tuple[float, float]]) -> None:
    panel = [Member(name=str(n), weight=weight) for n, (weight, _) in enumerate(members)]
    answers = [
        said(by, "yes" if share > 0.5 else "no", {"yes": share, "no": 1 - share})
        for by, (_, share) in zip(panel, members, strict=True)
    ]
    mean = sum(w * p for w, p in members) / sum(w for w, _ in members)
    try:
        won = Panel(members=tuple(panel), combine="weights").combined(answers, NLI)
    except Unusable:
        assert mean == pytest.approx(0.5)
    else:
        assert won.probabilities == pytest.approx({"yes": mean, "no": 1 - mean})
        assert won.answer.value == ("yes" if mean > 0.5 else "no")


def test_the_text_in_the_middle_is_taken_whatever_the_order() -> None:
    panel = Panel(members=(A, B, C), combine="vote")
    middle = "Ann met Bob in Rome on Monday."
    texts = ["Ann met Bob in Rome.", middle, "They met in Rome on Monday morning."]
    for order in itertools.permutations(texts):
        answers = [said(member, text) for member, text in zip((A, B, C), order, strict=True)]
        assert panel.combined(answers, find("summarization")).answer.value == middle


def test_numbers_are_voted_on_as_numbers() -> None:
    panel = Panel(members=(A, B, C), combine="vote")
    answers = [said(A, "#### 7"), said(B, "#### 1,000"), said(C, "#### 1000.0")]
    assert panel.combined(answers, find("math")).by is B


@pytest.mark.parametrize(
    ("row", "served"),
    [
        ({"domain": "b"}, "b"),
        ({"domain": 3}, "three"),
        ({"domain": True}, "yes"),
        ({"domain": None}, None),
        ({}, None),
        ({"domain": "B"}, None),
    ],
)
def test_a_value_is_routed_by_how_it_is_written(row: dict[str, object], served: str | None) -> None:
    members = (A, B, Member(name="three", serves=("3", "b")), Member(name="yes", serves=("True",)))
    panel = Panel(members=members, combine="route", route="domain")
    if served is None:
        with pytest.raises(Unusable, match="no teacher serves domain"):
            panel.members_for(row, prompt(1), TALK)
    else:
        assert [member.name for member in panel.members_for(row, prompt(1), TALK)] == [served]
