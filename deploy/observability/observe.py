"""`make observe`: a server of the demo models under load, a Prometheus that scrapes it, and the value of each panel.

Prometheus (Debian's package `prometheus`) must be on PATH. The load is of pictures, captions and streams, with calls
that fail and a shadow of a second version, so that every query of the dashboard and of the recording rules has data; if
one has none, the exit status is 1.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

import yaml
from resonnx import Client, ResonnxError

from deploy.observability.values import print_panels, print_rules

_ROOT: Final = Path(__file__).resolve().parents[2]
_BIN: Final = Path(sys.executable).parent
_SCRAPE_S: Final = 1
# Not decided before the values are read.
_RULE: Final = "agreement>=0.99 and n>=1000000"
_LISTENING: Final = re.compile(r'msg="Listening on" (?:.* )?address=(127\.0\.0\.1:\d+)')


def main() -> int:
    """Print each panel with its value; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, default=_ROOT / "models", help="folder of the demo models")
    parser.add_argument("--seconds", type=float, default=40, help="time of the load before the values are read")
    arguments = parser.parse_args()
    if shutil.which("prometheus") is None:
        print("make observe: prometheus is not on PATH: on Debian and Ubuntu, apt install prometheus", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        models = _models(arguments.repository, Path(folder))
        grpc, http = stack.enter_context(_server(models))
        prometheus = stack.enter_context(_prometheus(Path(folder), http))
        samples = Path(folder, "samples")
        command = [str(_BIN / "resonnx-export"), "demo", "--samples", str(samples), "--count", "8", "--seed", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        stack.enter_context(_load(grpc, samples))
        shadow = [str(_BIN / "resonnx"), "repo", "canary", "digits", "2", "--shadow", "--share", "50%"]
        subprocess.run([*shadow, "--promote-if", _RULE, "--server", grpc], check=True, stdout=subprocess.DEVNULL)
        time.sleep(arguments.seconds)
        missing = print_panels(prometheus) + print_rules(prometheus)
    for what in missing:
        print(f"no data: {what}", file=sys.stderr)
    return 1 if missing else 0


def _models(repository: Path, folder: Path) -> Path:
    """Return a repository of the demo models with a second version of digits."""
    models = folder / "models"
    for name in ("digits", "scenes"):
        if not (repository / name / "1").is_dir():
            raise SystemExit(f"make observe: {repository}/{name}/1 is missing: make run ONCE=1 exports it")
        shutil.copytree(repository / name / "1", models / name / "1")
    shutil.copytree(models / "digits" / "1", models / "digits" / "2")
    (models / "digits" / "config.toml").write_text("version_policy = { specific = [1] }\nlatency_objective_ms = 50\n")
    return models


@contextmanager
def _server(models: Path) -> Iterator[tuple[str, str]]:
    """Serve with roles on one port; yield the addresses of gRPC and HTTP."""
    command = [str(_BIN / "resonnx-server"), "--repository", str(models), "--port", "0", "--http-port", "0"]
    command += ["--admin-port", "0", "--cache-dir", str(models.parent / "cache"), "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            ready = re.match(r"resonnx-server ready grpc=\S+ http=(\S+) admin=(\S+)", line)
            if ready is None:
                raise SystemExit(f"make observe: the server did not start: {line}")
            # The admin port serves the whole service.
            yield ready[2], ready[1]
        finally:
            server.send_signal(signal.SIGINT)


@contextmanager
def _prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run Prometheus with this repository's configuration for `target`; yield its URL."""
    configuration = yaml.safe_load((_ROOT / "deploy/prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": f"{_SCRAPE_S}s"}
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    rules = yaml.safe_load((_ROOT / "deploy/prometheus/rules.yml").read_text())
    for group in rules["groups"]:
        group["interval"] = f"{_SCRAPE_S}s"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
    command += ["--web.listen-address=127.0.0.1:0", "--log.level=info"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = next((found[1] for line in process.stderr if (found := _LISTENING.search(line))), None)
            if address is None:
                raise SystemExit("make observe: prometheus did not start")
            # It would block once the pipe is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield f"http://{address}"
        finally:
            process.terminate()


@contextmanager
def _load(address: str, samples: Path) -> Iterator[None]:
    """Ask for labels, captions and an unknown model from four threads until the block ends."""
    truth = json.loads((samples / "truth.json").read_text())
    pictures = {
        model: [samples / name for name, entry in truth.items() if entry["model"] == model]
        for model in ("digits", "scenes")
    }
    ended = threading.Event()

    def ask() -> None:
        with Client(address) as client:
            while not ended.is_set():
                for picture in pictures["digits"]:
                    client.classify(picture, "digits", version=1)
                for picture in pictures["scenes"]:
                    client.caption(picture, "scenes")
                for _ in client.stream_caption(pictures["scenes"][0], "scenes"):
                    pass
                for _ in client.classify_stream(pictures["digits"], "digits"):
                    pass
                with suppress(ResonnxError):
                    client.classify(pictures["digits"][0], "nobody")
                with suppress(ResonnxError):
                    client.classify(b"no picture", "digits")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    os.chdir(_ROOT)
    sys.exit(main())
