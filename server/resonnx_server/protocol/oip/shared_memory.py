"""Tensors in shared memory: where a request says that an input lies, or an output shall be written."""

from collections.abc import Callable, Mapping

from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.memory.regions import Place
from resonnx_server.protocol.oip.parameters import integer_parameter, string_parameter

REGION = "shared_memory_region"
SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"

# Returns bytes of a region of the request's caller, by the region's name, offset, size, and the request's field.
FindPlace = Callable[[str, int, int, str], Place]


def no_shared_memory(name: str, offset: int, size: int, field: str) -> Place:
    """Raise InvalidInput: there are no regions."""
    raise InvalidInput(field, "shared memory is not supported")


def place_of(parameters: Mapping[str, pb.InferParameter], field: str, find: FindPlace) -> Place:
    """Return where a tensor lies whose parameters name a region.

    Args:
        parameters: The tensor's; REGION is among them.
        field: The tensor's field, for errors.
        find: Finds the bytes.

    Raises:
        InvalidInput: They are not valid.
        RegionNotFound: The caller has no such region.
    """
    field = f"{field}.parameters"
    name = string_parameter(parameters, REGION, field)
    if SIZE not in parameters:
        raise InvalidInput(field, f"{SIZE} is missing beside {REGION}")
    size, offset = integer_parameter(parameters, SIZE, field), integer_parameter(parameters, OFFSET, field)
    return find(name, offset, size, field)


def output_places(request: pb.ModelInferRequest, find: FindPlace) -> dict[str, Place]:
    """Return where outputs shall be written, by name; those without a region are not among them.

    Raises:
        RegionNotFound: The caller has no such region.
        InvalidInput: A region is not writable, or parameters do not fit together.
    """
    places = {}
    for output in request.outputs:
        if not output.parameters or REGION not in output.parameters:
            continue
        field = f"outputs[{output.name[:64]!r}]"
        if integer_parameter(output.parameters, "classification", f"{field}.parameters"):
            raise InvalidInput(field, f"output can't set both {REGION!r} and 'classification'")
        place = place_of(output.parameters, field, find)
        if not place.region.is_writable:
            raise InvalidInput(place.field, f"the server may not write to region {place.region.name!r}")
        places[output.name] = place
    return places
