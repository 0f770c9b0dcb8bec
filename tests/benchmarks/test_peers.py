"""The comparison with other servers goes on when one of them fails, hangs or ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_SERVER = """
import http.server, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        if sys.argv[1] == "hangs":
            time.sleep(600)
        self.send_response(503 if sys.argv[1] == "refuses" else 200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *args):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module, with loads that are sent from this checkout and little patience."""
    monkeypatch.syspath_prepend(str(_ROOT / "benchmarks"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")]))
    from peers import load, turns

    monkeypatch.setattr(load, "_PATIENCE_S", 2.0)
    monkeypatch.setattr(turns, "version", lambda environment, package: "1")
    monkeypatch.setattr(turns, "size_mb", lambda environment: 1.0)
    return turns


@pytest.fixture
def servers() -> Iterator[dict[str, tuple[int, int]]]:
    """Serve in four ways; gives the process and port of each."""
    processes = {
        name: subprocess.Popen([sys.executable, "-c", _SERVER, name], stdout=subprocess.PIPE, text=True)
        for name in ("answers", "refuses", "hangs", "ended")
    }
    ports = {name: int(process.stdout.readline()) for name, process in processes.items() if process.stdout}
    processes["ended"].kill()
    processes["ended"].wait()
    yield {name: (process.pid, ports[name]) for name, process in processes.items()}
    for process in processes.values():
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.slow
def test_what_fails_is_told_and_the_others_are_measured(
    turns: Any, servers: dict[str, tuple[int, int]], tmp_path: Path
) -> None:
    from peers.http_servers import Peer
    from peers.process import Running
    from peers.report import tables

    picture = tmp_path / "picture.jpg"
    picture.write_bytes(b"\xff\xd8")
    peer = Peer("environment", "package", "", ({},))
    targets = {
        name: turns.Target(Running(url, pid, 0.5), peer, {}, [url])
        for name, (pid, port) in servers.items()
        for url in [f"http://127.0.0.1:{port}/classify"]
    }
    targets["missing"] = turns.failed(peer, {}, RuntimeError("does not start"))
    (found,) = turns.rounds(
        targets, [16, 1], 1, lambda target, count: turns.load(target.urls, [str(picture)], count, 0.2, 1000.0)
    )
    by_name = {server.name: server for server in found}
    answers = by_name["answers"]
    assert not answers.failures
    assert all(rate > 0 for count in (1, 16) for rate in answers.rates(count))
    assert {name: set(server.failures) for name, server in by_name.items() if server is not answers} == {
        "refuses": {"1", "16"},
        # It is not asked again.
        "hangs": {"16"},
        "ended": {"1", "16"},
        "missing": {"start"},
    }
    assert by_name["refuses"].failures["16"] == "RuntimeError: http/1.1 503 service unavailable"
    assert not any(server.rounds for server in found if server is not answers)
    told = tables("pictures", found)
    assert "hangs, 16 callers: not all requests were answered" in told
    assert "missing, not measured: does not start" in told


@pytest.mark.slow
def test_a_server_rests_while_others_are_measured(turns: Any, servers: dict[str, tuple[int, int]]) -> None:
    from peers.process import pause, resume

    pid, _ = servers["answers"]

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    pause(pid)
    ends = time.monotonic() + 10
    while state() != "T" and time.monotonic() < ends:
        os.sched_yield()
    assert state() == "T"
    resume(pid)
    assert state() != "T"
    os.kill(pid, signal.SIGTERM)


def test_the_best_setting_is_that_of_the_highest_median(turns: Any, tmp_path: Path) -> None:
    from peers.http_servers import Peer

    file, settings = tmp_path / "settings.json", ({"PEER_THREADS": "1"}, {"PEER_THREADS": "2"}, {"PEER_THREADS": "3"})
    peer = Peer("environment", "package", "", settings)
    for setting, rates in zip(settings, ([5.0, 50.0, 6.0], [9.0, 1.0, 10.0], [0.0, 0.0, 90.0]), strict=True):
        for rate in rates:
            turns.Trials(file, "jpeg").add("server", peer, setting, rate)
    turns.Trials(file, "pixels").add("server", peer, settings[0], 0.0)
    kept = turns.Trials(file, "jpeg")
    assert [trial.rates for trial in kept.of("server", peer)] == [[5.0, 50.0, 6.0], [9.0, 1.0, 10.0], [0.0, 0.0, 90.0]]
    assert turns.best(kept.of("server", peer)) == settings[1]
    assert not kept.missing({"server": peer})
    other = turns.Trials(file, "pixels")
    assert list(other.missing({"server": peer})) == ["server"]
    with pytest.raises(RuntimeError, match="none of its settings"):
        turns.best(other.of("server", peer))
