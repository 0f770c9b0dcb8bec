"""How start time and memory grow with the number of models, with an empty cache and with a full one.

    PYTHONPATH=benchmarks python benchmarks/load/scale.py --models 1,10,50

Each model is a ResNet-18 at 64x64 (44.7 MB) with a sum of its own, so that nothing measured for one is found in the
cache for another. Memory is that of the idle server once all are ready, from /proc/PID/smaps_rollup.
"""

import argparse
import hashlib
import shutil
import tempfile
import time
from pathlib import Path

from load.server_process import serving
from random_models.classifiers import repository
from reports.rounds import Rounds
from resonnx_server.runtime import wire

_MODEL = "resnet18_64"
_FILE, _SUMS = "model.onnx", "SHA256SUMS"
# ModelProto.doc_string, which changes a file's sum and nothing else.
_DOC_STRING = 6
# Tables that were measured on a busy machine are measured again, three times at most.
_MOST_STARTS = 4
_KINDS = ("Pss", "Rss", "Private_Dirty")


def write_models(folder: Path, source: Path, count: int) -> None:
    """Write `count` models like the version in `source`, each with another sum, those that are missing."""
    for number in range(count):
        version = folder / f"model{number:02}" / "1"
        if version.exists():
            continue
        shutil.copytree(source, version)
        text = f"copy {number}".encode()
        content = (source / _FILE).read_bytes() + wire.opening(_DOC_STRING, len(text)) + text
        (version / _FILE).write_bytes(content)
        lines = [line for line in (source / _SUMS).read_text().splitlines() if not line.endswith(f" {_FILE}")]
        lines.append(f"{hashlib.sha256(content).hexdigest()}  {_FILE}")
        (version / _SUMS).write_text("\n".join(sorted(lines, key=lambda line: line.split()[1])) + "\n")


def memory_mb(pid: int) -> dict[str, float]:
    """Return a process's memory in MB: Pss, Rss, and private dirty pages (proc(5), smaps_rollup)."""
    lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    kb = {line[0].rstrip(":"): line[1] for line in lines}
    return {kind: int(kb[kind]) * 1024 / 1e6 for kind in _KINDS}


def start(models: Path, cache: Path, provider: str, checkout: Path | None) -> tuple[float, float, dict[str, float]]:
    """Return the seconds from the process's start to its line "ready", its processor time and its memory then."""
    began = time.perf_counter()
    with serving(models, "--cache-dir", str(cache), "--provider", provider, checkout=checkout) as server:
        return time.perf_counter() - began, server.processor_s, memory_mb(server.pid)


def _tables(cache: Path) -> set[tuple[str, int]]:
    """Return what shows whether a start has measured anything."""
    return {(file.name, file.stat().st_mtime_ns) for file in cache.iterdir()}


def measured(scratch: Path, count: int, provider: str, checkout: Path | None) -> dict[str, float]:
    """Return figures of `count` models of those in `scratch`, by name."""
    models = scratch / f"{count} models"
    models.mkdir(exist_ok=True)
    for folder in sorted((scratch / "all").iterdir())[:count]:
        if not (models / folder.name).exists():
            (models / folder.name).symlink_to(folder)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        for number in range(_MOST_STARTS):
            tables = _tables(Path(cache))
            seconds, processor_s, memory = start(models, Path(cache), provider, checkout)
            kind = "full" if number else "empty"
            figures[f"ready s, {kind} cache"] = seconds
            figures[f"processor s until ready, {kind} cache"] = processor_s
            if _tables(Path(cache)) == tables:
                break
    return figures | {f"{kind} MB": mb for kind, mb in memory.items()}


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="1,10,50", help="numbers of models")
    parser.add_argument("--rounds", type=int, default=1, help="starts of each kind")
    parser.add_argument("--provider", default="cpu", help="of all models; auto for the fastest that agrees")
    parser.add_argument("--against", type=Path, help="folder of another version, which takes turns")
    parser.add_argument("--json", type=Path, help="file for every round's figures")
    asked = parser.parse_args()
    checkouts = {"this": None, **({"other": asked.against} if asked.against else {})}
    source = repository((_MODEL,)) / _MODEL / "1"
    weights_mb = (source / _FILE).stat().st_size / 1e6
    counts = sorted(int(count) for count in asked.models.split(","))
    rounds = Rounds("version", "models", "figure")
    with tempfile.TemporaryDirectory() as scratch:
        write_models(Path(scratch, "all"), source, counts[-1])
        for _ in range(asked.rounds):
            for version, checkout in checkouts.items():
                first: dict[str, float] = {}
                for count in counts:
                    found = measured(Path(scratch), count, asked.provider, checkout)
                    if first:
                        grown = (found["Pss MB"] - first["Pss MB"]) / (count - counts[0])
                        found["Pss MB a further model, beyond its weights"] = grown - weights_mb
                    first = first or found
                    for figure, value in found.items():
                        rounds.add(version, str(count), figure, value=value)
                        print(f"{version}, {count} models: {figure} {value:.4g}", flush=True)
    rounds.show({})
    if asked.json:
        rounds.write(asked.json, weights_mb=weights_mb)


if __name__ == "__main__":
    main()
