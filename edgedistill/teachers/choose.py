"""From the configuration of a teacher to the teacher itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from edgedistill.config import LabelTeacher
from edgedistill.errors import InputError
from edgedistill.teachers.answerer import Answerer


def choose(settings: LabelTeacher, labels: Sequence[str], environment: Mapping[str, str] | None = None) -> Answerer:
    """Makes a teacher ready to answer.

    Args:
        labels: the classes, for a teacher that is a classifier.
        environment: where keys are looked up; the process's own without one.

    Raises:
        InputError: the teacher cannot be used, with the reason.
        MissingExtra: a package that it needs is not installed.
    """
    if settings.batch and settings.kind != "openai":
        raise InputError(f"teacher {settings.model!r}: batch mode needs kind = 'openai'", hint="leave batch out")
    match settings.kind:
        case "openai":
            from edgedistill.teachers.api import OpenAI
            from edgedistill.teachers.provider_batch import OpenAIBatch

            return OpenAIBatch(settings, environment) if settings.batch else OpenAI(settings, environment)
        case "anthropic":
            from edgedistill.teachers.api import Anthropic

            return Anthropic(settings, environment)
        case "gguf":
            from edgedistill.teachers.llama import Gguf

            return Gguf(settings)
        case "transformers":
            from edgedistill.teachers.causal import Causal

            return Causal(settings, _folder(settings.model))
        case "encoder":
            from edgedistill.teachers.encoder import Encoder

            return Encoder(settings, _folder(settings.model), labels)


def kind_of(model: str) -> Literal["gguf", "encoder", "transformers"]:
    """The kind of a local teacher that is only named: by its suffix, or by what its config.json says that it is."""
    if model.endswith(".gguf"):
        return "gguf"
    try:
        config = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
        classifies = any("SequenceClassification" in name for name in config.get("architectures") or [])
    except (OSError, ValueError, AttributeError, TypeError):
        return "transformers"
    return "encoder" if classifies else "transformers"


def _folder(model: str) -> Path:
    """A local folder, or the hub's copy of a name, safetensors only."""
    from edgedistill.teachers import local

    return local.locate(model, patterns=("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"))
