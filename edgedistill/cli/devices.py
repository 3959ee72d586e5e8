"""The commands about boards that edgedistill does not know yet: devices add."""

from __future__ import annotations

from typing import Annotated

import typer

from edgedistill.cli.options import AsJson, print_json, show

app = typer.Typer()
devices_app = typer.Typer(help="Describe boards of your own, so that you can build for them.", no_args_is_help=True)
app.add_typer(devices_app, name="devices")


@devices_app.callback()
def devices() -> None:
    """Describe boards of your own, so that you can build for them."""


@devices_app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it, in small letters, digits and hyphens.")],
    on: Annotated[str, typer.Option("--on", metavar="LINK", help="Where it is: local, ssh://user@host, adb://serial.")],
    force: Annotated[bool, typer.Option("--force", help="Replace a profile of that name.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a profile of a board into devices/, from what it tells and 20 seconds of measuring on it."""
    from dataclasses import asdict

    from edgedistill.bench import board
    from edgedistill.links.address import connect
    from edgedistill.terminal import Lines
    from edgedistill.terminal.devices import added_tables

    with Lines(quiet=as_json) as lines, connect(on) as link:
        added = board.add(name, link, force=force, progress=lines.begin("measure"))
    if as_json:
        print_json(asdict(added))
    else:
        show(added_tables(added))
        print(f"profile  {added.path}; build for it with --target {added.device.name}")
