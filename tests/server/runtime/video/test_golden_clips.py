"""Golden examples of video classifiers: clips in golden.npz, checked before they are used."""

import re
from dataclasses import replace

import numpy as np
import pytest
from resonnx_server.errors import ModelRefused
from resonnx_server.runtime.model_files.golden_examples import Golden, dump_golden, parse_golden
from resonnx_server.runtime.video.clips import Clips, joined, padded

from .test_spec import manifest_of

_RNG = np.random.default_rng(0)
FRAMES = Golden(
    _RNG.integers(0, 256, (6, 32, 32, 3), np.uint8),
    logits=_RNG.standard_normal((3, 2), np.float32),
    lengths=np.array([1, 2, 3], np.int64),
)
FEATURES = replace(
    FRAMES, images=np.zeros((0, 0, 0, 3), np.uint8), features=_RNG.standard_normal((6, 8), np.float32)
)  # fmt: skip


@pytest.mark.parametrize("given", [False, True])
def test_clips_are_read_as_they_were_written(given: bool) -> None:
    golden = FEATURES if given else FRAMES
    read = parse_golden(dump_golden(golden), manifest_of(given=given))
    assert np.array_equal(read.clips.frames, golden.clips.frames)
    assert read.clips.lengths.tolist() == [1, 2, 3]
    assert np.array_equal(read.logits, golden.logits)


REFUSED = {
    "lengths of clips that do not add up": replace(FRAMES, lengths=np.array([1, 2, 2], np.int64)),
    "lengths of clips that do not add up to its 6": replace(FRAMES, lengths=np.array([0, 3, 3], np.int64)),
    "logits [3, 2] of 2 clips": replace(FRAMES, lengths=np.array([3, 3], np.int64)),
    "pictures, unlike the manifest": replace(FRAMES, images=FRAMES.images[:3], lengths=None),
    "holds 33 pictures; at most 32": replace(
        FRAMES, images=np.zeros((33, 32, 32, 3), np.uint8), lengths=np.array([1, 1, 31], np.int64)
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_no_set_of_clips_is_refused(said: str) -> None:
    with pytest.raises(ModelRefused, match=re.escape(said)):
        parse_golden(dump_golden(REFUSED[said]), manifest_of())


def test_clips_are_cut_and_padded_by_their_lengths() -> None:
    clips = joined([np.full((length, 2), length, np.float32) for length in (1, 3, 2)])
    assert [len(clip) for clip in clips] == [1, 3, 2]
    middle = clips[1:3]
    assert middle.lengths.tolist() == [3, 2]
    assert middle.frames[:, 0].tolist() == [3, 3, 3, 2, 2]
    assert len(clips[3:]) == 0
    assert padded(middle.frames, middle.lengths)[:, :, 0].tolist() == [[3, 3, 3], [2, 2, 0]]
    assert isinstance(middle, Clips)
