"""A server with keys and an admin port, on either front, and calls of any method with any key."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from resonnx_server.access.keys import digest_of

from ..conftest import RunningServer, StartServer
from ..server import bare_graphs

FRONTS = ("core", "aio")
# Keys by the roles that they have.
KEYS = {"infer": ["infer"], "read": ["read"], "admin": ["infer", "read", "admin"]}


@dataclass
class Guarded:
    """A running server and its folder."""

    server: RunningServer
    folder: Path
    front: str


def keys_file(path: Path, **roles: list[str]) -> Path:
    """Write a file in which each key is its own name."""
    entries = [f"[keys.{name}]\nsha256 = '{digest_of(name).hex()}'\nroles = {given}" for name, given in roles.items()]
    path.write_text("\n".join(entries))
    return path


@contextmanager
def guarded(start_server: StartServer, folder: Path, front: str, *flags: str, keys: bool = True) -> Iterator[Guarded]:
    """Start a server of a small model, `doubling`, with KEYS, or without, and an admin port."""
    model = folder / "models" / "doubling" / "1" / "model.onnx"
    model.parent.mkdir(parents=True)
    model.write_bytes(bare_graphs.doubling())
    given = ["--admin-port", "0", "--grpc-front", front, *flags]
    if keys:
        given += ["--keys-file", str(keys_file(folder / "keys.toml", **KEYS))]
    with start_server(folder / "models", *given) as server:
        yield Guarded(server, folder, front)


def bearer(key: str | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a key."""
    return () if key is None else (("authorization", f"Bearer {key}"),)


def eventually(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; fail after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def outcome(
    channel: grpc.Channel, path: str, *metadata: tuple[str, str | bytes], message: bytes = b""
) -> tuple[str, str]:
    """Call a method of any kind with one message, and return the status's code and reason."""
    call: Any = channel.stream_stream(path)(iter([message]), metadata=metadata, timeout=20)
    try:
        if next(call, None) is not None:
            # Health's watchers get answers for ever.
            call.cancel()
            return "OK", ""
        code = call.code()
    except grpc.RpcError as error:
        code = error.code()
    status = status_pb2.Status()
    info = error_details_pb2.ErrorInfo()
    for name, value in call.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status.ParseFromString(value)
            assert status.message == call.details()
            assert status.details[0].Unpack(info)
    return code.name, info.reason
