"""Which server is asked: the forms of its address, and what is said of those that are none."""

import pytest
import resonnx
from resonnx.cli import app
from typer.testing import CliRunner


@pytest.mark.parametrize(
    ("given", "environment", "used"),
    [
        ("a:1", "b:2", "a:1"),
        (None, "b:2", "b:2"),
        (None, "b", "b:8001"),
        (None, "", "localhost:8001"),
        (None, None, "localhost:8001"),
        ("gpu-1.example.org", None, "gpu-1.example.org:8001"),
        ("10.0.0.7", None, "10.0.0.7:8001"),
        ("10.0.0.7:65535", None, "10.0.0.7:65535"),
        ("::1", None, "[::1]:8001"),
        ("fe80::1%eth0", None, "[fe80::1%eth0]:8001"),
        ("::ffff:10.0.0.7", None, "[::ffff:10.0.0.7]:8001"),
        ("[::1]", None, "[::1]:8001"),
        ("[2001:db8::7]:9000", None, "[2001:db8::7]:9000"),
        ("unix:/run/resonnx.sock", None, "unix:/run/resonnx.sock"),
        ("dns:///resonnx:8001", None, "dns:///resonnx:8001"),
        ("a:1,b, 10.0.0.7:3,::1", None, "a:1,b:8001,10.0.0.7:3,[::1]:8001"),
        ("ipv4:10.0.0.1:80,10.0.0.2:80", None, "ipv4:10.0.0.1:80,10.0.0.2:80"),
    ],
)
@pytest.mark.parametrize("kind", [resonnx.Client, resonnx.AsyncClient])
def test_which_server(monkeypatch: pytest.MonkeyPatch, kind, given, environment, used) -> None:
    monkeypatch.delenv("RESONNX_SERVER", raising=False)
    if environment is not None:
        monkeypatch.setenv("RESONNX_SERVER", environment)
    client = kind(given)
    assert client.server == used
    if isinstance(client, resonnx.Client):
        client.close()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("http://localhost:8001", "server 'http://localhost:8001': give localhost:8001, without http://"),
        ("https://a.example/v1", "give a.example, without https://"),
        ("grpc://a:1", "give a:1, without grpc://"),
        ("http://", "give host:port, without http://"),
        ("a:", "server 'a:': give host:port, with a port of 1 to 65535"),
        ("a:0", "server 'a:0': give host:port, with a port of 1 to 65535"),
        ("a:65536", "server 'a:65536': give host:port"),
        ("a:grpc", "server 'a:grpc': give host:port"),
        ("a:1/v1", "server 'a:1/v1': give host:port"),
        ("[::1", r"server '\[::1': give host:port"),
        ("a b", "server 'a b': give host:port"),
        ("a:1,", "server '': give host:port"),
        ("dns:///a:1,dns:///b:1", "dns: takes one name; give several servers as host:port,host:port"),
        ("a:1,http://b", "server 'http://b': give b, without http://"),
    ],
)
def test_what_is_no_address_is_told(monkeypatch: pytest.MonkeyPatch, given: str, told: str) -> None:
    for kind in (resonnx.Client, resonnx.AsyncClient):
        with pytest.raises(ValueError, match=told):
            kind(given)
    monkeypatch.setenv("RESONNX_SERVER", given)
    with pytest.raises(ValueError, match=told):
        resonnx.Client()


@pytest.mark.parametrize("command", ["classify x.jpg --model m", "models", "bench --model m"])
def test_the_command_tells_it_as_wrong_usage(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--server", "http://a:1"])
    assert done.exit_code == 2
    assert "give a:1, without http://" in " ".join(done.stderr.split())
