"""Whose picture is decoded next, what is left of those whom nobody waits for, and how the threads end."""

import asyncio
import gc
import io
import itertools
from unittest.mock import Mock

import pytest
from PIL import Image
from resonnx_server.errors import BadImage, Unavailable
from resonnx_server.preprocessing import decode
from resonnx_server.preprocessing.decode import Decoder

from ..waiting import until
from .codec import OPTIONS, Codec, decoding, expected, load, load_all, references, turn


async def test_the_most_urgent_goes_first_and_within_a_priority_the_first(codec: Codec) -> None:
    async with decoding(1, codec) as decoder:
        loads = [load(decoder, "first", 8)]
        await until(lambda: codec.began == ["first"])
        for field, priority in (("a8", 8), ("b4", 4), ("c1", 1), ("d4", 4), ("e8", 8)):
            loads.append(load(decoder, field, priority))
        await turn()
        codec.may_end.release(6)
        await asyncio.gather(*loads)
    assert codec.began == ["first", "c1", "b4", "d4", "a8", "e8"]


@pytest.mark.parametrize("threads", [1, 2])
async def test_pictures_of_others_have_their_turn_between_those_of_a_request_of_many(
    codec: Codec, threads: int
) -> None:
    async with decoding(threads, codec) as decoder:
        many = load_all(decoder, [b"x" * (i + 1) for i in range(90)])
        await until(lambda: len(codec.began) == threads)
        other = load(decoder, "other")
        await turn()
        codec.may_end.release(2 * threads + 1)
        await other
        # Two for each thread were there before it.
        assert codec.began.index("other") <= 2 * threads
        assert not many.done()
        codec.may_end.release(90)
        assert (await many)[:, 0, 0, 0].tolist() == list(range(1, 91)), "each in its own place"
        assert codec.most_under_way == threads, "the others kept all threads busy"


async def test_bytes_of_who_has_gone_are_let_go_of_at_once(codec: Codec) -> None:
    async with decoding(1, codec) as decoder:
        first = load(decoder, "first")
        await until(lambda: codec.began == ["first"])
        files = [bytes(1000 + i) for i in range(9)]
        before = references(files)
        gone = [load(decoder, "gone", encoded=files[0]), load_all(decoder, files[1:])]
        await turn()
        assert all(now > then for now, then in zip(references(files), before, strict=True))
        for one in gone:
            one.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        await turn()
        del gone, one
        assert references(files) == before
        codec.may_end.release(1)
        await first
    assert codec.began == ["first"], "nor are they decoded"


async def test_who_leaves_in_the_middle_leaves_no_thread_to_another(codec: Codec) -> None:
    async with decoding(1, codec) as decoder:
        gone = load(decoder, "gone")
        await until(lambda: codec.began == ["gone"])
        gone.cancel()
        other = load(decoder, "other")
        await turn()
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
    async with decoding(2) as decoder:
        gc.collect()
        gc.disable()
        try:
            before = references(files)
            for _ in range(3):
                with pytest.raises(BadImage, match=r"many\[\d\]: "):
                    await decoder.load_all(files, OPTIONS, "many", 4)
                with pytest.raises(BadImage, match="one: "):
                    await decoder.load(files[0], OPTIONS, "one", 4)
            # Those that were in the middle have ended, too, when a picture that is loaded after them is.
            for _ in range(4):
                await decoder.load(_whole(), OPTIONS, "last", 8)
            assert references(files) == before
        finally:
            gc.enable()


async def test_one_bad_picture_ends_its_request_and_the_others_are_not_decoded(codec: Codec) -> None:
    async with decoding(1, codec) as decoder:
        many = load_all(decoder, [b"bad", *[b"x"] * 50])
        await until(lambda: len(codec.began) == 1)
        codec.may_end.release(1)
        with pytest.raises(BadImage, match=r"many\[0\]: bad"):
            await many
        codec.may_end.release(50)
        await load(decoder, "other")
        assert len(codec.began) <= 3, "the one before it was already on its way"


async def test_closing_waits_no_longer_than_it_is_told_and_holds_up_nobody(codec: Codec) -> None:
    decoder = Decoder(2)
    loads = [load(decoder, f"{i}") for i in range(5)]
    await until(lambda: len(codec.began) == 2)
    closing = asyncio.ensure_future(decoder.close(0.05))
    # The loop goes on: who waited is told at once.
    for waiting in loads[2:]:
        with pytest.raises(Unavailable):
            await waiting
    assert await closing is False, "both are left in the middle"
    with pytest.raises(Unavailable):
        await load(decoder, "late")
    codec.may_end.release(2)
    assert await decoder.close(20)
    await asyncio.gather(*loads[:2])
    assert sorted(codec.began) == ["0", "1"]


async def test_the_expected_time_follows_who_goes_before(codec: Codec) -> None:
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "PNG")
    big = file.getvalue()
    async with decoding(2, codec) as decoder:
        assert expected(decoder, [], 1) == expected(decoder, [big], 1) == (0, 0), "nothing is known"
        codec.may_end.release(1)
        await load(decoder, "teaches", encoded=big)
        alone = expected(decoder, [big], 4).expected_ns
        assert 0 < expected(decoder, [big[:16] + bytes(1000)], 4).expected_ns < alone / 50, "as told by its size"
        loads = [load(decoder, "waits", encoded=big) for _ in range(6)]
        await turn()
        assert expected(decoder, [big], 4).expected_ns == pytest.approx(alone * 7 / 2, rel=0.1)
        assert expected(decoder, [big], 4).alone_ns == pytest.approx(alone, rel=0.1), "were there no others"
        assert expected(decoder, [big, big], 8).expected_ns == pytest.approx(alone * 8 / 2, rel=0.1)
        assert expected(decoder, [big], 3).expected_ns == pytest.approx(alone, rel=0.1), "they wait for it"
        codec.may_end.release(6)
        await asyncio.gather(*loads)
        assert expected(decoder, [big], 8).expected_ns == pytest.approx(expected(decoder, [big], 1).expected_ns)


async def test_a_picture_is_expected_to_take_what_its_like_took(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(10**15, 200_000)
    monkeypatch.setattr(decode, "time", Mock(monotonic_ns=lambda: next(now)))
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "PNG")
    codec.may_end.release(1000)
    async with decoding(1, codec) as decoder:
        for _ in range(200):
            await load(decoder, "image", encoded=file.getvalue())
        assert expected(decoder, [file.getvalue()], 4).alone_ns == pytest.approx(160_000, rel=0.1)
