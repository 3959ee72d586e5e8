"""Which engine answers what, by what the manifest of a bundle says. An engine is imported when it is wanted."""

import importlib
import json
from pathlib import Path
from typing import Any

WRITERS = {"llama-cpp-python": "engine_llama", "onnxruntime-genai": "engine_genai"}
"""What answers conversations in text, by the engine that the manifest names."""
CLASSIFIERS = {"onnxruntime": "engine_onnx", "numpy": "engine_static"}
"""What labels texts, by the engine that the manifest names."""
REWRITER = "engine_seq2seq"
TEXT_TO_TEXT = "text-to-text"
"""The task of a bundle whose model writes a text for a text, and takes no conversation."""
READER = "reader"
"""The task of a bundle whose model points at the answer to a question in a context."""


class Refused(Exception):
    """What was asked for is not something that this bundle does. The message says what is."""


def manifest(bundle: Path) -> dict[str, Any]:
    """What a bundle says about itself."""
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return found


def engine(bundle: Path) -> Any:
    """The module that answers, whatever it answers. It is imported when this returns, and no model is loaded."""
    told = manifest(bundle)
    if told.get("task") == TEXT_TO_TEXT:
        return _module(REWRITER)
    return _module((WRITERS | CLASSIFIERS)[told["engine"]["name"]])


def labels(bundle: Path) -> Any:
    """The module that labels texts, and reads."""
    return _module(CLASSIFIERS[manifest(bundle)["engine"]["name"]])


def writer(bundle: Path, threads: int | None) -> Any:
    """What answers conversations in text.

    Raises:
        Refused: the bundle's model writes no text.
    """
    name = manifest(bundle)["engine"]["name"]
    if name not in WRITERS:
        raise Refused(f"its engine {name} writes no text; use predict")
    return _module(WRITERS[name]).Chat(bundle, threads=threads)


def rewriter(bundle: Path, threads: int | None) -> Any:
    """What writes a text for a text."""
    return _module(REWRITER).TextToText(bundle, threads=threads)


def _module(name: str) -> Any:
    return importlib.import_module(f"{__package__}.{name}")
