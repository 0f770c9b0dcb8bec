"""deploy/torch_index.py: an index that lists torch in time is taken, and nobody waits for one that does not answer."""

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.torch_index import answers

_SCRIPT = Path(__file__).parents[2] / "deploy/torch_index.py"


class _Index(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        known = self.path == "/whl/cpu/torch/"
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(b'<a href="torch-2.13.0+cpu.whl">torch-2.13.0+cpu.whl</a>' if known else b"torch?")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def index() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_index_that_lists_torch_answers(index: str) -> None:
    assert answers(f"{index}/whl/cpu")
    assert not answers(f"{index}/simple")


def test_an_index_that_is_silent_costs_the_time_out_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        assert time.monotonic() - start < 3


@pytest.mark.parametrize("index", ["http://127.0.0.1:1", "no address", "http://"])
def test_an_index_that_is_none_does_not_answer(index: str) -> None:
    assert not answers(index)


def test_the_variable_is_taken_unasked() -> None:
    done = subprocess.run(
        [sys.executable, _SCRIPT], env={"TORCH_INDEX_URL": "http://127.0.0.1:1/x"}, capture_output=True, text=True
    )
    assert done.stdout == "http://127.0.0.1:1/x\n"
