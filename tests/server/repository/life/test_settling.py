"""When a model's folder has settled, by a clock of the test."""

from pathlib import Path

import pytest
from resonnx_server.repository.life.settling import Settling
from resonnx_server.repository.life.survey import Seen, Stamp, content_sum, look_at, stamp


def _seen(size: int, **versions: int) -> Seen:
    files = {int(name[1:]): Stamp((("model.onnx", each, 0, 0, 0),)) for name, each in versions.items()}
    return Seen(files, Stamp((("config.toml", size, 0, 0, 0),)))


def test_a_change_is_taken_when_two_looks_find_the_same() -> None:
    settling = Settling(10)
    settling.take({"m": _seen(1, v1=1)})
    assert settling.look({"m": _seen(1, v1=1)}, 0) == {"m": _seen(1, v1=1)}
    # It is being written.
    assert settling.look({"m": _seen(1, v1=1, v2=5)}, 10) == {}
    assert settling.look({"m": _seen(1, v1=1, v2=9)}, 20) == {}
    assert settling.look({"m": _seen(1, v1=1, v2=9)}, 21) == {}, "a look at once says nothing"
    assert settling.look({"m": _seen(1, v1=1, v2=9)}, 30) == {"m": _seen(1, v1=1, v2=9)}


def test_a_folder_has_vanished_when_two_looks_do_not_find_it() -> None:
    settling = Settling(10)
    settling.take({"m": _seen(1, v1=1), "other": _seen(1, v1=1)})
    other = {"other": _seen(1, v1=1)}
    assert settling.look(other, 10) == other
    assert settling.look(other, 20) == {"m": None, **other}
    assert settling.look(other, 30) == other


@pytest.mark.parametrize("unreadable", [None, Seen({1: None}, Stamp(()))])
def test_what_cannot_be_read_has_neither_changed_nor_vanished(unreadable: Seen | None) -> None:
    settling = Settling(10)
    settling.take({"m": _seen(1, v1=1)})
    for second in range(0, 50, 10):
        assert settling.look({"m": unreadable}, second) == {}
    assert settling.look({"m": _seen(1, v1=1)}, 50) == {}
    assert settling.look({"m": _seen(1, v1=1)}, 60) == {"m": _seen(1, v1=1)}


def test_a_repository_that_becomes_empty_is_a_volume_that_is_not_mounted() -> None:
    settling = Settling(10)
    settling.take({"m": _seen(1, v1=1)})
    for second in range(0, 50, 10):
        assert settling.look({}, second) == {}
        assert settling.is_empty
    assert settling.look({"m": _seen(1, v1=1)}, 50) == {"m": _seen(1, v1=1)}
    assert not settling.is_empty


def test_a_stamp_shows_every_change_and_a_sum_only_those_of_content(tmp_path: Path) -> None:
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    file = version / "model.onnx"
    file.write_bytes(b"abc")
    (version / "more").mkdir()
    (version / "more" / "data").write_bytes(b"1")
    (tmp_path / "m" / "01").mkdir()
    seen, before, total = look_at(tmp_path / "m"), stamp(version), content_sum(version)
    assert seen is not None
    assert seen.versions == {1: before}
    other = tmp_path / "other"
    other.write_bytes(b"abc")
    other.replace(file)
    assert stamp(version) != before
    assert content_sum(version) == total
    file.write_bytes(b"abd")
    assert content_sum(version) != total
    (version / "more" / "data").rename(version / "data")
    assert content_sum(version) != total
    file.unlink()
    file.symlink_to(tmp_path / "nowhere")
    assert stamp(version) is None
    assert content_sum(version) is None
    assert look_at(tmp_path / "nobody") is None


def test_links_to_files_change_no_more_than_the_times_of_their_status(tmp_path: Path) -> None:
    version = tmp_path / "1"
    version.mkdir()
    (version / "model.onnx").write_bytes(b"abc")
    before = stamp(version)
    assert before is not None
    (tmp_path / "link").hardlink_to(version / "model.onnx")
    linked = stamp(version)
    assert linked is not None
    assert linked != before
    assert linked.is_like(before)
    (version / "model.onnx").write_bytes(b"abcd")
    changed = stamp(version)
    assert changed is not None
    assert not changed.is_like(before)
