"""Every published architecture becomes an ONNX graph that gives PyTorch's logits, at several batch sizes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from resonnx_export.graphs.trace import trace_classifier
from resonnx_export.networks.resnet import ARCHITECTURES
from resonnx_export.pictures.recipe import image_input
from resonnx_export.pictures.synthetic import check_pictures
from resonnx_export.proof.parity import open_session
from resonnx_export.proof.reference import normalise

from ..conftest import random_network

PUBLISHED = [name for name, config in ARCHITECTURES.items() if config.stem == "imagenet" and config.planes == 64]


def test_there_are_ten() -> None:
    assert len(PUBLISHED) == 10


# With all their channels they take 5 to 30 s each; tests of layouts have small networks of each kind of block.
@pytest.mark.parametrize(
    ("architecture", "planes"),
    [("resnet18", 8), *(pytest.param(name, 64, marks=pytest.mark.slow) for name in PUBLISHED)],
)
def test_logits_equal_pytorchs(architecture: str, planes: int) -> None:
    recipe = image_input(64, resize_short_side=None)
    network = random_network(replace(ARCHITECTURES[architecture], planes=planes), size=64)
    model = trace_classifier(network, recipe)
    session = open_session(model)
    for batch in (1, 3, 7):
        images = check_pictures(recipe, batch, seed=batch)
        reference = network(normalise(images, recipe)).numpy()
        assert 0.1 < np.abs(reference).max() < 1e4
        logits = session.run({"image": images}, ["logits"])["logits"]
        assert np.abs(logits - reference).max() <= 1e-4 * np.abs(reference).max()
    assert [tensor.name for tensor in session.outputs] == ["probabilities", "logits", "features"]
    assert b"site-packages" not in model
    assert not any(node.metadata_props or node.doc_string for node in onnx.load_model_from_string(model).graph.node)
