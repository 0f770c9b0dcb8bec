"""The budget is never exceeded, no caller keeps it from others, and accepted requests are answered."""

import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resonnx_server.errors import InvalidInput, MemorySpent
from resonnx_server.memory.budget import Budget, Charge
from resonnx_server.memory.division import divide

# New requests may hold 700 of them; one caller 525, or 350 beside others, and once more than that.
WHOLE = 800


def test_a_spent_budget_refuses_new_work_with_a_hint_until_some_is_released() -> None:
    budget = Budget(WHOLE)
    held = budget.charge("a", 300), budget.charge("b", 300)
    with pytest.raises(MemorySpent, match=r"requests hold 600 of 700 bytes, .* needs 101 more") as refused:
        budget.charge("c", 101)
    assert refused.value.retry_after_ms > 0
    assert (budget.used, budget.callers) == (600, 2), "what is refused holds nothing"
    held[0].release()
    with budget.charge("c", 101):
        assert budget.used == 401


def test_what_never_fits_is_refused_for_good() -> None:
    with pytest.raises(InvalidInput, match="needs 701 bytes of memory; memory_budget_bytes leaves 700"):
        Budget(WHOLE).charge("a", 701)


def test_the_decoders_part_cannot_be_charged() -> None:
    budget = Budget(WHOLE, set_aside=400)
    budget.charge("a", 350)
    with pytest.raises(MemorySpent):
        budget.charge("b", 4)


def test_what_is_kept_for_batches_cannot_be_charged_up_to_a_quarter_of_what_the_decoder_leaves() -> None:
    budget = Budget(2 * WHOLE, set_aside=WHOLE)
    assert budget.keep_for_batches(160) == 0
    assert (budget.for_batches, budget.most) == (160, 640)
    with pytest.raises(InvalidInput, match="memory_budget_bytes leaves 560"):
        budget.charge("a", 561)
    budget.charge("a", 560).release()
    assert budget.keep_for_batches(1000) == 800
    assert (budget.for_batches, budget.most) == (200, 600)
    assert budget.keep_for_batches(0) == 0
    budget.charge("a", 700)


def test_the_largest_message_fits_the_least_budget_whatever_models_take() -> None:
    message = 1 << 20
    division = divide(4 * message, 1 << 30, 1 << 30, 2, message)
    budget = Budget(division.whole, division.decoder)
    budget.keep_for_batches(1 << 40)
    budget.charge("a", message)


def test_a_model_that_is_loaded_takes_nothing_from_requests_that_hold_memory() -> None:
    budget = Budget(WHOLE)
    held = budget.charge("a", 690)
    budget.keep_for_batches(200)
    assert budget.used == 690
    with pytest.raises(MemorySpent):
        budget.charge("b", 1)
    held.resize(80)
    budget.charge("b", 400)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.integers(0, 9), st.integers(0, 500), st.booleans()),
        max_size=60,
    )
)
def test_no_order_of_loads_and_requests_exceeds_the_budget(steps: list[tuple[str, int, int, int, bool]]) -> None:
    """Each step sets what is kept, or charges, or resizes an older charge; what was charged before a load stays."""
    budget = Budget(WHOLE)
    held: list[Charge] = []
    for caller, size, older, kept, is_load in steps:
        before = budget.used
        if is_load:
            beyond = budget.keep_for_batches(kept)
            assert budget.for_batches == kept - beyond <= WHOLE // 4
            assert budget.used == before
        else:
            with suppress(MemorySpent, InvalidInput):
                if older < len(held):
                    held[older].resize(size)
                else:
                    held.append(budget.charge(caller, size))
            assert budget.used <= max(before, WHOLE - budget.for_batches)
        assert budget.most == WHOLE - budget.for_batches
    for charge in held:
        charge.release()
    budget.keep_for_batches(0)
    assert (budget.used, budget.callers, budget.most) == (0, 0, WHOLE)
    budget.charge("a", 700)


def test_a_caller_that_holds_its_share_gets_no_more() -> None:
    budget = Budget(WHOLE)
    alone = budget.charge("a", 530)
    with pytest.raises(MemorySpent, match=r"of this caller hold 530 bytes; its share .* is 525"):
        budget.charge("a", 1)
    alone.resize(540)
    alone.resize(360)
    budget.charge("a", 1)
    other = budget.charge("b", 1)
    with pytest.raises(MemorySpent, match=r"its share .* is 350"):
        budget.charge("a", 1)
    budget.charge("b", 200)
    other.release()


def test_an_answer_to_accepted_work_takes_what_is_kept_for_it() -> None:
    budget = Budget(WHOLE)
    budget.charge("a", 500)
    budget.charge("b", 200)
    with pytest.raises(MemorySpent):
        budget.charge("a", 100)
    answer = budget.charge("a", 50, answer=True)
    with pytest.raises(MemorySpent):
        budget.charge("a", 1, answer=True)
    answer.release()


def test_answers_of_few_callers_do_not_close_the_budget_to_others_that_hold_little() -> None:
    budget = Budget(WHOLE)
    for caller in "ab":
        with suppress(MemorySpent):
            while True:
                budget.charge(caller, 10, answer=True)
    assert budget.used == 750
    for caller in "cdef":
        budget.charge(caller, 5)
    with pytest.raises(MemorySpent):
        budget.charge("g", 6)
    for caller in "cdef":
        budget.charge(caller, 1, answer=True)
    assert budget.largest_before("g") in "ab"


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 400), st.booleans()), max_size=60))
def test_whatever_three_others_hold_or_do_not_read_a_newcomer_finds_room_for_a_little(
    steps: list[tuple[int, int, bool]],
) -> None:
    budget = Budget(WHOLE)
    for caller, size, is_answer in steps:
        with suppress(MemorySpent):
            budget.charge(f"{caller}", size, answer=is_answer)
        with budget.charge("new", 5):
            budget.charge("new", 1, answer=True).release()


def test_few_callers_that_hold_all_do_not_close_the_budget_to_another_that_holds_little() -> None:
    budget = Budget(WHOLE)
    for caller in "ab":
        budget.charge(caller, 350)
    for caller in "cdefghijlmno":
        budget.charge(caller, 6)
        with pytest.raises(MemorySpent):
            budget.charge(caller, 1)
    with pytest.raises(MemorySpent):
        budget.charge("k", 6)
    assert budget.largest_before("k") == "a"
    assert budget.largest_before("a") is None, "it holds more than an equal part"


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(1, 400), st.booleans(), st.integers(0, 60)), max_size=60),
)
def test_whatever_seven_others_hold_a_newcomer_finds_room_for_a_little(
    steps: list[tuple[int, int, bool, int]],
) -> None:
    """Each step charges, and some release an older charge before."""
    budget = Budget(WHOLE)
    held: list[Charge] = []
    for caller, size, releases, older in steps:
        if releases and older < len(held):
            held.pop(older).release()
        with suppress(MemorySpent):
            held.append(budget.charge(f"{caller}", size))
        budget.charge("new", 6).release()


def test_a_charge_that_grows_little_by_little_gets_none_of_what_is_kept_for_callers_that_hold_little() -> None:
    """As of a body in chunks, or of gzip that is unpacked in pieces."""
    budget = Budget(WHOLE)
    budget.charge("a", 340)
    budget.charge("b", 340)
    growing = budget.charge("c", 20)
    with pytest.raises(MemorySpent):
        growing.resize(21)
    little = budget.charge("d", 4)
    little.resize(6)
    with pytest.raises(MemorySpent):
        little.resize(7)
    growing.resize(64, answer=True)
    with pytest.raises(MemorySpent):
        growing.resize(65, answer=True)


def test_memory_that_is_taken_already_is_counted_beyond_the_budget() -> None:
    budget = Budget(WHOLE)
    received = budget.charge("a", 900, held=True)
    with pytest.raises(MemorySpent):
        budget.charge("b", 1)
    received.resize(100)
    budget.charge("b", 1)


def test_memory_that_nobody_has_charged_counts_as_used() -> None:
    budget = Budget(WHOLE)
    budget.unseen = 600
    with pytest.raises(MemorySpent):
        budget.charge("a", 101)
    budget.unseen = 0
    budget.charge("a", 101)


def test_the_peak_is_that_since_it_was_asked_last() -> None:
    budget = Budget(WHOLE)
    budget.charge("a", 300).resize(100)
    assert (budget.take_peak(), budget.take_peak()) == (300, 100)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 400), st.integers(0, 9)), max_size=60))
def test_no_sequence_exceeds_the_budget_or_loses_bytes(steps: list[tuple[str, int, int]]) -> None:
    """Each step charges, or resizes an older charge; at the end nothing is held."""
    budget = Budget(WHOLE)
    held: list[Charge] = []
    for caller, size, older in steps:
        try:
            if older < len(held):
                held[older].resize(size)
            else:
                held.append(budget.charge(caller, size))
        except MemorySpent:
            pass
        assert budget.used == sum(charge.nbytes for charge in held) <= 750
    for charge in held:
        charge.release()
        charge.release()
    assert (budget.used, budget.callers) == (0, 0)


def test_threads_charge_at_the_same_time() -> None:
    budget = Budget(1 << 30)

    def work(name: str) -> None:
        for _ in range(3000):
            with budget.charge(name, 10) as charge:
                charge.resize(20)

    threads = [threading.Thread(target=work, args=(str(i % 2),)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.used, budget.callers) == (0, 0)
