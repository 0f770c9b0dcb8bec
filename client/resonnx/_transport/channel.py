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

# Names that gRPC may resolve to several addresses, over which it then distributes calls.
_DISTRIBUTED = ("dns:", "ipv4:", "ipv6:")

# Only UNAVAILABLE: gRPC cannot tell a call refused under load from a message that is too large; retry.py can.
_RETRIES = {
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
        },
        # No policy: gRPC (1.85) loses messages of a call that it tries again while some are sent. The client does it.
        {"name": [{"service": VISION, "method": name} for name in ("ClassifyStream", "ClassifyVideoStream")]},
    ],
    # A failure takes a token, an answer gives a tenth; with half of them left there are no retries. So many calls of a
    # server that dies at once are tried again.
    "retryThrottling": {"maxTokens": 200, "tokenRatio": 0.1},
}
_ROUND_ROBIN: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
# gRPC sends calls to those addresses only whose server is ready; servers without a health service count as ready.
_HEALTH: dict[str, Any] = {"healthCheckConfig": {"serviceName": ""}}

OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # The default, 256 KiB, would exclude most photographs from retries.
    ("grpc.per_rpc_retry_buffer_size", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # A name is resolved again when a connection ends. gRPC's default is 30 s: all servers may have changed by then.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # A server that was away is connected to again so soon; gRPC's default is 120 s.
    ("grpc.max_reconnect_backoff_ms", 5_000),
]


def targets(server: str) -> tuple[str, ...]:
    """Return the addresses for gRPC's channels, of a server that `server_address` returned."""
    return (server,) if server.startswith(_RESOLVERS) else tuple(server.split(","))


def options(target: str, *, alone: bool, first: bool, health_checks: bool = True) -> list[tuple[str, Any]]:
    """Return the options of a channel.

    Args:
        target: One of `targets`.
        alone: There is no other: gRPC tries calls again that do not reach it. Otherwise they go to another one at once,
            see Links.
        first: It is the first channel to this target; further ones do not share its connection.
        health_checks: Where gRPC distributes calls over addresses, it watches the health of their servers.
    """
    config: dict[str, Any] = dict(_RETRIES) if alone else {}
    if target.startswith(_DISTRIBUTED):
        config |= _ROUND_ROBIN | (_HEALTH if health_checks else {})
    return [
        *OPTIONS,
        ("grpc.service_config", json.dumps(config)),
        ("grpc.use_local_subchannel_pool", 0 if first else 1),
    ]


def server_address(server: str | None) -> str:
    """Return the address to connect to: `server`, else $RESONNX_SERVER, else localhost:8001.

    Args:
        server: HOST, HOST:PORT, an IPv6 address, [IPV6] or [IPV6]:PORT; several of these, separated by commas; or an
            address for gRPC's name resolvers, such as unix:/run/resonnx.sock or dns:///HOST:PORT. The default port is
            8001.

    Raises:
        ValueError: It is none of these, but for example a URL.
    """
    given = server or os.environ.get("RESONNX_SERVER") or _DEFAULT_HOST
    if given.startswith("dns:") and "," in given:
        raise ValueError(f"server {given!r}: dns: takes one name; give several servers as host:port,host:port")
    if given.startswith(_RESOLVERS):
        return given
    return ",".join(map(_one_address, given.split(",")))


def _one_address(given: str) -> str:
    given = given.strip()
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
