"""A captioner that proof's tests share, whose tracing takes a second."""

import pytest
from resonnx_proto.v1 import manifest_pb2 as pb

from .drifting import Drifting, drifting_captioner


@pytest.fixture(scope="session")
def drifting(recipe: pb.ImageInput) -> Drifting:
    """Its captions drift, and the late words of many are beyond comparison."""
    return drifting_captioner(recipe)
