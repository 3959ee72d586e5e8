"""The rules of the house: what the checkers say, and the small rules that only a test can hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "edgedistill"
MODULES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 400
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command", [["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], ["lint-imports"]], ids=" ".join
)
def test_the_checkers_find_nothing(command: list[str]) -> None:
    done = subprocess.run([BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def calls(path: Path) -> set[str]:
    """Every name that a module calls, as it is written: `print`, `os.replace`, `subprocess.Popen`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_only_the_store_renames() -> None:
    """`Path.rename`, and `Path.replace`, which has one argument where that of a text has two."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if node.func.attr == "rename" or (node.func.attr == "replace" and len(node.args) == 1 and not node.keywords)
    }
    assert found == {"store.py"}


@pytest.mark.parametrize(
    ("called", "allowed"),
    [
        (
            "print",
            {
                "cli/__init__.py",
                "cli/boards.py",
                "cli/devices.py",
                "cli/measuring.py",
                "cli/options.py",
                "cli/stopping.py",
                "cli/students.py",
                "runtime/__main__.py",
            },
        ),
        ("sys.exit", {"cli/__init__.py", "cli/stopping.py", "runtime/__main__.py"}),
        ("subprocess.Popen", {"links/local.py"}),
        ("subprocess.run", {"runtime/system.py"}),
        ("os.system", set()),
        ("os.replace", set()),
        ("os.rename", set()),
        ("shutil.move", set()),
        ("tarfile.open", {"archive.py"}),
        ("zipfile.ZipFile", {"archive.py"}),
        ("shutil.unpack_archive", set()),
        ("torch.load", set()),
        ("torch.save", set()),
        ("eval", set()),
        ("exec", set()),
    ],
)
def test_some_things_are_done_in_one_place_only(called: str, allowed: set[str]) -> None:
    found = {path.relative_to(PACKAGE).as_posix() for path in MODULES if called in calls(path)}
    assert found == allowed


def test_nothing_unpickles_and_nothing_runs_code_from_a_checkpoint() -> None:
    words = re.compile(r"\bpickle\b|\bjoblib\b|trust_remote_code(?!=False)|shell=True|allow_pickle=True")
    found = [path.name for path in MODULES if words.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_no_file_has_grown_into_two_rooms() -> None:
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_the_public_names_are_there() -> None:
    import edgedistill

    for name in edgedistill.__all__:
        assert getattr(edgedistill, name) is not None
    with pytest.raises(AttributeError, match="no attribute"):
        _ = edgedistill.nothing


def test_the_continuous_run_is_the_readmes_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("## Test it\n\n```\n")[1].split("```")[0]
    assert "python -m pytest" in block
    assert "README.md" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
