"""A bundle in a real page answers like the runtime, and neither pages, servers nor browsers outlive their use."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

from edgedistill.errors import EdgeDistillError, EngineCrashed, InputError, IntegrityError, StageError
from edgedistill.export.onnx import to_onnx
from edgedistill.links import browser, local
from edgedistill.links.address import connect
from edgedistill.links.browser import chromium, packages
from edgedistill.links.browser.chromium import Tab
from edgedistill.links.browser.content import START, Content
from edgedistill.links.browser.link import Browser
from edgedistill.links.browser.server import Server
from edgedistill.runtime.engine_onnx import Classifier, Reader
from edgedistill.teachers.local import save
from edgedistill.types import Cell
from tests.links.waiting import wait_for

LABELS = ("door", "light", "music")
TEXTS = (
    "turn the lamp very bright",
    "song",
    "",
    "café CAFE\u0301 İstanbul!",
    "ΟΔΥΣΣΕΥΣ ΑΣ",
    "水 is 𠀀𠀁 [SEP] a🙂b",
    "please lock my door now today in the hall, it is dark! please lock my door now today in the hall",
)
PAIRS = (("turn the lamp", "it is dark"), ("song", ""), ("open my door now please " * 3, "hall"), ("a", TEXTS[-1]))
QUESTIONS = (
    ("door?", "please lock my door, now! today in the hall it is dark"),
    ("my song", " CAFE\u0301 水 is 𠀀 dark? ΟΔΥΣΣΕΥΣ " + "kitchen light " * 20),
)
LACKING = [problem.what for problem in browser.missing() if "set up" not in problem.what]
real = pytest.mark.skipif(
    bool(LACKING) or (packages.missing() is not None and shutil.which("npm") is None),
    reason="; ".join(LACKING) or "needs npm to set up what a page runs on",
)


@pytest.fixture(scope="module")
def link() -> Iterator[Browser]:
    if packages.missing() is not None:
        try:
            packages.install()
        except EngineCrashed as error:
            pytest.skip(error.message)
    with browser.browser("browser://") as found:
        yield found


def made(folder: Path, family: type, tokenizer: Path, *, paired: bool) -> Path:
    """A bundle with a model of random weights, large enough that no two of its answers are nearly the same."""
    torch.manual_seed(3)
    vocabulary = json.loads(tokenizer.read_text(encoding="utf-8"))["model"]["vocab"]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        num_labels=3 if family is BertForSequenceClassification else 2,
    )
    model = family(config).train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.15)
    (folder / "checkpoint").mkdir(parents=True)
    save(model, folder / "checkpoint")
    (folder / "model").mkdir()
    to_onnx(folder / "checkpoint", folder / "model" / "model.onnx", pairs=paired)
    shutil.copy(tokenizer, folder / "tokenizer.json")
    tell(folder, task="classification" if family is BertForSequenceClassification else "reader", paired=paired)
    return folder


def tell(folder: Path, *, task: str, paired: bool = False, engine: str = "onnxruntime") -> None:
    model = {"file": "model/model.onnx", "labels": list(LABELS), "max_tokens": 24, "pad_id": 0, "pairs": paired}
    content = {"name": "toy", "task": task, "engine": {"name": engine, "threads": 1}, "model": model}
    (folder / "manifest.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def bundle(tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "toy"
    return made(folder, BertForSequenceClassification, tiny_teacher / "tokenizer.json", paired=False)


def answers(link: Browser, folder: Path, texts: Sequence[Any]) -> np.ndarray[Any, Any]:
    found = link.measure(folder, texts, Cell(what="answers"))
    return np.array(found["logits"] if "logits" in found else found["spans"])


@real
def test_a_page_answers_texts_like_the_runtime(link: Browser, bundle: Path) -> None:
    expected = np.concatenate([Classifier(bundle)([text]) for text in TEXTS])
    assert np.ptp(expected, axis=0).min() > 0.1
    np.testing.assert_allclose(answers(link, bundle, TEXTS), expected, atol=1e-4)


@real
def test_a_page_answers_pairs_like_the_runtime_with_weights_beside_the_model(
    link: Browser, tiny_teacher: Path, tmp_path: Path
) -> None:
    tokenizer = tiny_teacher / "tokenizer.json"
    folder = made(tmp_path / "toy", BertForSequenceClassification, tokenizer, paired=True)
    model = folder / "model" / "model.onnx"
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    assert (folder / "model" / "model.onnx.data").stat().st_size > 1000
    expected = np.concatenate([Classifier(folder)([pair]) for pair in PAIRS])
    np.testing.assert_allclose(answers(link, folder, PAIRS), expected, atol=1e-4)


@real
def test_a_page_finds_the_answers_that_the_runtime_finds_in_all_windows(
    link: Browser, tiny_teacher: Path, tmp_path: Path
) -> None:
    folder = made(tmp_path / "toy", BertForQuestionAnswering, tiny_teacher / "tokenizer.json", paired=True)
    spans = [Reader(folder)(*question) for question in QUESTIONS]
    expected = [[span.start, span.end, span.score] for span in spans]
    np.testing.assert_allclose(answers(link, folder, QUESTIONS), expected, atol=1e-4)


@real
def test_times_come_with_the_threads_that_there_were_and_a_clock_fine_enough(link: Browser, bundle: Path) -> None:
    cell = Cell(what="timing", threads=2, batch_rows=16, within=1e-9, limit_s=0.5)
    found = link.measure(bundle, 8 * TEXTS, cell)
    assert (found["threads"], found["isolated"], found["ended_by"]) == (2, True, "time")
    assert 500 <= found["warm_up_ms"] < 2000  # no longer than all else may take
    assert found["throughput_rows_s"]
    assert [len(anchors) for anchors in found["anchors_ms"]] == [20, 20]
    assert len(found["reference_ms"]) == 40
    assert min(found["reference_ms"]) > 10 * found["clock_step_ms"]
    # 100 steps of the clock a sample
    assert found["calls_a_sample"] * np.median(found["latency_ms"]) > 20 * found["clock_step_ms"]
    assert found["cold_start_ms"] > found["engine_ms"] + found["load_ms"] + found["first_answer_ms"]
    assert min(found["latency_ms"]) > 0
    assert found["cpu_share"] > 0
    assert 0 <= found["waited_share"] <= 1
    assert found["foreign_cores"] >= 0
    json.dumps(found, allow_nan=False)
    found = link.measure(bundle, TEXTS, Cell(what="timing", threads=1, batch_rows=16, within=0.5, limit_s=20))
    assert found["warm_up_ms"] >= 2000  # until then the engine is compiled again


@real
def test_repeats_are_whole_passes_until_the_interval_is_narrow(link: Browser, bundle: Path) -> None:
    found = link.measure(bundle, TEXTS, Cell(what="timing", within=0.9, limit_s=20))
    assert (found["threads"], found["ended_by"]) == (1, "interval")
    assert len(found["latency_ms"]) >= 2 * len(TEXTS)  # 7 values have no such interval
    assert len(found["latency_ms"]) % len(TEXTS) == 0


@real
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process's memory by kind")
def test_memory_is_that_of_the_pages_own_process(link: Browser, bundle: Path) -> None:
    found = link.measure(bundle, TEXTS, Cell(what="memory"))
    engine, model, process = (found[name] for name in ("engine", "model", "process"))
    assert {key: engine[key] + model[key] for key in process} == process
    assert process["rss"] == process["anonymous"] + process["file"]
    assert process["peak"] >= process["rss"] > 13e6  # the engine's own file is in it


@real
def test_a_look_loads_the_model_and_tells_what_a_visitor_downloads(link: Browser, bundle: Path) -> None:
    facts = link.look(bundle)
    assert facts["packages"]["onnxruntime-web"] == packages.wanted()["onnxruntime-web"]
    assert facts["download_bytes"]["model"] == (bundle / "model" / "model.onnx").stat().st_size
    assert facts["isolated"] is True
    assert facts["system"].startswith("Chromium 1")


@real
def test_a_broken_model_is_one_clear_error_and_the_next_bundle_runs(
    link: Browser, bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    model = broken / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:1000])
    with pytest.raises(StageError, match=r"loading it failed: .*protobuf parsing failed") as refused:
        link.look(broken)
    assert "--recipe" in refused.value.message
    assert len(refused.value.message.splitlines()) == 3
    assert answers(link, bundle, TEXTS[:1]).shape == (1, 3)


@real
def test_nothing_is_left_of_a_browser_whose_pages_died_or_hung(link: Browser) -> None:
    seen: list[int] = []

    async def die(tab: Tab) -> None:
        seen.extend(int(one["id"]) for one in await tab._processes())
        renderer = await tab.renderer()
        assert renderer is not None
        os.kill(renderer, 9)
        await tab.ask("new Promise(() => {})")

    with Server({START: b"<!doctype html>"}) as server:
        with pytest.raises(EngineCrashed, match=r"^dying failed: .*crash"):
            link._chromium.visit(server.origin + START, die, timeout_s=60, what="dying")
        with pytest.raises(EngineCrashed, match=r"^staying did not finish in 3 s"):
            link._chromium.visit(server.origin + START, stay, timeout_s=3, what="staying")
    assert len(seen) > 2
    drivers = children()
    assert drivers
    link.close()
    assert_gone([*seen, *drivers])


@real
def test_a_page_waits_for_its_process_to_be_alone_while_another_page_ends(link: Browser) -> None:
    with Server({START: b"<!doctype html>"}) as server:

        async def find(tab: Tab) -> tuple[int | None, int]:
            context = await tab._browser.new_context()
            await (await context.new_page()).goto(server.origin + START)
            both = await tab._renderers()

            async def end() -> None:
                await asyncio.sleep(0.3)
                await context.close()

            found, _ = await asyncio.gather(tab.renderer(), end())
            return found, len(both)

        found, together = link._chromium.visit(server.origin + START, find, timeout_s=60, what="finding")
    assert together == 2
    assert found is not None


VISIT = f"""
from edgedistill.cli import stopping
from edgedistill.links.browser.chromium import Chromium
from edgedistill.links.browser.link import DESKTOP
from edgedistill.links.browser.server import Server

async def wait(tab):
    print("there", flush=True)
    while True:
        await tab.cpu_s()

stopping.listen()
with Server({{{START!r}: b"<!doctype html>"}}) as server:
    Chromium(DESKTOP).visit(server.origin + {START!r}, wait, timeout_s=60, what="waiting")
"""


@real
@pytest.mark.parametrize("when", ["the driver starts", "the page is there"])
def test_a_terminals_stop_says_one_line_and_leaves_nothing(when: str) -> None:
    """A terminal stops all of its processes at once: the driver dies with what was asked of it."""
    command = [sys.executable, "-c", VISIT]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as visit:
        try:
            if when == "the driver starts":
                wait_for(lambda: any(name.startswith(("node", "MainThread")) for name in below(visit.pid).values()))
            else:
                assert visit.stdout is not None
                visit.stdout.readline()
            started = below(visit.pid)
            os.killpg(visit.pid, signal.SIGINT)
            _, said = visit.communicate(timeout=60)
        finally:
            visit.kill()
    assert (visit.returncode, said) == (130, "\nedgedistill: stopped\n")
    assert_gone(list(started))


def below(ancestor: int) -> dict[int, str]:
    """The names of all processes that a process has started, and that these have."""
    names, parents = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        names[int(folder.name)], parents[int(folder.name)] = name, int(rest.split()[1])
    found = {ancestor}
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return {process: names[process] for process in found - {ancestor}}


async def stay(tab: Tab) -> None:
    await tab.ask("(() => { for (;;); })()")


def test_what_the_driver_and_its_browser_spend_is_ours(tmp_path: Path) -> None:
    """Ours: this process, a driver with ended children, and the driver's browser; another program is none of it."""
    tree = {os.getpid(): (1, "python"), 70: (os.getpid(), "node (driver)"), 71: (70, "chromium"), 72: (1, "other")}
    for process, (parent, name) in tree.items():
        (tmp_path / "proc" / str(process)).mkdir(parents=True)
        times = "100 20 3 4" if process == 70 else "10 0 0 0"
        (tmp_path / "proc" / str(process) / "stat").write_text(
            f"{process} ({name}) S {parent} 1 1 0 -1 0 5 0 0 0 {times} 20 0 1 0 99"
        )
    assert chromium.spent_s(tmp_path) == pytest.approx((127 + 10 + 10) / os.sysconf("SC_CLK_TCK"))
    assert chromium.spent_s() > 0


def children() -> list[int]:
    """Browsers and drivers that this process has started and that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (folder / "stat").read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == os.getpid() and state != "Z" and name.startswith(("node", "chrom", "MainThread")):
            found.append(int(folder.name))
    return found


def assert_gone(processes: Sequence[int]) -> None:
    def alive(process: int) -> bool:
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    for _ in range(100):
        if not any(map(alive, processes)):
            return
        time.sleep(0.1)
    pytest.fail(f"{[process for process in processes if alive(process)]} live on")


def test_the_server_gives_what_is_in_its_table_to_this_machine_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    with Server({"/model/model.onnx": tmp_path / "model" / "model.onnx", "/a.js": b"1", "/gone": tmp_path / "no"}) as s:
        host = s.origin.removeprefix("http://")
        assert ask(host, "/model/model.onnx") == (200, b"weights")
        assert ask(host, "/a.js", name="localhost:1")[0] == ask(host, "/a.js", name="evil.example")[0] == 421
        for path in ("/secret", "/model/../secret", "/..%2fsecret", "//etc/passwd", "/", "/model", "/gone", "/a.js?x"):
            assert ask(host, path) == (404, b"")
        assert ask(host, "/a.js", method="POST")[0] == 501
    with pytest.raises(ConnectionRefusedError):
        ask(host, "/a.js")


def ask(host: str, path: str, *, name: str | None = None, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request(method, path, headers={"Host": name or host})
        answer = connection.getresponse()
        if answer.status == 200:
            assert answer.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert answer.headers["Cross-Origin-Opener-Policy"] == "same-origin"
        return answer.status, answer.read() if answer.status != 501 else b""
    finally:
        connection.close()


@pytest.mark.parametrize("address", ["browser://firefox", "browser://mobile/2", "browser:// "])
def test_other_browsers_are_refused_by_their_address(address: str) -> None:
    with pytest.raises(InputError, match="no browser that can be measured"):
        connect(address)


def test_a_phones_screen_is_no_phone(bundle: Path) -> None:
    link = connect("browser://mobile")
    assert link.kind == "emulated"
    assert connect("browser").kind == connect("browser://").kind == "measured"
    with pytest.raises(InputError, match="is not asked for timing"):
        link.measure(bundle, TEXTS, Cell(what="timing"))


@pytest.mark.parametrize(
    ("engine", "task", "said"),
    [
        ("numpy", "classification", "--recipe onnx-int8-tables"),
        ("llama-cpp-python", "chat", "its model writes text"),
        ("onnxruntime-genai", "chat", "its model writes text"),
        ("onnxruntime", "text-to-text", "its model writes text"),
    ],
)
def test_what_no_page_runs_is_refused_before_a_browser_starts(
    engine: str, task: str, said: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "toy")
    tell(tmp_path / "toy", task=task, engine=engine)
    monkeypatch.setattr(chromium, "driver_is_there", lambda: False)
    with pytest.raises(StageError) as refused:
        connect("browser").look(tmp_path / "toy")
    assert said in refused.value.message
    assert 'pip install "edgedistill[browser]"' in refused.value.message


def test_all_that_is_missing_is_said_at_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("EDGEDISTILL_BROWSER_ROOT", str(tmp_path))
    with pytest.raises(StageError) as refused:
        connect("browser").look()
    for word in ("there is no Chromium", "apt install chromium", "onnxruntime-web 1.", "doctor --setup-browser"):
        assert word in refused.value.message
    with pytest.raises(StageError, match="npm is not installed"):
        packages.install()
    with pytest.raises(EdgeDistillError, match="there is no Chromium"):
        connect("browser").measure(bundle, TEXTS, Cell(what="answers"))


def test_a_model_larger_than_a_visitor_would_download_is_refused_with_both_sizes(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "toy")
    with (tmp_path / "toy" / "model" / "model.onnx.data").open("wb") as file:
        file.truncate(120_000_000)
    (problem,) = Content(tmp_path / "toy").problems()
    assert "have 120.1 MB" in problem.what
    assert "100.0 MB" in problem.what


def test_packages_are_taken_by_their_hash_and_no_other_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        for name, content in (("package/ort.mjs", b"engine"), ("package/../../outside", b"no")):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            packed.addfile(entry, io.BytesIO(content))
    right = base64.b64encode(hashlib.sha512(archive.getvalue()).digest()).decode()
    package = packages.Package(name="ort", version="1.0.0", sha512=right, files={"package/ort.mjs": "ort.js"})
    monkeypatch.setattr(packages, "PACKAGES", (package,))
    monkeypatch.setattr(packages, "FILES", ("ort.js",))
    monkeypatch.setattr(shutil, "which", lambda _: "npm")
    monkeypatch.setattr(
        local, "run", lambda _, cwd, **__: (cwd / "ort-1.0.0.tgz").write_bytes(archive.getvalue()) and ""
    )
    monkeypatch.setenv("EDGEDISTILL_BROWSER_ROOT", str(tmp_path / "root"))
    packages.install()
    assert packages.missing() is None
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["ort.js", "ready.json"]
    monkeypatch.setattr(packages, "PACKAGES", (replace(package, version="1.0.1"),))
    assert packages.missing() is not None
    monkeypatch.setattr(packages, "PACKAGES", (replace(package, sha512="other"),))
    with pytest.raises(IntegrityError, match=r"the archive of ort@1.0.0 has the SHA-512 .* and not other"):
        packages.install()
    assert (tmp_path / "root" / "ort.js").read_bytes() == b"engine"
