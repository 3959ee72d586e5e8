"""A bundle is what was built or it is refused: nothing changed, added, removed, linked or doubled."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from edgedistill.bundle import manifest
from edgedistill.errors import InputError, IntegrityError
from edgedistill.store import publish


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.onnx").write_bytes(bytes(range(256)) * 8)
    (folder / "tokenizer.json").write_text('{"model": {}}')
    (folder / "runtime").mkdir()
    (folder / "runtime" / "__main__.py").write_text("print('hello')\n")
    (folder / "runtime" / "__pycache__").touch()
    manifest.seal(folder, {"name": "toy", "engine": {"name": "onnxruntime"}})
    return folder


def test_an_untouched_bundle_is_verified(bundle: Path) -> None:
    assert manifest.verify(bundle).manifest["name"] == "toy"
    assert sorted(manifest.verify(bundle).manifest["files"]) == [
        "model/model.onnx",
        "runtime/__main__.py",
        "runtime/__pycache__",
        "tokenizer.json",
    ]


def test_a_changed_bit_anywhere_is_found_and_its_file_named(bundle: Path) -> None:
    chance = random.Random(0)
    for path in sorted(p for p in bundle.rglob("*") if p.is_file() and p.stat().st_size):
        original = path.read_bytes()
        for _ in range(10):
            changed = bytearray(original)
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
            path.write_bytes(bytes(changed))
            with pytest.raises(IntegrityError, match=path.name):
                manifest.verify(bundle)
        path.write_bytes(original)
    manifest.verify(bundle)


def test_an_added_and_a_removed_file_are_both_named(bundle: Path) -> None:
    (bundle / "runtime" / "extra.py").write_text("")
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(IntegrityError) as caught:
        manifest.verify(bundle)
    assert "runtime/extra.py: added" in str(caught.value)
    assert "tokenizer.json: removed" in str(caught.value)


def test_bytecode_that_somebody_planted_is_an_added_file(bundle: Path) -> None:
    (bundle / "runtime" / "__pycache__").unlink()
    (bundle / "runtime" / "__pycache__").mkdir()
    (bundle / "runtime" / "__pycache__" / "__main__.cpython-311.pyc").write_bytes(b"evil")
    with pytest.raises(IntegrityError, match="pyc"):
        manifest.verify(bundle)


def test_a_link_is_refused_even_when_its_content_is_right(bundle: Path, tmp_path: Path) -> None:
    shutil.copy(bundle / "tokenizer.json", tmp_path / "elsewhere.json")
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(IntegrityError, match="not a regular file"):
        manifest.verify(bundle)


def test_a_manifest_cut_at_any_byte_is_refused(bundle: Path) -> None:
    whole = (bundle / "manifest.json").read_bytes()
    for end in range(len(whole)):
        (bundle / "manifest.json").write_bytes(whole[:end])
        with pytest.raises(IntegrityError):
            manifest.verify(bundle)


def test_a_manifest_with_a_key_twice_or_with_spaces_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(content, indent=1))
    with pytest.raises(IntegrityError):
        manifest.verify(bundle)
    path.write_bytes(manifest.canonical(content).replace(b'{"', b'{"name":"other","', 1))
    with pytest.raises(IntegrityError, match="twice"):
        manifest.verify(bundle)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a bundle"):
        manifest.verify(tmp_path)


def published(bundle: Path, target: Path) -> None:
    publish(bundle, target, owned=manifest.is_bundle, strays=manifest.strays)


def test_a_bundle_is_published_over_an_older_one_whose_own_files_were_changed_or_removed(
    bundle: Path, tmp_path: Path
) -> None:
    target = tmp_path / "dist" / "toy"
    published(bundle, target)
    (target / "tokenizer.json").write_text("changed")
    (target / "model" / "model.onnx").unlink()
    (target / "runtime" / "__pycache__").unlink()
    (target / "runtime" / "__pycache__").mkdir()
    (target / "runtime" / "__pycache__" / "measure.cpython-311.pyc").touch()
    published(bundle, target)
    manifest.verify(target)


def test_what_users_put_into_a_bundle_is_named_and_never_removed(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "dist" / "toy"
    published(bundle, target)
    (target / "notes").mkdir()
    (target / "notes" / "thesis.txt").write_text("three years of work")
    (target / "rows").symlink_to(tmp_path)
    (target / "entry.json").touch()
    assert manifest.strays(target) == ["entry.json", "notes/thesis.txt", "rows"]
    with pytest.raises(InputError, match=r"did not put there: entry\.json, notes/thesis\.txt, rows"):
        published(bundle, target)
    assert (target / "notes" / "thesis.txt").read_text() == "three years of work"


@pytest.mark.parametrize("content", ["{}", '{"name": "my web app", "icons": []}', "", "not json"])
def test_a_manifest_of_another_program_makes_no_folder_ours(bundle: Path, tmp_path: Path, content: str) -> None:
    target = tmp_path / "toy"
    target.mkdir()
    (target / "manifest.json").write_text(content)
    with pytest.raises(InputError, match="was not made by edgedistill"):
        published(bundle, target)
    assert (target / "manifest.json").read_text() == content
