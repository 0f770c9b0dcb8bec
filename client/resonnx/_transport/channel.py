"""The server's address, channel options, and gRPC's built-in retries."""

import json
import os
import re
from typing import Any

from resonnx._rpcs import HEALTH, TENSORS, VISION

_DEFAULT_HOST = "localhost"
_DEFAULT_PORT = "8001"
# Prefixes of addresses that gRPC resolves.
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")

# The server's default limit.
MAX_MESSAGE_BYTES = 64 * 2**20

# Only UNAVAILABLE: gRPC cannot tell a call refused under load from a message that is too large; retry.py can.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": service} for service in (VISION, TENSORS, HEALTH)],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # The default, 256 KiB, would exclude most photographs from retries.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]


def server_address(server: str | None) -> str:
    """Return the address to connect to: `server`, else $RESONNX_SERVER, else localhost:8001.

    Args:
        server: HOST, HOST:PORT, an IPv6 address, [IPV6] or [IPV6]:PORT, or an address for gRPC's name resolvers, such
            as unix:/run/resonnx.sock or dns:///HOST:PORT. The default port is 8001.

    Raises:
        ValueError: It is none of these, but for example a URL.
    """
    given = server or os.environ.get("RESONNX_SERVER") or _DEFAULT_HOST
    if given.startswith(_RESOLVERS):
        return given
    scheme, separator, rest = given.partition("://")
    if separator:
        host = rest.partition("/")[0] or "host:port"
        raise ValueError(f"server {given!r}: give {host}, without {scheme}://")
    # A bracketed address, name or IPv4 address with an optional port; or an IPv6 address.
    match = re.fullmatch(r"(\[[^\[\]\s/]+\]|[^:\[\]\s/]+)(?::(\d{1,5}))?", given)
    if match and int(match[2] or _DEFAULT_PORT) in range(1, 2**16):
        return f"{match[1]}:{match[2] or _DEFAULT_PORT}"
    if re.fullmatch(r"[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}(%\w+)?", given):
        return f"[{given}]:{_DEFAULT_PORT}"
    raise ValueError(f"server {given!r}: give host:port, with a port of 1 to 65535")
