"""OpenVINO on the CPU: as a plugin of another runtime, for Intel's chips only, or built into onnxruntime-openvino.

With both, the built-in one is used: the plugin needs a newer runtime.
"""

import importlib
import importlib.util
import threading
from functools import cache
from typing import Any, Final

import onnxruntime as ort

OPENVINO: Final = "OpenVINOExecutionProvider"
_PLUGIN: Final = "onnxruntime_ep_openvino"

# Concurrent loads must not both register the plugin.
_lock = threading.Lock()


def has_openvino() -> bool:
    """Whether OpenVINO is installed and has a CPU device here."""
    return bool(_devices()) or _is_built_in()


def add_openvino(
    options: ort.SessionOptions, providers: list[tuple[str, dict[str, str]]], chosen: dict[str, str]
) -> None:
    """Let a session run on OpenVINO.

    Args:
        options: The session's options; the plugin is added to them.
        providers: The session's providers; the built-in one is appended.
        chosen: OpenVINO's options (options.py).
    """
    if devices := _devices():
        options.add_provider_for_devices(devices, chosen)
    else:
        providers.append((OPENVINO, {"device_type": "CPU", **chosen}))


def _is_built_in() -> bool:
    return OPENVINO in ort.get_available_providers()


def _devices() -> tuple[Any, ...]:
    """Return the plugin's CPU devices; none where it is not installed. Loads it once."""
    with _lock:
        return _loaded()


@cache
def _loaded() -> tuple[Any, ...]:
    if importlib.util.find_spec(_PLUGIN) is None or _is_built_in():
        return ()
    ort.register_execution_provider_library(OPENVINO, importlib.import_module(_PLUGIN).get_library_path())
    return tuple(
        device
        for device in ort.get_ep_devices()
        if device.ep_name == OPENVINO and device.device.type == ort.OrtHardwareDeviceType.CPU
    )
