"""One request of an engine: reserved and submitted at once."""

from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.captioning.request import CaptionCost, Captioned, CaptionWork, OnWords
from resonnx_server.runtime.decoding.search import DecodeOptions
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.scheduling.session_pool import Tensors
from resonnx_server.scheduling.sharing import DEFAULT_PRIORITY
from resonnx_server.tensors.engine import TensorAnswer, TensorCost, TensorEngine


async def infer(
    engine: TensorEngine,
    inputs: Tensors,
    deadline_ns: int | None = None,
    priority: int = DEFAULT_PRIORITY,
    *,
    whole: bool = False,
) -> TensorAnswer:
    """Run tensors [rows, ...]."""
    with engine.reserve(TensorCost(len(next(iter(inputs.values()))), whole), deadline_ns, priority) as reservation:
        return await engine.submit(inputs, reservation)


async def caption(
    engine: CaptionEngine,
    image: Pixels,
    options: DecodeOptions,
    on_words: OnWords | None = None,
    deadline_ns: int | None = None,
    priority: int = DEFAULT_PRIORITY,
    caller: str = "",
) -> Captioned:
    """Caption one picture."""
    with engine.reserve(CaptionCost(1, options), deadline_ns, priority, caller=caller) as reservation:
        return await engine.submit(CaptionWork(image, options, on_words), reservation)
