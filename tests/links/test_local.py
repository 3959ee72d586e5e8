"""Children are waited for, their failures are told with their last words, and none of them outlives the call."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgedistill import catalog
from edgedistill.errors import EngineCrashed, StageError
from edgedistill.links import local
from edgedistill.links.address import connect
from edgedistill.links.local import Local
from edgedistill.types import Cell


def python(program: str, tmp_path: Path) -> str:
    return local.run([sys.executable, "-c", program], cwd=tmp_path)


def test_what_a_child_prints_is_returned(tmp_path: Path) -> None:
    assert python("import os; print(os.getcwd())", tmp_path).strip() == str(tmp_path)


def test_the_last_words_of_a_failing_child_are_told(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match=r"status 3: out of cheese"):
        python("import sys; sys.stderr.write('out of cheese'); sys.exit(3)", tmp_path)


def test_the_signal_that_killed_a_child_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="SIGABRT"):
        python("import os; os.abort()", tmp_path)


def test_a_child_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid)); time.sleep(60)"
    )
    with pytest.raises(EngineCrashed, match=r"^measuring the teacher did not finish in 2 s"):
        local.run([sys.executable, "-c", program], cwd=tmp_path, timeout_s=2, what="measuring the teacher")
    grandchild = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not Path(f"/proc/{grandchild}").exists() or "Z" in Path(f"/proc/{grandchild}/stat").read_text().split()[2]:
            break
        time.sleep(0.1)
    else:
        os.kill(grandchild, 9)
        pytest.fail("the grandchild lived on")


def test_a_child_reads_what_it_is_given_and_its_input_can_stay_open_and_empty(tmp_path: Path) -> None:
    echo = [sys.executable, "-c", "import sys; print(sys.stdin.read())"]
    assert local.ended(echo, cwd=tmp_path, given=b"a\0b").out == "a\0b\n"
    assert local.ended(echo, cwd=tmp_path).out == "\n"
    waits = "import select, sys; print(select.select([sys.stdin], [], [], 0.05)[0])"
    assert local.ended([sys.executable, "-c", waits], cwd=tmp_path, held=True).out == "[]\n"


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineCrashed, match="no-such-program"):
        local.run(["no-such-program"], cwd=tmp_path)


def test_this_machine_tells_what_it_is() -> None:
    facts = connect("local").look()
    assert facts["cores"] == os.cpu_count()
    assert facts["ram_bytes"] > 100_000_000
    assert facts["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert facts["machine"]
    assert facts["python"] == platform.python_version()


def test_a_bundle_whose_packages_are_not_here_is_refused_with_all_that_is_missing(tmp_path: Path) -> None:
    here = importlib.metadata.version("numpy")
    (tmp_path / "requirements.txt").write_text(f"numpy=={here}\n")
    assert Local().look(tmp_path)["cores"]
    (tmp_path / "requirements.txt").write_text("numpy==0.1\nno-such-engine==2\n")
    with pytest.raises(StageError, match=rf"pins numpy 0\.1, and {here} is installed; no-such-engine") as refused:
        Local().look(tmp_path)
    assert "requirements.txt" in str(refused.value.hint)


RUNTIME = """
import json, os, sys
files = [sys.argv[sys.argv.index(name) + 1] for name in ("--texts", "--cell")]
texts, cell = [json.load(open(file)) for file in files]
print(json.dumps({"texts": texts, "cell": cell, "threads": os.environ["OMP_NUM_THREADS"], "asked": sys.argv[1:6]}))
"""


def test_a_cell_is_run_by_the_bundles_own_runtime_in_a_process_that_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__main__.py").write_text(RUNTIME)
    cell = Cell(what="writing", threads=3, within=0.02, prompt_tokens=(8, 16))
    with connect("local") as link:
        before, started = time.process_time(), time.perf_counter()
        found = link.measure(tmp_path, ["a", ("b", "c")], cell)
        share = (time.process_time() - before) / (time.perf_counter() - started)
    assert found["texts"] == ["a", ["b", "c"]]
    assert found["threads"] == "3"
    assert found["asked"] == ["--threads", "3", "measure", "--what", "writing"]
    assert found["cell"] == {
        "within": 0.02,
        "limit_s": 60.0,
        "batch_rows": 32,
        "prompt_tokens": [8, 16],
        "new_tokens": 32,
    }
    assert share < 0.9  # it waits; how little it takes is measured by benchmarks/clock.py
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runtime"]


def test_a_profile_is_of_this_machine_by_its_name_its_cores_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "processor", lambda: "Intel(R) N100")
    monkeypatch.setattr(local, "_ram_bytes", lambda: 8_100_000_000)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    board = replace(catalog.device("raspberrypi5"), machine="Intel N100", ram_bytes=8_080_000_000, cores=4)
    assert local.is_here(catalog.device("cpu"))
    assert local.is_here(board)
    for other in ({"machine": "Intel N200"}, {"machine": None}, {"ram_bytes": 4_000_000_000}, {"cores": 8}):
        assert not local.is_here(replace(board, **other))
