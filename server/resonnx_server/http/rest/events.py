"""Server-sent events."""

from typing import Any, Final

from resonnx_server.http.rest.json_text import to_json

TYPE: Final = "text/event-stream"
# Proxies that buffer answers pass these on at once.
HEADERS: Final = {"Content-Type": TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(name: str, data: dict[str, Any]) -> bytes:
    """Return an event whose data is JSON, which has no line ends here."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), to_json(data))
