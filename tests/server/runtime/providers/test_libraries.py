"""What providers load: CUDA's libraries once and in silence; OpenVINO as a plugin or built in."""

from types import SimpleNamespace
from typing import Any

import pytest
from resonnx_server.runtime.providers import cuda, openvino
from resonnx_server.runtime.providers.openvino import OPENVINO, add_openvino, has_openvino

_CHOSEN = {"load_config": "{}"}


def test_cudas_libraries_are_loaded_once_and_stdout_stays_empty(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loads: list[str] = []

    def preload_dlls(directory: str) -> None:
        loads.append(directory)
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(cuda, "_done", False)
    monkeypatch.setattr(cuda, "ort", SimpleNamespace(preload_dlls=preload_dlls))
    cuda.load_cuda()
    cuda.load_cuda()
    assert loads == [""], "PyPI's packages go before the loader's path"
    assert capsys.readouterr().out == ""


class _Runtime:
    """A runtime of some providers, and what a plugin registers."""

    OrtHardwareDeviceType = SimpleNamespace(CPU="cpu", GPU="gpu")

    def __init__(self, *providers: str, plugin: bool = False) -> None:
        self._providers = [*providers, "CPUExecutionProvider"]
        self.registered: list[tuple[str, str]] = []
        self._plugin = plugin

    def get_available_providers(self) -> list[str]:
        return self._providers

    def register_execution_provider_library(self, name: str, path: str) -> None:
        self.registered.append((name, path))

    def get_ep_devices(self) -> list[Any]:
        kinds = ("cpu", "gpu") if self._plugin else ()
        return [SimpleNamespace(ep_name=OPENVINO, device=SimpleNamespace(type=kind)) for kind in kinds]


class _Options:
    def __init__(self) -> None:
        self.added: list[tuple[list[str], dict[str, str]]] = []

    def add_provider_for_devices(self, devices: Any, chosen: dict[str, str]) -> None:
        self.added.append(([each.device.type for each in devices], chosen))


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> _Options:
    plugin = SimpleNamespace(get_library_path=lambda: "plugin.so")
    util = SimpleNamespace(find_spec=lambda _: object())
    monkeypatch.setattr(openvino, "importlib", SimpleNamespace(util=util, import_module=lambda _: plugin))
    monkeypatch.setattr(openvino, "_loaded", openvino._loaded.__wrapped__)
    return _Options()


def test_a_plugin_is_given_the_cpus_it_found(monkeypatch: pytest.MonkeyPatch, options: _Options) -> None:
    runtime = _Runtime(plugin=True)
    monkeypatch.setattr(openvino, "ort", runtime)
    providers: list[tuple[str, dict[str, str]]] = []
    assert has_openvino()
    add_openvino(options, providers, _CHOSEN)
    assert options.added == [(["cpu"], _CHOSEN)]
    assert providers == []
    assert {*runtime.registered} == {(OPENVINO, "plugin.so")}


def test_the_built_in_one_goes_before_the_plugin(monkeypatch: pytest.MonkeyPatch, options: _Options) -> None:
    runtime = _Runtime(OPENVINO, plugin=True)
    monkeypatch.setattr(openvino, "ort", runtime)
    providers: list[tuple[str, dict[str, str]]] = []
    assert has_openvino()
    add_openvino(options, providers, _CHOSEN)
    assert providers == [(OPENVINO, {"device_type": "CPU", **_CHOSEN})]
    assert options.added == []
    assert runtime.registered == []


def test_a_plugin_without_a_device_is_none(monkeypatch: pytest.MonkeyPatch, options: _Options) -> None:
    """For example on AMD's chips."""
    monkeypatch.setattr(openvino, "ort", _Runtime())
    assert not has_openvino()
