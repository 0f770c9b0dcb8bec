"""Regions of shared memory: what may be registered, how long they live, and what short segments do."""

import os
from pathlib import Path

import numpy as np
import pytest
from resonnx_server.errors import AlreadyExists, InvalidInput, NotSupported, RegionNotFound
from resonnx_server.memory.regions import MOST_REGIONS, Region, Regions


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    (tmp_path / "segment").write_bytes(bytes(range(200)))
    return Regions(1000, tmp_path)


def _read(region: Region, offset: int, size: int) -> list[int]:
    reading = region.read(offset, size, "x")
    while True:
        try:
            next(reading)
        except StopIteration as end:
            return np.asarray(end.value).tolist()


def _only(regions: Regions, owner: str = "me") -> Region:
    (region,) = regions.of(owner)
    return region


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("key", ["segment", "/segment"])
def test_bytes_are_read_and_written_within_the_segment(regions: Regions, tmp_path: Path, key: str) -> None:
    regions.register("me", "r", key, 10, 100)
    place = regions.place("me", "r", 5, 3, "x")
    assert _read(place.region, place.offset, place.size) == [15, 16, 17]
    place.write(b"ab", 1)
    assert (tmp_path / "segment").read_bytes()[14:19] == bytes([14, 15]) + b"ab" + bytes([18])


@pytest.mark.parametrize(
    ("key", "offset", "size", "field"),
    [
        ("../segment", 0, 1, "key"),
        ("//segment", 0, 1, "key"),
        ("folder/segment", 0, 1, "key"),
        ("", 0, 1, "key"),
        ("/", 0, 1, "key"),
        ("..", 0, 1, "key"),
        ("nul\0", 0, 1, "key"),
        ("x" * 300, 0, 1, "key"),
        ("missing", 0, 1, "key"),
        ("folder", 0, 1, "key"),
        ("link", 0, 1, "key"),
        ("pipe", 0, 1, "key"),
        ("sem.lock", 0, 1, "key"),
        ("segment", 0, 0, "byte_size"),
        ("segment", 0, 201, "byte_size"),
        ("segment", 200, 1, "byte_size"),
        ("segment", 2**64 - 1, 1, "byte_size"),
        ("segment", 0, 2**64 - 1, "byte_size"),
    ],
)
def test_what_is_no_part_of_a_segment_is_refused(
    regions: Regions, tmp_path: Path, key: str, offset: int, size: int, field: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "segment").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "segment")
    (tmp_path / "sem.lock").write_bytes(bytes(32))
    os.mkfifo(tmp_path / "pipe")
    before = _open_files()
    with pytest.raises(InvalidInput) as refused:
        regions.register("me", "r", key, offset, size)
    assert refused.value.field == field
    assert (len(regions), _open_files()) == (0, before)


def test_names_are_unique_for_each_caller_and_seen_by_it_alone(regions: Regions) -> None:
    regions.register("me", "r", "segment", 0, 10)
    with pytest.raises(AlreadyExists):
        regions.register("me", "r", "segment", 0, 10)
    with pytest.raises(RegionNotFound, match="not a region that this caller has registered"):
        regions.place("other", "r", 0, 1, "x")
    regions.register("other", "r", "segment", 50, 10)
    assert regions.place("other", "r", 0, 1, "x").region.offset == 50
    regions.unregister("other", "")
    assert [region.offset for region in regions.of("me")] == [0]
    regions.unregister("other", "r")
    regions.unregister("me", "r")
    assert len(regions) == 0


@pytest.mark.parametrize(("offset", "size"), [(0, 11), (10, 1), (11, 0), (2**63, 1), (1, 10)])
def test_places_lie_within_their_region(regions: Regions, offset: int, size: int) -> None:
    regions.register("me", "r", "segment", 0, 10)
    with pytest.raises(InvalidInput, match="are not within region 'r', which has 10"):
        regions.place("me", "r", offset, size, "x")


def test_number_and_sum_of_regions_are_bounded(regions: Regions) -> None:
    regions.register("me", "large", "segment", 0, 200)
    for i in range(4):
        regions.register("me", f"more {i}", "segment", 0, 200)
    with pytest.raises(InvalidInput, match="more than 0, which is left of system_shared_memory_bytes, 1000"):
        regions.register("other", "r", "segment", 0, 1)
    regions.unregister("me", "")
    for i in range(MOST_REGIONS):
        regions.register("me", f"small {i}", "segment", 0, 1)
    with pytest.raises(InvalidInput, match="the most"):
        regions.register("me", "one more", "segment", 0, 1)


def test_a_region_in_use_outlives_its_registration_and_is_closed_then(regions: Regions, tmp_path: Path) -> None:
    before = _open_files()
    regions.register("me", "r", "segment", 0, 200)
    place = regions.place("me", "r", 0, 200, "x")
    reading = place.read()
    regions.unregister("me", "r")
    # Another region of the name is another region.
    (tmp_path / "second").write_bytes(bytes(200))
    regions.register("me", "r", "second", 0, 200)
    del place
    assert _open_files() == before + 2
    with pytest.raises(StopIteration) as end:
        next(reading)
    assert end.value.value.tolist() == list(range(200))
    del reading
    assert _open_files() == before + 1
    regions.unregister("me", "r")
    assert _open_files() == before


def test_a_segment_that_becomes_shorter_is_an_error_of_the_request(regions: Regions, tmp_path: Path) -> None:
    """A mapping of it would end the process."""
    regions.register("me", "r", "segment", 0, 200)
    os.truncate(tmp_path / "segment", 100)
    place = regions.place("me", "r", 0, 200, "inputs['x']")
    with pytest.raises(InvalidInput, match=r"x: .* has become shorter"):
        _read(place.region, 0, 200)
    with pytest.raises(InvalidInput, match="has become shorter"):
        place.write(b"x", 150)
    place.write(b"x", 50)
    assert (tmp_path / "segment").stat().st_size == 100
    assert _read(place.region, 50, 1) == [ord("x")]


def test_segments_are_read_in_pieces(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(5 << 20))
    regions = Regions(1 << 30, tmp_path)
    regions.register("me", "r", "large", 0, 5 << 20)
    assert sum(1 for _ in _only(regions).read(0, 5 << 20, "x")) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to everything")
def test_a_segment_that_may_only_be_read_is_not_writable(regions: Regions, tmp_path: Path) -> None:
    (tmp_path / "segment").chmod(0o400)
    regions.register("me", "r", "segment", 0, 10)
    assert not _only(regions).is_writable


def test_switched_off(tmp_path: Path) -> None:
    regions = Regions(0, tmp_path)
    with pytest.raises(NotSupported):
        regions.register("me", "r", "segment", 0, 1)
    with pytest.raises(InvalidInput, match="switched off"):
        regions.place("me", "r", 0, 1, "x")
