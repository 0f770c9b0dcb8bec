"""Latency tables are kept for one kind of hardware and one set of runtimes."""

from importlib.metadata import PackageNotFoundError, packages_distributions, version

import pytest
from resonnx_server.repository import cache


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
