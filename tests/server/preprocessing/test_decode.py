"""Whose picture is decoded next, what is left of those whom nobody waits for, and how the threads end."""

import asyncio
import gc
import io
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from resonnx_proto.v1.manifest_pb2 import ImageInput
from resonnx_server.errors import BadImage, Unavailable
from resonnx_server.preprocessing import decode
from resonnx_server.preprocessing.decode import Decoder
from resonnx_server.runtime.pictures import images
from resonnx_server.runtime.pictures.headers import Header
from resonnx_server.runtime.pictures.options import PictureOptions
from resonnx_server.scheduling.deadline_admission import Decoding

from ..waiting import until

OPTIONS = PictureOptions(
    ImageInput(width=2, height=1, resize=ImageInput.RESIZE_STRETCH, filter=ImageInput.FILTER_BILINEAR)
)


class Codec:
    """In place of images.load: notes what it is given, and goes on when it may."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self.may_end = threading.Semaphore(0)
        self.under_way = 0
        self.most_under_way = 0
        self._lock = threading.Lock()

    def load(self, encoded: bytes, options: PictureOptions, field: str, told: Header) -> np.ndarray:
        with self._lock:
            self.began.append(field)
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        assert self.may_end.acquire(timeout=20)
        with self._lock:
            self.under_way -= 1
        if encoded.startswith(b"bad"):
            raise BadImage(field, "bad")
        return np.full((options.recipe.height, options.recipe.width, 3), len(encoded) % 256, np.uint8)


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Iterator[Codec]:
    codec = Codec()
    monkeypatch.setattr(images, "load", codec.load)
    monkeypatch.setattr(images, "check", lambda *_: None)
    yield codec
    codec.may_end.release(1000)


@asynccontextmanager
async def _decoder(threads: int, codec: Codec | None = None, max_bytes: int = 1 << 30) -> AsyncIterator[Decoder]:
    decoder = Decoder(threads, max_bytes)
    try:
        yield decoder
    finally:
        if codec is not None:
            codec.may_end.release(1000)
        assert await decoder.close(20)


def _load(decoder: Decoder, field: str, priority: int = 4, encoded: bytes = b"x") -> "asyncio.Future[np.ndarray]":
    return asyncio.ensure_future(decoder.load(encoded, OPTIONS, field, priority))


def _load_all(decoder: Decoder, files: list[bytes], priority: int = 4) -> "asyncio.Future[np.ndarray]":
    return asyncio.ensure_future(decoder.load_all(files, OPTIONS, "many", priority))


def _expected(decoder: Decoder, files: list[bytes], priority: int) -> Decoding:
    return decoder.expected([decode._plan(file, OPTIONS) for file in files], OPTIONS, priority)


def _references(files: list[bytes]) -> list[int]:
    return [sys.getrefcount(file) for file in files]


async def _turn() -> None:
    """Let what was started come to where it waits."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_most_urgent_goes_first_and_within_a_priority_the_first(codec: Codec) -> None:
    async with _decoder(1, codec) as decoder:
        loads = [_load(decoder, "first", 8)]
        await until(lambda: codec.began == ["first"])
        for field, priority in (("a8", 8), ("b4", 4), ("c1", 1), ("d4", 4), ("e8", 8)):
            loads.append(_load(decoder, field, priority))
        await _turn()
        codec.may_end.release(6)
        await asyncio.gather(*loads)
    assert codec.began == ["first", "c1", "b4", "d4", "a8", "e8"]


@pytest.mark.parametrize("threads", [1, 2])
async def test_pictures_of_others_have_their_turn_between_those_of_a_request_of_many(
    codec: Codec, threads: int
) -> None:
    async with _decoder(threads, codec) as decoder:
        many = _load_all(decoder, [b"x" * (i + 1) for i in range(90)])
        await until(lambda: len(codec.began) == threads)
        other = _load(decoder, "other")
        await _turn()
        codec.may_end.release(2 * threads + 1)
        await other
        # Two for each thread were there before it.
        assert codec.began.index("other") <= 2 * threads
        assert not many.done()
        codec.may_end.release(90)
        assert (await many)[:, 0, 0, 0].tolist() == list(range(1, 91)), "each in its own place"
        assert codec.most_under_way == threads, "the others kept all threads busy"


async def test_bytes_of_who_has_gone_are_let_go_of_at_once(codec: Codec) -> None:
    async with _decoder(1, codec) as decoder:
        first = _load(decoder, "first")
        await until(lambda: codec.began == ["first"])
        files = [bytes(1000 + i) for i in range(9)]
        before = _references(files)
        gone = [_load(decoder, "gone", encoded=files[0]), _load_all(decoder, files[1:])]
        await _turn()
        assert all(now > then for now, then in zip(_references(files), before, strict=True))
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await _turn()
        del gone, one
        assert _references(files) == before
        codec.may_end.release(1)
        await first
    assert codec.began == ["first"], "nor are they decoded"


async def test_who_leaves_in_the_middle_leaves_no_thread_to_another(codec: Codec) -> None:
    async with _decoder(1, codec) as decoder:
        gone = _load(decoder, "gone")
        await until(lambda: codec.began == ["gone"])
        gone.cancel()
        other = _load(decoder, "other")
        await _turn()
        assert codec.began == ["gone"]
        codec.may_end.release(2)
        await other
    assert codec.most_under_way == 1


def _whole() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, "PNG")
    return file.getvalue()


def _damaged() -> bytes:
    return _whole()[:1000]


@pytest.mark.parametrize("damaged", [b"nothing known" * 9, _damaged()], ids=["unknown", "cut off"])
async def test_nothing_is_left_of_a_request_that_fails(damaged: bytes) -> None:
    """Garbage is collected rarely: bytes in a cycle of references would stay for minutes."""
    files = [damaged + bytes(i) for i in range(9)]
    async with _decoder(2) as decoder:
        gc.collect()
        gc.disable()
        try:
            before = _references(files)
            for _ in range(3):
                with pytest.raises(BadImage, match=r"many\[\d\]: "):
                    await decoder.load_all(files, OPTIONS, "many", 4)
                with pytest.raises(BadImage, match="one: "):
                    await decoder.load(files[0], OPTIONS, "one", 4)
            # Those that were in the middle have ended, too, when a picture that is loaded after them is.
            for _ in range(4):
                await decoder.load(_whole(), OPTIONS, "last", 8)
            assert _references(files) == before
        finally:
            gc.enable()


async def test_one_bad_picture_ends_its_request_and_the_others_are_not_decoded(codec: Codec) -> None:
    async with _decoder(1, codec) as decoder:
        many = _load_all(decoder, [b"bad", *[b"x"] * 50])
        await until(lambda: len(codec.began) == 1)
        codec.may_end.release(1)
        with pytest.raises(BadImage, match=r"many\[0\]: bad"):
            await many
        codec.may_end.release(50)
        await _load(decoder, "other")
        assert len(codec.began) <= 3, "the one before it was already on its way"


async def test_closing_waits_no_longer_than_it_is_told_and_holds_up_nobody(codec: Codec) -> None:
    decoder = Decoder(2)
    loads = [_load(decoder, f"{i}") for i in range(5)]
    await until(lambda: len(codec.began) == 2)
    closing = asyncio.ensure_future(decoder.close(0.05))
    # The loop goes on: who waited is told at once.
    for waiting in loads[2:]:
        with pytest.raises(Unavailable):
            await waiting
    assert await closing is False, "both are left in the middle"
    with pytest.raises(Unavailable):
        await _load(decoder, "late")
    codec.may_end.release(2)
    assert await decoder.close(20)
    await asyncio.gather(*loads[:2])
    assert sorted(codec.began) == ["0", "1"]


async def test_the_expected_time_follows_who_goes_before(codec: Codec) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "PNG")
    big = file.getvalue()
    async with _decoder(2, codec) as decoder:
        assert _expected(decoder, [], 1) == _expected(decoder, [big], 1) == (0, 0), "nothing is known"
        codec.may_end.release(1)
        await _load(decoder, "teaches", encoded=big)
        alone = _expected(decoder, [big], 4).expected_ns
        assert 0 < _expected(decoder, [big[:16] + bytes(1000)], 4).expected_ns < alone / 50, "as told by its size"
        loads = [_load(decoder, "waits", encoded=big) for _ in range(6)]
        await _turn()
        assert _expected(decoder, [big], 4).expected_ns == pytest.approx(alone * 7 / 2, rel=0.1)
        assert _expected(decoder, [big], 4).alone_ns == pytest.approx(alone, rel=0.1), "were there no others"
        assert _expected(decoder, [big, big], 8).expected_ns == pytest.approx(alone * 8 / 2, rel=0.1)
        assert _expected(decoder, [big], 3).expected_ns == pytest.approx(alone, rel=0.1), "they wait for it"
        codec.may_end.release(6)
        await asyncio.gather(*loads)
        assert _expected(decoder, [big], 8).expected_ns == pytest.approx(_expected(decoder, [big], 1).expected_ns)


@pytest.fixture
def sized(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of n bytes takes n megabytes to decode."""
    monkeypatch.setattr(decode, "decoding_bytes", lambda told, options: told.width << 20)
    monkeypatch.setattr(decode, "header", lambda encoded: Header("PNG", len(encoded), 1))


async def test_large_pictures_wait_for_memory_and_small_ones_for_a_thread_alone(codec: Codec, sized: None) -> None:
    async with _decoder(3, codec, max_bytes=200 << 20) as decoder:
        loads = [_load(decoder, "first", encoded=b"x" * 150)]
        await until(lambda: codec.began == ["first"])
        loads += [_load(decoder, "waits", encoded=b"x" * 150), _load(decoder, "behind", encoded=b"x" * 20)]
        loads.append(_load(decoder, "small"))
        await until(lambda: codec.began == ["first", "small"])
        codec.may_end.release(1)
        # Whichever of the two ends: the small one had no memory to give back.
        await until(lambda: sum(load.done() for load in loads) == 1)
        codec.may_end.release(1)
        await until(lambda: codec.began == ["first", "small", "waits", "behind"])
        codec.may_end.release(2)
        await asyncio.gather(*loads)


async def test_who_waits_for_memory_and_leaves_makes_way(codec: Codec, sized: None) -> None:
    async with _decoder(2, codec, max_bytes=200 << 20) as decoder:
        first = _load(decoder, "first", encoded=b"x" * 150)
        await until(lambda: codec.began == ["first"])
        gone, behind = _load(decoder, "gone", encoded=b"x" * 150), _load(decoder, "behind", encoded=b"x" * 40)
        await _turn()
        assert codec.began == ["first"]
        gone.cancel()
        await until(lambda: codec.began == ["first", "behind"])
        codec.may_end.release(2)
        await asyncio.gather(first, behind)


async def test_memory_of_a_picture_that_fails_is_given_back(codec: Codec, sized: None) -> None:
    async with _decoder(1, codec, max_bytes=200 << 20) as decoder:
        for _ in range(3):
            codec.may_end.release(1)
            with pytest.raises(BadImage):
                await _load(decoder, "bad", encoded=b"bad" + bytes(180))
        codec.may_end.release(1)
        await _load(decoder, "sound", encoded=b"x" * 180)


async def test_what_needs_the_memory_of_many_is_expected_to_keep_them_waiting(codec: Codec, sized: None) -> None:
    big = b"x" * 150
    async with _decoder(4, codec, max_bytes=200 << 20) as decoder:
        codec.may_end.release(8)
        for _ in range(8):
            await _load(decoder, "teaches", encoded=big)
        alone = _expected(decoder, [big], 4).expected_ns
        assert alone > 0
        assert _expected(decoder, [big] * 3, 4).expected_ns == pytest.approx(3 * alone * 150 / 200, rel=0.2)
        assert _expected(decoder, [b"x"] * 4, 4).expected_ns <= alone


async def test_headers_of_many_files_are_read_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of thousands of segments takes a millisecond, and a request may have a thousand files."""
    readers: list[threading.Thread] = []
    monkeypatch.setattr(decode, "header", lambda encoded: (readers.append(threading.current_thread()), Header(""))[1])
    async with _decoder(1) as decoder:
        await decoder.plan([b"x"] * 100, OPTIONS)
        assert len(readers) == 100
        assert threading.current_thread() not in readers
        readers.clear()
        await decoder.plan([b"x"] * 2, OPTIONS)
        assert readers == [threading.current_thread()] * 2


async def test_raw_pixels_that_are_fewer_than_they_say_do_not_wait_for_memory() -> None:
    """Or a few bytes keep the memory of many megapixels from others."""
    async with _decoder(1) as decoder:
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
    async with _decoder(1) as decoder:
        pixels = await decoder.from_raw(bytes(3 * side * side), side, side, PictureOptions(recipe), "image.raw", 2)
    assert pixels.shape == (side, side, 3)
    assert [thread is threading.current_thread() for thread in threads] == [on_loop]


async def test_a_picture_is_expected_to_take_what_its_like_took(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(10**15, 200_000)
    monkeypatch.setattr(decode, "time", Mock(monotonic_ns=lambda: next(now)))
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    codec.may_end.release(1000)
    async with _decoder(1, codec) as decoder:
        for _ in range(200):
            await _load(decoder, "image", encoded=file.getvalue())
        assert _expected(decoder, [file.getvalue()], 4).alone_ns == pytest.approx(160_000, rel=0.1)
