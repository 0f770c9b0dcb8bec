"""Videos through the real server by our client."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import resonnx

from ....running import RunningServer
from ...clip_model import LABELS, clip, files, gif, logits_of


def test_every_form_of_a_clip_gives_the_models_answer(video_server: RunningServer, tmp_path: Path) -> None:
    frames = clip(11)
    (tmp_path / "clip.gif").write_bytes(gif(frames))
    forms = [frames, list(frames), tmp_path / "clip.gif", gif(frames)]

    async def ask() -> resonnx.VideoClassification:
        async with resonnx.AsyncClient(video_server.grpc) as client:
            return await client.classify_video(frames, "motions")

    with resonnx.Client(video_server.grpc) as client:
        answers = [client.classify_video(form, "motions") for form in forms]
    expected = LABELS[int(logits_of(files(), frames).argmax())]
    for answer in (*answers, asyncio.run(ask())):
        assert answer.predictions[0].label == expected
        assert answer.frames_read == tuple(range(11))
        assert [each.score for each in answer.predictions] == pytest.approx(
            [each.score for each in answers[0].predictions], abs=1e-6
        )


def test_what_is_wrong_with_a_frame_is_told(video_server: RunningServer) -> None:
    with resonnx.Client(video_server.grpc) as client:
        with pytest.raises(resonnx.BadImage) as caught:
            client.classify_video([np.zeros((4, 4, 3), np.uint8), b"no picture"], "motions")
        assert caught.value.field == "frames.images[1].encoded"
        with pytest.raises(resonnx.BadClip):
            client.classify_video(b"GIF89a, no more", "motions")


def test_the_last_answer_of_a_stream_is_that_of_the_whole_clip(video_server: RunningServer) -> None:
    with resonnx.Client(video_server.grpc) as client:
        *before, last = client.classify_video_stream(clip(11), "motions")
        whole = client.classify_video(clip(11), "motions")
    assert [update.frames_read for update in before] == [*range(1, 12)]
    assert last.is_final
    assert [each.score for each in last.predictions] == pytest.approx(
        [each.score for each in whole.predictions], abs=1e-6
    )
