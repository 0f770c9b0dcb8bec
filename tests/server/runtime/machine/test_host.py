"""What the process may compute on, and where the threads that compute stand."""

import io
import os
import queue
import threading
from pathlib import Path

import pytest
from resonnx_server.runtime.machine.host import (
    compute_thread,
    gpu_models,
    own_processors,
    processor_model,
    usable_cores,
)
from resonnx_server.runtime.machine.processors import Processors
from resonnx_server.scheduling.device import Device

OURS = sorted(os.sched_getaffinity(0))


def write(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


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
    write(tmp_path, files)
    assert usable_cores(tmp_path, tmp_path / "no list of groups") == cores


ONE, MORE, NONE = "100000 100000", "10000000 100000", "max 100000"
V1_ONE = {"cpu.cfs_quota_us": "100000", "cpu.cfs_period_us": "100000"}
V1_NONE = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000"}
V1_LINES = "5:memory:/other\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/other\n"


def v1(folder: str, files: dict[str, str]) -> dict[str, str]:
    return {f"{folder}/{name}": text for name, text in files.items()}


@pytest.mark.parametrize(
    ("own_groups", "files", "is_limited"),
    [
        pytest.param("0::/a.slice/b.service\n", {"a.slice/b.service/cpu.max": ONE}, True, id="v2, leaf"),
        pytest.param(
            "0::/a.slice/b.service\n",
            {"a.slice/cpu.max": ONE, "a.slice/b.service/cpu.max": MORE, "cpu.max": MORE},
            True,
            id="v2, tighter between",
        ),
        pytest.param("0::/a/b\n", {"cpu.max": ONE, "a/cpu.max": NONE, "a/b/cpu.max": NONE}, True, id="v2, root"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": NONE, "a/cpu.max": MORE}, False, id="v2, max"),
        pytest.param("0::/a/b\n", {"a/cpu.max": ONE}, True, id="v2, leaf without the controller"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max": "no numbers", "a/cpu.max": ONE}, True, id="v2, leaf unreadable"),
        pytest.param("0::/a/b\n", {"a/b/cpu.max/folder": "", "a/cpu.max": MORE}, False, id="v2, no file"),
        pytest.param("0::/a\n", {"b/cpu.max": ONE, "a/b/cpu.max": ONE}, False, id="v2, not ours"),
        pytest.param("0::/\n", {"cpu.max": ONE}, True, id="namespace"),
        pytest.param("0::/../../a\n", {"cpu.max": ONE}, True, id="outside of the namespace"),
        pytest.param("0::/../a\n", {"../cpu.max": ONE, "../a/cpu.max": ONE}, False, id="not above the mount"),
        pytest.param("0::/host/path\n", {"cpu.max": ONE}, True, id="a path of the host's"),
        pytest.param(V1_LINES, v1("cpu/docker/abc", V1_ONE), True, id="v1, leaf"),
        pytest.param(V1_LINES, v1("cpu,cpuacct/docker/abc", V1_ONE), True, id="v1, mounted with cpuacct only"),
        pytest.param(V1_LINES, v1("cpu/docker", V1_ONE) | v1("cpu/docker/abc", V1_NONE), True, id="v1, tighter above"),
        pytest.param(V1_LINES, v1("cpu", V1_ONE), True, id="v1, the container's group mounted"),
        pytest.param(V1_LINES, v1("cpu/docker/abc", V1_NONE) | v1("cpu/other", V1_ONE), False, id="v1, none"),
        pytest.param(V1_LINES + "0::/a\n", v1("cpu/docker/abc", V1_ONE), True, id="hybrid, v1"),
        pytest.param(V1_LINES + "0::/a\n", v1("cpu/a", V1_ONE), False, id="hybrid, v1 goes by its own line"),
        pytest.param(V1_LINES + "0::/a\n", {"a/cpu.max": ONE} | v1("cpu/docker/abc", V1_NONE), True, id="hybrid, v2"),
        pytest.param("no list\n", {"cpu.max": ONE}, True, id="unknown list"),
    ],
)
def test_the_quota_of_every_group_above_the_process_binds(
    tmp_path: Path, own_groups: str, files: dict[str, str], is_limited: bool
) -> None:
    (tmp_path / "self").write_text(own_groups)
    write(tmp_path / "cgroup", files)
    assert usable_cores(tmp_path / "cgroup", tmp_path / "self") == (1 if is_limited else len(OURS))
    many = len(OURS) > 1
    assert own_processors(tmp_path / "cgroup", tmp_path / "self") == (() if is_limited and many else tuple(OURS))


def test_processors_are_ours_unless_a_quota_gives_a_part_of_them(tmp_path: Path) -> None:
    assert own_processors(tmp_path) == tuple(OURS)
    (tmp_path / "cpu.max").write_text("50000 100000")
    assert own_processors(tmp_path) == (() if len(OURS) > 1 else tuple(OURS))


GRAVITON = """processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd40
CPU revision\t: 1

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd0c
"""


@pytest.mark.parametrize(
    ("listing", "name"),
    [
        ("processor\t: 0\nmodel\t\t: 143\nmodel name\t: Xeon: 8488C\n\nmodel name\t: other\n", "Xeon: 8488C"),
        (GRAVITON, "0x41 8 0x1 0xd40"),
        (f"model name\t: Cortex-A76\n{GRAVITON}", "Cortex-A76"),
        ("processor\t: 0\n", ""),
    ],
)
def test_the_processor_is_named(tmp_path: Path, listing: str, name: str) -> None:
    assert processor_model(tmp_path / "cpuinfo") == ""
    (tmp_path / "cpuinfo").write_text(listing)
    assert processor_model(tmp_path / "cpuinfo") == name


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

    def finish(self) -> None:
        pass


@pytest.mark.parametrize("are_ours", [True, False])
def test_lanes_give_way_and_stay_where_they_compute_alone(are_ours: bool) -> None:
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    device = Device("test", len(OURS), processors=Processors(OURS if are_ours else (), claim=lambda _: io.BytesIO()))
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


def test_a_lane_that_gets_no_processor_goes_where_it_may() -> None:
    """Another server has all processors but one."""
    left = OURS[-1]
    device = Device(
        "test", len(OURS), processors=Processors(OURS, claim=lambda number: io.BytesIO() if number == left else None)
    )
    asks = _Asks(has_all_cores=False)
    device.attach(asks)
    told = [asks.told.get(timeout=10) for _ in OURS]
    device.detach(asks)
    device.close()
    found = sorted((where for _, where, _ in told), key=len)
    assert found == [frozenset({left})] + [frozenset(OURS)] * (len(OURS) - 1)


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
