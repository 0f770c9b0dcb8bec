"""A captioner without a network, for tests: words follow from a row's own picture and past, and from nothing else."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from resonnx_proto.v1.manifest_pb2 import CaptionerSpec
from resonnx_server.captioning.request import start_search
from resonnx_server.runtime.decoding.search import DecodeOptions, Search
from resonnx_server.runtime.decoding.step_output import StepOutput
from resonnx_server.runtime.graphs import Step

VOCABULARY, STATES, TOP = 40, 9973, 16
START, END = 1, 0


def spec(**fields: object) -> CaptionerSpec:
    """The language's manifest; END has a fair share of each step's probability."""
    words = [f"w{i}" for i in range(VOCABULARY)]
    return CaptionerSpec(**{"vocabulary": words, "start_id": START, "end_id": END, "max_tokens": 24, **fields})


@cache
def _table(seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 1.5, (STATES, VOCABULARY))
    logits[:, END] += 1.5
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


class Language:
    """Graphs whose log-probabilities are a random table's row for each (picture, past)."""

    def __init__(self, seed: int = 0) -> None:
        self.table = _table(seed).copy()
        self.attention_size = 4
        self.steps: list[int] = []
        self.asked: list[tuple[bool, bool]] = []

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        pictures = images.reshape(len(images), -1)[:, :2].astype(np.int64) @ [1, 256]
        return [pictures[:, None] * 7], [pictures[:, None]], None

    def step(
        self,
        tokens: np.ndarray,
        state: Sequence[np.ndarray],
        features: Sequence[np.ndarray],
        *,
        attention: bool = False,
        log_probs: bool = False,
    ) -> Step:
        self.steps.append(len(tokens))
        self.asked.append((attention, log_probs))
        past = (state[0][:, 0] * 131 + tokens * 17 + features[0][:, 0] * 3 + 1) % STATES
        every = self.table[past]
        top = np.argsort(-every, axis=1, kind="stable")[:, :TOP]
        looked = np.repeat(past[:, None].astype(np.float32), 4, axis=1)
        return Step(
            top,
            np.take_along_axis(every, top, axis=1),
            [past[:, None]],
            looked if attention else None,
            every if log_probs else None,
        )


def picture(number: int) -> np.ndarray:
    """A picture uint8 [1,1,3] of that number (below 65,536)."""
    return np.array([number % 256, number // 256, 0], np.uint8).reshape(1, 1, 3)


def alone(language: Language, image: np.ndarray, of: CaptionerSpec, options: DecodeOptions) -> Search:
    """Decode one picture without company, and return its finished search."""
    search = start_search(of, options)
    state, features, _ = language.encode(image[None])
    rows = [0]
    while not search.finished:
        state = [s[rows] for s in state]
        step = language.step(
            np.array(search.tokens),
            state,
            [np.repeat(f, len(rows), axis=0) for f in features],
            attention=options.attention,
            log_probs=search.needs_log_probs,
        )
        state = step.state
        rows = list(search.advance(StepOutput.of_step(step), range(len(rows))))
    return search


def ids(search: Search) -> list[list[int]]:
    """The token ids of its captions, best first."""
    return [[token.id for token in sequence.tokens] for sequence, _ in search.ranked()]
