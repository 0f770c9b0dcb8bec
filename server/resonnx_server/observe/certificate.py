"""The gauge of when TLS's certificate expires."""

from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from resonnx_server.observe.series.meaning import Meaning


class CertificateCollector(Collector):
    """Reads the certificate at each scrape.

    Args:
        expires_s: Returns the POSIX time in seconds of its end; None if it is not known.
    """

    def __init__(self, expires_s: Callable[[], float | None]) -> None:
        self._expires_s = expires_s

    def collect(self) -> Iterator[Metric]:
        """Yield the gauge."""
        gauge = GaugeMetricFamily(
            "resonnx_tls_certificate_expiry_timestamp_seconds",
            Meaning(
                "POSIX time at which the server's certificate expires, or one of its chain before; only with TLS",
                "Less than two weeks away: renew it; the server reads changed files by itself.",
            ),
        )
        if (expires_s := self._expires_s()) is not None:
            gauge.add_metric((), expires_s)
            yield gauge
