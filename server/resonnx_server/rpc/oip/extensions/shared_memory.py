"""The rpcs of shared memory: registering regions of the system's; CUDA's are not offered."""

import logging

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import NotSupported, RegionNotFound
from resonnx_server.memory.regions import Regions
from resonnx_server.observe.rejected import RejectedCalls
from resonnx_server.rpc.boundary import Context, counted

_log = logging.getLogger(__name__)


class SharedMemoryRpcs:
    """SystemSharedMemory… and CudaSharedMemory…; each caller sees its own regions only.

    Args:
        regions: The regions.
        rejected: Counts calls that fail.
    """

    rpcs = (
        "SystemSharedMemoryStatus",
        "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus",
        "CudaSharedMemoryRegister",
        "CudaSharedMemoryUnregister",
    )

    def __init__(self, regions: Regions, rejected: RejectedCalls) -> None:
        self.rejected = rejected
        self._regions = regions
        self.extensions = ("system_shared_memory",) if regions.are_on else ()

    @counted
    async def SystemSharedMemoryStatus(  # noqa: N802
        self, request: pb.SystemSharedMemoryStatusRequest, context: Context
    ) -> pb.SystemSharedMemoryStatusResponse:
        """The caller's region of a name, or all of its regions. Raises RegionNotFound."""
        response = pb.SystemSharedMemoryStatusResponse()
        for region in self._regions.of(context.caller.name):
            if request.name in ("", region.name):
                entry = response.regions[region.name]
                entry.name, entry.key, entry.offset, entry.byte_size = (
                    region.name,
                    region.key,
                    region.offset,
                    region.size,
                )
        if request.name and not response.regions:
            raise _missing(request.name)
        return response

    @counted
    async def SystemSharedMemoryRegister(  # noqa: N802
        self, request: pb.SystemSharedMemoryRegisterRequest, context: Context
    ) -> pb.SystemSharedMemoryRegisterResponse:
        """Register a part of a segment of POSIX shared memory. Raises as Regions.register."""
        caller = context.caller.name
        self._regions.register(caller, request.name, request.key, request.offset, request.byte_size)
        fields = {"region": request.name, "key": request.key, "bytes": request.byte_size}
        _log.info("shared memory registered", extra={"caller": caller, **fields})
        return pb.SystemSharedMemoryRegisterResponse()

    @counted
    async def SystemSharedMemoryUnregister(  # noqa: N802
        self, request: pb.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Remove the caller's region of a name, or all of its regions; nothing happens if there is none."""
        self._regions.unregister(context.caller.name, request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    @counted
    async def CudaSharedMemoryStatus(  # noqa: N802
        self, request: pb.CudaSharedMemoryStatusRequest, context: Context
    ) -> pb.CudaSharedMemoryStatusResponse:
        """No regions. Raises RegionNotFound if one is named."""
        if request.name:
            raise _missing(request.name)
        return pb.CudaSharedMemoryStatusResponse()

    @counted
    async def CudaSharedMemoryRegister(  # noqa: N802
        self, request: pb.CudaSharedMemoryRegisterRequest, context: Context
    ) -> pb.CudaSharedMemoryRegisterResponse:
        """Raise NotSupported."""
        raise NotSupported("CUDA shared memory is not supported by this server; use system shared memory")

    @counted
    async def CudaSharedMemoryUnregister(  # noqa: N802
        self, request: pb.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> pb.CudaSharedMemoryUnregisterResponse:
        """Do nothing: there are no regions. perf_analyzer calls it before it registers those of the system."""
        return pb.CudaSharedMemoryUnregisterResponse()


def _missing(name: str) -> RegionNotFound:
    return RegionNotFound(f"{name[:64]!r} is not a region of shared memory that this caller has registered")
