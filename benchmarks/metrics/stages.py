"""Whether the stages that the server measures add up to the time of its requests, and what its callers see beside it.

    python benchmarks/metrics/stages.py --repository models [--seconds 6] [--callers 8]

A real server of the demo models (`digits`, `scenes`) answers picture files in a closed loop: unary calls, a stream of
pictures, captions, and captions word by word. Shown are the means of a request by stage, from the sums in /metrics, and
their sum relative to the mean of resonnx_request_duration_seconds; and beside it the mean time between a caller's
request and its answer, which has gRPC and the network as well. Exit status 1 if the stages miss the request's time by
more than 5 %.
"""

import argparse
import json
import re
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1]))

from load.server_process import Serving, serving
from resonnx import Client
from resonnx_export.demo import samples
from rich.console import Console
from rich.table import Table

_MOST_DIFFERENCE = 0.05
_SAMPLE = re.compile(r"(resonnx_request_(?:stage_seconds_total|duration_seconds_(?:sum|count)))\{(.*)\} (\S+)")
_STAGES = ("admission", "decode", "queue", "compute", "between_steps", "answer")
_ASKED_PICTURES = 64

# Sends one request, or a stream of many, and returns how many were answered.
Ask = Callable[[Client, list[bytes]], int]


def _classify(client: Client, pictures: list[bytes]) -> int:
    client.classify(pictures[0], "digits")
    return 1


def _classify_stream(client: Client, pictures: list[bytes]) -> int:
    return sum(1 for _ in client.classify_stream(pictures, "digits"))


def _caption(client: Client, pictures: list[bytes]) -> int:
    client.caption(pictures[0], "scenes")
    return 1


def _caption_words(client: Client, pictures: list[bytes]) -> int:
    for _ in client.stream_caption(pictures[0], "scenes"):
        pass
    return 1


# The function that sends requests, the model, and whether each of a caller's times is of one request.
_WAYS: dict[str, tuple[Ask, str, bool]] = {
    "classify": (_classify, "digits", True),
    "classify, stream": (_classify_stream, "digits", False),
    "caption": (_caption, "scenes", True),
    "caption, word by word": (_caption_words, "scenes", True),
}


def totals(server: Serving, model: str) -> Counter[str]:
    """Return seconds by stage, and `whole` and `count` of requests, of a model since its start."""
    with urllib.request.urlopen(f"http://{server.http}/metrics", timeout=10) as answer:
        page = answer.read().decode()
    found: Counter[str] = Counter()
    for line in page.splitlines():
        if (sample := _SAMPLE.fullmatch(line)) is not None and f'model="{model}"' in sample[2]:
            stage = re.search(r'stage="(\w+)"', sample[2])
            name = stage[1] if stage else "count" if sample[1].endswith("count") else "whole"
            found[name] += float(sample[3])  # type: ignore[assignment]
    return found


def load(address: str, ask: Ask, pictures: list[bytes], callers: int, seconds: float) -> tuple[int, float]:
    """Ask from `callers` threads for so long; return the answers, and the seconds that callers waited for them."""
    answers, waited = [0] * callers, [0.0] * callers

    def run(number: int) -> None:
        turns = cycle(range(len(pictures)))
        with Client(address) as client:
            while time.monotonic() < end:
                first = next(turns)
                began = time.perf_counter()
                answers[number] += ask(client, pictures[first:] + pictures[:first])
                waited[number] += time.perf_counter() - began

    end = time.monotonic() + seconds
    threads = [threading.Thread(target=run, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(answers), sum(waited)


def _pictures(folder: Path) -> dict[str, list[bytes]]:
    """Return files of held-out pictures by model."""
    truth = json.loads(samples.write_samples(folder, _ASKED_PICTURES, seed=1).read_text())
    found: dict[str, list[bytes]] = {"digits": [], "scenes": []}
    for name, entry in truth.items():
        found[entry["model"]].append((folder / name).read_bytes())
    return found


def main() -> int:
    """Measure and show; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", type=Path, required=True, help="folder of the demo models")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load for each way")
    parser.add_argument("--callers", type=int, default=8, help="threads, each with a connection")
    given = parser.parse_args()
    table = Table("calls", "requests", *_STAGES, "sum / request", "request ms", "caller ms", title="mean ms by stage")
    worst = 0.0
    with TemporaryDirectory() as folder, serving(given.repository) as server:
        pictures = _pictures(Path(folder))
        for way, (ask, model, is_single) in _WAYS.items():
            load(server.grpc, ask, pictures[model], given.callers, 0.5)
            before = totals(server, model)
            answers, waited_s = load(server.grpc, ask, pictures[model], given.callers, given.seconds)
            # Pages are made anew five times a second.
            time.sleep(0.3)
            spent = totals(server, model)
            spent.subtract(before)
            count = round(spent["count"])
            if count != answers:
                raise RuntimeError(f"{way}: {answers} answers, of which the server counts {count}")
            ratio = sum(spent[stage] for stage in _STAGES) / spent["whole"]
            worst = max(worst, abs(ratio - 1))
            shown = [f"{spent[stage] / count * 1e3:.3f}" for stage in _STAGES]
            caller = f"{waited_s / answers * 1e3:.3f}" if is_single else ""
            table.add_row(way, str(count), *shown, f"{ratio:.4f}", f"{spent['whole'] / count * 1e3:.3f}", caller)
    Console(width=160).print(table)
    print(f"largest difference: {worst:.2%} (at most {_MOST_DIFFERENCE:.0%})")
    return int(worst > _MOST_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(main())
