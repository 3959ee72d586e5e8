"""From rows and a teacher to a proven file on a small device.

    import edgedistill
    result = edgedistill.build(edgedistill.read_request(target="raspberrypi"))

Everything is imported on first use, so importing the package is cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.2.0"

_HOMES = {
    "build": "edgedistill.pipeline",
    "distill": "edgedistill.pipeline",
    "evaluate": "edgedistill.pipeline",
    "label": "edgedistill.labeling.stage",
    "plan": "edgedistill.pipeline",
    "read_request": "edgedistill.config",
    "verify": "edgedistill.bundle.manifest",
}

__all__ = ["__version__", "build", "distill", "evaluate", "label", "plan", "read_request", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgedistill' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
