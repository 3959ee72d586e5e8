"""Children are waited for, their failures are told with their last words, and none of them outlives the call."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from edgedistill.errors import EngineCrashed
from edgedistill.links import local


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
