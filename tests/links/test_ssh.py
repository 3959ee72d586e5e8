"""A real sshd on this machine: a bundle goes there and its answers come back, or one clear error does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedistill.errors import EngineCrashed, InputError, StageError
from edgedistill.links import openssh, remote, ssh
from edgedistill.links.address import connect
from edgedistill.links.ssh import Ssh
from edgedistill.runtime.engine_static import Classifier
from edgedistill.store import hashes
from tests.links import bundles
from tests.links.boards import NAME, SFTP, SSHD, Board
from tests.links.waiting import wait_for

TEXTS = ["turn the lamp very bright", "song", 'it\'s "dark"; $HOME `now`']
needs_sshd = pytest.mark.skipif(
    not (SSHD and SFTP and shutil.which("ssh") and shutil.which("rsync")),
    reason="needs OpenSSH's server and client, and rsync: apt install openssh-server rsync",
)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    started = Board(tmp_path_factory.mktemp("board") / "it")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.static(tmp_path_factory.mktemp("bundles") / "tiny", tiny_teacher / "tokenizer.json")


@pytest.fixture(scope="module")
def link(board: Board) -> Iterator[Ssh]:
    """One for all tests that break no connection for good: it makes a new one when it needs one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(openssh.CONFIG, str(board.config))
        patch.setattr(ssh, "PAUSES_S", (0.01,))
        with Ssh(board.address) as made:
            yield made


@pytest.fixture
def stranger(link: Ssh, board: Board) -> Iterator[Ssh]:
    """A link that has never connected, to a board that may have changed."""
    with Ssh(link.address) as made:
        yield made
    board.knows((board.folder / "host.pub").read_text())


def answers(link: Ssh, bundle: Path) -> list[list[float]]:
    where = link.put(bundle)
    arguments = ["-m", "runtime", "--threads", "1", "measure", "--what", "answers", "--texts", "{files}/texts.json"]
    files = {"texts.json": json.dumps(TEXTS).encode()}
    out = link.python(arguments, where=where, files=files, timeout_s=60, threads=1)
    found: list[list[float]] = json.loads(out)["logits"]
    return found


def assert_same(found: list[list[float]], bundle: Path) -> None:
    """As this process answers, which may have another kernel for the same sum than a process with one thread."""
    classifier = Classifier(bundle)
    np.testing.assert_allclose(found, [classifier([text])[0] for text in TEXTS], rtol=1e-5, atol=1e-6)


def below(board: Board) -> set[str]:
    cache = board.home / ".cache" / "edgedistill"
    return {path.name for path in cache.iterdir()} if cache.exists() else set()


@needs_sshd
def test_a_bundle_goes_there_and_its_answers_come_back(
    stranger: Ssh, board: Board, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = stranger.look(bundle)
    assert facts["architecture"] == os.uname().machine
    assert facts["packages"].keys() == {"numpy", "tokenizers"}
    assert facts["free_bytes"] > 0
    assert abs(facts["clock_offset_s"]) < 60
    assert below(board) == set()  # looking writes nothing
    assert_same(answers(stranger, bundle), bundle)
    with monkeypatch.context() as nothing_sent:
        nothing_sent.delattr(Ssh, "_send")
        with Ssh(stranger.address) as again:
            assert again.put(bundle) == stranger.put(bundle)
    stranger.close()
    assert below(board) == {"bundles"}
    assert not any(board.home.rglob("__pycache__"))


@needs_sshd
def test_without_rsync_scp_brings_the_same_files(
    link: Ssh, board: Board, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "a folder's copy")
    shutil.rmtree(board.home / ".cache", ignore_errors=True)
    monkeypatch.setattr(ssh.shutil, "which", lambda _: None)
    assert hashes(Path(link.put(copy))) == hashes(bundle)


@needs_sshd
def test_what_is_forgotten_is_gone_there(link: Ssh, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    where = Path(link.put(tmp_path))
    assert where.is_dir()
    link.forget(tmp_path)
    assert not where.exists()
    assert Path(link.put(tmp_path)) == where
    link.forget(tmp_path)


def test_a_client_that_is_missing_and_one_that_hangs_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for cause, words in ((OSError("none"), "apt install openssh-client"), (None, "is it switched on")):

        def ended(*_: object, cause: Exception | None = cause, **__: object) -> None:
            raise EngineCrashed("it did not work") from cause

        monkeypatch.setattr(ssh.local, "ended", ended)
        with pytest.raises(StageError) as raised:
            Ssh("ssh://kitchen")._connect()
        assert words in str(raised.value.hint)


@needs_sshd
def test_a_file_that_was_changed_there_is_sent_again(link: Ssh, stranger: Ssh, bundle: Path) -> None:
    where = Path(link.put(bundle))
    (where / "model" / "model.safetensors").write_bytes(b"something else")
    (where / "numpy.py").write_text("raise SystemExit('not the numpy that was meant')")
    stranger.put(bundle)
    assert hashes(where) == hashes(bundle)


@needs_sshd
def test_a_transfer_that_was_cut_goes_on(stranger: Ssh, board: Board, bundle: Path) -> None:
    shutil.rmtree(board.home / ".cache", ignore_errors=True)
    board.program("rsync", f'mkdir "{board.folder}/once" 2>/dev/null && exit 1; exec {shutil.which("rsync")} "$@"')
    try:
        assert hashes(Path(stranger.put(bundle))) == hashes(bundle)
    finally:
        (board.programs / "rsync").unlink()
    assert (board.folder / "once").exists()


@needs_sshd
def test_a_link_that_is_cut_in_a_cell_leaves_nothing_and_the_next_cell_connects_again(
    link: Ssh, board: Board, bundle: Path
) -> None:
    where = Path(link.put(bundle))
    sign = board.folder / "started"

    def cut() -> None:
        wait_for(lambda: sign.exists() and sign.read_text() != "")
        board.cut()

    program = f"import os, time; open({str(sign)!r}, 'w').write(str(os.getpid())); time.sleep(60); print('[]')"
    thread = threading.Thread(target=cut)
    thread.start()
    with pytest.raises(StageError, match=rf"the link to {NAME} broke in the middle of a cell; nothing of the cell"):
        link.python(["-c", program], where=str(where), files={"a": b"1"}, timeout_s=30, threads=1)
    thread.join()
    wait_for(lambda: not Path(f"/proc/{sign.read_text()}").exists())
    wait_for(lambda: not any((board.home / ".cache" / "edgedistill" / "sessions").rglob("a")))
    assert_same(answers(link, bundle), bundle)


@needs_sshd
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.exit('out of cheese')", "ended with status 1: out of cheese"),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
    ],
)
def test_a_process_that_dies_there_is_not_taken_for_a_cut_link(link: Ssh, program: str, words: str) -> None:
    with pytest.raises(EngineCrashed, match=words):
        link.python(["-c", program], where="/", files={}, timeout_s=30, threads=1)


@needs_sshd
def test_a_changed_host_key_ends_everything_whatever_the_configuration_allows(stranger: Ssh, board: Board) -> None:
    board.knows((board.folder / "stranger.pub").read_text())
    with pytest.raises(StageError, match=rf"{NAME} shows another host key than the one that {board.known}:1") as raised:
        stranger.look()
    assert "ssh-keygen -lf" in str(raised.value.hint)
    assert board.known.read_text().endswith((board.folder / "stranger.pub").read_text())


@needs_sshd
def test_an_unknown_host_is_never_accepted_silently(stranger: Ssh, board: Board) -> None:
    board.known.write_text("")
    with pytest.raises(StageError, match="no line of your known_hosts") as raised:
        stranger.look()
    assert f"ssh {NAME}" in str(raised.value.hint)
    assert board.known.read_text() == ""


@needs_sshd
def test_a_key_that_the_board_does_not_know_and_a_port_where_nothing_listens_are_told_apart(
    stranger: Ssh, board: Board
) -> None:
    lines = board.config.read_text()
    try:
        board.config.write_text(lines.replace(str(board.folder / "user"), str(board.folder / "stranger")))
        with pytest.raises(StageError, match="does not let this user in"):
            stranger.look()
        board.config.write_text(lines.replace(f"Port {board.port}", "Port 1"))
        with pytest.raises(StageError, match="nothing listens on that port"):
            stranger.look()
    finally:
        board.config.write_text(lines)


@needs_sshd
def test_everything_that_is_wrong_with_a_board_is_said_at_once(
    link: Ssh, board: Board, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = shutil.copytree(bundle, tmp_path / "wanted")
    (wanted / "requirements.txt").write_text("numpy==1.0.0\nno-such-engine==2.0\ntokenizers\n")
    monkeypatch.setattr(remote, "size", lambda _: 10**15)
    board.program("date", "echo 42")
    try:
        with pytest.raises(StageError) as raised:
            link.look(wanted)
    finally:
        (board.programs / "date").unlink()
    message = raised.value.message
    assert "nothing was copied there" in message
    assert "and the bundle needs 1.0.0" in message
    assert "no-such-engine 2.0 is not installed" in message
    assert "pip install numpy==1.0.0 no-such-engine==2.0 tokenizers'" in message
    assert "no space: " in message
    assert "its clock is 20," in message
    assert "days behind" in message
    assert "tokenizers is" not in message


@needs_sshd
def test_a_board_without_python_or_packages_for_its_processor_is_told_so(
    link: Ssh, board: Board, bundle: Path, tmp_path: Path
) -> None:
    wanted = shutil.copytree(bundle, tmp_path / "wanted")
    (wanted / "requirements.txt").write_text("no-such-engine==2.0\n")
    board.program("uname", "echo armv7l")
    try:
        with pytest.raises(StageError, match="for armv7l with 64 bits there may be no package of it"):
            link.look(wanted)
        for name in ("python3.11", "python3.12", "python3.13", "python3.14", "python3"):
            board.program(name, "exit 1")
        with pytest.raises(StageError, match=r"there is no Python 3\.11 or later"):
            link.look(wanted)
    finally:
        for path in board.programs.iterdir():
            path.unlink()
        board.program("python3.11", f'exec {sys.executable} "$@"')


@needs_sshd
def test_a_board_that_runs_full_says_so_and_gets_its_space_back(
    stranger: Ssh, board: Board, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = shutil.copytree(bundle, tmp_path / "large")
    (large / "model" / "more").write_bytes(os.urandom(3_000_000))
    shutil.rmtree(board.home / ".cache", ignore_errors=True)
    (board.home / ".cache").mkdir()
    small = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(board.home / ".cache")]
    if subprocess.run(small, check=False, capture_output=True).returncode != 0:
        pytest.skip("a small file system needs root rights")
    try:
        with pytest.raises(StageError, match=r"no space: 2 MB free on tmpfs"):
            stranger.look(large)
        monkeypatch.setattr(remote, "size", lambda _: 0)  # as if something else took the space after the look
        with pytest.raises(StageError, match=f"{NAME} has no space left") as raised:
            stranger.put(large)
        assert "rm -rf" in str(raised.value.hint)
        assert not any((board.home / ".cache").rglob("more"))
    finally:
        stranger.close()
        subprocess.run(["umount", "-l", str(board.home / ".cache")], check=True)


HOSTILE = [
    "ssh://-oProxyCommand=reboot",
    "ssh://-oProxyCommand=reboot@kitchen",
    "ssh://user;reboot@kitchen",
    "ssh://pi@kitchen;reboot",
    "ssh://pi@kitchen:22;reboot",
    "ssh://pi@$(reboot)",
    "ssh://pi@`reboot`",
    "ssh://pi@kitchen\n",
    "ssh://pi@kitchen\nProxyCommand reboot",
    "ssh://pi@kit chen",
    "ssh://pi@kitchen/../../etc",
    "ssh://pi@kitchen:0",
    "ssh://pi@kitchen:65536",
    "ssh://pi@kitchen:",
    "ssh://pi@@kitchen",
    "ssh://pi:password@kitchen",
    "ssh://pi@%h",
    "ssh://pi@küche",
    "ssh://pi@kitchen:٢٢",
    "ssh://",
    "ssh://pi@",
    "ssh://" + "a" * 300,
]


@pytest.mark.parametrize("address", HOSTILE)
def test_an_address_with_more_in_it_than_names_is_refused_before_ssh_starts(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="no address for ssh"):
        connect(address)


@given(st.text(st.sampled_from("aZ07._-@:[]%$`;|&<>()'\"\\/ \n\t\0é٢"), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_whatever_is_taken_for_an_address_holds_nothing_that_a_shell_or_ssh_would_read(text: str) -> None:
    try:
        target = openssh.target(f"ssh://{text}")
    except InputError:
        return
    safe = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:")
    for part in (target.host, target.user or "a", target.port or "1"):
        assert set(part) <= safe
        assert not part.startswith("-")


@pytest.mark.parametrize(
    ("address", "argv"),
    [
        ("ssh://kitchen", ["--", "kitchen"]),
        ("ssh://pi@kitchen.local:2222", ["-l", "pi", "-p", "2222", "--", "kitchen.local"]),
        ("ssh://pi@192.168.1.7", ["-l", "pi", "--", "192.168.1.7"]),
        ("ssh://pi@[fe80::1]:22", ["-l", "pi", "-p", "22", "--", "fe80::1"]),
    ],
)
def test_an_address_becomes_arguments_of_ssh(address: str, argv: list[str]) -> None:
    assert openssh.target(address).argv == argv


ANY = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@needs_sshd
@given(st.lists(ANY, max_size=40))
@settings(max_examples=5, deadline=None)
def test_arguments_arrive_there_as_they_are_here(link: Ssh, arguments: list[str]) -> None:
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    out = link.python(["-c", program, *arguments], where="/", files={}, timeout_s=30, threads=1)
    assert json.loads(out) == arguments


@pytest.mark.parametrize(
    ("complaint", "means"),
    [
        ("ssh: Could not resolve hostname kitchen: Name or service not known", "a name that stands for no address"),
        ("ssh: connect to host kitchen port 22: No route to host", "cannot be reached from this network"),
        ("ssh: connect to host kitchen port 22: Connection timed out", "did not answer in time"),
        ("kex_exchange_identification: Connection closed by remote host", "closed the connection"),
        ("ssh_config: line 1: Bad configuration option: x", "could not reach kitchen: ssh_config: line 1: Bad config"),
    ],
)
def test_what_ssh_says_is_told_with_what_to_do(complaint: str, means: str) -> None:
    error = openssh.explained(complaint, openssh.target("ssh://pi@kitchen"))
    assert means in error.message
    assert error.hint
