"""The same model, session options and client against Triton and MLServer, tensors in.

    PYTHONPATH=benchmarks python -m peers.tensors [--rounds 5] [--peers triton,mlserver] [--models big,small]
        [--plot FILE.png]

Triton runs the model by its Python backend (its wheel has no ONNX Runtime backend), MLServer by a small runtime of
its own kind. Each is tried in every setting that may be its best; the best one then takes turns with resonnx-server,
round after round. perf_analyzer cannot speak to MLServer: there both are measured by `resonnx bench`.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from load.generator import Generator, find_perf_analyzer
from peers.tensor_servers import Model, Tuning, serve_tensors, tunings
from random_models.classifiers import repository
from reports import chart
from rich.console import Console
from rich.table import Table
from rows.setting import CALLERS, Setting

_PROMISED = {("triton", "big"): (1.2, 1.5), ("triton", "small"): (1.15, 1.5)}


@dataclass(frozen=True)
class Comparison:
    """Answers a second of a peer in its best setting, and of resonnx in the same rounds."""

    peer: str
    model: str
    role: str
    tuning: Tuning
    theirs: list[float]
    ours: list[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast resonnx was, by round."""
        return [ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True)]


def compare(setting: Setting, name: str, role: str, rounds: int) -> Comparison:
    """Measure one peer on one model; answers a second of both, round by round."""
    generator = setting.generator if name == "triton" else replace(setting.generator, perf_analyzer=None)
    session = setting.info(role).sessions[0]
    file = setting.models / setting.names[role] / "1" / session.file
    model = Model(setting.names[role], file, session.provider, session.precision)
    side = next(tensor for tensor in setting.info(role).inputs if tensor.name == "image").shape[-2]

    def rate(tuning: Tuning, sender: Generator) -> float:
        with serve_tensors(name, model, tuning, bytes(side * side * 3)) as running:
            return sender.closed(urlsplit(running.url).netloc, model.name, CALLERS[role]).rate

    short = replace(generator, seconds=generator.seconds / 2)
    tried = {tuning: rate(tuning, short) for tuning in tunings(name, setting.cores)}
    best = max(tried, key=lambda tuning: tried[tuning])
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(rate(best, generator))
        ours.append(generator.closed(setting.server.grpc, model.name, CALLERS[role]).rate)
        print(f"{name} {model.name}: {theirs[-1]:.1f}/s, resonnx {ours[-1]:.1f}/s", file=sys.stderr, flush=True)
    return Comparison(name, model.name, role, best, theirs, ours)


def show(results: list[Comparison]) -> Table:
    """Lay the comparisons out."""
    table = Table("peer", "its best setting", "model", "answers/s", "resonnx", "ratio", "min .. max", "must", "aim")
    for result in results:
        tuning = result.tuning
        table.add_row(
            result.peer,
            f"{tuning.instances} x {tuning.threads} threads, {tuning.delay_us} us",
            result.model,
            f"{statistics.median(result.theirs):.1f}",
            f"{statistics.median(result.ours):.1f}",
            f"{statistics.median(result.ratios):.2f}",
            f"{min(result.ratios):.2f} .. {max(result.ratios):.2f}",
            *(f">= {bound:g}" for bound in _PROMISED.get((result.peer, result.role), ())),
        )
    return table


def plot(file: Path, results: list[Comparison]) -> None:
    """Draw how many times as fast as each peer resonnx was."""
    lines = []
    for result in results:
        ratio = statistics.median(result.ratios)
        must = aim = None
        met, text = "", f"{ratio:.2f}"
        if promised := _PROMISED.get((result.peer, result.role)):
            must, aim = promised
            met = "aim" if ratio >= aim else "must" if ratio >= must else "NO"
            text += f" (must >= {must:g}, aim {aim:g})"
        what = f"{statistics.median(result.ours):.4g} answers/s, its own {statistics.median(result.theirs):.4g}"
        name = f"{result.peer}, {result.model}"
        lines.append(chart.Line(name, what, result.ratios, text, must, aim, met=met))
    chart.draw_lines(file, "resonnx's answers a second: a multiple of the other server's, same round", lines)


def main() -> int:
    """Measure and return the exit status: 1 if a peer could not be measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="triton,mlserver")
    parser.add_argument("--models", default="big,small", help="big is ResNet-50 in int8")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of a load")
    parser.add_argument("--perf-analyzer", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png", help="draw the ratios")
    given = parser.parse_args()
    models = repository(("resnet50_int8", "resnet50_int8_float", "small"))
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    results: list[Comparison] = []
    failed = False
    with Setting(models, "resnet50_int8", generator) as setting:
        for role in given.models.split(","):
            for name in given.peers.split(","):
                try:
                    results.append(compare(setting, name, role, given.rounds))
                except RuntimeError as error:
                    print(f"{name} {role}: {error}", file=sys.stderr)
                    failed = True
    Console(width=160).print(show(results))
    if given.json:
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    if given.plot:
        plot(given.plot, results)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
