"""Several teachers of one student: what is refused, who teaches which row, and how it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgedistill.config import Request, read_request
from edgedistill.config.weighing import DistillTeacher, check_different, check_served, explained, weights
from edgedistill.errors import InputError

COLUMN = {"combine": "column", "column": "domain"}
A, B = {"model": "some/a", "serves": ["x"]}, {"model": "some/b", "serves": ["y", "z"]}


def request(teacher: dict[str, Any], distill: dict[str, Any], task: str = "classification") -> Request:
    return Request.model_validate({"task": task, "teacher": teacher, "distill": distill})


@pytest.mark.parametrize(
    ("teacher", "distill", "said"),
    [
        ({"model": "some/a", "weight": 2}, {}, r"teacher\.weight has no effect with one teacher"),
        ({"model": "some/a", "serves": ["x"]}, {}, r"teacher\.serves has no effect with one teacher"),
        ({"model": "some/a"}, {"combine": "agreement"}, r"distill\.combine has no effect with one teacher"),
        ({"model": "some/a"}, {"column": "domain"}, r"distill\.column has no effect with one teacher"),
        ({"model": "some/a"}, {"teachers": [{"model": "some/a"}]}, "need different models"),
        ({"model": "some/a"}, {"teachers": [{"model": "some/b"}, {"model": "some/b"}]}, "need different models"),
        ({"model": "some/a"}, {"teachers": [{"model": "some/b", "serves": ["x"]}]}, "serves have no effect"),
        ({"model": "some/a"}, {"teachers": [{"model": "some/b"}], "column": "domain"}, "serves have no effect"),
        ({"model": "some/a"}, {**COLUMN, "teachers": [B]}, r"needs distill\.column and serves"),
        (A, {**COLUMN, "teachers": [{"model": "some/b"}]}, r"needs distill\.column and serves"),
        (A, {"combine": "column", "teachers": [B]}, r"needs distill\.column and serves"),
        ({**A, "weight": 2}, {**COLUMN, "teachers": [B]}, "the weight of some/a has no effect"),
        ({"model": "some/a", "weight": 0}, {"teachers": [{"model": "some/b", "weight": 0}]}, "no teacher has a weight"),
        ({"model": "some/a"}, {"teachers": [{"model": "some/b", "weight": -1}]}, "greater than or equal to 0"),
        ({"model": "some/a"}, {"teachers": [{"model": ""}]}, "at least 1 character"),
    ],
)
def test_teachers_that_cannot_teach_together_are_refused(
    teacher: dict[str, Any], distill: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        request(teacher, distill)


@pytest.mark.parametrize("route", ["sequence", "onpolicy"])
def test_several_teachers_teach_on_one_route_alone(route: str) -> None:
    with pytest.raises(ValidationError, match=f"no effect on the route '{route}'"):
        request({"model": "some/a"}, {"route": route, "teachers": [{"model": "some/b"}]}, task="conversation")


def test_folders_of_teachers_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "mine.toml").write_text('[[distill.teachers]]\nmodel = "b"\n[[distill.teachers]]\nmodel = "some/c"\n')
    found = read_request(tmp_path / "mine.toml").distill.teachers
    assert [one.model for one in found] == [str(tmp_path / "b"), "some/c"]


def test_a_request_for_one_teacher_is_written_as_it_was_before_there_were_more() -> None:
    plain = Request().model_dump(mode="json")
    assert not {"weight", "serves"} & plain["teacher"].keys()
    assert not {"teachers", "combine", "column"} & plain["distill"].keys()
    several = request(A, {**COLUMN, "teachers": [B]})
    assert Request.model_validate_json(several.model_dump_json()) == several


def test_a_weight_counts_among_those_who_serve_a_row() -> None:
    shared = request({**A, "weight": 3}, {**COLUMN, "teachers": [{**B, "serves": ["x", "y"]}]}).teachers
    assert weights(shared, "column", ["x", "y"]) == [(3.0, 1.0), (0.0, 1.0)]
    assert weights(shared, "agreement", ["x", "y"]) == [(3.0, 1.0), (3.0, 1.0)]


def test_rows_that_nobody_serves_are_named() -> None:
    teachers = request(A, {**COLUMN, "teachers": [B]}).teachers
    check_served(teachers, "domain", ["x", "y", "x"])
    with pytest.raises(InputError, match=r"no teacher serves domain = 'w', the value of 2 training rows") as caught:
        check_served(teachers, "domain", ["x", "w", "w"])
    assert "serves" in str(caught.value.hint)


def test_a_weight_of_nothing_serves_nobody() -> None:
    teachers = (
        DistillTeacher(model="some/a", serves=("x",), weight=0),
        DistillTeacher(model="some/b", serves=("x", "y")),
    )
    check_served(teachers, "domain", ["x", "y"])
    with pytest.raises(InputError, match="'x'"):
        check_served(teachers[:1], "domain", ["x"])


def test_one_checkpoint_under_two_names_is_refused() -> None:
    teachers = request(A, {**COLUMN, "teachers": [B]}).teachers
    check_different(teachers, ["1", "2"])
    with pytest.raises(InputError, match="some/a and some/b are one and the same"):
        check_different(teachers, ["1", "1"])


def test_who_teaches_is_told() -> None:
    several = request(A, {**COLUMN, "teachers": [B]}).teachers
    assert explained(several, "column", "domain", ["x", "y", "z", "z"]) == (
        "teacher 1: some/a, weight 1, for domain = x: 1 rows",
        "teacher 2: some/b, weight 1, for domain = y, z: 3 rows",
    )
    assert explained(several[:1], "weights", None, ["", ""]) == ()
