"""Blocking channels to one server, or several."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from resonnx._errors import ClientClosed
from resonnx._rpcs import Q, R, Rpc
from resonnx._transport.access import Access
from resonnx._transport.channel import options
from resonnx._transport.links import Link


class BlockingChannels:
    """Channels that connect on their first call; threads may share them. Calls raise ClientClosed after `close`.

    Args:
        targets: The servers' addresses for gRPC.
        access: Key and TLS.
    """

    def __init__(self, targets: tuple[str, ...], access: Access) -> None:
        self._targets = targets
        self._access = access
        self._metadata = access.metadata
        self._lock = threading.Lock()
        self._channels: dict[Link, grpc.Channel] = {}
        self._methods: dict[tuple[Link, Rpc[Any, Any]], Any] = {}
        self._closed = False

    def unary(self, link: Link, rpc: Rpc[Q, R], request: Q, timeout_s: float | None) -> Any:
        """Make a call of one request and one response, and return the response."""
        return self._start("unary_unary", link, rpc, request, timeout_s)

    def stream(self, link: Link, rpc: Rpc[Q, R], request: Q, timeout_s: float | None) -> Any:
        """Start a call of one request and a stream of responses, and return these."""
        return self._start("unary_stream", link, rpc, request, timeout_s)

    def pipeline(self, link: Link, rpc: Rpc[Q, R], requests: Iterator[Q], timeout_s: float | None) -> Any:
        """Start a call of a stream of requests and a stream of responses, and return the latter."""
        return self._start("stream_stream", link, rpc, requests, timeout_s)

    def close(self) -> None:
        """End the calls under way and disconnect."""
        with self._lock:
            self._closed = True
            channels = list(self._channels.values())
        for channel in channels:
            channel.close()

    def _start(self, kind: str, link: Link, rpc: Rpc[Any, Any], request: Any, timeout_s: float | None) -> Any:
        try:
            method = self._methods.get((link, rpc)) or self._method(kind, link, rpc)
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except ValueError:
            # gRPC's error for a closed channel.
            if self._closed:
                raise ClientClosed from None
            raise

    def _method(self, kind: str, link: Link, rpc: Rpc[Any, Any]) -> Any:
        with self._lock:
            if self._closed:
                raise ClientClosed
            channel = self._channels.get(link)
            if channel is None:
                target, alone = self._targets[link.server], len(self._targets) == 1
                first, health_checks = link.connection == 0, self._access.health_checks
                given = options(target, alone=alone, first=first, health_checks=health_checks)
                channel = self._access.channel(target, given)
                self._channels[link] = channel
            make: Callable[..., Any] = getattr(channel, kind)
            method = make(rpc.path, rpc.request.SerializeToString, rpc.response.FromString)
            self._methods[link, rpc] = method
            return method
