"""The commands about boards, bundles and this machine: init, targets, verify, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgedistill.cli.options import AsJson, print_json, show
from edgedistill.errors import EdgeDistillError, InputError

app = typer.Typer()
targets_app = typer.Typer(help="List the boards that can be built for, or show one.", invoke_without_command=True)
app.add_typer(targets_app, name="targets")


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Where to write it.")] = Path(),
) -> None:
    """Write a commented edgedistill.toml to start from."""
    from edgedistill.config import FILE, TEMPLATE

    path = folder / FILE
    if path.exists():
        raise InputError(f"{path} exists already", hint="edit it, or move it away")
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder", hint="make it first")
    path.write_bytes(TEMPLATE.read_bytes())
    print(f"wrote {path}; point [data] folder at your rows, then run edgedistill plan")


@targets_app.callback()
def targets(context: typer.Context, as_json: AsJson = False) -> None:
    """List the boards that can be built for."""
    from dataclasses import asdict

    from edgedistill import catalog
    from edgedistill.terminal import targets_table

    if context.invoked_subcommand is None:
        found = catalog.devices()
        if as_json:
            print_json({device.name: asdict(device) for device in found})
        else:
            show([targets_table(found)])


@targets_app.command("show")
def show_board(name: str, as_json: AsJson = False) -> None:
    """Show one board: what is known about it, and where that was read."""
    from dataclasses import asdict

    from edgedistill import catalog
    from edgedistill.terminal import device_tables

    device = catalog.device(name)
    if as_json:
        print_json(asdict(device))
    else:
        show(device_tables(device))


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="The folder of a bundle.")]) -> None:
    """Check every byte of a bundle against its manifest."""
    from edgedistill.bundle import manifest

    found = manifest.verify(bundle).manifest
    print(f"{bundle} is as it was built: {len(found['files'])} files, digest {found['digest'][:16]}")


@app.command()
def doctor(
    setup_emulator: Annotated[
        bool, typer.Option("--setup-emulator", help="Set up arm64 emulation (on Debian 12, 270 MB).")
    ] = False,
    setup_browser: Annotated[
        bool, typer.Option("--setup-browser", help="Set up what a browser's page runs bundles on (needs npm, 13 MB).")
    ] = False,
) -> None:
    """Say what is installed here, what is not, and how to get it."""
    from edgedistill import checkup
    from edgedistill.links import arm64_root, browser
    from edgedistill.terminal import doctor_table

    if setup_emulator:
        print(f"arm64 root for classifiers ready in {arm64_root.install()}")
        arm64_root.install_decoding()
        print("llama.cpp for decoders added to it")
    if setup_browser:
        print(f"onnxruntime-web and a tokenizer for pages ready in {browser.install()}")
    findings = checkup.findings()
    show([doctor_table(findings)])
    if any(finding.needed and not finding.ok for finding in findings):
        raise EdgeDistillError("something that every build needs is missing")
