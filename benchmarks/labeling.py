"""How close labelling comes to what an endpoint can give: a stub with 64 slots that takes 50 ms an answer.

    python benchmarks/labeling.py [--rows 5000] [--many 100000] [--slots 64] [--seconds 0.05]

The stub runs in a process of its own on this machine and answers any chat completion. Requests beyond its slots wait
there, as in vLLM or llama.cpp's server, and the client may have half as many waiting. Ideal is slots / seconds rows a
second. The journal, the gates and the files are the real ones, near-duplicates included. Memory is the resident set of
the labelling process at its end, one process a size, as the kernel counts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import ClassVar

WORDS = ("lamp", "door", "heating", "music", "alarm", "window", "kitchen", "hall", "cellar", "garden", "light", "fan")


class Stub(asyncio.Protocol):
    """Speaks as much HTTP as a client needs: keep-alive, Content-Length, one answer to each request."""

    slots = 64
    seconds = 0.05
    busy = 0
    waiting: ClassVar[deque[Stub]] = deque()
    count = 0

    def __init__(self) -> None:
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connects."""
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes a slot for a request that is complete, or waits for one."""
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.buffer = body[length:]
        if Stub.busy < Stub.slots:
            Stub.busy += 1
            self.start(asyncio.get_running_loop().time())
        else:
            Stub.waiting.append(self)

    def start(self, now: float) -> None:
        """The slot is taken from now on."""
        asyncio.get_running_loop().call_at(now + Stub.seconds, self.finish, now + Stub.seconds)

    def finish(self, due: float) -> None:
        """Answers, and gives the slot to who waits."""
        Stub.count += 1
        if Stub.waiting:
            Stub.waiting.popleft().start(due)  # not "now": a late timer must not make the server slower
        else:
            Stub.busy -= 1
        answer = {
            "id": f"stub-{Stub.count}",
            "choices": [{"message": {"content": '{"answer": "on"}'}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 60, "completion_tokens": 6},
        }
        body = json.dumps(answer).encode()
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)  # type: ignore[attr-defined]


def serve(slots: int, seconds: float, ready: multiprocessing.Queue[int]) -> None:
    """Runs the stub until the process is ended."""

    async def run() -> None:
        Stub.slots, Stub.seconds = slots, seconds
        server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
        ready.put(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(run())


def label(rows: int, port: int, slots: int, found: multiprocessing.Queue[dict[str, float]]) -> None:
    """Labels rows in a folder of its own and reports rows a second, processor time and memory."""
    from edgedistill.config import Request
    from edgedistill.labeling import label as labelling
    from edgedistill.labeling.journal import Journal

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "rows.jsonl"
        with source.open("w") as file:
            for n in range(rows):
                words = " ".join(WORDS[n // 12**i % 12] for i in range(5))
                file.write(json.dumps({"text": f"row {n}: switch {words}"}) + "\n")
        (folder / "out").mkdir()
        request = Request.model_validate(
            {
                "task": "classification",
                "data": {"folder": str(source)},
                "label": {
                    "labels": ["on", "off"],
                    "teachers": [
                        {
                            "kind": "openai",
                            "model": "stub",
                            "base_url": f"http://127.0.0.1:{port}/v1",
                            "concurrency": slots + slots // 2,
                        }
                    ],
                },
            }
        )
        with Journal(folder / "journal.sqlite") as journal:
            before = time.process_time()
            done = labelling.label(request, folder / "out", journal, work=folder)
            cpu = time.process_time() - before
        split = done.ledger["splits"]["all"]
        assert split["accepted"] == rows, split
        status = Path("/proc/self/status").read_text()
        resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
        found.put(
            {"rows_per_s": rows / split["seconds"], "cpu_s": cpu, "rss_mb": resident, "seconds": split["seconds"]}
        )


def measured(rows: int, port: int, slots: int) -> dict[str, float]:
    """One labelling run in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[dict[str, float]] = context.Queue()
    child = context.Process(target=label, args=(rows, port, slots, found))
    child.start()
    result = found.get(timeout=1800)
    child.join()
    return result


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.05)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[int] = context.Queue()
    stub = context.Process(target=serve, args=(options.slots, options.seconds, ready), daemon=True)
    stub.start()
    port = ready.get(timeout=30)
    ideal = options.slots / options.seconds
    rounds = [measured(options.rows, port, options.slots) for _ in range(options.rounds)]
    for one in rounds:
        print(f"{options.rows} rows: {one['rows_per_s']:.0f} rows/s, {one['rows_per_s'] / ideal:.1%} of {ideal:.0f}")
    figures = {
        "efficiency": statistics.median(one["rows_per_s"] for one in rounds) / ideal,
        "rows_per_s": statistics.median(one["rows_per_s"] for one in rounds),
        "overhead_ms": 1000 * statistics.median(one["cpu_s"] for one in rounds) / options.rows,
        "rss_mb_5k": statistics.median(one["rss_mb"] for one in rounds),
    }
    if options.many:
        many = measured(options.many, port, options.slots)
        print(f"{options.many} rows: {many['rows_per_s']:.0f} rows/s, {many['rss_mb']:.0f} MB")
        figures["rss_mb_100k"] = many["rss_mb"]
        figures["efficiency_100k"] = many["rows_per_s"] / ideal
    stub.terminate()
    print(json.dumps({key: round(value, 4) for key, value in figures.items()}))


if __name__ == "__main__":
    main()
