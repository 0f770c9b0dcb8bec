"""The service grpc.health.v1.Health: statuses of services and models, and their watchers.

The servicer of grpc-health-checking loses all watchers of a service when the first of them leaves.
"""

from collections.abc import Mapping
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from resonnx_server.access.caller import Caller
from resonnx_server.errors import NotFound
from resonnx_server.inference.registry import Models
from resonnx_server.rpc.boundary import Context, StreamContext, one_status
from resonnx_server.rpc.watches import Watches

# Of a model's service: the service of its tasks, this, and NAME, NAME:VERSION or NAME:LABEL.
OF_MODEL: Final = "/"


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no annotations
    """Statuses by service. Owned by the event loop.

    Args:
        models: Knows which models a caller may use.
        most_watches: Most calls of Watch at a time.
    """

    def __init__(self, models: Models, most_watches: int) -> None:
        self._models = models
        self._statuses: dict[str, health_pb2.HealthCheckResponse.ServingStatus] = {}
        self._is_draining = False
        self._watches = Watches(most_watches)

    def set(self, statuses: Mapping[str, health_pb2.HealthCheckResponse.ServingStatus]) -> None:
        """Set the statuses of all services, unless draining; others are unknown from now on."""
        if not self._is_draining and statuses != self._statuses:
            self._statuses = dict(statuses)
            self._watches.notify()

    def drain(self) -> None:
        """Set all services to NOT_SERVING; irreversible."""
        self._is_draining = True
        self._statuses = dict.fromkeys(self._statuses, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._watches.notify()

    @one_status
    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """A service's status; NOT_FOUND for one that is unknown.

        Raises:
            ModelNotAllowed: The service is that of a model that the caller may not use, whether there is one or not.
        """
        self._check(request.service, context.caller)
        status = self._statuses.get(request.service)
        if status is None:
            raise NotFound(f"service {request.service[:64]!r} is unknown")
        return health_pb2.HealthCheckResponse(status=status)

    @one_status
    async def Watch(self, request: health_pb2.HealthCheckRequest, context: StreamContext) -> None:  # noqa: N802
        """A service's status and its changes, until the caller leaves; SERVICE_UNKNOWN for an unknown one.

        Raises:
            RateLimited: There are too many watches; see Watches.
            ModelNotAllowed: As Check.
        """
        self._check(request.service, context.caller)
        sent, service = None, request.service
        # The loop may last for days.
        del request
        watch = self._watches.begin(context.caller.name, context.peer())
        try:
            while watch.ended is None:
                # Before the status is read, so that no change is missed while it is written.
                watch.changed.clear()
                status = self._statuses.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
                if status != sent:
                    await context.write(health_pb2.HealthCheckResponse(status=status))
                    sent = status
                await watch.changed.wait()
            raise watch.ended
        finally:
            self._watches.end(watch)

    def _check(self, service: str, caller: Caller) -> None:
        """Raise ModelNotAllowed if a service is that of a model that the caller may not use."""
        _, is_model, model = service.partition(OF_MODEL)
        if is_model:
            self._models.check(model.partition(":")[0], caller)
