"""What the process uses beyond its charges counts, calls are ended where it is too much, and freed memory goes back."""

from resonnx_server.memory.budget import Budget
from resonnx_server.memory.watch import ALLOWANCE, MemoryWatch

MB = 1 << 20
IDLE = 300 * MB


class Process:
    """A process whose memory is set by tests, and its watch, whose thread has nothing to do."""

    def __init__(self) -> None:
        self.resident = IDLE
        self.decoding = self.evicted = self.given_back = self.shrunk = 0
        # What runtimes keep of it.
        self.arenas = 0
        self.now_s = 100.0
        self.evictable = 1 << 30
        self.looks = self.ended = 0
        self.quiet = True
        self.budget = Budget(800 * MB)
        self.watch = MemoryWatch(
            self.budget,
            lambda: self.decoding,
            lambda: self.resident,
            self._evict,
            lambda _: None,
            self._shrink,
            self._give_back,
            self,
        )
        self.watch._idle = self.watch._left = IDLE

    def _evict(self) -> int:
        if not self.evictable:
            return 0
        self.evicted += 1
        self.evictable -= 1
        return 1

    def look(self, now_s: float) -> None:
        self.looks += 1

    def end_worst(self) -> int:
        self.ended += 1
        return 1

    def is_quiet(self) -> bool:
        return self.quiet

    def _give_back(self) -> None:
        self.given_back += 1

    def _shrink(self) -> None:
        self.shrunk += 1
        self.resident -= self.arenas
        self.arenas = 0

    def tick(self) -> bool:
        self.now_s += 0.1
        return self.watch.tick(self.now_s)


def test_what_nobody_has_charged_counts_beyond_an_allowance() -> None:
    process = Process()
    process.budget.charge("a", 100 * MB)
    process.resident = IDLE + 100 * MB + ALLOWANCE
    assert process.tick()
    assert process.budget.unseen == 0
    process.resident += 50 * MB
    process.decoding = 20 * MB
    process.tick()
    assert process.budget.unseen == 30 * MB
    process.resident -= 50 * MB
    process.tick()
    assert (process.budget.unseen, process.evicted) == (0, 0)


def test_memory_that_is_kept_for_batches_is_not_unseen_as_well() -> None:
    process = Process()
    process.watch.keep_for_batches(150 * MB)
    process.budget.charge("a", 100 * MB)
    process.resident = IDLE + 100 * MB + ALLOWANCE + 150 * MB
    process.tick()
    assert process.budget.unseen == 0
    process.resident += 549 * MB
    process.tick()
    assert (process.budget.unseen, process.evicted) == (549 * MB, 0)
    process.resident += 2 * MB
    process.tick()
    assert process.evicted == 1, "requests and batches have the whole budget, and no more"
    process.watch.keep_for_batches(0)
    process.tick()
    assert process.budget.unseen == 701 * MB


def test_calls_are_ended_while_the_process_is_over_the_budget() -> None:
    process = Process()
    process.budget.charge("a", 100 * MB)
    process.resident = IDLE + ALLOWANCE + 801 * MB
    process.tick()
    process.tick()
    assert process.evicted == 2
    process.resident = IDLE + ALLOWANCE + 799 * MB
    process.tick()
    assert process.evicted == 2


def test_freed_memory_goes_back_after_a_burst_and_once_a_second_at_most() -> None:
    process = Process()
    kept = process.budget.charge("a", 1 * MB)
    for _ in range(3):
        process.budget.charge("a", 100 * MB).release()
        process.tick()
    assert process.given_back == 1
    process.now_s += 1
    process.tick()
    assert process.given_back == 2
    process.now_s += 1
    process.tick()
    assert process.given_back == 2, "nothing was freed since"
    kept.release()


def test_an_idle_process_is_not_checked_and_its_memory_is_what_it_has_after_a_burst() -> None:
    process = Process()
    assert not process.tick()
    process.budget.charge("a", 100 * MB).release()
    assert process.budget.busy.is_set()
    process.resident = IDLE + 90 * MB
    assert process.tick(), "freed memory is not returned yet"
    assert process.given_back == 1
    process.now_s += 2
    assert process.tick(), "some may be freed late"
    process.now_s += 1
    process.tick()
    assert process.shrunk == 1
    assert not process.tick()
    process.budget.charge("a", 1 * MB)
    process.resident = IDLE + 90 * MB + 1 * MB + ALLOWANCE + 1
    process.tick()
    assert process.budget.unseen == 1


def test_runtimes_shrink_once_after_a_burst_that_leaves_much_however_many_watches_there_are() -> None:
    process = Process()
    watches = process.budget.charge("health", 1 * MB)

    def burst(left: int) -> None:
        process.budget.charge("a", 100 * MB).release()
        process.resident, process.arenas = IDLE + left + 1 * MB, left
        for _ in range(50):
            process.tick()

    burst(31 * MB)
    assert process.shrunk == 0, "few are not worth a slower run"
    burst(80 * MB)
    assert (process.shrunk, process.resident) == (1, IDLE + 1 * MB)
    burst(20 * MB)
    assert process.shrunk == 1
    watches.release()


def test_runtimes_do_not_shrink_between_requests() -> None:
    process = Process()
    process.resident, process.arenas = IDLE + 90 * MB, 90 * MB
    for _ in range(40):
        with process.budget.charge("a", 60 * MB):
            process.tick()
        for _ in range(20):
            process.tick()
    assert process.shrunk == 0
    for _ in range(40):
        process.tick()
    assert process.shrunk == 1
    process.arenas = 0


def test_what_bursts_leave_for_good_is_no_reason_to_shrink_again_and_again() -> None:
    process = Process()
    for _ in range(5):
        process.budget.charge("a", 100 * MB).release()
        process.resident = IDLE + 90 * MB
        for _ in range(50):
            process.tick()
    assert process.shrunk == 1


def test_without_a_reading_nothing_is_ended() -> None:
    process = Process()
    process.budget.charge("a", 1)
    process.resident = 0
    process.tick()
    assert (process.budget.unseen, process.evicted) == (0, 0)


def test_the_thread_ends_though_it_waits() -> None:
    process = Process()
    process.watch.start()
    process.budget.charge("a", 1).release()
    process.watch.close()
    assert not process.watch._thread.is_alive()


def test_before_all_models_are_loaded_memory_ends_no_calls() -> None:
    process = Process()
    process.watch._idle = None
    process.budget.charge("a", 100 * MB)
    process.resident = IDLE + 900 * MB
    for _ in range(50):
        process.tick()
    assert (process.budget.unseen, process.evicted, process.shrunk) == (0, 0, 0)
    process.watch.models_loaded()
    process.tick()
    assert process.budget.unseen == 0
    process.resident += ALLOWANCE + 900 * MB
    process.tick()
    assert process.evicted


def test_memory_of_models_that_are_loaded_ends_no_calls() -> None:
    process = Process()
    process.budget.charge("a", 700 * MB)
    process.resident = IDLE + 700 * MB
    process.watch.models_change()
    process.resident += 500 * MB
    process.tick()
    assert (process.budget.unseen, process.evicted) == (0, 0)
    process.watch.models_changed()
    process.tick()
    assert (process.budget.unseen, process.evicted) == (0, 0), "it is the idle server's now"
    process.resident += ALLOWANCE + 200 * MB
    process.tick()
    assert process.budget.unseen == 200 * MB
    assert process.evicted


def test_connections_are_ended_where_calls_do_not_help() -> None:
    process = Process()
    process.evictable = 2
    process.resident = IDLE + ALLOWANCE + 801 * MB
    for _ in range(2):
        process.tick()
    assert (process.evicted, process.ended) == (2, 0)
    for _ in range(3):
        process.tick()
    assert process.ended == 1, "once their memory could have been freed"
    process.resident = IDLE
    process.tick()
    assert process.ended == 1
    process.evictable = 1 << 30
    process.resident = IDLE + ALLOWANCE + 801 * MB
    for _ in range(7):
        process.tick()
    assert process.ended == 2, "though calls are ended all the time"


def test_memory_is_looked_at_though_nothing_is_charged() -> None:
    process = Process()
    assert not process.tick()
    assert process.looks == 1
    process.resident = IDLE + ALLOWANCE + 801 * MB
    process.evictable = 0
    assert process.tick()
    assert process.ended == 1
    assert process.looks == 1, "what is brought now counts"


def test_what_became_no_messages_is_not_the_idle_servers() -> None:
    process = Process()
    process.quiet = False
    process.resident = IDLE + ALLOWANCE + 100 * MB
    for _ in range(100):
        process.tick()
    assert process.budget.unseen == 100 * MB
    process.quiet = True
    for _ in range(100):
        process.tick()
    assert process.budget.unseen == 0


def test_what_is_left_while_calls_come_one_after_the_other_is_not_the_idle_servers() -> None:
    """As after a flood: gRPC has the calls, and hands over a few at a time."""
    process = Process()
    process.resident = IDLE + ALLOWANCE + 100 * MB
    for _ in range(100):
        call = process.budget.charge("a", 1 * MB)
        process.tick()
        call.release()
        for _ in range(5):
            process.tick()
    assert process.budget.unseen == 100 * MB
    for _ in range(100):
        process.tick()
    assert process.budget.unseen == 0
