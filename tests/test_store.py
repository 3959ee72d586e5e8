"""The store keeps what is finished, finds what was damaged, and shows nothing that is half done."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedistill import store as module
from edgedistill.errors import InputError, IntegrityError, StageError
from edgedistill.store import ENTRY, Store, canonical, disk_errors, publish, seal, verified, write_atomically


class Stage:
    """Writes two files and counts how often it was asked to."""

    def __init__(self, content: bytes = b"x" * 3000) -> None:
        self.calls = 0
        self.content = content

    def __call__(self, folder: Path, work: Path) -> None:
        self.calls += 1
        (folder / "sub").mkdir()
        (folder / "a.bin").write_bytes(self.content)
        (folder / "sub" / "b.bin").write_bytes(self.content[::-1])


def test_the_same_inputs_are_made_once_and_others_again(tmp_path: Path) -> None:
    stage = Stage()
    with Store(tmp_path) as store:
        first = store.get("s", {"seed": 1}, stage)
        again = store.get("s", {"seed": 1}, stage)
        other = store.get("s", {"seed": 2}, stage)
    assert (first.cached, again.cached, other.cached) == (False, True, False)
    assert first.path == again.path != other.path
    assert stage.calls == 2


def test_fresh_makes_each_output_again_once(tmp_path: Path) -> None:
    stage = Stage()
    with Store(tmp_path) as store:
        store.get("s", {}, stage)
    with Store(tmp_path, fresh=True) as store:
        assert not store.get("s", {}, stage).cached
        assert store.get("s", {}, stage).cached
    assert stage.calls == 2


def damage_a_bit(folder: Path) -> None:
    raw = bytearray((folder / "a.bin").read_bytes())
    raw[1234] ^= 4
    (folder / "a.bin").write_bytes(bytes(raw))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": damage_a_bit,
    "a lost file": lambda folder: (folder / "sub" / "b.bin").unlink(),
    "an added file": lambda folder: (folder / "more").touch(),
    "a lost entry": lambda folder: (folder / ENTRY).unlink(),
    "a torn entry": lambda folder: (folder / ENTRY).write_bytes((folder / ENTRY).read_bytes()[:-9]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_output_is_set_aside_and_made_again(tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    stage = Stage()
    with Store(tmp_path) as store:
        good = store.get("s", {}, stage)
        damage(good.path)
        again = store.get("s", {}, stage)
        assert not again.cached
        assert again.sha256 == good.sha256
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_an_entry_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    Stage()(tmp_path, tmp_path)
    seal(tmp_path)
    whole = (tmp_path / ENTRY).read_bytes()
    for end in range(len(whole)):
        (tmp_path / ENTRY).write_bytes(whole[:end])
        with pytest.raises(IntegrityError):
            verified(tmp_path)


def test_a_stage_that_fails_leaves_nothing_to_be_found(tmp_path: Path) -> None:
    def fail(folder: Path, work: Path) -> None:
        (folder / "half").touch()
        raise StageError("no")

    with Store(tmp_path) as store, pytest.raises(StageError):
        store.get("s", {}, fail)
    assert not (tmp_path / "outputs").exists()
    with Store(tmp_path) as store:
        assert not (tmp_path / "tmp").exists()
        assert not store.get("s", {}, Stage()).cached


def test_a_work_folder_outlives_a_failure_and_goes_with_success(tmp_path: Path) -> None:
    seen: list[bool] = []

    def twice(folder: Path, work: Path) -> None:
        seen.append((work / "checkpoint").exists())
        (work / "checkpoint").touch()
        if len(seen) == 1:
            raise StageError("killed")
        (folder / "done").touch()

    with Store(tmp_path) as store:
        with pytest.raises(StageError):
            store.get("s", {}, twice)
        store.get("s", {}, twice)
    assert seen == [False, True]
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_full_or_forbidden_disk_is_one_clear_error_at_every_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    original, k = os.fsync, 0
    while True:
        calls = 0

        def fsync(handle: int, fail_at: int = k) -> None:
            nonlocal calls
            calls += 1
            if calls == fail_at + 1:
                raise OSError(code, os.strerror(code))
            original(handle)

        monkeypatch.setattr(module.os, "fsync", fsync)
        with Store(tmp_path / str(k)) as store:
            try:
                store.get("s", {}, Stage())
            except StageError as error:
                assert str(tmp_path) in error.message
                assert error.hint
                monkeypatch.setattr(module.os, "fsync", original)
                assert store.get("s", {}, Stage()).path.is_dir()
            else:
                break
        k += 1
    assert k >= 4


WRITER = """
import sys
from pathlib import Path
from edgedistill.store import Store
def produce(folder, work):
    for i in range(20):
        (folder / str(i)).write_bytes(bytes([i]) * 200_000)
with Store(Path(sys.argv[1])) as store:
    for n in range(10_000):
        store.get("s", {"n": n}, produce)
"""


def test_killing_a_writer_never_leaves_a_torn_output(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(12):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
        time.sleep(chance.uniform(0.3, 0.9))
        child.send_signal(signal.SIGKILL)
        child.wait()
    outputs = list((tmp_path / "outputs").iterdir())
    assert outputs
    for output in outputs:
        assert len(json.loads((output / ENTRY).read_bytes())) == 20
        verified(output)


def test_a_second_builder_is_told_who_is_at_work_and_a_dead_one_never_blocks(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)])
    while not (tmp_path / "outputs").exists():
        time.sleep(0.05)
    with pytest.raises(StageError, match=f"in use by process {child.pid}") as caught, Store(tmp_path):
        pass
    assert "--out other/dist" in str(caught.value.hint)  # another --out beside this one would meet the same lock
    child.kill()
    child.wait()
    with Store(tmp_path):
        pass


def test_publishing_replaces_ours_and_never_what_is_not(tmp_path: Path) -> None:
    source, target = tmp_path / "made", tmp_path / "out" / "bundle"
    source.mkdir()
    (source / "manifest.json").write_text("1")

    def ours(folder: Path) -> bool:
        return (folder / "manifest.json").exists()

    publish(source, target, owned=ours)
    (source / "manifest.json").write_text("2")
    publish(source, target, owned=ours)
    assert (target / "manifest.json").read_text() == "2"
    (target / "manifest.json").unlink()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="was not made by edgedistill"):
        publish(source, target, owned=ours)
    assert (target / "mine.txt").read_text() == "keep"
    assert sorted(p.name for p in target.parent.iterdir()) == ["bundle"]


def test_publishing_over_what_somebody_added_names_it_and_touches_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "made", tmp_path / "bundle"
    source.mkdir()
    target.mkdir()
    (target / "notes").write_text("keep")
    added = [f"file {i}" for i in range(7)]
    with pytest.raises(InputError, match=r"did not put there: file 0, .*, file 4 and 2 more") as caught:
        publish(source, target, owned=lambda _: True, strays=lambda _: added)
    assert "--out" in str(caught.value.hint)
    assert [p.name for p in target.iterdir()] == ["notes"]


def test_publishing_never_replaces_a_link(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "made", tmp_path / "elsewhere"
    source.mkdir()
    elsewhere.mkdir()
    (tmp_path / "bundle").symlink_to(elsewhere)
    with pytest.raises(InputError, match="was not made by edgedistill"):
        publish(source, tmp_path / "bundle", owned=lambda _: True)
    assert (tmp_path / "bundle").is_symlink()


IN_THE_WAY: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file where a folder is needed": (lambda root: (root / "file" / "sub").mkdir(), "Not a directory"),
    "a folder where a file is needed": (lambda root: (root / "folder").write_bytes(b""), "Is a directory"),
    "a name that is taken": (lambda root: (root / "file").mkdir(), "File exists"),
    "a name that is too long": (lambda root: (root / ("x" * 300)).touch(), "File name too long"),
}


@pytest.mark.parametrize(("write", "said"), IN_THE_WAY.values(), ids=IN_THE_WAY.keys())
def test_a_name_that_cannot_be_written_to_is_a_clear_error(
    tmp_path: Path, write: Callable[[Path], Any], said: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=said) as caught, disk_errors(tmp_path):
        write(tmp_path)
    assert str(tmp_path) in caught.value.message
    assert caught.value.hint


def test_a_file_where_the_store_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / ".edgedistill").touch()
    with pytest.raises(InputError, match=r"\.edgedistill: File exists"), Store(tmp_path / ".edgedistill"):
        pass


def test_canonical_json_is_one_form_and_knows_no_nan(tmp_path: Path) -> None:
    assert canonical({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical({"x": float("nan")})
    write_atomically(tmp_path / "f", b"1")
    write_atomically(tmp_path / "f", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"2"
