"""GetModel with the details of a model's origin, and without."""

from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from resonnx_proto.v1 import manifest_pb2
from resonnx_server.inference.registry import Model, Models
from resonnx_server.inference.tasks import CLASSIFY
from resonnx_server.rpc.vision.models import get_model
from resonnx_server.runtime.session import TensorSpec

PIXELS = TensorSpec("input", np.dtype(np.uint8), ("N", 2, 2, 3))


def _model(manifest: manifest_pb2.Manifest | None) -> Model:
    stats: Any = Mock()
    return Model("m", 1, CLASSIFY, manifest, "", True, (PIXELS,), (), 1, 8, sessions=(), stats=stats, engine=Mock())


@pytest.mark.parametrize("details", [True, False])
def test_sources_and_tools_are_told_where_they_may_be(details: bool) -> None:
    manifest = manifest_pb2.Manifest(tool_versions={"torch": "2.10"}, schema_version=3)
    manifest.source.SetInParent()
    answer = get_model(_model(manifest), Models(), max_message_bytes=1, details=details)
    assert (answer.manifest.HasField("source"), bool(answer.manifest.tool_versions)) == (details, details)
    assert answer.manifest.schema_version == 3
    assert manifest.HasField("source"), "the model keeps its own"


@pytest.mark.parametrize("details", [True, False])
def test_a_model_without_a_manifest_has_none_either_way(details: bool) -> None:
    assert not get_model(_model(None), Models(), max_message_bytes=1, details=details).HasField("manifest")
