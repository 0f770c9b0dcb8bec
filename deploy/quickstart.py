"""`make run`: exports the demo models, serves them, sends held-out pictures and clips with the client, keeps serving.

With --once it uses free ports and stops after the answers. Later runs skip the export.
"""

import argparse
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from resonnx import Client

_ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_PICTURES = 4
_HOST = "127.0.0.1"
_LAST_PORT = 65535
# Exit status of a program that Ctrl-C ended.
_INTERRUPTED = 130


def main() -> int:
    """Run the whole path once and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--http-port", type=int, default=8002)
    parser.add_argument("--once", action="store_true", help="free ports, and stop after the answers")
    arguments = parser.parse_args()
    # make forwards SIGTERM: the server must end with this process.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    repository = _ROOT / "models"
    samples = repository / ".samples"
    export = [str(_BIN / "resonnx-export"), "demo"]
    ports = {"PORT": arguments.port, "HTTP_PORT": arguments.http_port}
    if arguments.once:
        ports = dict.fromkeys(ports, 0)
    try:
        # Before the slow steps.
        if problem := _problem(ports):
            print(f"make run: {problem}", file=sys.stderr)
            return 1
        subprocess.run([*export, "--repository", str(repository)], check=True)
        subprocess.run([*export, "--samples", str(samples), "--count", str(_PICTURES), "--seed", "1"], check=True)
        return _serve_and_ask(repository, samples, ports, once=arguments.once)
    except subprocess.CalledProcessError as error:
        # The command has printed the cause.
        return error.returncode
    except KeyboardInterrupt:
        return _INTERRUPTED


def _problem(ports: Mapping[str, int]) -> str:
    """Return why the ports, by variable, cannot be used and what to write instead; "" if they can."""
    for variable, port in ports.items():
        if not 0 <= port <= _LAST_PORT:
            return f"{variable}={port} is no port: choose one of 1 to {_LAST_PORT}"
        other = port + 10 if port < _LAST_PORT - 10 else port - 10
        if not _is_free(port):
            return f"port {port} is taken: choose another, make run {variable}={other}"
        if port and list(ports.values()).count(port) > 1:
            return f"{' and '.join(ports)} are both {port}: choose another, make run {variable}={other}"
    return ""


def _is_free(port: int) -> bool:
    try:
        socket.create_server((_HOST, port)).close()
    except OSError:
        return False
    return True


def _serve_and_ask(repository: Path, samples: Path, ports: Mapping[str, int], *, once: bool) -> int:
    command = [str(_BIN / "resonnx-server"), "--repository", str(repository), "--host", _HOST]
    command += ["--port", str(ports["PORT"]), "--http-port", str(ports["HTTP_PORT"])]
    command += ["--cache-dir", str(repository / ".cache"), "--log-level", "warning"]
    print("starting the server (the first start measures batch latencies, about a minute)", flush=True)
    # Huge pages for the allocator: 5 to 11 % more throughput.
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            ready = re.match(r"resonnx-server ready grpc=(\S+) http=(\S+)", line)
            if ready is None:
                return server.wait()
            # From here on the server handles Ctrl-C, and this process waits for it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            print(line, end="")
            all_right = _ask(ready[1], samples)
            print(f"\npage:    http://{ready[2]}/ (drop a picture on it)")
            print(f"metrics: http://{ready[2]}/metrics   readiness: http://{ready[2]}/readyz")
            if once:
                # As Ctrl-C does: after SIGTERM it would serve on for a while.
                server.send_signal(signal.SIGINT)
            else:
                print(f"ask it:  .venv/bin/resonnx classify PICTURE --model digits --server {ready[1]}")
                print("serving until Ctrl-C", flush=True)
            return server.wait() or (1 if once and not all_right else 0)
        except BaseException:
            # Otherwise leaving the block would wait for a running server.
            server.send_signal(signal.SIGINT)
            raise


def _ask(address: str, samples: Path) -> bool:
    """Send every picture and clip, print the answers, and return whether all are correct."""
    all_right = True
    print(f"\n{'file':14} {'truth':52} {'answer':52} time")
    with Client(address) as client:
        for path, entry in _with_truth(samples):
            start = time.perf_counter()
            if entry["model"] == "scenes":
                expected = entry["caption"]
                said = answer = client.caption(path, "scenes").captions[0].text
            else:
                ask = client.classify if entry["model"] == "digits" else client.classify_video
                best = ask(path, entry["model"]).predictions[0]
                expected, said, answer = entry["label"], best.label, f"{best.label} ({best.score:.3f})"
            all_right = all_right and said == expected
            name = path.relative_to(samples)
            print(f"{name!s:14} {expected:52} {answer:52} {1000 * (time.perf_counter() - start):.1f} ms")
    return all_right


def _with_truth(samples: Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield each picture and clip with its entry in truth.json."""
    for folder in (samples, samples / "clips"):
        for name, entry in json.loads((folder / "truth.json").read_text()).items():
            yield folder / name, entry


if __name__ == "__main__":
    sys.exit(main())
