"""How a client reaches its server: the address, the channel's options, the built-in retries."""

import json
import os
from typing import Any

import grpc
from resonnx_proto.v1 import vision_pb2_grpc

_DEFAULT_SERVER = "localhost:8001"

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
    """Give the address to use: the caller's, else $RESONNX_SERVER, else localhost:8001."""
    return server or os.environ.get("RESONNX_SERVER") or _DEFAULT_SERVER


def vision_stub(channel: grpc.Channel | grpc.aio.Channel) -> Any:
    """Give the Vision service's stub; generated code has no types of its own."""
    return vision_pb2_grpc.VisionStub(channel)
