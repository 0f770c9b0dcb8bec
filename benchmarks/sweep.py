"""Latency against throughput: 1 to 64 callers of ResNet-50 in int8, and of the small model.

    python benchmarks/sweep.py [--rounds 5] [--json FILE] [--plot FILE.png]

All numbers of callers take turns, round after round: a closed loop of tensors, unary calls, one server for both models.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from load.generator import Generator, find_perf_analyzer
from random_models.classifiers import repository
from reports import chart
from reports.rounds import Rounds
from rows.setting import Setting

_MODELS: Final = ("resnet50_int8", "small")
_CALLERS: Final = (1, 2, 4, 8, 16, 32, 64)
_FIGURES: Final = ("answers/s", "p50, ms", "p99, ms")


def measure_round(setting: Setting, server: str, figures: Rounds) -> None:
    """Measure every load once. Raises RuntimeError where requests failed."""
    for model in _MODELS:
        for callers in _CALLERS:
            found = setting.generator.closed(server, model, callers)
            for name, value in zip(_FIGURES, (found.rate, found.p50_ms, found.p99_ms), strict=True):
                if value is None:
                    raise RuntimeError(f"{model}, {callers} callers: requests without an answer")
                figures.add(model, str(callers), name, value=value)


def plot(file: Path, rows: list[dict[str, Any]]) -> None:
    """Draw the rows that `Rounds` writes."""
    values = {(row["model"], row["callers"], row["figure"]): row["rounds"] for row in rows}
    models = {
        model: [chart.Load(callers, *(values[model, str(callers), name] for name in _FIGURES)) for callers in _CALLERS]
        for model in _MODELS
    }
    chart.draw_loads(file, models)


def main() -> int:
    """Measure; print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a load")
    parser.add_argument("--perf-analyzer", type=Path, help="Triton's load generator (the one on PATH, if there is one)")
    parser.add_argument("--json", type=Path, help="write every round's figures")
    parser.add_argument("--plot", type=chart.png, metavar="FILE.png", help="draw latency against throughput")
    given = parser.parse_args()
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    figures = Rounds("model", "callers", "figure")
    with (
        Setting(repository(_MODELS), "resnet50_int8", generator) as setting,
        setting.serving(_MODELS) as server,
    ):
        for _ in range(given.rounds):
            measure_round(setting, server.grpc, figures)
    figures.show({})
    if given.json:
        figures.write(given.json, generator=generator.name, seconds=given.seconds)
    if given.plot:
        plot(given.plot, figures.rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
