"""The rpcs RepositoryModelLoad and RepositoryModelUnload."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput, ModelNotAllowed, NotSupported
from resonnx_server.inference.registry import Models
from resonnx_server.inference.repository_control import RepositoryControl
from resonnx_server.rpc.boundary import Context, counted

_log = logging.getLogger(__name__)

Request = pb.RepositoryModelLoadRequest | pb.RepositoryModelUnloadRequest

# Triton's clients send it always; models do not depend on each other here.
_UNLOAD_DEPENDENTS: Final = "unload_dependents"


class RepositoryRpcs:
    """RepositoryModelLoad and RepositoryModelUnload.

    A load or an unload that has begun goes on if its caller goes.

    Args:
        models: The registry, which has the control of the repository.
        is_explicit: Models are loaded on request (control_mode).
    """

    rpcs = ("RepositoryModelLoad", "RepositoryModelUnload")

    def __init__(self, models: Models, *, is_explicit: bool) -> None:
        self._models = models
        self.rejected = models.rejected
        self.extensions = ("model_repository", "model_repository(unload_dependents)") if is_explicit else ()
        self._under_way: set[asyncio.Task[None]] = set()

    @counted
    async def RepositoryModelLoad(  # noqa: N802
        self, request: pb.RepositoryModelLoadRequest, context: Context
    ) -> pb.RepositoryModelLoadResponse:
        """Load a model as its folder is now; answer when its versions serve or are refused.

        Raises:
            InvalidInput: There are parameters: those of Triton override configuration and files, which lie in the
                model's folder here.
            ServerError: As RepositoryControl.load.
        """
        control = self._check(request, context)
        for name in request.parameters:
            where = "configuration and files are those of the model's folder: change them there, and load it again"
            known = name == "config" or name.startswith("file:")
            reason = where if known else "is not a parameter of this call, which takes none"
            raise InvalidInput(f"parameters[{name[:64]!r}]", reason)
        await self._run(control.load(request.model_name), "a model is loaded by request", request, context)
        return pb.RepositoryModelLoadResponse()

    @counted
    async def RepositoryModelUnload(  # noqa: N802
        self, request: pb.RepositoryModelUnloadRequest, context: Context
    ) -> pb.RepositoryModelUnloadResponse:
        """Stop serving a model; answer when its requests are answered and its memory is free.

        Raises:
            InvalidInput: There are parameters other than unload_dependents, a bool without effect.
            ServerError: As RepositoryControl.unload.
        """
        control = self._check(request, context)
        for name, value in request.parameters.items():
            if name != _UNLOAD_DEPENDENTS or value.WhichOneof("parameter_choice") != "bool_param":
                raise InvalidInput(f"parameters[{name[:64]!r}]", f"this call takes {_UNLOAD_DEPENDENTS} only, a bool")
        await self._run(control.unload(request.model_name), "a model is unloaded by request", request, context)
        return pb.RepositoryModelUnloadResponse()

    def _check(self, request: Request, context: Context) -> RepositoryControl:
        """Return what loads and unloads. Raises ModelNotAllowed, InvalidInput or NotSupported."""
        if not context.caller.may_use(request.model_name):
            raise ModelNotAllowed(request.model_name)
        check_repository(request.repository_name)
        if not request.model_name:
            raise InvalidInput("model_name", "must not be empty")
        if (control := self._models.control) is None:
            raise NotSupported("models are not loaded on request (control_mode)")
        return control

    async def _run(self, work: Coroutine[Any, Any, None], message: str, request: Request, context: Context) -> None:
        extra = {"model": request.model_name, "caller": context.caller.name}
        _log.info(message, extra=extra)
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            # Its caller may have gone, and asyncio would tell of an error that nobody takes.
            task.exception()


def check_repository(name: str) -> None:
    """Raise NotSupported if a request names a repository."""
    if name:
        raise NotSupported("repository_name: this server has one repository, without a name; leave it empty")
