"""The rpc LogSettings: reads and changes which lines are logged."""

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.observe.logs import LogControl
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.protocol.oip.log_settings import change
from resonnx_server.rpc.boundary import Context, counted


class LogSettingsRpc:
    """LogSettings.

    Args:
        control: The levels of the process.
        rejected: Counts calls that fail.
    """

    rpcs = ("LogSettings",)
    extensions = ("logging",)

    def __init__(self, control: LogControl, rejected: RejectedCalls) -> None:
        self.rejected = rejected
        self._control = control

    @counted
    async def LogSettings(self, request: pb.LogSettingsRequest, context: Context) -> pb.LogSettingsResponse:  # noqa: N802
        """Change the given settings, all or none, and return all; see log_settings.change."""
        return change(self._control, request, context.caller)
