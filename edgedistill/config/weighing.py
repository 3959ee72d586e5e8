"""Several teachers of one student, as they are configured: which of them teach a row, and how much each counts there.

weights     every teacher at every row, by its weight
column      at a row those that serve its value of a column; where several do, by their weights
agreement   every teacher, by its weight, and less where the row's own answer surprises it (`distill.panel`)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgedistill.errors import InputError

Combine = Literal["weights", "column", "agreement"]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class DistillTeacher(BaseModel):
    """One of several teachers. `serves` are the values of the column whose rows it teaches."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1)]
    weight: Weight = 1.0
    serves: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What people call it: its name on the hub, or that of its folder."""
        return Path(self.model).name if Path(self.model).exists() else self.model


def problem(teachers: Sequence[DistillTeacher], combine: Combine, column: str | None, route: str) -> str | None:
    """Why these teachers cannot teach one student together, or None. The first is `[teacher]`."""
    first, weighted = teachers[0], [teacher for teacher in teachers if teacher.weight != 1]
    if len(teachers) == 1:
        said = {
            "teacher.weight": bool(weighted),
            "teacher.serves": bool(first.serves),
            "distill.combine": combine != "weights",
            "distill.column": column is not None,
        }
        idle = next((key for key, there in said.items() if there), None)
        return idle and f"{idle} has no effect with one teacher; name others as [[distill.teachers]]"
    if route in ("sequence", "onpolicy"):
        return f"distill.teachers have no effect on the route {route!r}, only on 'tokens'"
    models = [teacher.model for teacher in teachers]
    if len(set(models)) < len(models):
        return "[teacher] and [[distill.teachers]] need different models"
    if combine != "column":
        if column is not None or any(teacher.serves for teacher in teachers):
            return f'distill.column and serves have no effect with distill.combine = "{combine}"'
        return None if any(teacher.weight for teacher in teachers) else "no teacher has a weight above 0"
    if column is None or not all(teacher.serves for teacher in teachers):
        return 'distill.combine = "column" needs distill.column and serves = [...] for each teacher, [teacher] too'
    served = Counter(value for teacher in teachers for value in {*teacher.serves})
    if idle_weight := next((t for t in weighted if all(served[value] == 1 for value in t.serves)), None):
        return f"the weight of {idle_weight.model} has no effect: no other teacher serves the same rows"
    return None


def weights(teachers: Sequence[DistillTeacher], combine: Combine, values: Iterable[str]) -> list[tuple[float, ...]]:
    """What each teacher counts for at each row, before agreement is looked at.

    Args:
        values: of the column, one a row; only "column" looks at them.

    Returns:
        One tuple a row, with one weight a teacher, not below 0.
    """
    return [tuple(t.weight * (combine != "column" or value in t.serves) for t in teachers) for value in values]


def check_served(teachers: Sequence[DistillTeacher], column: str, values: Iterable[str]) -> None:
    """Refuses rows that no teacher would teach.

    Raises:
        InputError: a value of the column is served by nobody; it is named.
    """
    rows = Counter(values)
    alone = {value: count for value, count in rows.items() if not any(weights(teachers, "column", [value])[0])}
    if alone:
        value = max(alone, key=lambda name: (alone[name], name))
        more = f", and of {len(alone) - 1} more values" if len(alone) > 1 else ""
        raise InputError(
            f"no teacher serves {column} = {value!r}, the value of {alone[value]} training rows{more}",
            hint="add it to serves of [teacher] or of one of the [[distill.teachers]]",
        )


def explained(
    teachers: Sequence[DistillTeacher], combine: Combine, column: str | None, values: Sequence[str]
) -> tuple[str, ...]:
    """Which teachers teach, and with what weight: one line each, for people; none for a single teacher."""
    if len(teachers) == 1:
        return ()
    rows = Counter(values)
    lines = []
    for number, teacher in enumerate(teachers):
        line = f"teacher {number + 1}: {teacher.title}, weight {teacher.weight:g}"
        if combine == "column":
            line += f", for {column} = {', '.join(teacher.serves)}: {sum(rows[v] for v in {*teacher.serves})} rows"
        elif combine == "agreement":
            line += ", less where a row's own answer surprises it more than the others"
        lines.append(line)
    return tuple(lines)


def check_different(teachers: Sequence[DistillTeacher], hashes: Sequence[str]) -> None:
    """Refuses one checkpoint under two names. Raises InputError that names both.

    Args:
        hashes: of the checkpoints, before any training.
    """
    first: dict[str, DistillTeacher] = {}
    for teacher, found in zip(teachers, hashes, strict=True):
        if (same := first.setdefault(found, teacher)) is not teacher:
            raise InputError(
                f"the teachers {same.model} and {teacher.model} are one and the same checkpoint",
                hint="take one of them out, and give the other the weight of both",
            )


def identities(teachers: Sequence[DistillTeacher], said: Sequence[str]) -> list[Mapping[str, Any]]:
    """What several teachers decide about a student, for the key of a stage; `[distill]` and the rows say the rest.

    Args:
        said: hashes of what each of them said.
    """
    return [
        {"signals": found, "weight": teacher.weight, "serves": sorted(teacher.serves)}
        for teacher, found in zip(teachers, said, strict=True)
    ]
