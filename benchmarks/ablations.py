"""The gain of single mechanisms of the server: each on and off in turns, on the real server.

    python benchmarks/ablations.py [--rounds 5] [--only decode-cost] [--json FILE]

    decode-cost    predicted decode times: 3x the pictures that can be decoded, each with a deadline; goodput
    remeasurement  a second measurement of doubtful latency tables: started beside busy processes, then again without;
                   throughput of 32 callers and p50 of one after the second start

A server with a mechanism switched off is started by this file, too (--off NAME): its module is changed before the
server is loaded. Mechanisms without a gain beyond noise have been deleted (notes/ablations.md).
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from load.generator import Generator
from load.server_process import Serving, running
from pictures.photographs import picture
from random_models.classifiers import repository
from reports.rounds import Rounds

_MODEL: Final = "small"
_PICTURE: Final = (3000, 2250)
# Deadline of the overload, in times of one picture alone.
_PATIENCE: Final = 10


def _no_decode_cost() -> None:
    from resonnx_server.preprocessing.decode_cost import DecodeCost

    DecodeCost.expected_ns = lambda *_: 0.0  # type: ignore[method-assign]


def _no_remeasurement() -> None:
    from resonnx_server.repository import warming
    from resonnx_server.repository.latency_cache import CachedChoice, CachedTable

    CachedTable.is_doubtful = False  # type: ignore[assignment, method-assign]
    CachedChoice.is_doubtful = False  # type: ignore[assignment, method-assign]
    warming.far_above = lambda medians: set()  # type: ignore[attr-defined]


SWITCHES: Mapping[str, Callable[[], None]] = {
    "decode-cost": _no_decode_cost,
    "remeasurement": _no_remeasurement,
}


class Ablations:
    """Measures the mechanisms.

    Args:
        folder: A folder for pictures and caches.
        generator: Sends the load.
    """

    def __init__(self, folder: Path, generator: Generator) -> None:
        self._folder, self._generator = folder, generator
        self._models = folder / "models"
        self._models.mkdir()
        (self._models / _MODEL).symlink_to((repository((_MODEL,)) / _MODEL).resolve())
        self._pictures = []
        for i in range(4):
            self._pictures.append(folder / f"{i}.jpg")
            picture(np.random.default_rng(i), *_PICTURE).save(self._pictures[i], quality=50)
        self._overload: tuple[float, float] | None = None

    def measure(self, mechanism: str, off: str | None) -> dict[str, float]:
        """Measure a mechanism once, with `off` switched off; returns the figures by name."""
        return {"decode-cost": self._decoding, "remeasurement": self._remeasurement}[mechanism](off)

    def _decoding(self, off: str | None) -> dict[str, float]:
        with self._serving(off) as server:
            if self._overload is None:
                alone = self._generator.closed(server.grpc, _MODEL, 1, files=self._pictures)
                peak = self._generator.closed(server.grpc, _MODEL, 8, files=self._pictures)
                assert alone.p50_ms is not None
                self._overload = 3 * peak.rate, _PATIENCE * alone.p50_ms
            rate, deadline_ms = self._overload
            # Decode costs are learnt from the first pictures.
            self._generator.closed(server.grpc, _MODEL, 2, files=self._pictures)
            found = self._generator.open(server.grpc, _MODEL, rate, deadline_ms=deadline_ms, files=self._pictures)
        return {"in time per s": found.rate}

    def _remeasurement(self, off: str | None) -> dict[str, float]:
        with tempfile.TemporaryDirectory() as cache:
            with _busy(2), self._serving(off, cache):
                pass
            with self._serving(off, cache) as server:
                rate = self._generator.closed(server.grpc, _MODEL, 32).rate
                return {"answers per s": rate, "p50 ms": self._alone_ms(server)}

    def _alone_ms(self, server: Serving) -> float:
        found = self._generator.closed(server.grpc, _MODEL, 1).p50_ms
        assert found is not None
        return found

    @contextmanager
    def _serving(self, off: str | None, cache: str | None = None) -> Iterator[Serving]:
        program = [__file__, "--off", off] if off else ["-m", "resonnx_server"]
        flags = ["--repository", str(self._models), "--cache-dir", cache or str(self._folder / "cache")]
        flags += ["--port", "0", "--http-port", "0", "--log-level", "error"]
        with running([sys.executable, *program, *flags]) as server:
            yield server


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep processors busy with other processes."""
    processes = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _spin() -> None:
    while True:
        pass


def main() -> int:
    """Measure, or serve with a mechanism switched off."""
    if sys.argv[1:2] == ["--off"]:
        SWITCHES[sys.argv[2]]()
        del sys.argv[1:3]
        from resonnx_server.command import run

        run()
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="measured time of a load")
    parser.add_argument("--only", default=",".join(SWITCHES))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rounds = Rounds("mechanism", "figure", "switched")
    against: dict[tuple[str, ...], tuple[str, ...]] = {}
    with tempfile.TemporaryDirectory() as folder:
        ablations = Ablations(Path(folder), Generator(None, given.seconds))
        for number in range(given.rounds):
            for mechanism in given.only.split(","):
                # To and fro, so that a machine that grows slower harms neither more.
                for off in (None, mechanism)[:: 1 if number % 2 else -1]:
                    for name, value in ablations.measure(mechanism, off).items():
                        row = (mechanism, name, "off" if off else "on")
                        rounds.add(*row, value=value)
                        against[mechanism, name, "on"] = mechanism, name, "off"
                        print(f"round {number + 1}: {' '.join(row)}: {value:.3f}", file=sys.stderr, flush=True)
    rounds.show(against)
    if given.json:
        rounds.write(given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
