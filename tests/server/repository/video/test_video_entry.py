"""A version of a video classifier is loaded if all of its graphs agree with the golden clips, and only then."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.inference.model import Model
from resonnx_server.inference.tasks import VIDEO
from resonnx_server.repository.loader import TASKS
from resonnx_server.runtime.model_files.manifest import VersionFiles
from resonnx_server.scheduling.device import Device

from ... import clip_model
from ...onnx_classifier import version as version_of


async def load(files: VersionFiles, **settings: object) -> Model:
    device = Device("test", 1)
    try:
        version = version_of(device, **settings)
        entry = TASKS[files.manifest.task]
        model = (await asyncio.to_thread(entry.load, version, files, clip_model.golden(clip_model.files())))()
        model.engine.close()
        return model
    finally:
        device.close()


async def test_a_version_serves_with_the_sessions_of_its_graphs() -> None:
    model = await load(clip_model.files(), max_frames=10)
    assert model.task is VIDEO
    assert [each.file for each in model.sessions] == ["encoder.onnx", "sequence.onnx", "step.onnx"]
    assert model.engine.batch_bytes > 0
    assert model.engine.max_frames == 10  # type: ignore[attr-defined]


async def test_a_model_of_both_directions_has_no_step() -> None:
    files = clip_model.files(bidirectional=True)
    device = Device("test", 1)
    try:
        golden = clip_model.golden(files)
        start = await asyncio.to_thread(TASKS[files.manifest.task].load, version_of(device), files, golden)
        model = start()
        model.engine.close()
    finally:
        device.close()
    assert [each.file for each in model.sessions] == ["encoder.onnx", "sequence.onnx"]


@pytest.mark.parametrize("file", ["encoder.onnx", "sequence.onnx", "step.onnx"])
async def test_a_graph_that_answers_otherwise_is_refused(file: str) -> None:
    files = clip_model.files()
    other = clip_model.files(seed=6)
    with pytest.raises(ModelRefused, match="disagree with the golden examples"):
        await load(VersionFiles("identity", {**files.files, file: other.files[file]}, files.manifest))


async def test_goldens_of_pictures_are_no_clips() -> None:
    files = clip_model.files()
    golden = replace(clip_model.golden(files), lengths=None)
    device = Device("test", 1)
    try:
        with pytest.raises(ModelRefused, match="holds no clips"):
            await asyncio.to_thread(TASKS[files.manifest.task].load, version_of(device), files, golden)
    finally:
        device.close()
    assert np.isfinite(golden.logits).all()  # type: ignore[arg-type]
