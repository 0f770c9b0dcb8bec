"""Metrics of connections: those that were closed in favour of other addresses, and addresses that get no more."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Connections(Collector):
    """What is done so that an address does not have all gRPC connections.

    Attributes:
        closed: Connections that were closed.
        refused: Addresses that get no further connections now.
    """

    def __init__(self) -> None:
        self.closed = 0
        self.refused = 0

    def collect(self) -> Iterator[Metric]:
        """Yield both."""
        yield CounterMetricFamily(
            "resonnx_closed_connections", "gRPC connections closed because their address had most", value=self.closed
        )
        yield GaugeMetricFamily(
            "resonnx_refused_addresses",
            "Addresses that have most gRPC connections and get no more",
            value=self.refused,
        )
