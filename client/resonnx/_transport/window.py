"""The unanswered pictures of a ClassifyStream, and limits of calls at a time."""

from resonnx_proto.v1 import vision_pb2

from resonnx._errors import Internal, ResonnxError, from_stream
from resonnx._results import Classification
from resonnx._tasks.classify import classification, classify_request

# Enough to fill a server's batches over one connection; also bounds the memory for pictures.
IN_FLIGHT = 16
MOST_AT_A_TIME = 256


# Pictures whose answers are known or awaited, in calls at a time: one that takes long does not hold the others up.
AHEAD = 4


def check_concurrency(concurrency: int) -> None:
    """Raise ValueError unless it is a number of calls at a time."""
    if not 1 <= concurrency <= MOST_AT_A_TIME:
        raise ValueError(f"concurrency must be 1 to {MOST_AT_A_TIME}, got {concurrency}")


class Window:
    """Numbers pictures when they are sent and matches answers to them; arguments as for `Client.classify_stream`."""

    def __init__(
        self,
        model: str,
        *,
        version: int | str | None,
        top_k: int | None,
        features: bool,
        heatmap: bool,
        priority: int | None,
        answer_within_s: float | None,
    ) -> None:
        self._model = model
        self._version = version
        self._top_k = top_k
        self._features = features
        self._heatmap = heatmap
        self._priority = priority
        self._answer_within_s = answer_within_s
        # Requests without an answer, by id. None after the first answer, as they are not sent again then.
        self._waiting: dict[str, vision_pb2.ClassifyRequest | None] = {}
        self._answered = False

    @property
    def full(self) -> bool:
        """Return whether an answer must be read before the next picture is sent."""
        return len(self._waiting) >= IN_FLIGHT

    def send(self, index: int, image: vision_pb2.Image) -> vision_pb2.ClassifyRequest:
        """Return the request for a picture."""
        request = classify_request(
            image,
            self._model,
            version=self._version,
            top_k=self._top_k,
            features=self._features,
            heatmap=self._heatmap,
            priority=self._priority,
            answer_within_s=self._answer_within_s,
            id=str(index),
        )
        self._waiting[request.id] = None if self._answered else request
        return request

    def unanswered(self) -> list[vision_pb2.ClassifyRequest]:
        """Return the requests that are sent again if the server goes away; none once it has answered one."""
        return [request for request in self._waiting.values() if request is not None]

    def receive(self, response: vision_pb2.ClassifyStreamResponse) -> tuple[int, Classification | ResonnxError]:
        """Return the index and the result of the picture that a response answers.

        Raises:
            Internal: It answers no unanswered picture.
        """
        if response.id not in self._waiting:
            raise Internal(f"an answer to {response.id!r}, which was not sent or is already answered")
        del self._waiting[response.id]
        if not self._answered:
            self._answered, self._waiting = True, dict.fromkeys(self._waiting)
        if response.HasField("error"):
            return int(response.id), from_stream(response.error)
        return int(response.id), classification(response.response, features=self._features)

    def check_ended(self) -> None:
        """Raise Internal if the stream ended before all pictures were answered."""
        if self._waiting:
            raise Internal(f"the server ended the stream with {len(self._waiting)} pictures unanswered")
