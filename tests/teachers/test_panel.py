"""Several teachers: who is asked, and what their answers come to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from edgedistill.tasks import find
from edgedistill.tasks.task import Answer, Unusable
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
