"""Rows about start time and memory."""

import re
import time
from pathlib import Path

from rows.setting import CALLERS, Setting


def start_to_ready_s(setting: Setting) -> float:
    """Seconds from the start of the process to its line "ready", with the latency table cached."""
    names = [setting.names["big"]]
    # The first fills the cache, if no other server of this model has.
    setting.once_for_all("cache filled", lambda: _start_s(setting, names))
    return _start_s(setting, names)


def memory_mb(setting: Setting) -> float:
    """Resident memory, in MB, of a server of one model at the end of a load."""
    with setting.serving([setting.names["big"]]) as server:
        setting.generator.closed(server.grpc, setting.names["big"], CALLERS["big"])
        status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _start_s(setting: Setting, names: list[str]) -> float:
    start = time.perf_counter()
    with setting.serving(names):
        return time.perf_counter() - start
