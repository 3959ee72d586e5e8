"""Labelling on a cluster of two local nodes: the same rows as on one machine, also when a worker dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.labeling.conftest import Run, Write, request, written
from tests.labeling.server import Endpoint

ray = pytest.importorskip("ray")
ROWS = 2000


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two nodes on this machine, with one processor each."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    nodes.add_node(num_cpus=2)
    ray.init(address=nodes.address, log_to_driver=False)
    yield
    ray.shutdown()
    nodes.shutdown()


def kill_one(folder: Path, endpoint: Endpoint, killed: list[int]) -> None:
    """Kills the first worker that has asked for something, as soon as a few hundred rows are answered."""
    while len(endpoint.keys) < 300:
        time.sleep(0.01)
    worker = int(next(folder.rglob("shards/*.sqlite")).stem)
    os.kill(worker, signal.SIGKILL)
    killed.append(worker)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_two_nodes_label_like_one_process_even_when_a_worker_is_killed(
    cluster: None, rows: Write, run: Run, tmp_path: Path
) -> None:
    path = rows(ROWS)
    with Endpoint(unusable=5).running() as endpoint:
        alone = run(request(path, endpoint.url), tmp_path / "alone.sqlite")
    killed: list[int] = []
    with Endpoint(unusable=5, delay_s=0.02).running() as endpoint:
        killer = threading.Thread(target=kill_one, args=(tmp_path, endpoint, killed), daemon=True)
        killer.start()
        spread = run(request(path, endpoint.url, workers=2, teacher={"concurrency": 8}), tmp_path / "spread.sqlite")
        assert len(endpoint.charged) == ROWS
        assert len(endpoint.keys) <= ROWS + 8, "more was asked again than the dead worker had under way"
    assert killed
    assert written(spread.folder) == written(alone.folder)
    assert spread.ledger["teachers"]["stub"]["answered"] == ROWS
    assert spread.ledger["teachers"]["stub"]["asked_now"] == 0
