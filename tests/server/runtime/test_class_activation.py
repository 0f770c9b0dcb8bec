"""Class activation maps of a linear layer that is read from an ONNX file, and files that lack it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.class_activation import CLASS_BIAS, CLASS_WEIGHTS, ClassActivation

CLASSES, FEATURES, ROWS, COLUMNS = 4, 3, 2, 5
SPEC = pb.ClassifierSpec(
    labels=["a", "b", "c", "d"],
    feature_size=FEATURES,
    heatmaps=pb.ClassifierSpec.Heatmaps(rows=ROWS, columns=COLUMNS),
)
RNG = np.random.default_rng(0)
WEIGHTS, BIAS = RNG.standard_normal((CLASSES, FEATURES)), RNG.standard_normal(CLASSES)


def _file(*tensors: onnx.TensorProto) -> bytes:
    graph = helper.make_graph([], "empty", [], [], list(tensors))
    return helper.make_model(graph).SerializeToString()


def _tensor(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def _head() -> ClassActivation:
    return ClassActivation.of(_file(_tensor(CLASS_WEIGHTS, WEIGHTS), _tensor(CLASS_BIAS, BIAS)), SPEC)


def test_the_mean_of_a_map_and_the_bias_are_the_logit() -> None:
    head = _head()
    maps = RNG.standard_normal((2, FEATURES, ROWS, COLUMNS)).astype(np.float32)
    logits = maps.mean(axis=(2, 3)) @ WEIGHTS.T + BIAS
    for feature_map, expected in zip(maps, logits, strict=True):
        found = head.maps(feature_map, [3, 1])
        assert found.shape == (2, ROWS, COLUMNS)
        assert found.mean(axis=(1, 2)) + head.bias[[3, 1]] == pytest.approx(expected[[3, 1]], rel=1e-4)
        # By the definition, at each position.
        assert found[0] == pytest.approx(np.einsum("d,dhw->hw", WEIGHTS[3], feature_map), rel=1e-4, abs=1e-5)
    assert head.gives(maps, logits)
    assert head.deviation(maps, logits + 0.5) == pytest.approx(0.5, abs=1e-5)
    assert not head.gives(maps[::-1], logits)
    assert not head.gives(np.full_like(maps, np.nan), logits)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ([], "no initializer 'class_weights'"),
        ([_tensor(CLASS_WEIGHTS, WEIGHTS)], "no initializer 'class_bias'"),
        (
            [_tensor(CLASS_WEIGHTS, WEIGHTS.T), _tensor(CLASS_BIAS, BIAS)],
            r"is \[3, 4\] of 48 bytes, not float32 \[4, any\]",
        ),
        (
            [numpy_helper.from_array(WEIGHTS, CLASS_WEIGHTS), _tensor(CLASS_BIAS, BIAS)],
            r"of 96 bytes, not float32 \[4, any\]",
        ),
        (
            [helper.make_tensor(CLASS_WEIGHTS, TensorProto.FLOAT, (4, 3), WEIGHTS.ravel()), _tensor(CLASS_BIAS, BIAS)],
            "of 0 bytes",
        ),
    ],
)
def test_files_without_the_layer_are_refused(tensors: list[onnx.TensorProto], message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        ClassActivation.of(_file(*tensors), SPEC)


def test_a_damaged_file_is_refused() -> None:
    whole = _file(_tensor(CLASS_WEIGHTS, WEIGHTS), _tensor(CLASS_BIAS, BIAS))
    for size in range(0, len(whole) - 1, 7):
        with pytest.raises(ModelRefused):
            ClassActivation.of(whole[:size], SPEC)
