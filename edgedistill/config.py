"""`edgedistill.toml` and flags to a `Request`: unknown keys are refused, all problems are said at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgedistill import catalog
from edgedistill.errors import InputError

FILE = "edgedistill.toml"
DEMO = "demo"
"""The name of the embedded smart-home rows, as a value of `[data] folder`."""
DEMO_TEACHER = "sentence-transformers/all-MiniLM-L6-v2"

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Where the rows are and which of them may be bad."""

    folder: str = DEMO
    text: str = "text"
    label: str = "label"
    out_of_scope: str = "out_of_scope"
    validation_share: Share = 0.1
    test_share: Share = 0.2
    max_bad_share: Share = 0.01
    max_tokens: Annotated[int, Field(ge=8, le=512)] = 128


class Teacher(_Section):
    """The model to learn from, and how it is fine-tuned when it has no head for the labels."""

    model: str = DEMO_TEACHER
    epochs: Count = 3
    learning_rate: Positive = 2e-4
    batch_tokens: Annotated[int, Field(ge=64)] = 512


class Student(_Section):
    """The student's shape; what is left out is chosen by the plan."""

    layers: Count | None = None
    ffn: Annotated[int, Field(ge=32, multiple_of=32)] | None = None
    vocabulary: Count | None = None


class Distill(_Section):
    """How the student is trained. The control arm takes the same steps with the labels alone."""

    epochs: Count = 8
    learning_rate: Positive = 5e-4
    temperature: Positive = 2.0
    kd_weight: Share = 0.9
    hidden_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    batch_tokens: Annotated[int, Field(ge=64)] = 512
    checkpoint_steps: Count = 200


class Export(_Section):
    """Which recipe to try first and how much accuracy the file may lose against the student."""

    recipe: str | None = None
    tolerance: Share | None = None


class Goals(_Section):
    """What the result must reach; a goal that is missed ends the build with exit status 3."""

    retained: Share = 0.92
    latency_ratio: Positive = 6.7
    size_ratio: Positive = 10.0


class Bench(_Section):
    """What is measured on this machine."""

    workload: str = "classification"


class Request(_Section):
    """One build: everything the user asked for, with the defaults filled in."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")] = "smart-home"
    target: str = "raspberrypi5"
    task: Literal["classification"] = "classification"
    out: Path = Path("dist")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    data: Data = Data()
    teacher: Teacher = Teacher()
    student: Student = Student()
    distill: Distill = Distill()
    export: Export = Export()
    goals: Goals = Goals()
    bench: Bench = Bench()

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
) -> Request:
    """The request of a configuration file with flags laid over it.

    Args:
        config: a TOML file; without one, `edgedistill.toml` in the working folder when it is there.
        target: a board's name or alias.
        teacher: a folder, or a name on the model hub.
        data: a folder with train.jsonl, or one file that is split.
        out: where the bundle and the report go.
        seed: of the splits and the training.

    Raises:
        InputError: the file cannot be read, or values in it are wrong: all of them are named.
    """
    path = config or Path(FILE)
    values = catalog.read_toml(path) if config or path.exists() else {}
    where = str(path) if values else "the flags"
    base = path.parent
    for key, value in {"target": target, "out": out, "seed": seed}.items():
        if value is not None:
            values[key] = value
    for section, key, flag in (("teacher", "model", teacher), ("data", "folder", data)):
        table = values.setdefault(section, {})
        if not isinstance(table, dict):
            raise InputError(f"{where}: {section!r} must be a table", hint=f"write it as [{section}]")
        if flag is not None:
            table[key] = flag
        elif key in table and _is_relative_path(table[key], base):
            table[key] = str(base / str(table[key]))
    if isinstance(data, str) and "name" not in values:
        values["name"] = _name_of(data)
    try:
        request = Request.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where} has {catalog.problems(error)}", hint="edgedistill init shows every key") from error
    return request.model_copy(update={"target": catalog.device(request.target).name})


def _is_relative_path(value: object, base: Path) -> bool:
    return isinstance(value, str) and not Path(value).is_absolute() and (base / value).exists()


def _name_of(data: str) -> str:
    letters = "".join(c if c.isascii() and c.isalnum() else "-" for c in Path(data).stem.lower()).strip("-")
    return letters[:64].strip("-") or "student"


TEMPLATE = """\
# What `edgedistill build` makes of your rows. Every key but [data] folder may stay away; the values shown are the
# defaults. `edgedistill plan` says what would come out without building it.

name = "my-intents"          # names the bundle: dist/<name>-<target>/
target = "raspberrypi"       # `edgedistill targets` lists the boards
task = "classification"
out = "dist"
seed = 0

[data]
folder = "rows"              # train.jsonl and test.jsonl (validation.jsonl if you have it), or one file that is split
text = "text"                # one object a line: {"text": "switch the light on", "label": "light_on"}
label = "label"
out_of_scope = "out_of_scope"  # the label of rows that belong to no class; its recall is reported on its own
validation_share = 0.1       # used when the files do not say
test_share = 0.2
max_bad_share = 0.01         # more unusable rows than this stop the build; they are listed either way
max_tokens = 128             # longer texts are cut, in training and on the device

[teacher]
model = "sentence-transformers/all-MiniLM-L6-v2"  # a folder with safetensors, an installed package, or a hub name
epochs = 3                   # of fine-tuning; skipped when the model already has a head for exactly your labels
learning_rate = 2e-4
batch_tokens = 512

[student]                    # left out: the plan chooses from the board
# layers = 2                 # copied from the teacher
# ffn = 768                  # inner width; the strongest units of the teacher are kept
# vocabulary = 8192          # pieces; what the rows use always stays

[distill]
epochs = 8                   # fewer rows want more of them
learning_rate = 5e-4
temperature = 2.0
kd_weight = 0.9              # the rest is cross-entropy on the labels
hidden_weight = 1.0          # matching of the teacher's hidden states
batch_tokens = 512           # rows are batched by length until a batch holds this many pieces
checkpoint_steps = 200

[export]
# recipe = "onnx-int8-dynamic"  # left out: chosen by the board's instruction set
# tolerance = 0.01           # accuracy the file may lose against the student before the next recipe is tried

[goals]                      # a goal that is missed ends the build with exit status 3
retained = 0.92              # share of the teacher's accuracy
latency_ratio = 6.7          # times faster than the teacher in PyTorch: 85 % less latency
size_ratio = 10.0            # times smaller

[bench]
workload = "classification"  # benchmarks/workloads/classification.toml
"""
