"""Messages of ModelInfer and ModelStreamInfer around their outputs: heads, words told beforehand, failures."""

from collections.abc import Callable

from grpc import StatusCode
from resonnx_proto.inference import grpc_service_pb2 as pb

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import OnWords
from resonnx_server.errors import InvalidInput, ServerError
from resonnx_server.inference.registry import Model
from resonnx_server.rpc.boundary import pushback_ms
from resonnx_server.rpc.captions import word_tensors
from resonnx_server.rpc.oip import describe
from resonnx_server.rpc.oip.answers import AnswerEncoder, Output
from resonnx_server.runtime.decoding.sequence import Token

# Takes a ModelStreamInferResponse, serialized.
TellPart = Callable[[bytes], None]


def head_of(request: pb.ModelInferRequest, model: Model, *, is_final: bool | None) -> pb.ModelInferResponse:
    """Return an answer without its outputs; `is_final` is told on streams."""
    head = pb.ModelInferResponse(model_name=model.name, model_version=str(model.version), id=request.id)
    if is_final is not None:
        head.parameters["triton_final_response"].bool_param = is_final
    return head


def failed(request: pb.ModelInferRequest, _: StatusCode, error: ServerError) -> bytes:
    """Return the answer to a request of a stream that failed, serialized: its last, whatever words came before."""
    response = pb.ModelInferResponse(id=request.id, model_name=request.model_name)
    response.parameters["triton_final_response"].bool_param = True
    response.parameters["reason"].string_param = error.reason
    if (pushback := pushback_ms(error)) is not None:
        response.parameters["retry_after_ms"].int64_param = pushback
    return pb.ModelStreamInferResponse(error_message=error.message, infer_response=response).SerializeToString()


def word_teller(
    request: pb.ModelInferRequest, model: Model, wanted: list[str], tell: TellPart | None, answers: AnswerEncoder
) -> OnWords | None:
    """Return what tells a captioner's words as answers that are not the final one.

    Raises:
        InvalidInput: The request is of no stream.
    """
    engine = model.engine
    if not isinstance(engine, CaptionEngine):
        return None
    if tell is None:
        raise InvalidInput("parameters['stream']", "needs ModelStreamInfer")
    spec = engine.spec

    def on_words(tokens: list[Token]) -> None:
        for token in tokens:
            tensors = word_tensors(token, spec)
            outputs = [Output(name, describe.shown(tensors[name], batched=True)) for name in wanted]
            tell(answers.encode_small(head_of(request, model, is_final=False), outputs, streamed=True))

    return on_words
