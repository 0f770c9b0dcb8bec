"""What perf_analyzer sends; tests/server/rpc/oip/extensions/test_perf_analyzer.py has what it reports."""

import subprocess

import pytest

from .served import Tapped

# Interface and flags.
_WAYS = (
    ("grpc", "--sync", "--shared-memory", "system", "--output-shared-memory-size", "1024"),
    ("grpc", "--async", "--streaming", "-H", "authorization: Bearer unused"),
    (
        "grpc",
        "--request-rate-range",
        "50",
        "--request-distribution",
        "poisson",
        "--request-parameter",
        "priority:1:int",
    ),
    ("grpc", "--trace-level", "TIMESTAMPS", "--trace-rate", "10", "--trace-count", "5", "--log-frequency", "0"),
    ("grpc", "--grpc-compression-algorithm", "gzip", "-x", "1"),
    ("http", "--async"),
)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", ["perf_analyzer"], indirect=True)
def test_perf_analyzer(client: str, tapped: Tapped, perf_analyzer: list[str]) -> None:
    usual = [*perf_analyzer, "-m", "doubling", "-p", "200", "-s", "999", "-r", "3"]
    for interface, *flags in _WAYS:
        command = [*usual, "-i", interface, "-u", tapped.told[interface], *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "throughput" in done.stdout.lower(), done.stdout + done.stderr
