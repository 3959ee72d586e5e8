"""Which link an address means: `local`, `ssh://pi@kitchen`, `adb://serial`, `emulated://cortex-a72`, `browser://`."""

from __future__ import annotations

import importlib

from edgedistill.errors import InputError
from edgedistill.links.link import Link

LINKS = {"local": "Local", "ssh": "Ssh", "adb": "Adb", "emulated": "Emulated", "browser": "browser"}
"""What makes the link of each scheme from its address, in the module of the scheme's name."""
ALONE = {"local", "browser"}
"""What may be written without `://`."""
SHOWN = 60


def connect(address: str) -> Link:
    """The link of an address. Nothing is reached yet.

    Raises:
        InputError: there is no such kind of link, or what stands behind `://` cannot be a name of a device.
    """
    scheme, separator, _ = address.partition("://")
    if scheme not in LINKS or not (separator or scheme in ALONE):
        raise InputError(
            f"{address[:SHOWN]!r} is no address of a device",
            hint="local, ssh://user@host:port, adb://serial, emulated://cortex-a72 or browser://",
        )
    found: Link = getattr(importlib.import_module(f"edgedistill.links.{scheme}"), LINKS[scheme])(address)
    return found
