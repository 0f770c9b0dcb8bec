"""The pictures of one ClassifyStream that wait for answers: bounded, each answered once."""

from resonnx_proto.v1 import vision_pb2

from resonnx._errors import Internal, ResonnxError, from_stream
from resonnx._messages import classification, classify_request
from resonnx._results import Classification

# Enough to keep a server's batches full over one connection; bounds the memory for pictures.
IN_FLIGHT = 16


class Window:
    """Numbers pictures as they are sent and matches answers to them.

    Args:
        model: Name, for every picture.
        version: None for the server's default.
        top_k: Predictions a picture.
        features: Whether feature vectors are asked for.
        priority: Of each picture; None for the server's default.
        answer_within_s: From a picture's arrival at the server; None for no limit.
    """

    def __init__(
        self,
        model: str,
        *,
        version: int | None,
        top_k: int,
        features: bool,
        priority: int | None,
        answer_within_s: float | None,
    ) -> None:
        self._model = model
        self._version = version
        self._top_k = top_k
        self._features = features
        self._priority = priority
        self._answer_within_s = answer_within_s
        self._waiting: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether an answer must be read before the next picture is sent."""
        return len(self._waiting) >= IN_FLIGHT

    def send(self, index: int, image: vision_pb2.Image) -> vision_pb2.ClassifyRequest:
        """Build a picture's request."""
        request = classify_request(
            image,
            self._model,
            version=self._version,
            top_k=self._top_k,
            features=self._features,
            priority=self._priority,
            answer_within_s=self._answer_within_s,
            id=str(index),
        )
        self._waiting.add(request.id)
        return request

    def receive(self, response: vision_pb2.ClassifyStreamResponse) -> tuple[int, Classification | ResonnxError]:
        """Give the index and the outcome of the picture that this answers.

        Raises:
            Internal: It answers no picture that waits.
        """
        if response.id not in self._waiting:
            raise Internal(f"an answer to {response.id!r}, which was not asked or already answered")
        self._waiting.remove(response.id)
        if response.HasField("error"):
            return int(response.id), from_stream(response.error)
        return int(response.id), classification(response.response, features=self._features)

    def check_ended(self) -> None:
        """Check a stream that ended well.

        Raises:
            Internal: Pictures are still unanswered.
        """
        if self._waiting:
            raise Internal(f"the server ended the stream with {len(self._waiting)} pictures unanswered")
