"""How many batches at once are tried on so many cores: few numbers, and none that leaves much of them idle."""

import pytest
from resonnx_server.config import ModelSettings
from resonnx_server.observe.metrics import Metrics
from resonnx_server.repository.latency_cache import LatencyCache
from resonnx_server.repository.version import MAX_LANES, Version


def counts(cores: int) -> list[int]:
    version = Version(
        None,  # type: ignore[arg-type]
        ModelSettings(),
        Metrics(),
        lambda _: None,  # type: ignore[arg-type, return-value]
        cores,
        LatencyCache(None, cores),
    )
    return version.instance_counts()


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, []),
        (2, [2]),
        (3, [3]),
        (4, [2, 4]),
        (5, [5]),
        (6, [2, 3, 6]),
        (7, [7]),
        (8, [2, 4, 8]),
        (9, [3]),
        (10, [2, 5]),
        (11, [2, 5]),
        (12, [2, 3, 4, 6]),
        (13, [2, 3, 4, 6]),
        (14, [2, 7]),
        (15, [3, 5]),
        (16, [2, 4, 8]),
        (22, [2, 3, 5, 7]),
        (24, [3, 4, 6, 8]),
        (32, [2, 4, 8]),
        (64, [2, 4, 8]),
    ],
)
def test_counts_that_are_tried(cores: int, expected: list[int]) -> None:
    assert counts(cores) == expected


@pytest.mark.parametrize("cores", range(1, 257))
def test_no_count_wastes_cores(cores: int) -> None:
    tried = counts(cores)
    assert tried == sorted(set(tried))
    assert len(tried) <= 4
    assert all(2 <= count <= min(cores, MAX_LANES) for count in tried)
    dividing = [count for count in range(2, min(cores, MAX_LANES) + 1) if cores % count == 0]
    if len(dividing) >= 2:
        assert set(tried) <= set(dividing)
    assert all(cores % count <= cores // 10 for count in tried)
    # Several at once are tried wherever there are several cores.
    assert bool(tried) == (cores > 1)
