"""Which picture has its turn: by priority, in order, within the memory, and nobody starves."""

import random

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.memory.division import SMALL_PICTURE_BYTES as SMALL_BYTES
from resonnx_server.preprocessing.priority_threads import DecodeQueue
from resonnx_server.scheduling.sharing import PRIORITY_LEVELS

MB = 1 << 20
BUDGET = 200 * MB


def _queue() -> DecodeQueue[str]:
    return DecodeQueue(BUDGET)


def _taken(queue: DecodeQueue[str]) -> list[str]:
    names = []
    while (taken := queue.take()) is not None:
        names.append(taken[0])
    return names


def test_the_most_urgent_first_and_within_a_priority_the_first() -> None:
    queue = _queue()
    for name, priority, size in (("a", 8, MB), ("b", 4, 50 * MB), ("c", 1, MB), ("d", 4, MB), ("e", 4, 20 * MB)):
        queue.put(name, priority, size)
    assert _taken(queue) == ["c", "b", "d", "e", "a"]


def test_large_ones_wait_for_memory_in_their_order() -> None:
    queue = _queue()
    for name, size in (("a", 150), ("b", 150), ("c", 40)):
        queue.put(name, 4, size * MB)
    assert _taken(queue) == ["a"], "c would fit, and might keep b from its turn for ever"
    assert len(queue) == 2
    queue.give_back(150 * MB)
    assert _taken(queue) == ["b", "c"]
    assert queue.bytes == 190 * MB


def test_small_ones_do_not_wait_for_memory() -> None:
    queue = _queue()
    for name, size in (("a", 200), ("b", 200), ("small", 1)):
        queue.put(name, 4, size * MB)
    assert _taken(queue) == ["a", "small"]
    queue.put("less urgent", 8, MB)
    assert _taken(queue) == ["less urgent"]


def test_a_large_one_has_its_turn_although_small_ones_keep_coming() -> None:
    queue = _queue()
    queue.put("before", 4, 150 * MB)
    queue.put("large", 4, 150 * MB)
    assert queue.take() == ("before", 150 * MB)
    for i in range(1000):
        queue.put(f"small {i}", 4, MB)
        assert queue.take() == (f"small {i}", 0)
    queue.put("last", 4, MB)
    queue.give_back(150 * MB)
    assert queue.take() == ("large", 150 * MB)


def test_what_exceeds_the_budget_has_it_for_itself() -> None:
    queue = _queue()
    queue.put("first", 4, 100 * MB)
    queue.put("huge", 4, 900 * MB)
    queue.put("next", 4, 100 * MB)
    assert _taken(queue) == ["first"]
    queue.give_back(100 * MB)
    assert _taken(queue) == ["huge"]
    queue.give_back(900 * MB)
    assert _taken(queue) == ["next"]


def test_who_is_cancelled_makes_way() -> None:
    queue = _queue()
    for name, size in (("a", 150), ("gone", 150), ("c", 40)):
        queue.put(name, 4, size * MB)
    assert _taken(queue) == ["a"]
    assert queue.remove("gone")
    assert not queue.remove("gone")
    assert _taken(queue) == ["c"]
    assert queue.clear() == []


_JOBS = st.lists(
    st.tuples(st.integers(1, PRIORITY_LEVELS), st.sampled_from([1, 15, 17, 60, 120, 200]), st.booleans()), max_size=60
)


@given(_JOBS, st.randoms(use_true_random=False), st.integers(1, 6))
def test_all_are_done_within_the_budget_and_in_order(
    jobs: list[tuple[int, int, bool]], chance: random.Random, threads: int
) -> None:
    """Threads take and end jobs at random; some are cancelled while they wait."""
    queue: DecodeQueue[int] = DecodeQueue(BUDGET)
    sizes: dict[int, int] = {}
    under_way: list[tuple[int, int]] = []
    begun: list[int] = []
    gone: set[int] = set()
    for i, (priority, megabytes, cancelled) in enumerate(jobs):
        sizes[i] = megabytes * MB
        queue.put(i, priority, sizes[i])
        if cancelled and queue.remove(i):
            gone.add(i)
    while True:
        if len(under_way) < threads and (taken := queue.take()) is not None:
            begun.append(taken[0])
            under_way.append((taken[0], taken[1]))
            large = sum(sizes[job] for job, _ in under_way if sizes[job] > SMALL_BYTES)
            assert large <= BUDGET
            assert queue.bytes == sum(held for _, held in under_way) == large
        elif under_way:
            queue.give_back(under_way.pop(chance.randrange(len(under_way)))[1])
        else:
            break
    assert sorted(begun) == sorted(sizes.keys() - gone)
    for is_large in (False, True):
        kind = [job for job in begun if (sizes[job] > SMALL_BYTES) == is_large]
        assert kind == sorted(kind, key=lambda job: (jobs[job][0], job))


def test_callers_have_the_threads_in_turns() -> None:
    queue = _queue()
    for number in range(20):
        queue.put(f"flood {number}", 4, MB, "flood", 10.0)
    for number in range(3):
        queue.put(f"good {number}", 4, MB, "good", 10.0)
    assert _taken(queue)[:6] == ["flood 0", "good 0", "flood 1", "good 1", "flood 2", "good 2"]


def test_callers_have_equal_time_whatever_their_pictures_cost() -> None:
    queue = _queue()
    for number in range(100):
        queue.put(f"large {number}", 4, MB, "large", 20e6)
        queue.put(f"small {number}", 4, MB, "small", 1e6)
    first = _taken(queue)[:63]
    assert 2 <= sum(name.startswith("large") for name in first) <= 4


def test_a_large_picture_of_one_caller_waits_for_memory_before_that_of_another() -> None:
    queue = _queue()
    queue.put("held", 4, 150 * MB, "flood", 10.0)
    assert queue.take() == ("held", 150 * MB)
    queue.put("next", 4, 150 * MB, "flood", 10.0)
    queue.put("small", 4, MB, "good", 10.0)
    assert _taken(queue) == ["small"]
    queue.put("fits", 4, 40 * MB, "good", 10.0)
    assert queue.take() is None, "it would fit, and might keep the next from its turn for ever"
    queue.give_back(150 * MB)
    assert _taken(queue) == ["next", "fits"]
