"""A user's captioner as a network of the exporter: any module with `encode` and `step`.

    encode(images [N,3,H,W]) -> state, features                   a start token is the first input
    encode(images [N,3,H,W]) -> state, features, scores [N,V]     the picture itself gives the first word
    step(token [R], state, features) -> scores [R,V], state
    step(token [R], state, features) -> scores [R,V], state, attention [R,P]

`state` and `features` are tuples of tensors whose axis 0 is the rows; `features` is only read and may be (). Scores are
logits or log-probabilities.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from resonnx_export.errors import BadInput
from resonnx_export.networks.protocol import CaptionNetwork, Encoded, Stepped
from resonnx_export.user_code.running import running

# Two numbers of pictures, neither of them likely to be a number of layers.
_ROWS: Final = (5, 7)
_SEED: Final = 3000
_SUM_TOLERANCE: Final = 1e-5


class UserCaptioner(CaptionNetwork):
    """An adapter with `encode` and `step`, checked by `as_caption_network`.

    Args:
        adapter: In eval mode.
        vocabulary_size: V.
        grid: Rows and columns of the attention; 0, 0 without attention.
        says_first_word: Whether encode scores the first word; otherwise a start token is the first input.
    """

    def __init__(
        self,
        adapter: nn.Module,
        vocabulary_size: int,
        grid: tuple[int, int] = (0, 0),
        *,
        says_first_word: bool = False,
    ) -> None:
        super().__init__(vocabulary_size)
        # mypy takes a module's attributes for tensors.
        self.adapter: Any = adapter
        self.grid, self.says_first_word = grid, says_first_word

    def encode(self, images: Tensor) -> Encoded:
        """As CaptionNetwork's. Raises BadInput if the adapter returns no such tensors."""
        parts = _parts("encode", self.adapter.encode(images), "(state, features)", "scores of the first word")
        first = None if parts[2] is None else torch.log_softmax(_tensor("encode", "its scores", parts[2]), dim=1)
        features = _tensors("encode", "features", parts[1])
        return Encoded(_tensors("encode", "state", parts[0]), features, first)

    def step(self, token: Tensor, state: tuple[Tensor, ...], features: tuple[Tensor, ...]) -> Stepped:
        """As CaptionNetwork's. Raises BadInput if the adapter returns no such tensors."""
        parts = _parts("step", self.adapter.step(token, state, features), "(scores, state)", "attention")
        attention = None if parts[2] is None else _tensor("step", "its attention", parts[2])
        scores = torch.log_softmax(_tensor("step", "its scores", parts[0]), dim=1)
        return Stepped(scores, _tensors("step", "state", parts[1]), attention)

    def attention_grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the grid of pictures of the size that was checked."""
        return self.grid


def is_captioner(module: nn.Module) -> bool:
    """Return whether a module is an adapter of a captioner, with `encode` and `step`."""
    return callable(getattr(module, "encode", None)) and callable(getattr(module, "step", None))


@torch.no_grad()
def as_caption_network(adapter: nn.Module, words: int, height: int, width: int) -> UserCaptioner:
    """Check an adapter on pictures of noise, and return it as a network.

    Args:
        adapter: In eval mode, float32, on the CPU; it is not changed.
        words: Of the vocabulary.
        height: Of its pictures, in pixels.
        width: Likewise.

    Raises:
        BadInput: It has no `encode` or `step`, raises, or returns tensors of other shapes or types; the message names
            the tensor and what is needed.
    """
    if not is_captioner(adapter):
        missing = " and ".join(name for name in ("encode", "step") if not callable(getattr(adapter, name, None)))
        raise BadInput(f"{type(adapter).__name__} has no {missing}: a captioner's adapter has encode and step")
    network = UserCaptioner(adapter, words)
    for rows in _ROWS:
        images = torch.randn(rows, 3, height, width, generator=torch.Generator().manual_seed(_SEED))
        encoded = _encoded(network, images)
        stepped = _stepped(network, encoded, rows)
    grid = _grid(adapter, stepped.attention, height, width)
    return UserCaptioner(adapter, words, grid, says_first_word=encoded.first_log_probs is not None)


def _encoded(network: UserCaptioner, images: Tensor) -> Encoded:
    rows = len(images)
    with running(f"encode, given float pictures {list(images.shape)} (--size changes it),"):
        encoded, again = network.encode(images), network.encode(images)
    if not encoded.state:
        raise BadInput("encode returned an empty state; step needs one to know the words before")
    for name, tensors in (("state", encoded.state), ("features", encoded.features)):
        for number, tensor in enumerate(tensors):
            _check_rows(f"encode's {name}[{number}]", tensor, rows)
    if encoded.first_log_probs is not None:
        _check_scores("encode's scores of the first word", encoded.first_log_probs, rows, network.vocabulary_size)
    if not all(map(torch.equal, encoded.state + encoded.features, again.state + again.features)):
        raise BadInput("encode returned other values at its second call: something random is not turned off by eval()")
    return encoded


def _stepped(network: UserCaptioner, encoded: Encoded, rows: int) -> Stepped:
    token = torch.arange(rows) % network.vocabulary_size
    shapes = ", ".join(str(list(tensor.shape)) for tensor in encoded.state)
    with running(f"step, given tokens [{rows}] and state {shapes},"):
        raw = network.adapter.step(token, encoded.state, encoded.features)
        stepped, again = (network.step(token, encoded.state, encoded.features) for _ in range(2))
    _check_scores("step's scores", stepped.log_probs, rows, network.vocabulary_size)
    if _are_probabilities(raw[0]):
        raise BadInput("step returned probabilities: return logits or log-probabilities, without softmax")
    if len(stepped.state) != len(encoded.state):
        raise BadInput(f"step returned a state of {len(stepped.state)} tensors, encode one of {len(encoded.state)}")
    for number, (before, after) in enumerate(zip(encoded.state, stepped.state, strict=True)):
        _check_rows(f"step's state[{number}]", after, rows)
        if before.shape != after.shape:
            raise BadInput(f"step's state[{number}] is {list(after.shape)}, encode's {list(before.shape)}")
    if stepped.attention is not None and (stepped.attention.ndim != 2 or len(stepped.attention) != rows):
        raise BadInput(f"step's attention is {list(stepped.attention.shape)}; [{rows},P] is needed, P positions a row")
    if not torch.equal(stepped.log_probs, again.log_probs):
        raise BadInput("step returned other scores at its second call: something random is not turned off by eval()")
    return stepped


def _parts(method: str, returned: Any, needed: str, optional: str) -> Sequence[Any]:
    """Return two parts and a third or None."""
    if not isinstance(returned, tuple | list) or len(returned) not in (2, 3):
        raise BadInput(f"{method} returned {_kind(returned)}; {needed} is needed, optionally with {optional}")
    return [*returned, None][:3]


def _tensors(method: str, name: str, value: Any) -> tuple[Tensor, ...]:
    if not isinstance(value, tuple | list):
        raise BadInput(f"{method}'s {name} is {_kind(value)}; a tuple of tensors is needed, for one tensor ({name},)")
    return tuple(_tensor(method, f"{name}[{number}]", each) for number, each in enumerate(value))


def _tensor(method: str, name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise BadInput(f"{method}: {name} is {_kind(value)}; a tensor is needed (tuples are not nested)")
    return value


def _check_rows(what: str, tensor: Tensor, rows: int) -> None:
    if tensor.ndim == 0 or len(tensor) != rows:
        raise BadInput(
            f"{what} is {list(tensor.shape)} for {rows} pictures: axis 0 must be the pictures (states of nn.LSTM "
            "and nn.GRU are [layers,N,H]: return them after .transpose(0, 1), and turn them back in step)"
        )
    if tensor.dtype != torch.float32:
        raise BadInput(f"{what} is {str(tensor.dtype).removeprefix('torch.')}: float32 is needed")


def _check_scores(what: str, scores: Tensor, rows: int, words: int) -> None:
    if scores.shape != (rows, words):
        if scores.ndim == 2 and len(scores) == rows:
            raise BadInput(f"{what} are of {scores.shape[1]} words, the vocabulary has {words}")
        raise BadInput(f"{what} are {list(scores.shape)}; [{rows},{words}] is needed, a score for each word")
    if not torch.isfinite(scores).all():
        raise BadInput(f"{what} are not all finite")


def _are_probabilities(scores: Tensor) -> bool:
    sums = scores.sum(dim=1)
    return scores.shape[1] > 1 and bool((scores >= 0).all() and ((sums - 1).abs() < _SUM_TOLERANCE).all())


def _grid(adapter: nn.Module, attention: Tensor | None, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of attention: the adapter's `attention_grid`, or a square."""
    if attention is None:
        return 0, 0
    positions = attention.shape[1]
    if callable(grid := getattr(adapter, "attention_grid", None)):
        with running("attention_grid"):
            rows, columns = grid(height, width)
    else:
        rows = columns = math.isqrt(positions)
    if rows * columns != positions:
        raise BadInput(
            f"step's attention has {positions} positions, which are not {rows} x {columns}: define "
            "attention_grid(height, width), which returns their rows and columns for pictures of a size in pixels"
        )
    return rows, columns


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor [{','.join(map(str, value.shape))}]"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
