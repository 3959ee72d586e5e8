from __future__ import annotations

import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgedistill.errors import IntegrityError
from edgedistill.export.gguf import header
from edgedistill.export.gguf.writer import to_gguf


def start(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


ARRAY_OF_2_63 = start(keys=1) + text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 63)
HOSTILE = {
    "empty": b"",
    "other magic": b"PK\x03\x04" + bytes(60),
    "big endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "2^63 items": ARRAY_OF_2_63,
    "2^63 strings": start(keys=1) + text(b"a") + struct.pack("<IIQ", 9, 8, 1 << 63),
    "2^64-1 keys": start(keys=(1 << 64) - 1),
    "2^60 tensors": start(tensors=1 << 60),
    "a string of 2^62": start(keys=1) + struct.pack("<Q", 1 << 62),
    "an array in an array": start(keys=1) + text(b"a") + struct.pack("<IIQ", 9, 9, 1) + bytes(64),
    "an unknown value": start(keys=1) + text(b"a") + struct.pack("<I", 77) + bytes(64),
    "a key twice": start(keys=2) + 2 * (text(b"a") + struct.pack("<II", 4, 1)),
    "alignment 0": start(keys=1) + text(b"general.alignment") + struct.pack("<II", 4, 0),
    "alignment 3": start(keys=1) + text(b"general.alignment") + struct.pack("<II", 4, 3),
    "nine dimensions": start(tensors=1) + text(b"t") + struct.pack("<I", 9) + bytes(99),
    "a huge tensor": start(tensors=1) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0) + bytes(64),
    "a tensor past the end": start(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 32, 0, 1 << 50) + bytes(256),
    "an unknown type": start(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 32, 4, 0) + bytes(256),
    "rows that blocks do not divide": start(tensors=1) + text(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(256),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_error_at_once(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(HOSTILE[name])
    began = time.process_time()
    with pytest.raises(IntegrityError, match=r"x\.gguf is not a sound GGUF file"):
        header.read(tmp_path / "x.gguf")
    assert time.process_time() - began < 1


def test_a_missing_file_is_an_integrity_error(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        header.read(tmp_path / "nothing.gguf")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "model.gguf"
    to_gguf(checkpoint("smollm2"), path, precision="f16")
    return path.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 20_000), value=st.integers(0, 255), cut=st.integers(1, 1 << 20))
def test_a_changed_or_cut_file_is_read_or_refused(sound: bytes, tmp_path: Path, at: int, value: int, cut: int) -> None:
    data = bytearray(sound)
    data[at] = value
    for content in (bytes(data), sound[: len(sound) - cut % len(sound)]):
        (tmp_path / "x.gguf").write_bytes(content)
        try:
            header.read(tmp_path / "x.gguf")
        except IntegrityError:
            continue
        assert len(content) == len(sound)
