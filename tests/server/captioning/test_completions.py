"""When results of jobs wake the event loop: words and results at once, counts with them or many together."""

from typing import cast

from resonnx_server.captioning.request import CaptionTask, Completions
from resonnx_server.errors import Unavailable
from resonnx_server.observe.stats import StepCount
from resonnx_server.runtime.decoding.sequence import Token

TASK = cast(CaptionTask, object())


def test_words_go_at_once_and_counts_with_the_next_result() -> None:
    pending = Completions()
    assert pending.due() is None
    pending.words.append((TASK, [Token(1, -1.0)]))
    pending.steps.append(StepCount(1, 1, 0))
    pending.first_words_ns.append(5)
    assert pending.due() == Completions([(TASK, [Token(1, -1.0)])])
    assert pending.due() is None, "counts alone wait"
    error = Unavailable("the model is being closed")
    pending.failed(TASK, error)
    pending.words.append((TASK, [Token(2, -1.0)]))
    assert pending.due() == Completions([(TASK, [Token(2, -1.0)])], [(TASK, error)], [5], [StepCount(1, 1, 0)])
    assert pending == Completions()


def test_many_counts_go_without_a_result() -> None:
    pending = Completions()
    sent = 0
    for number in range(1, 100):
        pending.steps.append(StepCount(1, 1, 0))
        if (due := pending.due()) is not None:
            sent += len(due.steps)
        assert number - sent < 20
    assert sent > 80
