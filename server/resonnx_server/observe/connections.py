"""Metrics of connections: those that were closed for others or for memory, and addresses that get no more."""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.observe.series.meaning import Meaning


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
            "resonnx_closed_connections",
            Meaning(
                "gRPC connections closed because their address had most",
                "Rises: a client opens very many connections, or somebody attacks; raise `max_connections`, or block "
                "the address.",
            ),
            value=self.closed,
        )
        yield GaugeMetricFamily(
            "resonnx_refused_addresses",
            Meaning(
                "Addresses that have most gRPC connections and get no more",
                "Above 0 for long: as `resonnx_closed_connections_total`.",
            ),
            value=self.refused,
        )
        yield CounterMetricFamily(
            "resonnx_connections_ended_for_memory",
            Meaning(
                "gRPC connections ended because memory was spent and they brought no messages",
                "Rises: clients begin calls and send no message, as an attacker does; see `resonnx_memory_callers`.",
            ),
            value=self.ended_for_memory,
        )
