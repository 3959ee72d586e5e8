"""What a page is served of a bundle, and whether a page can run it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from edgedistill import catalog
from edgedistill.links.browser import packages
from edgedistill.links.link import Problem
from edgedistill.types import Cell

PAGE = Path(__file__).parent / "page"
START = "/page.html"
SCRIPTS = ("measure.js", "answer.js", "tokens.js")
TOKENIZER = "tokenizer.json"
DEVICE = "browser"
"""The profile in devices/ that says what a page may make its visitor download."""
READER = "reader"


class Content:
    """A bundle as a page sees it.

    Args:
        folder: manifest.json, tokenizer.json, and the model with its weights beside it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: Mapping[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self._model = folder / self.manifest["model"]["file"]

    @property
    def model_files(self) -> Mapping[str, Path]:
        """The file that the engine opens and those beside it, by the paths that they are served at."""
        return {f"/model/{path.name}": path for path in sorted(self._model.parent.iterdir()) if path.is_file()}

    @property
    def files(self) -> Mapping[str, Path]:
        """All that is served of the bundle."""
        return {**self.model_files, f"/{TOKENIZER}": self.folder / TOKENIZER}

    @property
    def reads(self) -> bool:
        """Whether it is a reader, and answers with spans."""
        return self.manifest.get("task") == READER

    @property
    def request(self) -> Mapping[str, Any]:
        """What the page must know of the model to load it."""
        model = self.manifest["model"]
        return {
            "file": f"/model/{self._model.name}",
            "beside": [path.name for path in self.model_files.values() if path != self._model],
            "reader": self.reads,
            "apart": model.get("apart", False),
            "maxTokens": model["max_tokens"],
            "padId": model.get("pad_id", 0),
        }

    def problems(self) -> Iterator[Problem]:
        """Why a page cannot run it, as far as the files tell."""
        engine, task = self.manifest["engine"]["name"], self.manifest.get("task")
        if engine == "numpy":
            yield Problem(
                what="its static student runs on numpy, and a page has no numpy",
                remedy="export it with --recipe onnx-int8-tables, which onnxruntime-web runs",
            )
            return
        if engine != "onnxruntime" or task == "text-to-text":
            yield Problem(
                what="its model writes text, and this link runs classifiers and readers only",
                remedy="measure it on local, ssh:// or adb://",
            )
            return
        if self.reads and not self._has_word_pieces():
            yield Problem(
                what="the tokenizer for pages does not tell where in a text its pieces stand, and for readers they are "
                "found again for WordPiece alone",
                remedy="distil a reader from a teacher with a WordPiece tokenizer, such as BERT's",
            )
        size, most = sum(path.stat().st_size for path in self.files.values()), catalog.device(DEVICE).storage_bytes
        if size > most:
            yield Problem(
                what=f"model and tokenizer have {size / 1e6:.1f} MB, and a page may make its visitor download "
                f"{most / 1e6:.1f} MB",
                remedy=f"build for --target {DEVICE}, or give devices/{DEVICE}.toml of your own other storage_bytes",
            )

    def _has_word_pieces(self) -> bool:
        told = json.loads((self.folder / TOKENIZER).read_text(encoding="utf-8"))
        return told["model"].get("type") == "WordPiece" and told["pre_tokenizer"] is not None


def files(content: Content | None, texts: Sequence[Any], cell: Cell) -> dict[str, Path | bytes]:
    """Everything that is served to one page: its scripts, the engine, the bundle and what is asked.

    Args:
        content: None for a page that only loads the engine.
    """
    request = {
        "what": cell.what,
        "threads": cell.threads,
        "texts": list(texts),
        "within": cell.within,
        "limitMs": cell.limit_s * 1e3,
        "batchRows": cell.batch_rows,
        "model": None if content is None else content.request,
    }
    return {
        START: PAGE / START[1:],
        **{f"/{name}": PAGE / name for name in SCRIPTS},
        **{f"/{name}": packages.root() / name for name in packages.FILES},
        "/engine.onnx": smallest_model(),
        "/request.json": json.dumps(request).encode(),
        **({} if content is None else content.files),
    }


def downloads(content: Content | None) -> dict[str, int]:
    """Bytes that a visitor downloads when the server does not compress them."""
    sizes = {"engine": sum((packages.root() / name).stat().st_size for name in packages.FILES)}
    if content is not None:
        sizes["model"] = sum(path.stat().st_size for path in content.model_files.values())
        sizes["tokenizer"] = (content.folder / TOKENIZER).stat().st_size
    return sizes


@cache
def smallest_model() -> bytes:
    """A model of one node. The engine is compiled, and has its threads, when this has run."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "engine", [x], [y])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
