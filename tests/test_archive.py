"""What is taken out of an archive lies in the folder that was named, and nowhere else."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from edgedistill.archive import pack, take, unzip
from edgedistill.errors import IntegrityError


def tar(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        for name, content in (("package/ort.mjs", b"engine"), ("package/../../outside", b"no")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
        link = tarfile.TarInfo("package/link")
        link.type, link.linkname = tarfile.SYMTYPE, "ort.mjs"
        packed.addfile(link)
    return path


def test_named_files_are_taken_and_nothing_else(tmp_path: Path) -> None:
    archive, folder = tar(tmp_path / "a.tgz"), tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    take(archive, {"package/ort.mjs": "ort.js"}, folder)
    assert [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != archive] == [b"engine"]


@pytest.mark.parametrize(("inside", "said"), [("package/link", "no plain file"), ("package/none", "has no package")])
def test_a_link_or_nothing_is_not_a_file(inside: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=said):
        take(tar(tmp_path / "a.tgz"), {inside: "ort.js"}, tmp_path)
    assert not (tmp_path / "ort.js").exists()


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside-of-it", "package/../../outside"])
def test_a_wheel_that_leads_out_of_its_folder_is_refused_whole(name: str, tmp_path: Path) -> None:
    archive, folder = tmp_path / "a.whl", tmp_path / "site"
    folder.mkdir()
    for hostile in (False, True):
        with zipfile.ZipFile(archive, "w") as packed:
            packed.writestr("package/__init__.py", "x = 1")
            if hostile:
                packed.writestr(name, "no")
        if hostile:
            with pytest.raises(IntegrityError, match="leads out of its folder"):
                unzip(archive, folder / "second")
            assert not (folder / "second").exists()
        else:
            unzip(archive, folder)
            assert (folder / "package" / "__init__.py").read_text() == "x = 1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.whl", "site"]


def test_links_are_packed_as_links(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    pack(tmp_path, ["real", "link"], tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as packed:
        assert [(one.name, one.issym()) for one in packed] == [("real", False), ("link", True)]
