"""`python -m deploy.observability.values`: the panels' values from a Prometheus, here a stand-in for its API."""

import json
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


def _printed(value: Callable[[str], str | None]) -> tuple[int, str]:
    """Return exit status and output, with a Prometheus that answers a query with one value, or none."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            query = urllib.parse.parse_qs(urllib.parse.urlparse(self.path).query)["query"][0]
            found = value(query)
            result = [] if found is None else [{"metric": {"model": "m", "job": "resonnx"}, "value": [0, found]}]
            content = json.dumps({"data": {"result": result}}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        command = [sys.executable, "-m", "deploy.observability.values", f"http://127.0.0.1:{server.server_port}"]
        done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=30)
        server.shutdown()
        thread.join()
    return done.returncode, done.stdout


def test_each_panel_is_printed_with_its_value() -> None:
    asked = []
    status, printed = _printed(lambda query: asked.append(query) or "2.5")  # type: ignore[func-returns-value]
    assert status == 0
    assert not any("$" in query for query in asked)
    assert printed.count("m 2.5") == len(asked) > 30
    assert f"{len(asked)} of {len(asked)} queries have a value" in printed


@pytest.mark.parametrize(("missing", "status"), [("resonnx_model_ready", 1), ("comparison", 0)])
def test_only_the_row_of_health_must_have_values(missing: str, status: int) -> None:
    found, printed = _printed(lambda query: "NaN" if missing in query else "1")
    assert found == status
    assert "no data" in printed
