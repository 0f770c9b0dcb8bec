"""Latency tables are kept for one kind of hardware and one set of runtimes."""

import stat
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import pytest
from resonnx_server.repository import latency_cache as cache
from resonnx_server.repository.latency_cache import CachedChoice, LatencyCache, cache_folder


@pytest.mark.parametrize(
    ("asked", "environment", "folder"),
    [
        (None, {"XDG_CACHE_HOME": "/var/cache/me"}, Path("/var/cache/me/resonnx")),
        (None, {}, Path("/home/me/.cache/resonnx")),
        # By the XDG specification relative paths are ignored.
        (None, {"XDG_CACHE_HOME": "cache"}, Path("/home/me/.cache/resonnx")),
        (None, {"XDG_CACHE_HOME": ""}, Path("/home/me/.cache/resonnx")),
        (Path("mine"), {"XDG_CACHE_HOME": "/var/cache/me"}, Path("mine")),
        (Path("none"), {"XDG_CACHE_HOME": "/var/cache/me"}, None),
        (Path("/x/none"), {}, Path("/x/none")),
    ],
)
def test_where_tables_are_kept(
    asked: Path | None, environment: dict[str, str], folder: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert cache_folder(asked, environment) == folder


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder(None, {}) is None
    assert len(caplog.records) == 1


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """What is kept there for TensorRT is code."""
    assert LatencyCache.open(tmp_path / "a" / "b", 1).folder == tmp_path / "a" / "b"
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_processor_plugin_and_gpus_tell_tables_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(distribution: str) -> str:
        raise PackageNotFoundError(distribution)

    seen = set()
    monkeypatch.setattr(cache, "version", missing)
    for name, returned in [
        ("processor_model", "0x41 8 0x1 0xd40"),
        ("processor_model", "0x41 8 0x1 0xd0c"),
        ("gpu_models", ("NVIDIA T4",)),
        ("version", "1.8.0"),
        ("version", "1.8.1"),
    ]:
        monkeypatch.setattr(cache, name, lambda *_, returned=returned: returned)
        assert cache._hardware() == cache._hardware()
        seen.add(cache._hardware())
    assert len(seen) == 5


def test_the_version_is_that_of_the_plugin_that_is_loaded() -> None:
    pytest.importorskip("onnxruntime_ep_openvino")
    (distribution,) = packages_distributions()["onnxruntime_ep_openvino"]
    assert f"openvino {version(distribution)}" in cache._hardware()


@pytest.mark.parametrize(
    "text", ['{"chosen": [1], "doubts": 1e999}', "[" * 100_000, '{"chosen": [[1]], "doubts": 0}', "\0"]
)
def test_a_damaged_choice_is_none(tmp_path: Path, text: str) -> None:
    kept = LatencyCache(tmp_path, 1)
    kept.keep_choice("a and b", CachedChoice((1,)))
    (file,) = tmp_path.iterdir()
    assert kept.choice("a and b") == CachedChoice((1,))
    file.write_text(text)
    assert kept.choice("a and b") is None
