"""The devices that models run on, each made with the first model that needs it."""

import time
from collections.abc import Iterator
from typing import Final

from resonnx_server.repository.version import GPU_LANES, MAX_LANES
from resonnx_server.runtime.machine.host import own_processors
from resonnx_server.runtime.machine.processors import Processors, cores_first
from resonnx_server.runtime.page_locked import PageLockedMemory
from resonnx_server.runtime.session import GPU_PROVIDERS
from resonnx_server.scheduling.device import Device

# Of a load beside live traffic, before each of its batches.
_LONGEST_PAUSE_S: Final = 0.05
_LOOK_S: Final = 0.001


class Devices:
    """One device for all CPU providers, one for all GPU providers.

    Args:
        cores: Processors that the server may use.
    """

    def __init__(self, cores: int) -> None:
        self._cores = cores
        self._devices: dict[str, Device] = {}

    def __iter__(self) -> Iterator[Device]:
        return iter([*self._devices.values()])

    def of(self, provider: str) -> Device:
        """Return the device of a provider of ONNX Runtime."""
        name = "gpu" if provider in GPU_PROVIDERS else "cpu"
        if name not in self._devices:
            self._devices[name] = self._gpu() if name == "gpu" else self._cpu()
        return self._devices[name]

    def let_pass(self) -> None:
        """Wait until no device runs a batch, but not for long: a load must end where they are never idle."""
        ends_s = time.monotonic() + _LONGEST_PAUSE_S
        while not all(device.is_idle for device in self) and time.monotonic() < ends_s:
            time.sleep(_LOOK_S)

    def _gpu(self) -> Device:
        return Device("gpu", GPU_LANES, allocate=PageLockedMemory().allocate)

    def _cpu(self) -> Device:
        return Device("cpu", min(self._cores, MAX_LANES), processors=Processors(cores_first(own_processors())))
