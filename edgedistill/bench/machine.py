"""On what a figure was measured: the processor, the system and the versions of everything that computes."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from edgedistill.links.local import processor

PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "tokenizers", "numpy")


def environment() -> dict[str, str]:
    """What a figure depends on beside its inputs. Nothing heavy is imported for it."""
    return {
        "machine": machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def machine() -> str:
    """The processor's name as the system gives it, and the number of cores."""
    return f"{processor()}, {os.cpu_count()} cores"
