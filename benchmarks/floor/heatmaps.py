"""What the output of the feature map costs: ONNX Runtime's processor time for a run with and without it, in turns.

    PYTHONPATH=benchmarks python benchmarks/floor/heatmaps.py [--rounds 60] [--batch 1]

For ResNet-50 in fp32 and int8, three runs a round, in an order that changes: a session of model.onnx without the output
feature_map, one with it that does not fetch it, as for requests without heatmaps, and the same with the map fetched.
Ratios to the first are taken round by round: medians, with 95 % intervals. The optimised graphs are compared as well.
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
from resonnx_server.runtime.class_activation import FEATURE_MAP
from resonnx_server.runtime.graphs import CLASSIFIER_OUTPUTS, IMAGE
from resonnx_server.runtime.session import CPU

_MODELS = ("resnet50", "resnet50_int8")
_SIDE = 224
_WARM_RUNS = 2


def _without_map(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    (output,) = (output for output in proto.graph.output if output.name == FEATURE_MAP)
    proto.graph.output.remove(output)
    return proto.SerializeToString()


def _opened(model: bytes, optimised: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(model, options, providers=[CPU])


def _operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--batch", type=int, default=1)
    given = parser.parse_args()
    models = repository(_MODELS)
    pictures = np.random.default_rng(0).integers(0, 256, (given.batch, _SIDE, _SIDE, 3), dtype=np.uint8)
    for name in _MODELS:
        model = (models / name / "1/model.onnx").read_bytes()
        with TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{i}.onnx" for i in range(2)]
            plain, mapped = _opened(_without_map(model), paths[0]), _opened(model, paths[1])
            same = _operators(paths[0]) == _operators(paths[1])
        ways = [
            (plain, list(CLASSIFIER_OUTPUTS)),
            (mapped, list(CLASSIFIER_OUTPUTS)),
            (mapped, [*CLASSIFIER_OUTPUTS, FEATURE_MAP]),
        ]

        def run(way: int, ways: list[tuple[ort.InferenceSession, list[str]]] = ways) -> int:
            session, outputs = ways[way]
            began = time.thread_time_ns()
            session.run(outputs, {IMAGE: pictures})
            return time.thread_time_ns() - began

        rounds = []
        for number in range(-_WARM_RUNS, given.rounds):
            times = {way: run(way) for way in np.roll(range(3), number).tolist()}
            if number >= 0:
                rounds.append(times)
        print(f"{name}, batch {given.batch}: {median(each[0] for each in rounds) / 1e6:.2f} ms without the output")
        print(f"  same operators after optimisation: {'yes' if same else 'no'}")
        for way, what in ((1, "not fetched"), (2, "fetched")):
            ratios = [each[way] / each[0] for each in rounds]
            low, high = interval(ratios)
            print(f"  {what}: {median(ratios):.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
