"""Graphs that are held up, or go wrong for one picture, and an engine for them."""

import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from resonnx_server.captioning.engine import CaptionEngine
from resonnx_server.runtime.graphs import Step
from resonnx_server.scheduling.device import Device

from ..hand import caption_engine
from ..language import END, STATES, Language

POISON = 65_535


class Graphs(Language):
    """The language, which can be held up, and fails on one picture."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        if (images[:, 0, 0, :2] == 255).all(axis=1).any():
            raise RuntimeError("poisoned picture")
        return super().encode(images)

    def step(self, *arrays: object, **wanted: bool) -> Step:
        self.free.wait(10)
        return super().step(*arrays, **wanted)


class Poisoned(Language):
    """The language, in which one picture's rows fail in one way, in every `every`-th state that they come to."""

    def __init__(self, kind: str, every: int, *, first_words: bool) -> None:
        super().__init__()
        self._kind, self._every, self._first_words = kind, every, first_words

    def encode(self, images: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray | None]:
        state, features, _ = super().encode(images)
        pictures = features[0][:, 0]
        if self._kind == "encode raises" and (pictures == POISON).any():
            raise RuntimeError("a poisoned picture")
        first = None
        if self._first_words:
            first = self.table[(pictures * 31) % STATES].copy()
            first[:, END] = -50
            if self._kind == "first words are NaN":
                first[pictures == POISON] = np.nan
            elif self._kind == "a first word far down is NaN":
                first[pictures == POISON, first[0].argmin()] = np.nan
        return state, features, first

    def step(
        self, tokens: np.ndarray, state: Sequence[np.ndarray], features: Sequence[np.ndarray], **wanted: bool
    ) -> Step:
        step = super().step(tokens, state, features, **wanted)
        bad = (features[0][:, 0] == POISON) & (step.state[0][:, 0] % self._every == 0)
        if self._kind == "step raises" and bad.any():
            raise RuntimeError("a poisoned row")
        top, every = step.top_log_probs.copy(), None if step.log_probs is None else step.log_probs.copy()
        if self._kind == "best words are NaN":
            top[bad, self._every % top.shape[1] :] = np.nan
        elif self._kind == "all words are impossible":
            top[bad] = -np.inf
        elif self._kind == "a word far down is NaN" and every is not None:
            every[bad, 39] = np.nan
        return replace(step, top_log_probs=top, log_probs=every)


@asynccontextmanager
async def running(
    graphs: Graphs, lanes: int = 1, clock: Callable[[], int] = time.monotonic_ns, **settings: object
) -> AsyncIterator[CaptionEngine]:
    device = Device("test", lanes, clock)
    engine = caption_engine(graphs, device, **settings)
    try:
        yield engine
    finally:
        engine.close()
        graphs.free.set()
        device.close()
