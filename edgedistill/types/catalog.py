"""What the catalogue holds: devices, recipes and workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A value of a device profile with where it was read.

    `trust` is "measured" when it was timed on the board, "source" when the page named says so, "assumed" when it is
    general knowledge or our own choice.
    """

    value: float
    source: str
    trust: Literal["measured", "source", "assumed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A target: what it computes with, how much it holds, and what a user expects of it.

    `storage_bandwidth_bytes_s` is how fast weights that do not fit into memory are read; None where nobody measured it.
    `machine` is what the board calls itself over a link; None where nobody asked one.
    """

    name: str
    title: str
    aliases: tuple[str, ...]
    isa: tuple[str, ...]
    emulated_cpu: str | None
    cores: int
    ram_bytes: int
    ram_usable_bytes: int
    storage_bytes: int
    bandwidth_bytes_s: float
    gops: Mapping[str, Fact]
    engines: tuple[str, ...]
    budget: Mapping[str, float]
    sources: Mapping[str, str]
    notes: tuple[str, ...]
    storage_bandwidth_bytes_s: float | None = None
    machine: str | None = None

    @property
    def place(self) -> str:
        """Its title in the middle of a sentence, with the article."""
        return self.title.replace("The", "the", 1) if self.title.startswith("The ") else f"the {self.title}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One way to write a student into a file for one engine.

    Attributes:
        bits: of the weights of matrix products.
        stored_bits: of those weights in the file, where the engine widens them while it loads; None is as `bits`.
        embedding_bits: of the embedding table; None leaves it to the scheme.
        calibration: how a static scheme finds the range of activations on rows.
        on_request: only tried when it is asked for by name.
    """

    name: str
    format: Literal["onnx", "gguf", "safetensors"]
    engine: str
    bits: int
    scheme: str
    per_channel: bool
    reduce_range: bool
    needs_isa: tuple[str, ...]
    tolerance: float
    embedding_bits: int | None = None
    calibration: Literal["percentile", "entropy"] | None = None
    on_request: bool = False
    stored_bits: int | None = None

    @property
    def file_bits(self) -> int:
        """Of each weight of a matrix product, in the file."""
        return self.stored_bits or self.bits

    @property
    def calibrated(self) -> bool:
        """Whether it looks at rows."""
        return self.scheme == "static" or self.stored_bits is not None

    @property
    def table_bits(self) -> int:
        """Of each number of the embedding table."""
        return self.embedding_bits or self.bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What a benchmark runs: which rows, how many, how long and how often.

    Attributes:
        rows: that are timed, evenly spread over all that are given.
        batch_rows: texts a call when throughput is measured.
        threads: of both contestants in a build; a benchmark tries several numbers instead.
        rounds: fresh processes that are timed; each is one witness of what differs from start to start.
        answer_rows: whose answers are compared with the host's and with the rows' own.
        within: relative half width of the 95 % interval of the median that ends the repeats; None: each text once.
        limit_s: of one process's repeats; ends them as well.
        prompt_tokens: lengths of the prompts of a model that writes; empty: as long as the texts are.
        new_tokens: of each answer of a model that writes.
    """

    name: str
    task: str
    rows: int
    batch_rows: int
    threads: int
    rounds: int
    seed: int
    answer_rows: int = 500
    within: float | None = None
    limit_s: float = 60.0
    prompt_tokens: tuple[int, ...] = ()
    new_tokens: int = 32
