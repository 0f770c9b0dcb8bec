"""Server-sent events."""

import json
from typing import Any, Final

TYPE: Final = "text/event-stream"
# Proxies that buffer answers pass these on at once.
HEADERS: Final = {"Content-Type": TYPE, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def event(name: str, data: dict[str, Any]) -> bytes:
    """Return an event whose data is JSON, which has no line ends here."""
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'), ensure_ascii=False)}\n\n".encode()
