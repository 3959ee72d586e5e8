"""The order of the stages, and nothing else: from a request to a student, and on to a bundle and a report.

    (label) ─► rows ─► plan ─► teacher ─► signals ─► control, student ─► export ─► answers, bench, target ─► report
                               └──────────────── distill ────────────┘
    └───────────────────────────────────────────── build ────────────────────────────────────────────────────────┘

    any checkpoint ─► read ─► rows ─► export ─► bundle                                                       export

Every stage goes through the store, so a run that was killed goes on where it was, and one with nothing to do only
compares hashes. The stages that train and measure are imported when they have to run.
"""

from edgedistill.pipeline.bundling import Built, build, plan
from edgedistill.pipeline.distilling import Distilled, distill, evaluate
from edgedistill.pipeline.exporting import Made, export, record
from edgedistill.pipeline.prepare import STORE, prepare

__all__ = [
    "STORE",
    "Built",
    "Distilled",
    "Made",
    "build",
    "distill",
    "evaluate",
    "export",
    "plan",
    "prepare",
    "record",
]
