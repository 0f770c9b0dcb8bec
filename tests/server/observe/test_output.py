"""Lines of the log reach a pipe that is read, and nobody waits for one that is not."""

import os
import threading
from collections.abc import Iterator
from typing import BinaryIO

import pytest
from resonnx_server.observe.output import Output

# Of Linux.
_PIPE_BYTES = 65_536


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as reader:
        yield reader, writing
        # The output's thread keeps the descriptor's number until the process ends: nothing else may get it.


def _output(descriptor: int, most_bytes: int = 10_000) -> Output:
    output = Output(lambda count: f"{count} dropped\n", most_bytes)
    output.begin(descriptor)
    return output


def test_lines_are_there_at_once_and_whole(pipe: tuple[BinaryIO, int]) -> None:
    output = _output(pipe[1])
    for line in ("one\n", "two\n"):
        output.put(line)
        assert pipe[0].readline().decode() == line
    long = "x" * 200_000 + "\n"
    threading.Thread(target=output.put_after_all, args=(long,)).start()
    assert pipe[0].readline().decode() == long


def test_a_pipe_that_nobody_reads_costs_lines_that_are_counted(pipe: tuple[BinaryIO, int]) -> None:
    output = _output(pipe[1])
    lines = [f"{number:099d}\n" for number in range(2000)]
    for line in lines:
        output.put(line)
    output.flush(0.01)
    waiting = threading.Thread(target=output.put_after_all, args=("last\n",))
    waiting.start()
    read: list[str] = []
    while not read or read[-1] != "last\n":
        read.append(pipe[0].readline().decode())
    waiting.join()
    assert _PIPE_BYTES <= 100 * (len(read) - 2) <= _PIPE_BYTES + 10_100
    assert read == [*lines[: len(read) - 2], f"{2000 - len(read) + 2} dropped\n", "last\n"]
    output.put("again\n")
    assert pipe[0].readline() == b"again\n"


def test_a_reader_that_has_gone_is_no_error(pipe: tuple[BinaryIO, int]) -> None:
    output = _output(pipe[1])
    pipe[0].close()
    for _ in range(3):
        output.put("line\n")
    output.put("x" * 9_000)
    output.flush(20)
    output.put_after_all("line\n")
