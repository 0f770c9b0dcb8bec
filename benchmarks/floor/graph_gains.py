"""What an exporter's graphs cost in ONNX Runtime, against those of an earlier version of this repository.

    git worktree add /tmp/before REVISION
    PYTHONPATH=benchmarks python benchmarks/floor/graph_gains.py --before /tmp/before [--rounds 7] [--seconds 1] \
        [--only resnet50_int8 ...] [--batches 1 8]

Each version exports the same networks (`random_models/classifiers.py`). In a round both files run in turns on one
thread of the CPU provider; its ratio is of the median processor times, before to after, so that above 1 is a gain.
Differences are of the logits, relative to the largest one. `small fp32 -> int8` compares the earlier fp32 file with
this version's int8.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
from pictures.photographs import write_pictures
from PIL import Image
from resonnx_export.proof.timing import repeated
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import CPU, Candidate, Session
from rich.console import Console
from rich.table import Table

_ROOT = Path(__file__).resolve().parents[2]
_PARTS = ("proto", "server", "export", "client", "benchmarks", ".")
_MODELS = ("resnet50_int8", "resnet50", "small_int8", "small")
# (title, the earlier version's model, this version's)
_PAIRS = (*((name, name, name) for name in _MODELS), ("small fp32 -> int8", "small", "small_int8"))
_PICTURES = 8


def _exported(root: Path, folder: Path, names: Iterable[str]) -> Path:
    """Export models with the version in `root`, and return their repository."""
    program = (
        "import pathlib, sys; from random_models.classifiers import repository; "
        "repository(tuple(sys.argv[2:]), pathlib.Path(sys.argv[1]))"
    )
    paths = os.pathsep.join(str(root / part) for part in _PARTS)
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", program, str(folder), *names], check=True, env=environment, cwd=root)
    return folder


def _session(repository: Path, name: str) -> tuple[Session, int]:
    content = (repository / name / "1/model.onnx").read_bytes()
    precision = pb.PRECISION_INT8 if name.endswith("int8") else pb.PRECISION_FP32
    return Session(content, Candidate(CPU, precision), 1), len(content)


def _pictures(session: Session) -> Pixels:
    """Return photographs of the session's size."""
    _, height, width, _ = session.inputs[0].shape
    assert isinstance(height, int)
    assert isinstance(width, int)
    with tempfile.TemporaryDirectory() as folder:
        write_pictures(Path(folder), _PICTURES)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())[:_PICTURES]
        return np.stack([np.asarray(Image.open(file).convert("RGB").resize((width, height))) for file in files])


def _round(old: Session, new: Session, images: Pixels, seconds: float) -> tuple[float, float]:
    """Run both in turns; return the median processor time of a run of each, in ms."""
    times: dict[Session, list[float]] = {old: [], new: []}
    start = time.perf_counter()
    while not times[new] or time.perf_counter() < start + seconds:
        for session in (old, new) if len(times[new]) % 2 else (new, old):
            spent = time.process_time()
            session.run({"image": images}, ["logits"])
            times[session].append(1e3 * (time.process_time() - spent))
    return median(times[old]), median(times[new])


def _rows(
    before: Path,
    after: Path,
    pairs: Iterable[tuple[str, str, str]],
    batches: Sequence[int],
    rounds: int,
    seconds: float,
) -> Iterator[tuple[str, ...]]:
    for title, earlier, later in pairs:
        (old, old_bytes), (new, new_bytes) = _session(before, earlier), _session(after, later)
        pictures = _pictures(new)
        for rows in batches:
            images = repeated(pictures, rows)
            expected, found = (each.run({"image": images}, ["logits"])["logits"] for each in (old, new))
            times = [_round(old, new, images, seconds) for _ in range(rounds)]
            ratios = [old_ms / new_ms for old_ms, new_ms in times]
            yield (
                title,
                str(rows),
                f"{median(old_ms for old_ms, _ in times):.3g}",
                f"{median(new_ms for _, new_ms in times):.3g}",
                f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
                f"{np.abs(found - expected).max() / np.abs(expected).max():.1g}",
                f"{old_bytes / 1e6:.1f} -> {new_bytes / 1e6:.1f}",
            )


def main() -> None:
    """Export both, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="CHECKOUT", help="of the earlier version")
    parser.add_argument("--models", type=Path, help="keep the exports here, and take those that are there")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round")
    parser.add_argument("--only", nargs="+", choices=_MODELS, help="these models; all without")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8], metavar="ROWS")
    arguments = parser.parse_args()
    names = arguments.only or _MODELS
    pairs = [pair for pair in _PAIRS if {*pair[1:]} <= {*names}]
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.models or Path(scratch)).resolve()
        before = _exported(arguments.before.resolve(), folder / "before", names)
        after = _exported(_ROOT, folder / "after", names)
        table = Table("model", "rows", "before, ms", "after, ms", "before / after", "difference", "MB")
        for row in _rows(before, after, pairs, arguments.batches, arguments.rounds, arguments.seconds):
            table.add_row(*row)
        Console(width=120).print(table)


if __name__ == "__main__":
    main()
