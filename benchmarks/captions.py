"""Captions through gRPC, sent as pixels: continuous batching against the other policies.

    python benchmarks/captions.py [--model lstm_int8 | attention_int8] [--rounds 5] [--seconds 8]

One server for each policy on the same model: resonnx-server (continuous), and captioners/policy_server.py (one, rigid).
They take turns within each round, and the medians of the rounds' ratios are printed. Saturation is the throughput of
rigid batches with 128 clients. Exit status 1 if a ratio misses its bound.
"""

import argparse
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from captioners.load import Load, Outcome
from load.server_process import serving
from random_models.captioners import captioners
from resonnx import Client

_POLICIES: Final = ("continuous", "one", "rigid")
_OTHERS: Final = Path(__file__).with_name("captioners") / "policy_server.py"
_SIDES: Final = {"lstm": 224, "attention": 256}
# At 70 % of saturation: queues remember what the machine did to them, so the policies take turns while it changes.
_TURNS: Final = 4
# Least (True) or greatest (False) ratio, by kind of model.
_BOUNDS: Final[dict[str, dict[str, tuple[float, bool]]]] = {
    "lstm": {
        "16 clients, continuous / one": (2.5, True),
        "16 clients, continuous / rigid": (1.0, True),
        "48 clients, continuous / rigid": (1.10, True),
        "p50 at 70 % of saturation, continuous / rigid": (0.82, False),
        "p99 at 70 % of saturation, continuous / rigid": (1.0, False),
        "16 clients, beam 5 / greedy": (0.6, True),
        "first word at 50 % load, ms beyond the encoder": (15.0, False),
    },
    "attention": {
        "16 clients, continuous / one": (2.4, True),
        "16 clients, continuous / rigid": (1.08, True),
        "48 clients, continuous / rigid": (1.20, True),
        "p50 at 70 % of saturation, continuous / rigid": (0.82, False),
        "p99 at 70 % of saturation, continuous / rigid": (0.88, False),
    },
}


def measure(servers: dict[str, str], model: str, seconds: float, seed: int) -> dict[str, float]:
    """Measure one round: every figure of _BOUNDS."""
    side = _SIDES[model.partition("_")[0]]

    def load(policy: str, beam_width: int = 1) -> Load:
        return Load(servers[policy], model, side, beam_width, seed)

    few = {policy: load(policy).closed(16, seconds).rate for policy in _POLICIES}
    many = {policy: load(policy).closed(48, seconds).rate for policy in ("rigid", "continuous")}
    saturation = load("rigid").closed(128, seconds).rate
    steady = {policy: Outcome(0.0) for policy in ("continuous", "rigid")}
    for turn in range(_TURNS):
        for policy, outcome in steady.items():
            outcome.add(Load(servers[policy], model, side, seed=_TURNS * seed + turn).open(0.7 * saturation, seconds))
    figures = {f"16 clients, {policy}: captions/s": rate for policy, rate in few.items()}
    figures |= {f"48 clients, {policy}: captions/s": rate for policy, rate in many.items()}
    for policy, outcome in steady.items():
        figures[f"70 % of saturation, {policy}: p50 ms"] = outcome.p50_ms
        figures[f"70 % of saturation, {policy}: p99 ms"] = outcome.p99_ms
    figures |= {
        "16 clients, continuous / one": few["continuous"] / few["one"],
        "16 clients, continuous / rigid": few["continuous"] / few["rigid"],
        "48 clients, continuous / rigid": many["continuous"] / many["rigid"],
        "p50 at 70 % of saturation, continuous / rigid": steady["continuous"].p50_ms / steady["rigid"].p50_ms,
        "p99 at 70 % of saturation, continuous / rigid": steady["continuous"].p99_ms / steady["rigid"].p99_ms,
        "16 clients, beam 5 / greedy": load("continuous", 5).closed(16, seconds).rate / few["continuous"],
    }
    streamed = load("continuous").open(0.5 * many["continuous"], seconds, stream=True)
    # Which encodes one picture on all cores.
    with Client(servers["one"]) as client:
        encoder_ms = client.model(model).sessions[0].latencies[0].expected_s * 1e3
    figures["first word at 50 % load, ms beyond the encoder"] = median(streamed.first_word_ms) - encoder_ms
    return figures


def main() -> int:
    """Measure and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lstm_int8", help="see random_models/captioners.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    repository = captioners((arguments.model,))
    rounds: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "models").mkdir()
        (folder / "models" / arguments.model).symlink_to((repository / arguments.model).resolve())
        servers = {}
        for policy in _POLICIES:
            runner = () if policy == "continuous" else (str(_OTHERS), policy)
            # All three plan with the same costs.
            flags = ("--cache-dir", str(folder / "tables"))
            servers[policy] = stack.enter_context(serving(folder / "models", *flags, runner=runner)).grpc
        for seed in range(arguments.rounds):
            for name, value in measure(servers, arguments.model, arguments.seconds, seed).items():
                rounds[name].append(value)
    missed = False
    bounds = _BOUNDS[arguments.model.partition("_")[0]]
    for name, values in rounds.items():
        line = f"{name:52}{median(values):8.2f}  ({min(values):.2f} to {max(values):.2f})"
        if name in bounds:
            bound, is_least = bounds[name]
            is_met = median(values) >= bound if is_least else median(values) <= bound
            line += f"  {'at least' if is_least else 'at most'} {bound:g}{'' if is_met else ': MISSED'}"
            missed |= not is_met
        print(line)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
