"""Animated GIF and WebP: the frames of the rule, as Pillow composes them and the recipe resizes them."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from resonnx_server.errors import BadClip, ClipTooCostly, Unavailable
from resonnx_server.preprocessing.clips import animations, webp_frames
from resonnx_server.preprocessing.clips.decode import Clip, ClipDecoder
from resonnx_server.preprocessing.clips.limits import ClipLimits, TimeLimit
from resonnx_server.preprocessing.clips.sampling import Rule, Sampling
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures.options import PictureOptions

from .clip_files import OPTIONS, animated, frame, gif, moving, shown

ALL = Sampling()


async def read(
    encoded: bytes,
    sampling: Sampling = ALL,
    *,
    options: PictureOptions = OPTIONS,
    most: int = 100,
    limits: ClipLimits | None = None,
) -> Clip:
    decoder = Decoder(1)
    try:
        clips = ClipDecoder(decoder, limits)
        plan = await clips.plan(encoded, options, sampling, most, "clip")
        clip = await clips.load(plan, 1)
        assert len(clip.frames) == len(plan.indices)
        return clip
    finally:
        assert await decoder.close(10)


FILES = {
    "gif": animated(moving(9), "GIF"),
    "gif restored": animated(moving(9, clear=True), "GIF", disposal=2),
    "gif previous": animated(moving(9, clear=True), "GIF", disposal=3),
    "gif kept": animated(moving(9, clear=True), "GIF", disposal=1),
    "gif still": animated(moving(1), "GIF"),
    "gif parts": gif([frame(), frame(2, 3, 4, 5, disposal=3), frame(1, 1, 2, 2, disposal=2), frame(5, 5, 3, 3)]),
    "webp": animated(moving(9), "WEBP"),
    "webp clear": animated(moving(9, clear=True), "WEBP"),
    "webp lossy": animated(moving(9), "WEBP", lossless=False, quality=60),
    "webp still": animated(moving(1), "WEBP"),
}


@pytest.mark.parametrize("name", FILES)
async def test_frames_are_composed_as_by_pillow_and_resized_as_pictures(name: str) -> None:
    encoded = FILES[name]
    clip = await read(encoded)
    expected = shown(encoded, list(range(clip.count)))
    assert clip.frames.shape == (clip.count, 20, 24, 3)
    assert clip.count == (1 if "still" in name else 4 if "parts" in name else 9)
    np.testing.assert_array_equal(clip.frames, expected)


@pytest.mark.parametrize("name", ["gif previous", "webp clear"])
@pytest.mark.parametrize(
    ("sampling", "indices"),
    [
        (Sampling(Rule.EVERY, n=4), [0, 4, 8]),
        (Sampling(Rule.UNIFORM, n=2), [2, 6]),
        # 40 ms a frame.
        (Sampling(Rule.TIME, frames_per_second=10), [0, 3, 5, 8]),
    ],
)
async def test_sampled_frames_are_those_of_the_whole_clip(name: str, sampling: Sampling, indices: list[int]) -> None:
    clip = await read(FILES[name], sampling)
    np.testing.assert_array_equal(clip.frames, shown(FILES[name], indices))
    assert clip.times_s == pytest.approx([0.04 * index for index in indices])
    assert clip.count == 9


async def test_without_the_library_webp_is_composed_by_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert webp_frames._library() is not None
    ours = await read(FILES["webp clear"])
    monkeypatch.setattr(webp_frames, "_library", lambda: None)
    pillows = await read(FILES["webp clear"])
    np.testing.assert_array_equal(ours.frames, pillows.frames)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
async def test_frames_of_no_duration_take_as_long_as_browsers_show_them(format: str) -> None:
    encoded = animated(moving(4), format, duration=[0, 10, 20, 500], loop=3)
    clip = await read(encoded)
    assert clip.times_s == pytest.approx([0.0, 0.1, 0.2, 0.22])
    assert clip.count == 4


async def test_frames_are_turned_upright_where_the_model_has_it_so() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = animated(moving(3), "WEBP", exif=exif)
    turned = [picture.transpose(Image.Transpose.ROTATE_270) for picture in moving(3)]
    clip = await read(encoded, options=replace(OPTIONS, exif_orientation="apply"))
    np.testing.assert_array_equal(clip.frames, shown(animated(turned, "WEBP"), [0, 1, 2]))
    as_stored = await read(encoded)
    np.testing.assert_array_equal(as_stored.frames, shown(encoded, [0, 1, 2]))


SMALL = ClipLimits(max_bytes=100_000, max_frames=20, max_frame_pixels=2_000, max_pixels=30_000)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
@pytest.mark.parametrize(
    ("pictures", "sampling", "message"),
    [
        (moving(21), ALL, "clip: 21 frames or more; a clip has at most 20 before sampling"),
        (moving(2, (50, 41)), ALL, "clip: frames of 50x41 are 2050 pixels each, more than 2000"),
        (moving(16), ALL, "clip: 16 frames of 48x40 are 30720 pixels to decode, more than 30000"),
        (moving(12), Sampling(Rule.EVERY, n=2), "clip: 6 frames after sampling (every); the model reads at most 5"),
    ],
)
async def test_limits_are_checked_before_decoding(
    format: str, pictures: list[Image.Image], sampling: Sampling, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(animations, "_gif_canvases")
    monkeypatch.delattr(animations, "webp_canvases")
    most = 5 if sampling is not ALL else 100
    with pytest.raises(BadClip) as refused:
        await read(animated(pictures, format), sampling, limits=SMALL, most=most)
    assert refused.value.message.startswith(message)
    assert refused.value.field == "clip"


async def test_frames_behind_the_last_sampled_one_cost_nothing() -> None:
    # Frames 0, 6 and 12 of 16: 13 * 1920 pixels.
    clip = await read(animated(moving(16), "GIF"), Sampling(Rule.EVERY, n=6), limits=SMALL)
    assert len(clip.frames) == 3


@pytest.mark.parametrize(
    ("encoded", "options", "message"),
    [
        (bytes(100_001), OPTIONS, "clip: 100001 bytes; a clip has at most 100000"),
        (b"", OPTIONS, "clip: an empty file; accepted clips are"),
        (animated(moving(2), "PNG"), OPTIONS, "clip: a PNG picture; accepted clips are"),
        (FILES["gif"], replace(OPTIONS, formats=("JPEG",)), "clip: a GIF picture, which the server's `formats` do not"),
        (FILES["webp"], replace(OPTIONS, max_side=47), "clip: frames of 48x40 pixels; a side must be within 1..47"),
        (FILES["gif"], replace(OPTIONS, max_pixels=1900), "clip: frames of 48x40 are 1920 pixels each, more than 1900"),
    ],
)
async def test_what_is_no_clip_or_no_picture_is_refused(encoded: bytes, options: PictureOptions, message: str) -> None:
    with pytest.raises(BadClip) as refused:
        await read(encoded, options=options, limits=SMALL)
    assert refused.value.message.startswith(message)


async def test_a_clip_that_never_fits_the_memory_is_refused() -> None:
    decoder = Decoder(1, largest=1 << 20)
    with pytest.raises(BadClip, match=r"frames of 48x40 pixels take \d+ bytes to decode; memory_budget_bytes leaves"):
        await ClipDecoder(decoder).plan(FILES["gif"], OPTIONS, ALL, 100, "clip")
    assert await decoder.close(10)


@pytest.mark.parametrize("name", ["gif", "webp"])
async def test_a_clip_that_takes_too_long_ends(name: str) -> None:
    with pytest.raises(ClipTooCostly, match="clip: it takes longer than 0 s to decode"):
        await read(FILES[name], limits=ClipLimits(max_decode_s=0.0))


async def test_decoding_ends_where_nobody_waits_or_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(1)
    clips = ClipDecoder(decoder)
    loop, began, is_stopped = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    check = TimeLimit.check

    def until_stopped(limit: TimeLimit) -> None:
        loop.call_soon_threadsafe(began.set)
        assert limit._stopped.wait(20)
        loop.call_soon_threadsafe(is_stopped.set)
        check(limit)

    monkeypatch.setattr(TimeLimit, "check", until_stopped)
    for end in ("cancel", "stop"):
        began.clear()
        is_stopped.clear()
        task = asyncio.create_task(clips.load(await clips.plan(FILES["gif"], OPTIONS, ALL, 100, "clip"), 1))
        await began.wait()
        if end == "cancel":
            task.cancel()
        else:
            clips.stop()
        await is_stopped.wait()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else Unavailable):
            await task
    assert await decoder.close(10)


async def test_the_time_of_clips_is_learnt_by_their_pixels() -> None:
    decoder = Decoder(1)
    clips = ClipDecoder(decoder)
    encoded = animated(moving(19, (400, 300)), "GIF")
    long = await clips.plan(encoded, OPTIONS, ALL, 100, "clip")
    assert clips.expected(long, 1).alone_ns == 0.0
    await clips.load(long, 1)
    whole_ns = clips.expected(long, 1).alone_ns
    encoded = animated(moving(4, (400, 300)), "GIF")
    short = await clips.plan(encoded, OPTIONS, ALL, 100, "clip")
    assert 0.2 < clips.expected(short, 1).alone_ns / whole_ns < 0.25
    assert await decoder.close(10)
