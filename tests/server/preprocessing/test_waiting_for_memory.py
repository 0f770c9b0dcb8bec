"""Who waits for memory to decode into, and whom that holds up."""

import asyncio
import threading

import numpy as np
import pytest
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage
from resonnx_server.preprocessing import decode
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.options import PictureOptions

from ..waiting import until
from .codec import OPTIONS, Codec, decoding, expected, load, turn


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of n bytes takes n megabytes to decode."""
    monkeypatch.setattr(decode, "decoding_bytes", lambda told, options: told.width << 20)
    monkeypatch.setattr(decode, "header", lambda encoded: Header("PNG", len(encoded), 1))


async def test_large_pictures_wait_for_memory_and_small_ones_for_a_thread_alone(codec: Codec, sized: None) -> None:
    async with decoding(3, codec, max_bytes=200 << 20) as decoder:
        loads = [load(decoder, "first", encoded=b"x" * 150)]
        await until(lambda: codec.began == ["first"])
        loads += [load(decoder, "waits", encoded=b"x" * 150), load(decoder, "behind", encoded=b"x" * 20)]
        loads.append(load(decoder, "small"))
        await until(lambda: codec.began == ["first", "small"])
        codec.may_end.release(1)
        # Whichever of the two ends: the small one had no memory to give back.
        await until(lambda: sum(load.done() for load in loads) == 1)
        codec.may_end.release(1)
        await until(lambda: codec.began == ["first", "small", "waits", "behind"])
        codec.may_end.release(2)
        await asyncio.gather(*loads)


async def test_who_waits_for_memory_and_leaves_makes_way(codec: Codec, sized: None) -> None:
    async with decoding(2, codec, max_bytes=200 << 20) as decoder:
        first = load(decoder, "first", encoded=b"x" * 150)
        await until(lambda: codec.began == ["first"])
        gone, behind = load(decoder, "gone", encoded=b"x" * 150), load(decoder, "behind", encoded=b"x" * 40)
        await turn()
        assert codec.began == ["first"]
        gone.cancel()
        await until(lambda: codec.began == ["first", "behind"])
        codec.may_end.release(2)
        await asyncio.gather(first, behind)


async def test_memory_of_a_picture_that_fails_is_given_back(codec: Codec, sized: None) -> None:
    async with decoding(1, codec, max_bytes=200 << 20) as decoder:
        for _ in range(3):
            codec.may_end.release(1)
            with pytest.raises(BadImage):
                await load(decoder, "bad", encoded=b"bad" + bytes(180))
        codec.may_end.release(1)
        await load(decoder, "sound", encoded=b"x" * 180)


async def test_what_needs_the_memory_of_many_is_expected_to_keep_them_waiting(codec: Codec, sized: None) -> None:
    big = b"x" * 150
    async with decoding(4, codec, max_bytes=200 << 20) as decoder:
        codec.may_end.release(8)
        for _ in range(8):
            await load(decoder, "teaches", encoded=big)
        alone = expected(decoder, [big], 4).expected_ns
        assert alone > 0
        assert expected(decoder, [big] * 3, 4).expected_ns == pytest.approx(3 * alone * 150 / 200, rel=0.2)
        assert expected(decoder, [b"x"] * 4, 4).expected_ns <= alone


async def test_headers_of_many_files_are_read_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of thousands of segments takes a millisecond, and a request may have a thousand files."""
    readers: list[threading.Thread] = []
    monkeypatch.setattr(decode, "header", lambda encoded: (readers.append(threading.current_thread()), Header(""))[1])
    async with decoding(1) as decoder:
        await decoder.plan([b"x"] * 100, OPTIONS)
        assert len(readers) == 100
        assert threading.current_thread() not in readers
        readers.clear()
        await decoder.plan([b"x"] * 2, OPTIONS)
        assert readers == [threading.current_thread()] * 2


async def test_raw_pixels_that_are_fewer_than_they_say_do_not_wait_for_memory() -> None:
    """Or a few bytes keep the memory of many megapixels from others."""
    async with decoding(1) as decoder:
        await decoder.close(0)
        with pytest.raises(BadImage, match=r"image.raw.rgb: 3 bytes; width 8000 and height 8000 need 192000000"):
            await decoder.from_raw(b"abc", 8000, 8000, OPTIONS, "image.raw", 2)


@pytest.mark.parametrize(
    ("side", "short_side", "on_loop"), [(224, 256, True), (1024, 1024, True), (1024, 1100, False), (224, None, True)]
)
async def test_pixels_of_the_models_size_are_resized_beside_the_loop_if_they_are_many(
    side: int, short_side: int | None, on_loop: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = ImageInput.RESIZE_STRETCH if short_side is None else ImageInput.RESIZE_SHORT_SIDE_CROP
    recipe = ImageInput(
        width=side, height=side, resize=kind, resize_short_side=short_side or 0, filter=ImageInput.FILTER_BILINEAR
    )
    threads: list[threading.Thread] = []
    from_raw = images.from_raw

    def noted(*arguments: object) -> np.ndarray:
        threads.append(threading.current_thread())
        return from_raw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(images, "from_raw", noted)
    async with decoding(1) as decoder:
        pixels = await decoder.from_raw(bytes(3 * side * side), side, side, PictureOptions(recipe), "image.raw", 2)
    assert pixels.shape == (side, side, 3)
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]
