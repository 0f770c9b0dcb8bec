"""Who gets which processor: lanes of one server, servers beside each other, and after one of them has gone."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resonnx_server.repository.version import MAX_LANES
from resonnx_server.runtime.machine.processors import Closable, Processors, claim, cores_first

from ...waiting import Clock


class Machine:
    """Claims as a kernel keeps them, for servers that are all in this process."""

    def __init__(self) -> None:
        self.claimed: set[int] = set()

    def claim(self, processor: int) -> Closable | None:
        if processor in self.claimed:
            return None
        self.claimed.add(processor)
        machine = self

        class Holder:
            def close(self) -> None:
                machine.claimed.remove(processor)

        return Holder()


def _topology(folder: Path, processors: int, cores: int) -> Path:
    """Of two threads a core as Linux numbers them: 0 and 6 of twelve are one core."""
    for number in range(processors):
        of_core = [other for other in range(processors) if other % cores == number % cores]
        file = folder / f"cpu{number}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(",".join(map(str, of_core)) + "\n")
    return folder


@pytest.mark.parametrize(
    ("processors", "cores", "first", "second"),
    [
        (2, 2, [0, 1], []),
        (2, 1, [0, 1], []),
        (4, 4, [0, 1, 2, 3], []),
        (12, 12, [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]),
        (12, 6, [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11]),
        (64, 64, [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]),
        (64, 32, [0, 1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 13, 14, 15]),
    ],
)
def test_two_servers_beside_each_other_have_processors_of_their_own(
    tmp_path: Path, processors: int, cores: int, first: list[int], second: list[int]
) -> None:
    machine, clock = Machine(), Clock()
    lanes = min(processors, MAX_LANES)
    ours = cores_first(range(processors), _topology(tmp_path, processors, cores))
    one, other = (Processors(ours, machine.claim, clock) for _ in range(2))
    assert [number for _ in range(lanes) if (number := one.take()) is not None] == first
    assert [number for _ in range(lanes) if (number := other.take()) is not None] == second
    assert len({number % cores for number in first}) == min(cores, lanes), "a core each, as long as there are any"
    # The first one goes; who has none yet takes over, though not at every job that it begins.
    for number in first:
        one.give_back(number)
    missing = lanes - len(second)
    if missing:
        assert other.take() is None
        clock.ns += 5_000_000_000
    took = [other.take() for _ in range(missing)]
    assert sorted(took) == first[:missing]


def test_of_each_core_one_before_any_cores_second(tmp_path: Path) -> None:
    for number, siblings in enumerate(["0-1", "0-1", "2-3", "2-3", "4-5", "4-5"]):
        file = tmp_path / f"cpu{number}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(siblings)
    assert cores_first(range(6), tmp_path) == (0, 2, 4, 1, 3, 5)
    assert cores_first([5, 1, 0], tmp_path) == (0, 5, 1), "of those that are ours"
    assert cores_first([1, 0], tmp_path / "unknown") == (0, 1)


def test_none_is_taken_where_none_is_ours() -> None:
    assert Processors(()).take() is None


HOLDS = """
import sys, time
from resonnx_server.runtime.machine.processors import claim
holder = claim(int(sys.argv[1]))
print(holder is not None, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="claims are Linux' sockets")
def test_a_claim_holds_between_processes_and_ends_with_its_own_however_that_ends() -> None:
    # No processor of this machine, whose servers may have claims.
    number = random.SystemRandom().randrange(10**6, 10**9)
    command = [sys.executable, "-c", HOLDS, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "True\n"
            assert claim(number) is None
        finally:
            process.send_signal(signal.SIGKILL)
    holder = claim(number)
    assert holder is not None
    assert claim(number) is None
    holder.close()
    again = claim(number)
    assert again is not None
    again.close()
