"""What a labelling run asks with: the task and its style, the teachers, and the requests that a row comes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgedistill import tasks
from edgedistill.config import Label, LabelTeacher, Request
from edgedistill.errors import InputError
from edgedistill.labeling.cost import FREE, Price, price_of
from edgedistill.labeling.signals import chosen
from edgedistill.store import digest
from edgedistill.tasks.nli import LABELS
from edgedistill.tasks.task import Style, Task
from edgedistill.teachers.answerer import Answerer
from edgedistill.teachers.choose import choose
from edgedistill.teachers.panel import Member, Panel
from edgedistill.types import Ask, Message

LONGER = 4
"""How much longer an answer may get when it is to be thought about or rewritten first."""
LOCAL_HOSTS = ("http://127.0.0.1", "http://localhost", "http://[::1]")


class Keys:
    """The keys of requests to one teacher: what stays the same is hashed once."""

    def __init__(self, identity: Mapping[str, Any], parameters: Mapping[str, Any], task: Task, style: Style) -> None:
        template = {"task": task.name, "instruction": task.instruction, "style": asdict(style)}
        self._same = digest({"teacher": identity, "parameters": parameters, "template": template})

    def of(self, messages: tuple[Message, ...]) -> str:
        """The key of a prompt. Prompts that differ anywhere, in the system message too, have different keys."""
        return digest([self._same, [dict(message) for message in messages]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Everything that a run asks with. Made once, used to label and to estimate.

    Attributes:
        teachers: by their titles, as are settings, prices, keys and signals.
        signals: for each teacher, what it gives, what of it is used, and why not more.
    """

    task: Task
    style: Style
    panel: Panel
    teachers: dict[str, Answerer]
    settings: dict[str, LabelTeacher]
    prices: dict[str, Price | None]
    max_tokens: int
    temperature: float
    keys: dict[str, Keys]
    signals: dict[str, str]

    def requests(self, row: Mapping[str, Any]) -> list[tuple[str, Ask]]:
        """The requests that a row comes to, each with the title of the teacher it goes to.

        Raises:
            Unusable: no teacher of the panel serves the row.
        """
        messages = self.task.messages(row, self.style)
        schema = self.task.schema(self.style)
        members = self.panel.members_for(row, messages, self.task)
        fields = tuple(str(row[name]) for name in self.task.inputs if isinstance(row.get(name), str))
        return [
            (
                member.name,
                Ask(
                    key=self.keys[member.name].of(messages),
                    messages=messages,
                    schema=schema,
                    max_tokens=self.max_tokens,
                    temperature=self.temperature,
                    labels=self.style.labels,
                    fields=fields,
                ),
            )
            for member in members
        ]


def asking(request: Request, found: Sequence[str], environment: Mapping[str, str] | None = None) -> Asking:
    """The teachers of a request, ready to be asked.

    Args:
        found: the labels that rows came with.

    Raises:
        InputError: no teacher is named, one cannot be used, or a task with labels has none.
    """
    label, task = request.label, tasks.find(request.task)
    if not label.teachers:
        raise InputError("no teacher is named", hint="add [[label.teachers]] to edgedistill.toml, or give --teacher")
    labels = label.labels or (LABELS if task.name == "nli" and {*found} <= {*LABELS} else found)
    if task.has_labels and len(labels) < 2:
        raise InputError("the rows have no labels to choose from", hint='name them: [label] labels = ["…", "…"]')
    if label.chain_of_density and task.name != "summarization":
        raise InputError(f"chain_of_density is for summaries, not for {task.name}", hint="leave it out")
    style = Style(
        labels=tuple(labels) if task.has_labels else (),
        instruction=label.instruction,
        chain_of_thought=label.chain_of_thought,
        chain_of_density=label.chain_of_density,
    )
    settings = {teacher.title: teacher for teacher in label.teachers}
    prices = {title: price(teacher, label) for title, teacher in settings.items()}
    members = tuple(Member(name=title, weight=t.weight, serves=t.serves) for title, t in settings.items())
    teachers = {title: choose(teacher, style.labels, environment) for title, teacher in settings.items()}
    longer = label.chain_of_thought or label.chain_of_density
    max_tokens = label.max_tokens or task.max_tokens * (LONGER if longer else 1)
    keys, signals = {}, {}
    for title, teacher in teachers.items():
        parameters = {
            "temperature": label.temperature,
            "max_tokens": max_tokens,
            "logprobs": settings[title].logprobs,
            "structured": settings[title].structured,
            "extra": settings[title].extra,
        }
        keys[title] = Keys(teacher.identity, parameters, task, style)
        signal, why = chosen(task, teacher)
        signals[title] = f"{title} gives {', '.join(teacher.gives)}; used: {signal} ({why})"
    return Asking(
        task=task,
        style=style,
        panel=Panel(members=members, combine=label.combine, route=label.route),
        teachers=teachers,
        settings=settings,
        prices=prices,
        max_tokens=max_tokens,
        temperature=label.temperature,
        keys=keys,
        signals=signals,
    )


def price(teacher: LabelTeacher, label: Label) -> Price | None:
    """What a teacher costs: its own price, the user's table, the built-in one. One that runs here costs nothing."""
    if teacher.price is not None:
        own: dict[str, object] = {"model": teacher.model}
        return price_of(teacher.model, [own | dict(teacher.price)])
    if teacher.kind not in ("openai", "anthropic") or (teacher.base_url or "").startswith(LOCAL_HOSTS):
        return FREE
    found = price_of(teacher.model, [entry.model_dump() for entry in label.prices])
    if found is None and label.budget is not None:
        raise InputError(
            f"nobody knows what {teacher.model!r} costs, so the budget cannot be kept",
            hint="add price = {input = …, output = …} in USD per million tokens to that teacher",
        )
    return found
