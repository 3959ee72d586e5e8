"""Content-addressed outputs of the stages: written atomically, hashed when read, kept under the hash of their inputs.

.edgedistill/
  lock                        held by the one process that builds here (an OS lock: a dead owner never blocks)
  outputs/<stage>-<key>/      a finished output; entry.json inside lists every file with its sha256, written last
  work/<stage>-<key>/         what an unfinished stage may resume from, such as checkpoints
  tmp/                        outputs being written; swept at start
  damaged/                    outputs whose bytes no longer match their hashes, set aside
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import filelock

from edgedistill import __version__
from edgedistill.errors import InputError, IntegrityError, StageError

ENTRY = "entry.json"
LOOK_S = 0.2
"""How often a process that follows looks for what the leading one makes."""
SHOWN = 5
"""Files that an error names at most."""
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one stage left in the store."""

    path: Path
    sha256: str
    cached: bool
    seconds: float


class Store:
    """The outputs of one build folder. Use it as a context manager: it holds the lock and sweeps what a kill left.

    Where several processes run the same build, as under `accelerate launch`, one leads: the others write nothing, wait
    for what it makes, and join it in the stages that are done together.

    Args:
        root: the folder, made when it is missing.
        fresh: do every stage again, once.
    """

    def __init__(self, root: Path, *, fresh: bool = False) -> None:
        self.root = root.absolute()
        self.follows = process_rank() > 0
        self._fresh = fresh
        self._done: set[str] = set()
        self._lock = filelock.FileLock(self.root / "lock")

    def __enter__(self) -> Self:
        if self.follows:
            return self
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / ".gitignore").write_text("*\n")
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            owner = _read_or(self.root / "owner", "another process")
            raise StageError(
                f"{self.root} is in use by {owner}",
                # Two values of --out in one folder share this store.
                hint="wait until it is done, or work in another folder, such as with --out other/dist",
            ) from error
        (self.root / "owner").write_text(f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        shutil.rmtree(self.root / "tmp", ignore_errors=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if not self.follows:
            self._lock.release()

    def get(
        self,
        stage: str,
        inputs: Mapping[str, Any],
        produce: Callable[[Path, Path], None],
        *,
        keep_damaged: bool = True,
        together: bool = False,
    ) -> Output:
        """The output of a stage for these inputs, made now if it is not there yet.

        Args:
            stage: the stage's name; part of the key.
            inputs: everything that decides the result, as plain JSON values; hashes of files, not paths.
            produce: called with an empty folder for the result and a work folder that outlives a kill.
            keep_damaged: set an output aside whose bytes changed, rather than delete it.
            together: every process of the build has its part in making the output.

        Raises:
            StageError: the disk is full or cannot be written; finished outputs are kept.
        """
        key = digest({"stage": stage, "version": __version__, "inputs": inputs})
        name = f"{stage}-{key[:24]}"
        final = self.root / "outputs" / name
        started = time.monotonic()
        if self.follows:
            return self._followed(final, self.root / "work" / name, produce if together else None)
        if final.is_dir() and not (self._fresh and name not in self._done):
            try:
                found = verified(final)
            except IntegrityError:
                self._set_aside(final, keep=keep_damaged)
            else:
                return Output(path=final, sha256=found, cached=True, seconds=time.monotonic() - started)
        work = self.root / "work" / name
        if self._fresh:
            shutil.rmtree(work, ignore_errors=True)
        result = self.root / "tmp" / f"{name}-{os.getpid()}"
        with disk_errors(self.root):
            shutil.rmtree(result, ignore_errors=True)
            result.mkdir(parents=True)
            work.mkdir(parents=True, exist_ok=True)
            produce(result, work)
            sha256 = seal(result)
            if final.exists():
                self._set_aside(final, keep=False)
            replace(result, final)
        shutil.rmtree(work, ignore_errors=True)
        self._done.add(name)
        return Output(path=final, sha256=sha256, cached=False, seconds=time.monotonic() - started)

    def _followed(self, final: Path, work: Path, produce: Callable[[Path, Path], None] | None) -> Output:
        """What the leading process makes, helping it where that is asked for."""
        if produce is not None and not final.is_dir():
            with tempfile.TemporaryDirectory() as unused:
                produce(Path(unused), work)
        while not (final / ENTRY).is_file():
            time.sleep(LOOK_S)
        return Output(path=final, sha256=verified(final), cached=True, seconds=0.0)

    def _set_aside(self, path: Path, *, keep: bool) -> None:
        if keep:
            replace(path, self.root / "damaged" / f"{path.name}-{time.time_ns()}")
        else:
            shutil.rmtree(path)


def process_rank() -> int:
    """The number of this process among those of one build; the one with 0 leads. torchrun and accelerate set it."""
    return int(os.environ.get("RANK", "0"))


def seal(folder: Path) -> str:
    """Flushes every file of a finished folder to disk and writes its entry last. Returns the hash of the whole."""
    files = hashes(folder)
    for name in files:
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
    write_atomically(folder / ENTRY, canonical(files))
    return digest(files)


def verified(folder: Path) -> str:
    """The hash of a sealed folder, after every byte in it was read and compared.

    Raises:
        IntegrityError: a file is missing, added or changed.
    """
    try:
        listed = json.loads((folder / ENTRY).read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{folder} has no readable {ENTRY}") from error
    if listed != hashes(folder):
        raise IntegrityError(f"{folder} does not match its hashes")
    return digest(listed)


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its relative path with forward slashes.

    The entry itself and Python's bytecode folders are left out.
    """
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ENTRY and "__pycache__" not in path.parts[:-1]
    }


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """sha256 of a plain value's canonical JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, no NaN. Equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file so that a reader, or a kill, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    replace(temporary, path)


def replace(source: Path, target: Path) -> None:
    """Renames within one file system and flushes the folder. A folder is only moved to a name that is free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source.replace(target)
    handle = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(
    source: Path,
    target: Path,
    *,
    owned: Callable[[Path], bool],
    strays: Callable[[Path], Sequence[str]] = lambda _: (),
) -> None:
    """Copies a sealed folder to where users look for it, replacing an older one of ours.

    Args:
        source: a folder in the store.
        target: its name outside; files that we did not write are never removed.
        owned: says whether an existing target is one of ours.
        strays: names what somebody else put into a target of ours.

    Raises:
        InputError: target exists and is not ours, or holds what is not ours.
    """
    check_target(target, owned=owned, strays=strays)
    aside = target.with_name(f".{target.name}.old")
    fresh = target.with_name(f".{target.name}.new")
    with disk_errors(target):
        for left in (aside, fresh):
            shutil.rmtree(left, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, fresh, ignore=shutil.ignore_patterns(ENTRY))
        if target.exists():
            replace(target, aside)
        replace(fresh, target)
        shutil.rmtree(aside, ignore_errors=True)


def check_target(
    target: Path, *, owned: Callable[[Path], bool], strays: Callable[[Path], Sequence[str]] = lambda _: ()
) -> None:
    """Refuses to replace what is not ours; for the arguments and errors see `publish`."""
    with disk_errors(target):
        if target.exists() and (target.is_symlink() or not owned(target)):
            raise InputError(
                f"{target} is where the result belongs, and was not made by edgedistill",
                hint=f"move it away, or name another folder than {target.parent} with --out",
            )
        if target.exists() and (found := strays(target)):
            named = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
            raise InputError(
                f"{target} would be replaced, and holds what edgedistill did not put there: {named}",
                hint=f"move these files somewhere else, or name another folder than {target.parent} with --out",
            )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full or unwritable disk, and a name that cannot be written to, into one clear error."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            raise StageError(
                f"the disk with {path} is full: {free / 1e6:.1f} MB free",
                hint="free some space and run the same command again; finished stages are kept",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StageError(
                f"{error.filename or path}: {error.strerror}", hint="check its permissions, or use --out"
            ) from error
        if error.errno in IN_THE_WAY:
            raise InputError(
                f"{error.filename2 or error.filename or path}: {error.strerror}",
                hint="move what is in the way, or use another --out with a shorter path",
            ) from error
        raise


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())


def _read_or(path: Path, otherwise: str) -> str:
    try:
        return path.read_text()
    except OSError:
        return otherwise
