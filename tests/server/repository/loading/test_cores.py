"""Whatever loads do and in whatever order: one that measures works alone, and each comes to its turn."""

from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.repository.loading.cores import Cores

from ....conftest import examples


class Play:
    """Loads, numbered from 0, and what they have asked for."""

    def __init__(self, most: int) -> None:
        self.cores: Cores[int] = Cores(most)
        # One that measured nothing.
        self.cores.begin(-1)
        self.cores.end(-1, measured=False)
        self.most = most
        self.begun = 0
        self.asked: list[int] = []
        self.alone: list[int] = []
        # That do nothing, and are passed.
        self.passed: set[int] = set()

    def begin(self) -> None:
        if self.cores.may_begin:
            self.cores.begin(self.begun)
            self.begun += 1

    def ask(self, which: int) -> None:
        able = [*(load for load in self.cores.working if load not in self.alone), *sorted(self.passed)]
        if able:
            load = able[which % len(able)]
            self.passed.discard(load)
            self.cores.ask(load)
            self.asked.append(load)

    def leave(self, which: int, *, passes: bool) -> None:
        """End a load, or pass one that has not measured."""
        if under_way := self.cores.under_way:
            load = under_way[which % len(under_way)]
            if passes and load not in self.cores.working:
                return
            self.cores.end(load)
            if passes and load not in self.alone:
                self.passed.add(load)
            elif load in self.asked and load not in self.alone:
                self.asked.remove(load)

    def grant(self) -> None:
        if (load := self.cores.next_alone()) is not None:
            self.alone.append(load)
            assert self.cores.working == [load]

    def check(self) -> None:
        cores = self.cores
        assert len(cores.under_way) <= self.most + len(self.asked)
        assert len(set(cores.under_way)) == len(cores.under_way)
        if any(load in self.alone for load in cores.working):
            assert len(cores.working) == 1
            assert not cores.may_begin
        if len(cores.under_way) > len(cores.working):
            assert not cores.may_begin, "one waits"
        assert self.alone == self.asked[: len(self.alone)], "in the order of asking"


_STEPS = st.lists(st.tuples(st.sampled_from(["begin", "ask", "end", "pass"]), st.integers(0, 7)), max_size=40)


@given(st.integers(1, 4), _STEPS)
@examples(200)
def test_one_that_measures_is_alone_and_all_have_their_turns(most: int, steps: list[tuple[str, int]]) -> None:
    play = Play(most)
    for step, which in steps:
        if step == "begin":
            play.begin()
        elif step == "ask":
            play.ask(which)
        else:
            play.leave(which, passes=step == "pass")
        play.grant()
        play.check()
    # All end, one after the other, and those that wait have measured by then.
    while play.cores.under_way:
        assert play.cores.working, "somebody may work"
        play.cores.end(play.cores.working[0])
        play.grant()
        play.check()
    assert play.alone == play.asked
    assert play.cores.may_begin


@given(st.integers(1, 4), st.integers(1, 20))
@examples(50)
def test_no_more_begin_than_may_work_at_once(most: int, tries: int) -> None:
    play = Play(most)
    for _ in range(tries):
        play.begin()
    assert play.begun == min(most, tries)


@given(st.integers(2, 4), st.lists(st.sampled_from([True, False, None]), max_size=6))
@examples(50)
def test_they_begin_side_by_side_only_after_one_that_served_without_measuring(
    most: int, measured: list[bool | None]
) -> None:
    cores: Cores[int] = Cores(most)
    for number, each in enumerate(measured):
        cores.begin(number)
        cores.end(number, measured=each)
    cores.begin(-1)
    told = [each for each in measured if each is not None]
    assert cores.may_begin == (told[-1:] == [False])
