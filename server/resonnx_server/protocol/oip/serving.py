"""Runs requests of the tensor protocol, whichever interface they came through."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

from resonnx_server.access.caller import Caller
from resonnx_server.errors import InvalidInput
from resonnx_server.inference.registry import Model
from resonnx_server.inference.requests import Inference
from resonnx_server.inference.tensors import Tensors
from resonnx_server.memory.regions import Place, Regions
from resonnx_server.protocol.oip.contents import MANY_STRINGS, cleared
from resonnx_server.protocol.oip.inputs import read_inputs, wanted_outputs
from resonnx_server.protocol.oip.parameters import check_classification, parse_parameters
from resonnx_server.protocol.oip.request import InferRequest
from resonnx_server.protocol.oip.shared_memory import output_places
from resonnx_server.protocol.oip.tasks import SERVE
from resonnx_server.protocol.pieces import Pieces

T = TypeVar("T")

_NO_CLASSES: Final[Mapping[str, int]] = {}
_NO_PLACES: Final[Mapping[str, Place]] = {}


class Inferred(NamedTuple):
    """The outputs of a request.

    Attributes:
        model: Has made them.
        outputs: All outputs by name.
        wanted: Names of the requested ones.
        top_k: Number of classes to return in place of an output, by output name.
        places: Where in shared memory outputs go, by output name.
    """

    model: Model
    outputs: Tensors
    wanted: Sequence[str]
    top_k: Mapping[str, int] = _NO_CLASSES
    places: Mapping[str, Place] = _NO_PLACES


Encode = Callable[[Inferred], Awaitable[T]]
# Takes outputs before the final ones.
Emit = Callable[[Inferred], None]


class TensorServing:
    """The tensor protocol over the loaded models.

    Args:
        inference: The use cases.
        pieces: The thread that reads large requests and makes large answers.
        regions: Regions of shared memory; none by default.
    """

    def __init__(self, inference: Inference, pieces: Pieces, regions: Regions | None = None) -> None:
        self._regions = Regions() if regions is None else regions
        self._inference = inference
        self._pieces = pieces

    async def run(
        self, given: InferRequest, caller_ns: int | None, caller: Caller, encode: Encode[T], emit: Emit | None = None
    ) -> T:
        """Return the answer to a request.

        Args:
            given: The request.
            caller_ns: The call's deadline, monotonic ns; None if it has none.
            caller: Who calls.
            encode: Makes the answer; the request counts as in progress, and its memory as held, until it has returned.
            emit: Takes the words of a captioner, if the request asks for them; None where the call has one answer.

        Raises:
            ServerError: The request is refused, or fails.
        """
        message = given.message
        self._inference.models.check(message.model_name, caller)
        with (
            self._inference.limited(caller),
            self._inference.begin(
                message.model_name, message.model_version, given.size, caller=caller, identifier=message.id
            ) as request,
        ):
            model = request.model
            if request.trace is not None:
                request.trace.request_id = message.id
            parameters = parse_parameters(message)
            timeout_us = parameters.timeout_us if model.allow_timeout_override else 0
            priority, policies = parameters.priority, model.engine.policies
            if policies is not None:
                priority = policies.priority(priority, caller.best_priority)
                if (policy := policies.of(priority)).timeout_ns:
                    request.max_wait_ns, timeout_us = policy.wait_ns(parameters.timeout_us), 0
            request.limit(caller_ns, timeout_us, caller.priority(priority), named=True)
            wanted = wanted_outputs(message, model)
            find = partial(self._regions.place, caller.name)
            places = output_places(message, find) if message.outputs else _NO_PLACES
            if places and parameters.stream:
                raise InvalidInput("parameters['stream']", "words of a caption cannot go to shared memory")
            inputs = await read_inputs(given, model, self._pieces, request.hold, find)
            if parameters.top_k:
                check_classification(parameters, model, inputs)

            def emit_outputs(outputs: Tensors) -> None:
                assert emit is not None
                emit(Inferred(model, outputs, wanted))

            early = None if emit is None else emit_outputs
            outputs = await SERVE[model.task.name](request, inputs, parameters, early, self._pieces)
            if sum([array.size for array in inputs.values() if array.dtype.hasobject]) > MANY_STRINGS:
                await self._pieces.run(cleared(inputs.values()))
            # The arrays, and the message that is made of them.
            request.hold(2 * sum([array.nbytes for array in outputs.values()]), answer=True)
            return await encode(Inferred(model, outputs, wanted, parameters.top_k, places))
