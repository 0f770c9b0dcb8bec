"""Chooses the gRPC front: core/ where it works with the installed grpcio, grpc.aio otherwise."""

import logging
import os
import signal
from typing import Literal

import grpc

from resonnx_server.observe.tracing import Traces
from resonnx_server.rpc.fronts.aio.server import AioFront
from resonnx_server.rpc.fronts.front import Admit, Front, OnUnknown, Options, admit_all
from resonnx_server.rpc.fronts.intake import Intake

_log = logging.getLogger(__name__)

FrontName = Literal["auto", "aio", "core"]


class FrontUnavailable(Exception):
    """The front that the settings name does not work here."""


async def choose(
    name: FrontName,
    options: Options,
    on_unknown: OnUnknown,
    admit: Admit = admit_all,
    intake: Intake | None = None,
    traces: Traces | None = None,
) -> Front:
    """Return a front that is not started.

    Args:
        name: `core`, `aio`, or `auto`: core if it passes its check, else aio, with a line in the log.
        options: gRPC's channel arguments.
        on_unknown: Called on the event loop for each call of an unknown method.
        admit: Admits calls.
        intake: The memory budget; None for none.
        traces: Traces of requests; None for none.

    Raises:
        FrontUnavailable: It is `core` and does not pass.
    """
    if name != "aio":
        fault = await _fault_of_core()
        if fault is None:
            from resonnx_server.rpc.fronts.core.server import CoreFront

            return CoreFront(options, on_unknown, admit, on_broken=_end_server, intake=intake, traces=traces)
        if name == "core":
            raise FrontUnavailable(f"grpc_front=core does not work with grpcio {grpc.__version__}: {fault}")
        _log.warning("using gRPC front aio, as core does not work", extra={"grpcio": grpc.__version__, "why": fault})
    return AioFront(options, on_unknown, admit, intake)


async def _fault_of_core() -> str | None:
    """Return why core does not work, None if it does."""
    try:
        # Here, as the import may fail.
        from resonnx_server.rpc.fronts.core.check import check

        await check()
    except Exception as error:
        return str(error) or type(error).__name__
    return None


def _end_server() -> None:
    """Drain and end the process, for its supervisor to start it again: it would listen, but answer no call."""
    # Not SIGTERM, after which calls are served for a while.
    os.kill(os.getpid(), signal.SIGINT)
