"""How a client reaches its server: the address, the channel's options, the built-in retries."""

import json
import os
import re
from typing import Any

import grpc
from resonnx_proto.v1 import vision_pb2_grpc

_DEFAULT_HOST = "localhost"
_DEFAULT_PORT = "8001"
# Addresses that gRPC reads by itself.
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")

# The server's own default; a larger message would be refused there.
MAX_MESSAGE_BYTES = 64 * 2**20

# Only UNAVAILABLE: gRPC cannot tell a call that was shed from a message that is too large;
# _retry.py can.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "resonnx.v1.Vision"}],
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
    # The default, 256 KiB, would leave most photographs without retries.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
]


def server_address(server: str | None) -> str:
    """Give the address to use: the caller's, else $RESONNX_SERVER, else localhost:8001.

    Args:
        server: HOST, HOST:PORT, [IPV6] or [IPV6]:PORT, an IPv6 address alone, or what gRPC's name resolvers take, such
            as unix:/run/resonnx.sock and dns:///HOST:PORT. The port is 8001 if none is given.

    Raises:
        ValueError: It is none of these, a URL for one.
    """
    given = server or os.environ.get("RESONNX_SERVER") or _DEFAULT_HOST
    if given.startswith(_RESOLVERS):
        return given
    scheme, separator, rest = given.partition("://")
    if separator:
        host = rest.partition("/")[0] or "host:port"
        raise ValueError(f"server {given!r}: give {host}, without {scheme}://")
    # An address in brackets, or a name or IPv4 address, and perhaps a port; or an IPv6 address alone.
    match = re.fullmatch(r"(\[[^\[\]\s/]+\]|[^:\[\]\s/]+)(?::(\d{1,5}))?", given)
    if match and int(match[2] or _DEFAULT_PORT) in range(1, 2**16):
        return f"{match[1]}:{match[2] or _DEFAULT_PORT}"
    if re.fullmatch(r"[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}(%\w+)?", given):
        return f"[{given}]:{_DEFAULT_PORT}"
    raise ValueError(f"server {given!r}: give host:port, with a port of 1 to 65535")


def vision_stub(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """Give the Vision service's stub; generated code has no types of its own."""
    return vision_pb2_grpc.VisionStub(channel)
