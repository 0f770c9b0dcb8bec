"""Threads beside live traffic have a lower priority; what serves later is opened with that of batches."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from resonnx_server.runtime.machine.background import as_serving, background
from resonnx_server.runtime.machine.host import compute_thread


def _nice() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_sessions_are_opened_with_the_priority_that_the_thread_had() -> None:
    def load() -> tuple[int, int, int, bool]:
        compute_thread()
        before, alone = _nice(), as_serving(threading.get_ident)
        assert alone == threading.get_ident()
        with background():
            opened = as_serving(_nice)
            with pytest.raises(ZeroDivisionError):
                as_serving(lambda: 1 // 0)
            return before, _nice(), opened, as_serving(threading.get_ident) != alone

    with ThreadPoolExecutor(1) as pool:
        before, lower, opened, elsewhere = pool.submit(load).result()
    assert opened == before < lower
    assert elsewhere
