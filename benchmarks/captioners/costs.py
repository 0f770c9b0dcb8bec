"""Costs of encoder batches and decoder steps: tables measured once, or those of a running server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from resonnx import Client
from resonnx_server.scheduling.latency import LatencyTable
from resonnx_server.scheduling.measurement import sizes_up_to

# ms by rows.
Points = Mapping[int, float]
ENCODER: Final[Points] = {1: 3.6, 2: 5.4, 16: 40.4}
DECODERS: Final[dict[str, Points]] = {
    "LSTM, fp32": {1: 0.65, 4: 0.71, 16: 1.06, 32: 1.87, 64: 3.4},
    "LSTM, bf16": {1: 0.66, 4: 0.75, 16: 0.8, 32: 1.05, 64: 1.8},
    "attention": {1: 0.85, 64: 7.15},
}
# LSTM in fp32, encoder in int8, CPU provider: on both cores, and on one beside an encoder batch on the other.
ON_ALL: Final[tuple[Points, Points]] = (
    {1: 9.3, 2: 15.6, 4: 31.3, 8: 52.3, 16: 105.4},
    {1: 0.46, 4: 0.71, 8: 0.93, 16: 1.51, 32: 2.21, 64: 3.5},
)
ON_ONE: Final[tuple[Points, Points]] = (
    {1: 14.8, 2: 28.0, 4: 55.0, 8: 105.0, 16: 206.0},
    {1: 0.8, 4: 1.5, 8: 1.6, 16: 2.7, 32: 4.4, 64: 6.1},
)


@dataclass(frozen=True)
class Costs:
    """A captioner's tables.

    Attributes:
        encode: By pictures.
        step: By rows.
        instances: Jobs at once, for which these are the costs; one of them at most is a step.
    """

    encode: LatencyTable
    step: LatencyTable
    instances: int = 1


def table(points: Points, largest: int) -> LatencyTable:
    """Return a table of all warmed sizes from a few of them (ms), by straight lines between."""
    return LatencyTable({size: _between(points, size) * 1e6 for size in sizes_up_to(largest)})


def _between(points: Points, size: int) -> float:
    low = max(point for point in points if point <= size)
    high = min((point for point in points if point > low), default=low)
    if low == high:
        return points[low]
    return points[low] + (points[high] - points[low]) * (size - low) / (high - low)


def served(server: str, model: str) -> Costs:
    """Return the latency tables of a running server."""
    with Client(server) as client:
        encoder, decoder = client.model(model).sessions
    encode, step = (LatencyTable({x.batch_size: x.expected_s * 1e9 for x in s.latencies}) for s in (encoder, decoder))
    return Costs(encode, step, encoder.instances)
