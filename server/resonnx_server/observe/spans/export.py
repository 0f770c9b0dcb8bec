"""Where spans go: to nobody, or to a collector, for which OpenTelemetry must be installed."""

from typing import Protocol

from resonnx_server.observe.spans.tracer import BadExport, Sink


class Export(Sink, Protocol):
    """A sink that must be closed."""

    def close(self) -> None:
        """Export the last spans, within a few seconds."""


def otlp(version: str) -> Export:
    """Return the export to the collector that the variables OTEL_* name.

    Args:
        version: The server's.

    Raises:
        BadExport: OpenTelemetry is not installed, or the variables cannot be used.
    """
    try:
        from resonnx_server.observe.spans.otlp import OtlpSink
    except ImportError:
        raise BadExport("tracing = otlp needs OpenTelemetry: pip install 'resonnx-server[otel]'") from None
    return OtlpSink.of_environment(version)
