"""`resonnx-server health` finds the server by its settings, over TLS and with a key, at little cost."""

import http.server
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from resonnx_server.checking.health import Target, ask, find

from ...certificates import Authority

_KEY = "rsnx_k"


class _Server(http.server.BaseHTTPRequestHandler):
    status = 200
    needs_key = False

    def do_GET(self) -> None:
        allowed = not self.needs_key or self.headers["authorization"] == f"Bearer {_KEY}"
        self.send_response(404 if self.path != "/readyz" else self.status if allowed else 401)
        self.end_headers()
        self.wfile.write(b"ready\nserving digits version 1\n" if self.status == 200 else b"loading digits\n")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@contextmanager
def _serving(context: ssl.SSLContext | None = None, *, status: int = 200, needs_key: bool = False) -> Iterator[int]:
    handler = type("Handler", (_Server,), {"status": status, "needs_key": needs_key})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def _health(*arguments: str, **variables: str) -> tuple[int, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RESONNX_")}
    done = subprocess.run(
        [sys.executable, "-m", "resonnx_server", "health", *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_ready_server_is_healthy() -> None:
    with _serving() as port:
        assert _health(RESONNX_HTTP_PORT=str(port)) == (0, "ready\nserving digits version 1\n")


def test_a_server_that_loads_is_not() -> None:
    with _serving(status=503) as port:
        assert _health("--http-port", str(port)) == (1, "loading digits\n")


def test_nor_is_one_that_does_not_answer() -> None:
    status, said = _health("--http-port=1")
    assert status == 1
    assert said.startswith("127.0.0.1:1 does not answer: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "1"], "no such option: --port"),
        (["--http-port"], "--http-port needs a value"),
        (["--http-port", "0"], "http_port is '0': give the server's port, --http-port 1 to 65535"),
        (["--config", "missing.toml"], "missing.toml"),
    ],
)
def test_bad_options_are_told(arguments: list[str], said: str) -> None:
    status, text = _health(*arguments)
    assert status == 2
    assert said in text


def test_tls_is_known_from_the_certificate(tmp_path: Path) -> None:
    files = Authority().issue("resonnx", days=-1).write(tmp_path, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*files)
    with _serving(context) as port:
        assert ask(Target("127.0.0.1", port, True, ""))[0]
        assert not ask(Target("127.0.0.1", port, False, ""))[0]


@pytest.mark.parametrize(("key", "ready", "said"), [(_KEY, True, "ready"), ("no", False, ""), ("", True, "alive")])
def test_a_key_is_sent(key: str, ready: bool, said: str) -> None:
    with _serving(needs_key=True) as port:
        answer = ask(Target("127.0.0.1", port, False, key))
    assert answer[0] == ready
    assert said in answer[1]


def test_a_server_that_is_not_ready_is_told_to_a_key() -> None:
    with _serving(needs_key=True, status=503) as port:
        assert ask(Target("127.0.0.1", port, False, _KEY)) == (False, "loading digits")


def test_settings_come_from_options_then_variables_then_the_file(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('[server]\nhttp_port = 9001\nhost = "::"\ntls_certificate = "server.pem"\n')
    key = tmp_path / "key"
    key.write_text("rsnx_of_a_file\n")
    assert find({}, {}) == Target("127.0.0.1", 8002, False, "")
    assert find({"config": str(file)}, {}) == Target("::1", 9001, True, "")
    environment = {"RESONNX_CONFIG": str(file), "RESONNX_HTTP_PORT": "9002", "RESONNX_KEY": _KEY}
    assert find({}, environment) == Target("::1", 9002, True, _KEY)
    assert find({"host": "192.0.2.1", "http-port": "9003", "key-file": str(key)}, environment) == Target(
        "192.0.2.1", 9003, True, "rsnx_of_a_file"
    )


def test_it_loads_the_standard_library_only_and_costs_little() -> None:
    code = (
        "import sys; sys.argv = ['', 'health', '--http-port', '1']\n"
        "before = {*sys.modules}\n"
        "from resonnx_server.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "new = {name.partition('.')[0] for name in {*sys.modules} - before}\n"
        "import resource; used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "print(sorted(new - sys.stdlib_module_names), 'asyncio' in sys.modules, used.ru_utime + used.ru_stime)"
    )
    costs = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        loaded, cost_s = done.stdout.splitlines()[-1].rsplit(" ", 1)
        assert loaded == "['resonnx_proto', 'resonnx_server'] False", done.stderr
        costs.append(float(cost_s))
    assert min(costs) <= 0.15
