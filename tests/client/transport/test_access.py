"""Keys and TLS: each call of both clients, the command and its options."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import resonnx
from resonnx._transport.access import Access
from resonnx.cli import app
from typer.testing import CliRunner

from ...certificates import Authority

SERVERS, CLIENTS = Authority("servers"), Authority("clients")
PIXEL = b"P6 1 1 255 abc"


class _KeyNeeded(grpc.GenericRpcHandler):
    """Ends calls with the key as NOT_FOUND, and others as UNAUTHENTICATED."""

    def service(self, handler_call_details: Any) -> "grpc.RpcMethodHandler[bytes, bytes]":
        given = dict(handler_call_details.invocation_metadata).get("authorization")

        def end(requests: Any, context: grpc.ServicerContext) -> Any:
            if given == "Bearer secret":
                context.abort(grpc.StatusCode.NOT_FOUND, "the key is known")
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the key is missing")

        return grpc.stream_stream_rpc_method_handler(end)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    SERVERS.write(folder, "servers")
    CLIENTS.issue("client").write(folder, "client")
    (folder / "key").write_text("secret\n")
    return folder


@pytest.fixture(scope="module")
def tls(folder: Path) -> resonnx.Tls:
    return resonnx.Tls(folder / "servers.pem", folder / "client.pem", folder / "client.key")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pair = SERVERS.issue("server")
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)], CLIENTS.certificate, True)
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, handlers=[_KeyNeeded()])
        port = server.add_secure_port("127.0.0.1:0", credentials)
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(grace=None).wait()


CALLS: dict[str, Callable[[Any], Any]] = {
    "classify": lambda client: client.classify(PIXEL, "m"),
    "classify_stream": lambda client: client.classify_stream([PIXEL], "m"),
    "caption": lambda client: client.caption(PIXEL, "m"),
    "stream_caption": lambda client: client.stream_caption(PIXEL, "m"),
    "models": lambda client: client.models(),
    "model": lambda client: client.model("m"),
}


def _sync(call: Callable[[Any], Any], server: str, **access: Any) -> None:
    with resonnx.Client(server, timeout_s=20, **access) as client:
        answer = call(client)
        if not isinstance(answer, list):
            list(answer)


def _async(call: Callable[[Any], Any], server: str, **access: Any) -> None:
    async def ask() -> None:
        async with resonnx.AsyncClient(server, timeout_s=20, **access) as client:
            answer = call(client)
            if asyncio.iscoroutine(answer):
                await answer
            else:
                async for _ in answer:
                    pass

    asyncio.run(ask())


@pytest.mark.parametrize("ask", [_sync, _async])
@pytest.mark.parametrize("name", CALLS)
def test_each_call_shows_the_key_over_tls(address: str, tls: resonnx.Tls, ask: Callable[..., None], name: str) -> None:
    with pytest.raises(resonnx.NotFound):
        ask(CALLS[name], address, tls=tls, key="secret")
    with pytest.raises(resonnx.Unauthenticated):
        ask(CALLS[name], address, tls=tls)


@pytest.mark.parametrize("ask", [_sync, _async])
def test_the_key_of_the_environment(
    address: str, tls: resonnx.Tls, ask: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESONNX_KEY", "secret")
    with pytest.raises(resonnx.NotFound):
        ask(CALLS["model"], address, tls=tls)
    with pytest.raises(resonnx.Unauthenticated):
        ask(CALLS["model"], address, tls=tls, key="other")


@pytest.mark.parametrize("ask", [_sync, _async])
def test_a_server_that_is_not_trusted_gets_nothing(address: str, folder: Path, ask: Callable[..., None]) -> None:
    for tls in (None, True, resonnx.Tls(folder / "servers.pem"), resonnx.Tls(folder / "client.pem")):
        with pytest.raises(resonnx.Unavailable):
            ask(CALLS["model"], address, tls=tls, key="secret")


@pytest.mark.parametrize("kind", [resonnx.Client, resonnx.AsyncClient])
def test_what_cannot_be_used_is_told_at_once(kind: Any, tmp_path: Path) -> None:
    for key in ("two words", "ключ", "line\nline"):
        with pytest.raises(ValueError, match="a key is ASCII text without spaces"):
            kind(key=key)
    with pytest.raises(FileNotFoundError):
        kind(tls=resonnx.Tls(tmp_path / "none"))
    with pytest.raises(ValueError, match="a certificate and its key, or neither"):
        resonnx.Tls(certificate=tmp_path / "none")


def test_the_key_is_in_no_representation() -> None:
    assert "secret" not in repr(Access.of("secret", None))


@pytest.mark.parametrize("command", ["models", "classify", "caption", "bench"])
def test_commands_take_keys_and_certificates(address: str, folder: Path, tmp_path: Path, command: str) -> None:
    (tmp_path / "a.ppm").write_bytes(PIXEL)
    arguments = {
        "models": ["models"],
        "classify": ["classify", "--model", "m", str(tmp_path / "a.ppm")],
        "caption": ["caption", "--model", "m", str(tmp_path / "a.ppm")],
        "bench": ["bench", "--model", "m", "--input", "tensor", "--json", str(tmp_path / "bench.json")],
    }[command]
    files = ["--ca", str(folder / "servers.pem"), "--cert", str(folder / "client.pem")]
    files += ["--client-key", str(folder / "client.key")]

    def run(*more: str, **environment: str) -> str:
        done = CliRunner().invoke(app, [*arguments, "--server", address, *more], env=environment)
        assert done.exit_code != 0
        return done.output

    assert "the key is known" in run(*files, "--key", "secret")
    assert "the key is known" in run(*files, "--key-file", str(folder / "key"))
    assert "the key is known" in run(*files, RESONNX_KEY="secret")
    assert "the key is missing" in run(*files)
    assert "the key" not in run("--tls", "--key", "secret"), "it is not sent to a stranger"
    assert "not both" in run("--key", "a", "--key-file", str(folder / "key"))
    assert "neither" in run(*files[:4])
    assert "secret" not in json.dumps([path.read_text() for path in tmp_path.glob("*.json")])
