"""`edgedistill.toml` and flags to a `Request`: unknown keys are refused, all problems are said at once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistill import catalog
from edgedistill.config import idle
from edgedistill.config.weighing import Combine, DistillTeacher, Weight, problem
from edgedistill.errors import InputError

FILE = "edgedistill.toml"
TEMPLATE = Path(__file__).with_name("template.toml")
"""What `edgedistill init` writes."""
DEMO = "demo"
"""The name of the embedded smart-home rows, as a value of `[data] folder`; a folder of that name is "./demo"."""
DEMO_TEACHER = "sentence-transformers/all-MiniLM-L6-v2"

ENCODER_TOKENS = 512
"""What encoders of the BERT family can read at most."""
WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "data": {"max_tokens": 512},
    "teacher": {"epochs": 0, "learning_rate": 2e-5, "batch_tokens": 2048},
    "distill": {"epochs": 2, "temperature": 1.0, "hidden_weight": 0.0, "batch_tokens": 2048},
}
"""Defaults where answers are written: a decoder is taken as it is, and learns more from a row than a classifier."""
DEFAULTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "nli": {"data": {"text": "premise", "second": "hypothesis"}},
    **dict.fromkeys(("qa", "math", "summarization", "conversation"), WRITTEN),
}
"""What is different from the defaults below, by task."""
STATIC: Mapping[str, Any] = {"epochs": 30, "learning_rate": 2e-3, "batch_tokens": 3072}
"""Defaults of [distill] for a static student, whose epochs take seconds."""

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=32, multiple_of=32)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Where the rows are and which of them may be bad."""

    folder: str = DEMO
    text: str = "text"
    second: str | None = None
    label: str = "label"
    out_of_scope: str = "out_of_scope"
    validation_share: Share = 0.1
    test_share: Share = 0.2
    max_bad_share: Share = 0.01
    max_tokens: Annotated[int, Field(ge=8, le=131_072)] = 128


class Teacher(_Section):
    """The model to learn from, and how it is fine-tuned.

    An encoder is when it has no head for the labels, a decoder when epochs are asked for.
    """

    model: str = DEMO_TEACHER
    epochs: Annotated[int, Field(ge=0)] = 3
    learning_rate: Positive = 2e-4
    batch_tokens: Annotated[int, Field(ge=64)] = 512
    weight: Weight = Field(default=1.0, exclude_if=lambda weight: weight == 1)
    serves: tuple[str, ...] = Field(default=(), exclude_if=lambda serves: not serves)


class Student(_Section):
    """What the student is made of; what is left out is chosen by the plan."""

    kind: Literal["layers", "static"] = "layers"
    model: str | None = None
    layers: Count | None = None
    width: Width | None = None
    ffn: Width | None = None
    vocabulary: Count | None = None
    lora_rank: Count | None = None


class Distill(_Section):
    """How the student is trained. The control arm takes the same steps with the labels alone."""

    route: Literal["auto", "sequence", "tokens", "onpolicy"] = "auto"
    epochs: Count = 8
    learning_rate: Positive = 5e-4
    temperature: Positive = 2.0
    temperature_end: Positive | None = None
    kd_weight: Share = 0.9
    hidden_weight: Amount = 1.0
    batch_tokens: Annotated[int, Field(ge=64)] = 512
    parts: Count = 1
    patience: Count | None = None
    signals: Literal["top-k", "sampled"] = "top-k"
    k: Annotated[int, Field(ge=1, le=1024)] = 50
    beta: Share = 0.5
    own_share: Share = 0.5
    own_tokens: Count = 128
    checkpoint_steps: Count = 200
    report_to: tuple[Literal["tensorboard", "trackio", "mlflow", "wandb"], ...] = ()
    # Left out while they say nothing: such a training is the one that it was before there were these keys.
    relation_weight: Amount = Field(default=0.0, exclude_if=lambda weight: weight == 0)
    divergence: Literal["forward", "reverse", "jsd", "skew"] = Field(
        default="forward", exclude_if=lambda divergence: divergence == "forward"
    )
    skew: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.1, exclude_if=lambda skew: skew == 0.1)
    teachers: tuple[DistillTeacher, ...] = Field(default=(), exclude_if=lambda teachers: not teachers)
    combine: Combine = Field(default="weights", exclude_if=lambda combine: combine == "weights")
    column: str | None = Field(default=None, exclude_if=lambda column: column is None)

    @property
    def temperatures(self) -> tuple[float, float]:
        """At the first step and at the last."""
        return self.temperature, self.temperature_end or self.temperature


class Export(_Section):
    """Which recipe to try first, how much accuracy the file may lose, and whether to write a file for apps too."""

    recipe: str | None = None
    tolerance: Share | None = None
    app: bool = False


class Goals(_Section):
    """What the result must reach; a goal that is missed ends the build with exit status 3."""

    retained: Share = 0.92
    latency_ratio: Positive = 6.7
    size_ratio: Positive = 10.0


class Bench(_Section):
    """What is measured on this machine."""

    workload: str = "classification"


class Price(_Section):
    """USD per million tokens of the models whose names match."""

    model: str
    input: Amount
    output: Amount
    batch: Amount = 1.0


class LabelTeacher(_Section):
    """One teacher that answers rows: a model behind an API, a GGUF file, or a local checkpoint.

    Keys never stand in the file: `key_env` names the environment variable that holds one.
    """

    kind: Literal["openai", "anthropic", "gguf", "transformers", "encoder"]
    model: Annotated[str, Field(min_length=1)]
    name: str = ""
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s@]+$")] | None = None
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    key_header: Annotated[str, Field(pattern=r"^[A-Za-z-]+$")] | None = None
    query: dict[str, str] = {}
    structured: Literal["auto", "json_schema", "schema", "json_object", "none"] = "auto"
    logprobs: Annotated[int, Field(ge=0, le=20)] = 0
    weight: Positive = 1.0
    serves: tuple[str, ...] = ()
    concurrency: Count = 64
    timeout_s: Positive = 120.0
    retries: Annotated[int, Field(ge=0)] = 6
    batch: bool = False
    extra: dict[str, Any] = {}
    price: Mapping[Literal["input", "output", "batch"], Amount] | None = None
    context: Count = 4096
    threads: Count | None = None

    @property
    def title(self) -> str:
        """What people call it: its name, or that of the model without a path."""
        return self.name or (self.model if self.kind in ("openai", "anthropic") else Path(self.model).stem)


class Label(_Section):
    """How a teacher answers the rows that have no answer yet."""

    teachers: tuple[LabelTeacher, ...] = ()
    rows: Count | None = None
    relabel: bool = False
    labels: tuple[str, ...] = ()
    instruction: str = ""
    chain_of_thought: bool = False
    chain_of_density: bool = False
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    max_tokens: Count | None = None
    combine: Literal["weights", "vote", "route"] = "weights"
    route: str | None = None
    budget: Amount | None = None
    min_success: Share = 0.7
    workers: Annotated[int, Field(ge=0)] = 0
    address: str | None = None
    prices: tuple[Price, ...] = ()

    @model_validator(mode="after")
    def _a_panel_can_be_told_apart(self) -> Label:
        names = [teacher.title for teacher in self.teachers]
        if len(set(names)) < len(names):
            raise ValueError("label.teachers need different names")
        if self.combine == "route" and (self.route is None or not all(t.serves for t in self.teachers)):
            raise ValueError('label.combine = "route" needs label.route, a column, and serves = [...] for each teacher')
        return self


class Judge(LabelTeacher):
    """Who says which of two answers is better; `budget` is USD that are never exceeded, over all evaluations."""

    budget: Amount | None = None

    @model_validator(mode="after")
    def _it_writes_and_answers_at_once(self) -> Judge:
        if self.kind == "encoder":
            raise ValueError("judge.kind must be one that writes")
        said = {"batch": self.batch, "serves": bool(self.serves), "weight": self.weight != 1}
        if found := next((key for key, there in said.items() if there), None):
            raise ValueError(f"judge.{found} has no effect")
        return self


class Gates(_Section):
    """What an answer must be like to be accepted."""

    min_chars: Annotated[int, Field(ge=0)] = 1
    max_chars: Count = 20_000
    languages: tuple[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")], ...] = ()
    refusals: bool = True
    verify: bool = True
    accept: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None
    near_duplicates: Share = 0.9
    balance: Annotated[float, Field(gt=0, le=1)] = 1.0


class Request(_Section):
    """One build: everything the user asked for, with the defaults filled in."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] = "smart-home"
    target: str = "raspberrypi5"
    task: Literal["classification", "nli", "qa", "math", "summarization", "conversation"] = "classification"
    out: Path = Path("dist")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    label: Label = Label()
    gates: Gates = Gates()
    judge: Judge | None = Field(default=None, exclude_if=lambda judge: judge is None)
    teacher: Teacher = Teacher()
    student: Student = Student()
    distill: Distill = Distill()
    export: Export = Export()
    goals: Goals = Goals()
    bench: Bench = Bench()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, values: Any) -> Any:
        """Fills in what another default suits the task better for, where the user says nothing."""
        if not isinstance(values, dict):
            return values
        suited = dict(DEFAULTS.get(str(values.get("task")), {}))
        student = values.get("student")
        if isinstance(student, dict) and student.get("kind") == "static":
            suited["distill"] = STATIC
        for section, defaults in suited.items():
            given = values.get(section, {})
            if isinstance(given, dict):
                values = values | {section: {**defaults, **given}}
        return values

    @model_validator(mode="after")
    def _encoders_have_few_positions(self) -> Request:
        if self.task in ("classification", "nli") and self.data.max_tokens > ENCODER_TOKENS:
            raise ValueError(f"data.max_tokens must be at most {ENCODER_TOKENS} for {self.task}")
        return self

    @model_validator(mode="after")
    def _nothing_is_set_that_has_no_effect(self) -> Request:
        """Refuses what the user set and this kind of student does not know; it would only look as if it worked."""
        distill = self.distill
        if wrong := idle.problem(self) or problem(self.teachers, distill.combine, distill.column, distill.route):
            raise ValueError(wrong)
        return self

    @property
    def teachers(self) -> tuple[DistillTeacher, ...]:
        """Who teaches the student: `[teacher]` first, and those beside it."""
        first = self.teacher
        return DistillTeacher(model=first.model, weight=first.weight, serves=first.serves), *self.distill.teachers

    @model_validator(mode="after")
    def _a_judge_compares_what_is_written(self) -> Request:
        if self.judge is not None and self.task in ("classification", "nli"):
            raise ValueError(f"judge has no effect for {self.task}: its answers are right or wrong")
        return self

    @model_validator(mode="after")
    def _shares_leave_rows_to_train_on(self) -> Request:
        if self.data.validation_share + self.data.test_share >= 0.9:
            raise ValueError("data.validation_share and data.test_share must leave at least a tenth of the rows")
        return self


def read_request(
    config: Path | None = None,
    *,
    target: str | None = None,
    teacher: str | None = None,
    data: str | None = None,
    out: Path | None = None,
    seed: int | None = None,
    task: str | None = None,
    label: Mapping[str, Any] | None = None,
) -> Request:
    """The request of a configuration file with flags laid over it.

    Args:
        config: a TOML file; without one, `edgedistill.toml` in the working folder when it is there.
        target: a board's name or alias.
        teacher: a folder, or a name on the model hub.
        data: a folder with train.jsonl, one file that is split, or "demo": the embedded rows, whatever lies in ./demo.
        out: where the bundle and the report go.
        seed: of the splits and the training.
        task: the kind of task.
        label: keys of the section [label] that flags set.

    Raises:
        InputError: the file cannot be read, or values in it are wrong: all of them are named.
    """
    path = config or Path(FILE)
    values: dict[str, Any] = catalog.read_toml(path) if config or path.exists() else {}
    where = str(path) if values else "the flags"
    base = path.parent
    for key, value in {"target": target, "out": out, "seed": seed, "task": task}.items():
        if value is not None:
            values[key] = value
    for section, key, flag in (("teacher", "model", teacher), ("data", "folder", data), ("student", "model", None)):
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise InputError(f"{where}: {section!r} must be a table", hint=f"write it as [{section}]")
        if flag is not None:
            table[key] = flag
        elif (section, table.get(key)) != ("data", DEMO) and _is_relative_path(table.get(key), base):
            table[key] = str(base / str(table[key]))
            if table[key] == DEMO:
                table[key] = f".{os.sep}{DEMO}"  # pathlib drops the dot that tells a folder from the embedded rows
    folder = values["data"].get("folder", DEMO)
    if "name" not in values and isinstance(folder, str) and folder != DEMO:
        values["name"] = _name_of(folder)
    _lay_over_label(values, label or {}, base, where)
    _make_paths_relative_to(base, values.get("distill"))
    _make_paths_relative_to(base, {"teachers": [values.get("judge")]})
    try:
        request = Request.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where} has {catalog.problems(error)}", hint="edgedistill init shows every key") from error
    return request.model_copy(update={"target": catalog.device(request.target).name})


def _lay_over_label(values: dict[str, Any], flags: Mapping[str, Any], base: Path, where: str) -> None:
    """Puts flags into the section [label], and makes paths of its teachers relative to the file they stand in."""
    if not flags and "label" not in values:
        return
    table = values.setdefault("label", {})
    if not isinstance(table, dict) or not isinstance(table.get("teachers", []), list):
        raise InputError(
            f"{where}: 'label' must be a table with [[label.teachers]]", hint="see edgedistill/teachers/README.md"
        )
    _make_paths_relative_to(base, table)
    table.update({key: value for key, value in flags.items() if value is not None})


def _make_paths_relative_to(base: Path, table: object) -> None:
    """Makes paths of a section's teachers relative to the file they stand in."""
    teachers = table.get("teachers") if isinstance(table, dict) else None
    for teacher in teachers if isinstance(teachers, list) else ():
        if isinstance(teacher, dict) and _is_relative_path(teacher.get("model"), base):
            teacher["model"] = str(base / teacher["model"])


def _is_relative_path(value: object, base: Path) -> bool:
    return isinstance(value, str) and not Path(value).is_absolute() and (base / value).exists()


def _name_of(data: str) -> str:
    name = Path(data).name.lower().removesuffix(".jsonl").removesuffix(".csv")
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in name).strip("-")
    return letters[:64].strip("-") or "student"
