"""Rows about tail latency and overload. Open loops: latency counts from when a request was due."""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from load.generator import Outcome
from load.server_process import Serving, running
from rows.setting import CALLERS, Setting

# Deadlines of the overload rows, in times of one picture alone.
_PATIENCE = 10
# Queue lengths that the oracle tries, in shares of what can be answered within the deadline.
_LENGTHS = (0.4, 0.55, 0.7, 0.85, 1.0)
_OBJECTIVES_MS = {"big": 60.0, "small": 10.0}
_OBJECTIVE_LOAD = 0.35


def poisson(setting: Setting) -> float:
    """Share of the peak that arrives at random with p99 within six times the time of one picture alone."""
    bound = 6 * setting.alone_ms("big")
    found = setting.generator.highest_rate(setting.server.grpc, setting.names["big"], bound, CALLERS["big"])
    return found / setting.peak("big").rate


def overload_3x(setting: Setting) -> float:
    """Goodput relative to the best fixed queue's, at three times the capacity."""
    return _overload(setting, 3).rate / _oracle_goodput(setting, 3)


def overload_10x(setting: Setting) -> float:
    """Goodput relative to the best fixed queue's, at ten times the capacity."""
    return _overload(setting, 10).rate / _oracle_goodput(setting, 10)


def refusal_ms(setting: Setting) -> float:
    """The slower p99 of refusals in both overloads."""
    both = (_overload(setting, 3).refused_p99_ms, _overload(setting, 10).refused_p99_ms)
    return max(value for value in both if value is not None)


def overload_pixels(setting: Setting) -> float:
    """Goodput as a share of the peak, pixels, offered three times the peak."""
    peak = setting.peak("big").rate
    deadline_ms = _PATIENCE * setting.alone_ms("big")
    name = setting.names["big"]
    return setting.generator.open(setting.server.grpc, name, 3 * peak, deadline_ms=deadline_ms).rate / peak


def two_models(setting: Setting) -> float:
    """1 if both models keep their objective at p99 while both are asked at random, else 0."""
    config = setting.folder / "objectives.toml"
    lines = [f"[models.{setting.names[role]}]\nlatency_objective_ms = {ms}\n" for role, ms in _OBJECTIVES_MS.items()]
    config.write_text("".join(lines))
    rates = {role: _OBJECTIVE_LOAD * setting.peak(role).rate for role in _OBJECTIVES_MS}
    names = [setting.names[role] for role in _OBJECTIVES_MS]
    with setting.serving(names, "--config", str(config)) as server, ThreadPoolExecutor() as pool:

        def p99_ms(role: str) -> float | None:
            return setting.generator.open(server.grpc, setting.names[role], rates[role]).p99_ms

        found = dict(zip(_OBJECTIVES_MS, pool.map(p99_ms, _OBJECTIVES_MS), strict=True))
    return float(all((found[role] or 1e9) <= ms for role, ms in _OBJECTIVES_MS.items()))


def _overload(setting: Setting, times: int) -> Outcome:
    """Offer `times` the fp32 model's capacity on the CPU provider, as JPEG files with a deadline."""

    def measure() -> Outcome:
        with setting.serving([setting.names["big_fp32"]], "--provider", "cpu") as server:
            return _offer(setting, server, times)

    return setting.once(f"overload {times}", measure)


def _oracle_goodput(setting: Setting, times: int) -> float:
    """Return this round's goodput of the oracle at the queue length that was best when all were tried."""

    def measure(length: int) -> float:
        with _oracle(setting.models / setting.names["big_fp32"] / "1", length) as server:
            return _offer(setting, server, times).rate

    def choose() -> int:
        rate, deadline_ms = _capacity(setting)
        lengths = {max(1, round(share * rate * deadline_ms / 1e3)) for share in _LENGTHS}
        return max(lengths, key=measure)

    length = setting.once_for_all(f"oracle length {times}", choose)
    return setting.once(f"oracle {times}", lambda: measure(length))


def _offer(setting: Setting, server: Serving, times: int) -> Outcome:
    rate, deadline_ms = _capacity(setting)
    name, files = setting.names["big_fp32"], setting.pictures
    return setting.generator.open(server.grpc, name, times * rate, deadline_ms=deadline_ms, files=files)


def _capacity(setting: Setting) -> tuple[float, float]:
    """Pictures a second that the oracle does without overload, and the deadline: found once, equal for both."""

    def measure() -> tuple[float, float]:
        name, files = setting.names["big_fp32"], setting.pictures
        with _oracle(setting.models / name / "1", 10_000) as server:
            alone = setting.generator.closed(server.grpc, name, 1, files=files)
            peak = setting.generator.closed(server.grpc, name, CALLERS["big"], files=files)
        assert alone.p50_ms is not None
        return peak.rate, _PATIENCE * alone.p50_ms

    return setting.once_for_all("capacity", measure)


@contextmanager
def _oracle(folder: Path, length: int) -> Iterator[Serving]:
    program = Path(__file__).parents[1] / "floor/oracle.py"
    with running([sys.executable, str(program), str(folder), str(length)]) as server:
        yield server
