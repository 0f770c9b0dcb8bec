"""What the process may compute on, and where the threads that compute stand."""

import os
import queue
import threading
from pathlib import Path

import pytest
from resonnx_server.engine.device import Device
from resonnx_server.runtime.host import compute_thread, gpu_models, own_processors, usable_cores

OURS = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, len(OURS)),
        ({"cpu.max": "max 100000"}, len(OURS)),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": f"{len(OURS)}00000 100000"}, len(OURS)),
        ({"cpu.max": "10000000 100000"}, len(OURS)),
        ({"cpu.max": "no numbers"}, len(OURS)),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, len(OURS)),
    ],
)
def test_a_quota_leaves_fewer_cores(tmp_path: Path, files: dict[str, str], cores: int) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


def test_processors_are_ours_unless_a_quota_gives_a_part_of_them(tmp_path: Path) -> None:
    assert own_processors(tmp_path) == tuple(OURS)
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert own_processors(tmp_path) == (() if len(OURS) > 1 else tuple(OURS))


def test_gpus_are_named(tmp_path: Path) -> None:
    assert gpu_models(tmp_path) == ()
    for i, name in enumerate(["NVIDIA T4", "NVIDIA A10"]):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "information").write_text(f"Model: \t\t {name}\nIRQ: 1\n")
    assert gpu_models(tmp_path) == ("NVIDIA A10", "NVIDIA T4")


class _Asks:
    """Work that never runs out: each job tells where its thread stands."""

    def __init__(self, *, has_all_cores: bool) -> None:
        self.told: queue.Queue[tuple[int, frozenset[int], int]] = queue.Queue()
        self.all_asked = threading.Barrier(len(OURS))
        self.left = len(OURS)
        self.cost_ns = 1.0
        self.has_all_cores = has_all_cores

    def ready_at_ns(self) -> int | None:
        return 0 if self.left else None

    def due_ns(self) -> int:
        return 0

    def take(self, now_ns: int, budget_ns: float | None) -> "_Asks":
        self.left -= 1
        return self

    def shortest_ns(self) -> float:
        return 1.0

    def objective_ns(self) -> None:
        return None

    def run(self) -> None:
        thread = threading.get_native_id()
        where = frozenset(os.sched_getaffinity(thread))
        self.told.put((thread, where, os.getpriority(os.PRIO_PROCESS, thread)))
        self.all_asked.wait(10)


@pytest.mark.parametrize("are_ours", [True, False])
def test_lanes_give_way_and_stay_where_they_compute_alone(are_ours: bool) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    device = Device("test", len(OURS), processors=OURS if are_ours else ())
    for has_all_cores in (True, False, True):
        asks = _Asks(has_all_cores=has_all_cores)
        device.attach(asks)
        told = [asks.told.get(timeout=10) for _ in OURS]
        device.detach(asks)
        assert len({thread for thread, _, _ in told}) == len(OURS)
        each = {frozenset({processor}) for processor in OURS}
        assert {where for _, where, _ in told} == (each if are_ours and not has_all_cores else {frozenset(OURS)})
        assert all(niceness >= max(before, 1) for _, _, niceness in told)
    device.close()
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def test_threads_that_a_compute_thread_starts_give_way_too() -> None:
    found: queue.Queue[int] = queue.Queue()

    def tell() -> None:
        found.put(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def start() -> None:
        compute_thread()
        tell()
        child = threading.Thread(target=tell)
        child.start()
        child.join()

    parent = threading.Thread(target=start)
    parent.start()
    parent.join()
    assert (
        found.get_nowait() == found.get_nowait() >= max(1, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
    )
