"""Servers that share a name: calls are distributed over its addresses, also when these change."""

import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from .names import Names, named
from .several import CALLERS, Small, ask_by_tasks, ask_by_threads, small_servers

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs more than one loopback address")


@pytest.fixture
def port() -> int:
    """A port that is free at all loopback addresses."""
    with socket.create_server(("", 0)) as listener:
        number: int = listener.getsockname()[1]
    return number


def _even(counts: list[int]) -> bool:
    """Whether the counts are within 15 % of their mean."""
    mean = sum(counts) / len(counts)
    return all(abs(count - mean) <= 0.15 * mean for count in counts)


class _Story:
    """Counts answers by version in four chapters: three servers, two, two while a name has a third, three again."""

    def __init__(self, servers: list[Small], names: Names, hosts: list[str]) -> None:
        self._servers, self._names, self._hosts = servers, names, hosts
        self._lock = threading.Lock()
        self.chapters: list[Counter[int]] = [Counter()]

    def ask(self, version: int) -> bool:
        """Count an answer, and return whether more are needed."""
        with self._lock:
            counts = self.chapters[-1]
            counts[version] += 1
            match len(self.chapters):
                case 1:
                    if counts.keys() == {1, 2, 3}:
                        self.chapters.append(Counter())
                case 2:
                    if counts.total() >= 600:
                        self._servers[0].kill()
                        self.chapters.append(Counter())
                case 3:
                    if counts.total() >= 600:
                        self._names.addresses = self._hosts[1:]
                        self.chapters.append(Counter())
                case 4:
                    if 4 in counts:
                        self.chapters.append(Counter())
                case 5:
                    return counts.total() < 600
            is_waiting = len(self.chapters) == 4
        if is_waiting:
            # The processor is left to others meanwhile.
            time.sleep(0.001)
        return True


@pytest.mark.slow
@pytest.mark.parametrize("run", [ask_by_threads, ask_by_tasks])
def test_a_server_goes_and_another_comes(port: int, run: Callable[..., None]) -> None:
    """No call fails, those that live share the work, and the new address is found by asking for the name again."""
    hosts = [f"127.0.0.{last}" for last in (2, 3, 4, 5)]
    with small_servers([f"{host}:{port}" for host in hosts]) as servers, named(hosts[:3]) as names:
        story = _Story(servers, names, hosts)
        run(names.target(port), story.ask)
    _, three, two, _, again = story.chapters
    assert _even([three[1], three[2], three[3]]), three
    # Answers that were on their way.
    assert two[1] <= CALLERS
    assert _even([two[2], two[3]]), two
    assert _even([again[2], again[3], again[4]]), again
    assert again.keys() == {2, 3, 4}
