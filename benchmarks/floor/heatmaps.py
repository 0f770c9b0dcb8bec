"""What the output of the feature map costs: ONNX Runtime's processor time for a run with and without it, in turns.

    PYTHONPATH=benchmarks python benchmarks/floor/heatmaps.py [--rounds 60] [--batch 1] [--provider openvino]

For ResNet-50 in fp32 and int8, three runs a round, in an order that changes: a session of model.onnx without the
output feature_map, one with it that does not fetch it, as for requests without heatmaps, and the same with the map
fetched.
Ratios to the first are taken round by round: medians, with 95 % intervals. On the CPU provider, the optimised graphs
are compared as well. Sessions are opened as the server does, with one thread.
"""

import argparse
import time
from collections import Counter
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from load.shadow import interval
from random_models.classifiers import repository
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.class_activation import FEATURE_MAP
from resonnx_server.runtime.graphs import CLASSIFIER_OUTPUTS, IMAGE
from resonnx_server.runtime.session import CPU, PROVIDERS, Candidate, Session

_MODELS = {"resnet50": pb.PRECISION_FP32, "resnet50_int8": pb.PRECISION_INT8}
_SIDE = 224
_WARM_RUNS = 2


def _without_map(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    (output,) = (output for output in proto.graph.output if output.name == FEATURE_MAP)
    proto.graph.output.remove(output)
    return proto.SerializeToString()


def _operators(model: bytes) -> Counter[str]:
    """Return the operators of a graph as ONNX Runtime optimises it."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    with TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(optimised)
        ort.InferenceSession(model, options, providers=[CPU])
        return Counter(node.op_type for node in onnx.load(optimised).graph.node)


def _measure(session: Session, outputs: list[str], *, pictures: np.ndarray) -> int:
    # Of all threads: OpenVINO computes on its own.
    began = time.process_time_ns()
    session.run({IMAGE: pictures}, outputs)
    return time.process_time_ns() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--provider", choices=PROVIDERS, default="cpu")
    given = parser.parse_args()
    provider, models = PROVIDERS[given.provider], repository(tuple(_MODELS))
    pictures = np.random.default_rng(0).integers(0, 256, (given.batch, _SIDE, _SIDE, 3), dtype=np.uint8)
    for name, precision in _MODELS.items():
        mapped = (models / name / "1/model.onnx").read_bytes()
        plain = _without_map(mapped)
        sessions = [Session(model, Candidate(provider, precision), 1) for model in (plain, mapped)]
        fetched = [*CLASSIFIER_OUTPUTS, FEATURE_MAP]
        ways = [
            (sessions[0], list(CLASSIFIER_OUTPUTS)),
            (sessions[1], list(CLASSIFIER_OUTPUTS)),
            (sessions[1], fetched),
        ]
        rounds = []
        for number in range(-_WARM_RUNS, given.rounds):
            times = {way: _measure(*ways[way], pictures=pictures) for way in np.roll(range(3), number).tolist()}
            if number >= 0:
                rounds.append(times)
        print(f"{name}, batch {given.batch}: {median(each[0] for each in rounds) / 1e6:.2f} ms without the output")
        if provider == CPU:
            same = _operators(plain) == _operators(mapped)
            print(f"  same operators after optimisation: {'yes' if same else 'no'}")
        for way, what in ((1, "not fetched"), (2, "fetched")):
            ratios = [each[way] / each[0] for each in rounds]
            low, high = interval(ratios)
            print(f"  {what}: {median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
