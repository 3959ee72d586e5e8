"""The number of threads that a benchmark found best, written into the bundle that it was found for.

A bundle is built for one board, and measured on many machines. Only what was found on that board says how many threads
it should start there, so a run elsewhere leaves the manifest as it is unless its user wants it otherwise.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgedistill import catalog
from edgedistill.bundle import manifest
from edgedistill.links import local
from edgedistill.types import DeviceRun, Result

ITSELF = {local.ITSELF: "local", "browser": "browser"}
"""Targets that are no board: the machine one sits at, and what runs in it."""


def write(bundle: Path, result: Result, *, wanted: bool | None) -> Result:
    """Writes the chosen number into a bundle's manifest, and says so in the result.

    Args:
        wanted: False: never; True: from the one device that was measured; None: from the board it was built for.
    """
    swept = [run for run in result.runs if run.sweep and run.contender == "bundle" and run.kind == "measured"]
    target = str(result.bundle["target"])
    if wanted is None:
        swept = [run for run in swept if run.stable and is_target(target, run)]
    if wanted is False or len(swept) != 1:
        said = ("no number of threads was written: no device tried several",) if wanted else ()
        had = manifest.read(bundle).manifest["engine"]["threads"]
        for run in result.runs if wanted is None else ():
            other = run.sweep and run.in_effect["threads"] != had
            if run.contender == "bundle" and not run.stable and other and is_target(target, run):
                said = (f"the bundle still starts {had} threads: the run on its own board is unstable",)
        return replace(result, remarks=(*result.remarks, *said))
    threads = int(swept[0].in_effect["threads"])
    if threads == manifest.read(bundle).manifest["engine"]["threads"]:
        return result
    try:
        manifest.set_threads(bundle, threads)
    except OSError as error:
        said = (f"{threads} threads were best on {swept[0].title}; the bundle cannot be written: {error.strerror}",)
        return replace(result, remarks=(*result.remarks, *said))
    said = (f"the bundle now starts {threads} threads, as measured on {swept[0].title}",)
    sealed = {**result.bundle, "digest": manifest.read(bundle).manifest["digest"]}
    return replace(result, bundle=sealed, remarks=(*result.remarks, *said))


def is_target(target: str, run: DeviceRun) -> bool:
    """Whether a run was made on the board of this name.

    Phones are targets by class, and none of them says of which class it is: `wanted` decides there.
    """
    scheme = run.link.partition("://")[0]
    if target in ITSELF:
        return scheme == ITSELF[target]
    machine = str(run.environment.get("machine", ""))
    return any(catalog.is_named(device, machine) for device in catalog.devices() if device.name == target)
