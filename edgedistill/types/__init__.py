"""The frozen values that pass between stages. Units stand in the field names; a missing number is `NotMeasured`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from edgedistill.types.catalog import Device as Device
from edgedistill.types.catalog import Fact as Fact
from edgedistill.types.catalog import Recipe as Recipe
from edgedistill.types.catalog import Workload as Workload
from edgedistill.types.figures import Estimate as Estimate
from edgedistill.types.figures import Kind as Kind
from edgedistill.types.figures import Measurement as Measurement
from edgedistill.types.figures import NotMeasured as NotMeasured
from edgedistill.types.figures import PredictedMeasurement as PredictedMeasurement
from edgedistill.types.results import Cell as Cell
from edgedistill.types.results import Comparison as Comparison
from edgedistill.types.results import Contender as Contender
from edgedistill.types.results import DeviceRun as DeviceRun
from edgedistill.types.results import Ratio as Ratio
from edgedistill.types.results import Result as Result
from edgedistill.types.results import Taken as Taken
from edgedistill.types.results import What as What

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes of an encoder. `layers` are teacher layers that the student copies, counted from 0."""

    layers: tuple[int, ...]
    hidden: int
    ffn: int
    heads: int
    vocabulary: int
    positions: int
    labels: int

    @property
    def parameters(self) -> int:
        """Number of weights, classifier head included."""
        embeddings = (self.vocabulary + self.positions + 2) * self.hidden + 2 * self.hidden
        attention = 4 * (self.hidden * self.hidden + self.hidden)
        feed_forward = 2 * self.hidden * self.ffn + self.ffn + self.hidden
        head = self.hidden * self.hidden + self.hidden + self.labels * (self.hidden + 1)
        return embeddings + len(self.layers) * (attention + feed_forward + 4 * self.hidden) + head

    def macs(self, tokens: int, *, spans: bool = False) -> int:
        """Multiply-accumulates for one text, with the last layer computed for the first position only.

        Args:
            tokens: length of the text in pieces, special ones included.
            spans: the head reads every position, so all of the last layer is computed.
        """
        projection = self.hidden * self.hidden
        layer = 4 * projection + 2 * self.hidden * self.ffn
        whole = layer * tokens + 2 * self.hidden * tokens * tokens
        if spans:
            return len(self.layers) * whole + 2 * self.hidden * tokens
        full = (len(self.layers) - 1) * whole
        last = 2 * projection * tokens + 2 * projection + 2 * self.hidden * self.ffn + 2 * self.hidden * tokens
        return full + last + projection + self.labels * self.hidden


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Validated, split and de-duplicated rows on disk: one JSONL file a split."""

    path: Path
    sha256: str
    counts: Mapping[str, int]
    labels: tuple[str, ...]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A local checkpoint, and the facts about it that the plan needs."""

    path: Path
    name: str
    sha256: str
    shape: Shape
    weight_bytes: int
    has_head: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Student:
    """A trained student checkpoint with its tokenizer and the curve of its training."""

    path: Path
    sha256: str
    shape: Shape
    curve: tuple[Mapping[str, float], ...]


BESIDE = ".data"
"""What is behind the name of an ONNX graph in the name of the file with its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One file for one engine, with the proof that it answers like the student."""

    path: Path
    sha256: str
    recipe: str
    parity: Mapping[str, float]
    ladder: tuple[Mapping[str, Any], ...]
    lint: tuple[Mapping[str, Any], ...] = ()
    sensitivity: tuple[Mapping[str, Any], ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """The file, or the folder of several, and the file of weights that lies beside an ONNX graph."""
        beside = self.path.with_name(self.path.name + BESIDE)
        return (self.path, beside) if beside.is_file() else (self.path,)

    @property
    def size_bytes(self) -> int:
        """Of all of its files."""
        found = (part for file in self.files for part in (file.rglob("*") if file.is_dir() else (file,)))
        return sum(part.stat().st_size for part in found if part.is_file())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What will be built for a device, what it should cost there, and why it was chosen."""

    device: Device
    recipes: tuple[Recipe, ...]
    student_shape: Shape
    predictions: tuple[PredictedMeasurement, ...]
    explanation: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a training would do, before anything is trained or asked.

    Attributes:
        parameters: of the teacher, where there is one here, and of the student.
        memory_bytes: what the training needs at once, activations not counted, and `available_bytes` what there is.
        rows: training rows that can be learned from; each counts once an epoch.
        steps: of the optimizer, over all epochs.
        signal_bytes: what the teacher's answers will take on disk; 0 where it is not asked beforehand.
        predictions: what the student will cost on the board; empty where nothing predicts that.
    """

    task: str
    route: str
    teacher: str
    parameters: Mapping[str, int]
    memory_bytes: int
    available_bytes: int
    rows: int
    steps: int
    signal_bytes: int
    explanation: tuple[str, ...]
    predictions: tuple[PredictedMeasurement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A folder that runs on the device: manifest, model, tokenizer, runtime and model card."""

    path: Path
    manifest: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How well one contestant answers the test rows: teacher, control, student or exported."""

    name: Literal["teacher", "control", "student", "exported"]
    title: str
    metrics: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contrast:
    """Two arms compared row by row (paired bootstrap): a ratio to the teacher or a difference between arms."""

    name: str
    title: str
    estimate: Estimate
    unit: Literal["ratio", "points"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound that was asked for and what came out. `held` is None when nothing could be measured."""

    title: str
    asked: float
    value: float | None
    unit: Literal["share", "times", "ms", "bytes"]
    direction: Literal["at least", "at most"]
    kind: Kind | None
    held: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What the benchmark measured of one contestant: the teacher or the exported file."""

    name: Literal["teacher", "exported"]
    title: str
    engine: str
    file_bytes: int
    measurements: tuple[Measurement | NotMeasured, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything a build found out, ready to be shown or to be read by a program.

    `curves` maps "teacher", "student" and "control" to one mapping per logged step, with at least "step" and "loss".
    `seconds` maps each stage to its duration, 0 when its result was already there.
    """

    name: str
    device: Device
    version: str
    created: str
    environment: Mapping[str, str]
    data: Mapping[str, Any]
    plan: Plan
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    goals: tuple[Goal, ...]
    subjects: tuple[Subject, ...]
    ratios: Mapping[str, Estimate]
    on_target: tuple[Measurement | NotMeasured, ...]
    export: Mapping[str, Any]
    curves: Mapping[str, tuple[Mapping[str, float], ...]]
    seconds: Mapping[str, float]
    remarks: tuple[str, ...]


Message = Mapping[str, str]
"""One turn of a prompt: `role` and `content`."""

Signal = Literal["text", "labels", "class probabilities", "top-k log-probabilities", "logits", "hidden states"]
"""What a teacher can say about a row, from the poorest to the richest."""

Finish = Literal["stop", "length", "refusal"]
"""Why an answer ended: it was complete, it ran into its limit, or the teacher's side would not give one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request to one teacher. `key` names it for ever: equal keys are the same request.

    Attributes:
        key: hash of teacher, parameters, messages, schema and template.
        messages: the whole prompt.
        schema: JSON schema of the answer, enforced where the teacher can; None for plain text.
        labels: the classes to choose from, for teachers that take fields instead of prompts.
        fields: the row's input fields, for the same teachers.
    """

    key: str
    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None
    max_tokens: int
    temperature: float
    labels: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a teacher said, and what it took.

    Attributes:
        id: the number that the endpoint gave the answer, where it gives any.
        top_logprobs: for each token of the text, the likeliest tokens there and their natural log-probabilities.
        tokens: the tokens of the text, as long as `top_logprobs`.
        probabilities: of each label, where the teacher knows them.
    """

    text: str
    finish: Finish
    prompt_tokens: int
    completion_tokens: int
    id: str | None = None
    tokens: tuple[str, ...] = ()
    top_logprobs: tuple[Mapping[str, float], ...] = ()
    probabilities: Mapping[str, float] | None = None


class Progress(Protocol):
    """Where a long stage says how far it is. Implementations must be cheap: they are called at every step."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Called with how much is done, of how much, and what is being done."""


def silent(done: int, total: int, note: str = "") -> None:
    """A progress bar that nobody looks at."""
