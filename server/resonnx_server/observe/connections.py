"""Metrics of connections: those that were closed for others or for memory, and addresses that get no more."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Connections(Collector):
    """Counts what is done so that few clients cannot take all gRPC connections, or all memory.

    Attributes:
        closed: Connections that were closed.
        refused: Addresses that get no further connections now.
        ended_for_memory: Connections that were ended because memory was spent.
    """

    def __init__(self) -> None:
        self.closed = 0
        self.refused = 0
        self.ended_for_memory = 0

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        yield CounterMetricFamily(
            "resonnx_closed_connections", "gRPC connections closed because their address had most", value=self.closed
        )
        yield GaugeMetricFamily(
            "resonnx_refused_addresses",
            "Addresses that have most gRPC connections and get no more",
            value=self.refused,
        )
        yield CounterMetricFamily(
            "resonnx_connections_ended_for_memory",
            "gRPC connections ended because memory was spent and they brought no messages",
            value=self.ended_for_memory,
        )
