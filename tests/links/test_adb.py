"""A stand-in that speaks adb's protocol: a bundle and its Python go there and answers come back. It is no phone."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgedistill.errors import EngineCrashed, InputError, MissingExtra, StageError
from edgedistill.links import arm64_root, emulated, local, phone, remote
from edgedistill.links.adb import Adb
from edgedistill.links.address import connect
from edgedistill.runtime.engine_static import Classifier
from edgedistill.store import hashes
from tests.links import bundles
from tests.links.phones import SERIAL, TEMPORARY, Phone
from tests.links.waiting import wait_for

TEXTS = ["turn the lamp very bright", "song", 'it\'s "dark"; $HOME `now`']
LOADER_SCRIPT = f'#!/bin/sh\nshift 3\nexec {sys.executable} "$@"\n'
"""In the place of the arm64 loader: it takes the same arguments and starts this machine's Python."""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    pytest.importorskip("adbutils", reason="pip install adbutils")
    root = tmp_path / "root"
    for name in (phone.LOADER, arm64_root.PYTHON, "usr/lib/python3.11/os.py", "site/numpy-2.dist-info/METADATA"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(LOADER_SCRIPT)
        (root / name).chmod(0o755)
    (root / "usr/lib/python3.11/of_debian.py").symlink_to("/etc/passwd")
    (root / "usr/lib/python3.11/alias.py").symlink_to("os.py")
    (root / arm64_root.READY).write_text(json.dumps({**arm64_root.wanted(), "xllamacpp": "1"}))
    monkeypatch.setenv("EDGEDISTILL_AARCH64_ROOT", str(root))
    started = Phone(tmp_path / "phone")
    monkeypatch.setenv("ANDROID_ADB_SERVER_HOST", "127.0.0.1")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(started.port))
    monkeypatch.setattr(phone, "ROOT_BYTES", 1000)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.static(tmp_path_factory.mktemp("bundles") / "tiny", tiny_teacher / "tokenizer.json")


def answers(link: Adb, bundle: Path) -> list[list[float]]:
    arguments = ["-m", "runtime", "--threads", "1", "measure", "--what", "answers", "--texts", "{files}/texts.json"]
    files = {"texts.json": json.dumps(TEXTS).encode()}
    out = link.python(arguments, where=link.put(bundle), files=files, timeout_s=60, threads=1)
    found: list[list[float]] = json.loads(out)["logits"]
    return found


def test_a_bundle_goes_there_with_its_python_and_its_answers_come_back(there: Phone, bundle: Path) -> None:
    with connect(f"adb://{SERIAL}") as link:
        assert isinstance(link, Adb)
        facts = link.look(bundle)
        assert facts["machine"] == link.title == "Acme Phone 7"
        assert facts["system"].startswith("Android 14 (API 34), Linux")
        assert (facts["battery_percent"], facts["temperature_c"]) == (81, 28.7)
        assert facts["packages"] == arm64_root.wanted()
        assert not any(there.temporary.iterdir())  # looking writes nothing
        classifier = Classifier(bundle)
        expected = [classifier([text])[0] for text in TEXTS]
        np.testing.assert_allclose(answers(link, bundle), expected, rtol=1e-5, atol=1e-6)
        where = Path(there.here(link.put(bundle)))
        assert hashes(where) == hashes(bundle)
    kept = {path.name.partition("-")[0] for path in (there.temporary / "edgedistill").iterdir()}
    assert kept == {"python", "bundles"}
    python = next((there.temporary / "edgedistill").glob("python-*/usr/lib/python3.11"))
    assert {path.name for path in python.iterdir()} == {"os.py", "alias.py"}
    (where / "tokenizer.json").write_text("changed")
    (where / "numpy.py").write_text("added")
    there.program("tar", "exit 9")  # what lies there is not sent again, what was changed is
    with Adb(f"adb://{SERIAL}") as again:
        again.put(bundle)
    assert hashes(where) == hashes(bundle)


def test_arguments_arrive_there_as_they_are_here_and_a_process_that_dies_says_why(there: Phone) -> None:
    odd = ["", " ", "a'b\"c", "$HOME `x` \\ * \n %s", "-x", "é水", ";reboot", "#"]
    with Adb(f"adb://{SERIAL}") as link:
        program = "import json, sys; print(json.dumps(sys.argv[1:]))"
        out = link.python(["-c", program, *odd], where=TEMPORARY, files={}, timeout_s=30, threads=1)
        assert json.loads(out) == odd
        for dying, words in (
            ("import sys; sys.exit('out of cheese')", "Acme Phone 7 ended with status 1: out of cheese"),
            ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ):
            with pytest.raises(EngineCrashed, match=words):
                link.python(["-c", dying], where=TEMPORARY, files={}, timeout_s=30, threads=1)


def test_a_connection_that_breaks_in_a_cell_leaves_nothing_of_it(there: Phone, bundle: Path) -> None:
    with Adb(f"adb://{SERIAL}") as link:
        link.put(bundle)
        there.cut_at = "runtime"
        with pytest.raises(StageError, match="Acme Phone 7 broke in the middle of a cell; nothing of the cell is kept"):
            answers(link, bundle)
        there.cut_at = ""
        assert len(answers(link, bundle)) == len(TEXTS)
    assert not any((there.temporary / "edgedistill").glob("session-*"))


def running(*words: str) -> Iterator[str]:
    """Command lines with all of these words in them."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found = path.read_text(errors="replace")
            if all(word in found for word in words):
                yield found


def test_what_takes_too_long_is_ended_there_and_leaves_nothing(there: Phone) -> None:
    with Adb(f"adb://{SERIAL}") as link:
        slow = ["-c", "import time; time.sleep(60)", str(there.temporary)]
        with pytest.raises(EngineCrashed, match="did not answer in time"):
            link.python(slow, where=TEMPORARY, files={}, timeout_s=0.5, threads=1)
        wait_for(lambda: not any(running(str(there.temporary), "time.sleep(60)")))
        assert not any((there.temporary / "edgedistill").rglob("session-*/*"))


def test_a_link_that_breaks_while_python_is_sent_leaves_no_archive(there: Phone) -> None:
    with Adb(f"adb://{SERIAL}") as link:
        there.cut_at = "tar -xf"
        with pytest.raises(StageError):
            link.python(["-c", ""], where=TEMPORARY, files={}, timeout_s=5, threads=1)
        there.cut_at = ""
    assert not any((there.temporary / "edgedistill").glob("session-*"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("unauthorized", "has not allowed this machine yet"),
        ("offline", "is offline"),
        ("recovery", "in the state 'recovery'"),
    ],
)
def test_a_phone_that_cannot_be_used_is_explained(state: str, words: str, there: Phone) -> None:
    there.state = state
    with pytest.raises(StageError, match=words) as raised:
        Adb(f"adb://{SERIAL}").look()
    assert raised.value.hint


def test_a_phone_that_is_not_there_is_told_with_those_that_are(there: Phone) -> None:
    with pytest.raises(StageError, match=f"adb sees no device other-1; it sees {SERIAL}"):
        Adb("adb://other-1").look()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # adbutils leaves its socket open
def test_where_no_server_can_be_started_this_is_told(there: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    monkeypatch.setenv("ADBUTILS_ADB_PATH", "/bin/false")
    with pytest.raises(StageError, match="no adb server answers here, and none could be started"):
        Adb(f"adb://{SERIAL}").look()


def test_everything_that_is_wrong_with_a_phone_is_said_at_once(
    there: Phone, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = shutil.copytree(bundle, tmp_path / "wanted")
    (wanted / "requirements.txt").write_text("llama-cpp-python==0.3.36\n")
    there.property("ro.product.cpu.abilist", "armeabi-v7a")
    monkeypatch.setattr(remote, "size", lambda _: 10**15)
    with pytest.raises(StageError) as raised:
        Adb(f"adb://{SERIAL}").look(wanted)
    for words in ("it runs armeabi-v7a", "the bundle needs llama-cpp-python 0.3.36", "no space: "):
        assert words in raised.value.message
    (arm64_root.root() / arm64_root.READY).unlink()
    with pytest.raises(StageError, match="no arm64 Python on this machine to send there"):
        Adb(f"adb://{SERIAL}").look(wanted)


@pytest.mark.parametrize("serial", ["", "-s", "a b", "a;reboot", "a\n", "$(x)", "host:kill ", "é", "a" * 200])
def test_what_cannot_be_a_serial_is_refused(serial: str) -> None:
    with pytest.raises(InputError, match="no address for adb"):
        connect(f"adb://{serial}")


def test_without_adbutils_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "adbutils", None)
    with pytest.raises(MissingExtra) as raised:
        importlib.import_module("edgedistill.links.adb").Adb("adb://x")
    assert raised.value.hint == 'pip install "edgedistill[android]"'


@pytest.mark.skipif(
    emulated.missing() is not None, reason="needs qemu-user-static and `edgedistill doctor --setup-emulator`"
)
def test_the_arm64_python_starts_through_its_own_loader_without_any_library_of_the_system(tmp_path: Path) -> None:
    """As on a phone: qemu is given no root to look for libraries in."""
    root = str(arm64_root.root())
    program = "import hashlib, json, platform, sys; print(platform.machine(), sys.prefix)"
    command = [arm64_root.EMULATOR, *phone.started(root, ["-c", program])]
    assert local.run(command, cwd=tmp_path, environment=phone.environment(root)).split() == ["aarch64", f"{root}/usr"]
