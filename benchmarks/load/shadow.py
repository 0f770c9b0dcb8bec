"""What a shadow costs those who are served: an open loop with a new version compared on a share of it, and without.

    PYTHONPATH=benchmarks python benchmarks/load/shadow.py [MODEL_FOLDER] [--rounds 15] [--seconds 5] [--json FILE]

MODEL_FOLDER is the folder of a model, as resonnx-export writes it; the default is the small model of other benchmarks.
The new version has the same files. Each round measures both, in turns. Processor time is that of the server's process
for an answer, less the shadow's own runs (resonnx_comparison_processor_seconds_total). Exit status 1 if the median over
rounds of the ratio is above 1.03 (processor time) or 1.15 (p99).
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import grpc
from load.generator import Generator, find_perf_analyzer
from load.server_process import Serving, serving
from prometheus_client.parser import text_string_to_metric_families
from random_models.classifiers import repository
from reports.machine import machine
from resonnx_proto.inference import grpc_service_pb2 as oip
from resonnx_proto.inference import grpc_service_pb2_grpc as oip_grpc
from resonnx_proto.v1 import repository_pb2 as pb
from resonnx_proto.v1 import repository_pb2_grpc

_MOST_PROCESSOR: Final = 1.03
_MOST_P99: Final = 1.15
_CALLERS: Final = 8
_LOAD_S: Final = 300
# Longest wait for the copies that are left when a loop ends.
_REST_S: Final = 10.0
_SERVING, _NEW = 1, 2


@dataclass(frozen=True)
class Usage:
    """One loop: processor time per answer in µs without the shadow's own runs, and p99 in ms.

    Attributes:
        compared: Answers that were compared.
        dropped: Copies that were not.
        own_s: Processor time of the shadow's own runs, in seconds.
    """

    processor_us: float
    p99_ms: float
    answers: int
    compared: int
    dropped: int
    own_s: float


@dataclass(frozen=True)
class Pair:
    """One round."""

    alone: Usage
    beside: Usage

    @property
    def processor(self) -> float:
        """Processor time with the shadow as a multiple of that without."""
        return self.beside.processor_us / self.alone.processor_us

    @property
    def p99(self) -> float:
        """The 99th percentile with the shadow as a multiple of that without."""
        return self.beside.p99_ms / self.alone.p99_ms


class Measurement:
    """Measures loops against one server.

    Args:
        server: It has an admin port, and serves the model's first version.
        model: Its name.
        generator: Sends the load.
        rate: Requests per second.
        share: Of requests that are compared.
    """

    def __init__(self, server: Serving, model: str, generator: Generator, rate: float, share: float) -> None:
        self._server, self._model, self._generator = server, model, generator
        self._rate, self._share = rate, share

    def measure(self, *, shadow: bool) -> Usage:
        """Measure one loop."""
        with grpc.insecure_channel(self._server.admin) as channel:
            admin = repository_pb2_grpc.RepositoryStub(channel)
            if not shadow:
                return self._loop(admin)
            mode = pb.COMPARISON_MODE_SHADOW
            request = pb.StartComparisonRequest(model=self._model, version=_NEW, mode=mode, share=self._share)
            admin.StartComparison(request, timeout=_LOAD_S)
            try:
                usage = self._loop(admin)
            finally:
                admin.Rollback(pb.RollbackRequest(model=self._model), timeout=_LOAD_S)
            if not usage.compared:
                raise RuntimeError("nothing was compared: the device was never idle; give a smaller --load")
            return usage

    def _loop(self, admin: repository_pb2_grpc.RepositoryStub) -> Usage:
        processor_s, answers, own_s = self._counts()
        outcome = self._generator.open(self._server.grpc, self._model, self._rate)
        told, ends = self._status(admin), time.monotonic() + _REST_S
        while told.waiting and time.monotonic() < ends:
            time.sleep(0.1)
            told = self._status(admin)
        after_s, after, own_after_s = self._counts()
        if outcome.p99_ms is None:
            raise RuntimeError("requests were not answered in time; give a smaller --load")
        own, served = own_after_s - own_s, after - answers
        processor_us = (after_s - processor_s - own) * 1e6 / served
        return Usage(processor_us, outcome.p99_ms, served, told.answers, told.dropped, own)

    def _status(self, admin: repository_pb2_grpc.RepositoryStub) -> pb.Comparison:
        found = admin.Status(pb.StatusRequest(model=self._model), timeout=_LOAD_S).comparisons
        running = [each for each in found if each.state == pb.COMPARISON_STATE_RUNNING]
        return running[0] if running else pb.Comparison()

    def _counts(self) -> tuple[float, int, float]:
        """Return processor time in s, requests answered, and processor time of the shadow's runs in s."""
        with grpc.insecure_channel(self._server.grpc) as channel:
            stub = oip_grpc.GRPCInferenceServiceStub(channel)
            request = oip.ModelStatisticsRequest(name=self._model, version=str(_SERVING))
            (statistics,) = stub.ModelStatistics(request).model_stats
        with urllib.request.urlopen(f"http://{self._server.http}/metrics") as response:
            text = response.read().decode()
        own_s = sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "resonnx_comparison_processor_seconds_total"
        )
        return self._server.processor_s, statistics.inference_stats.success.count, own_s


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a confidence interval of at least 95 % of the median, by order; all of them if they are fewer than 6."""
    ordered, count, outside = sorted(values), len(values), 0.0
    for cut in range(count // 2):
        outside += 2 * math.comb(count, cut) / 2**count
        if outside > 0.05:
            return ordered[max(0, cut - 1)], ordered[count - max(1, cut)]
    return ordered[0], ordered[-1]


def main() -> int:
    """Measure, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="a model's folder")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--load", type=float, default=0.6, help="share of a closed loop's throughput")
    parser.add_argument("--share", type=float, default=0.1, help="of requests that are compared")
    parser.add_argument("--perf-analyzer", type=Path, default=None)
    parser.add_argument("--json", type=Path, help="write every round's figures")
    given = parser.parse_args()
    model: Path = given.model or repository(("small",)) / "small"
    source = max((entry for entry in model.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
    generator = Generator(find_perf_analyzer(given.perf_analyzer), given.seconds)
    before, pairs = machine(), list[Pair]()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(source, Path(folder) / model.name / str(_SERVING))
        flags = ("--control-mode", "explicit", "--load-models", model.name, "--admin-port", "0")
        with serving(Path(folder), "--cache-dir", f"{folder}/.cache", *flags) as server:
            # Only now, so that the first version serves.
            shutil.copytree(source, Path(folder) / model.name / str(_NEW))
            rate = given.load * generator.closed(server.grpc, model.name, _CALLERS).rate
            measurement = Measurement(server, model.name, generator, rate, given.share)
            for number in range(given.rounds):
                # To and fro, so that a machine that grows slower harms neither more.
                order = (False, True) if number % 2 else (True, False)
                usages = {shadow: measurement.measure(shadow=shadow) for shadow in order}
                pairs.append(Pair(usages[False], usages[True]))
                print(f"{usages[False]}\n{usages[True]}", file=sys.stderr, flush=True)
    is_met = True
    for name, bound in (("processor", _MOST_PROCESSOR), ("p99", _MOST_P99)):
        values = [getattr(pair, name) for pair in pairs]
        low, high = interval(values)
        is_met &= median(values) <= bound
        print(f"{name}: {median(values):.3f} times (95 %: {low:.3f} to {high:.3f}), at most {bound}")
    compared, dropped = (sum(getattr(pair.beside, name) for pair in pairs) for name in ("compared", "dropped"))
    print(f"{rate:.0f}/s by {generator.name}, {len(pairs)} rounds; {compared} compared, {dropped} dropped")
    if given.json:
        content = {"machine": before, "generator": generator.name, "rate": rate, "share": given.share}
        given.json.write_text(json.dumps({**content, "rounds": [asdict(pair) for pair in pairs]}, indent=1) + "\n")
    return int(not is_met)


if __name__ == "__main__":
    sys.exit(main())
