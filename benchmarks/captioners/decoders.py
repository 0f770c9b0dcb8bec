"""A captioner's graphs and encoded pictures, to measure decoding without a server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from random_models.captioners import captioners
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.repository.choose import stored_precision
from resonnx_server.runtime.graphs import CaptionerGraphs
from resonnx_server.runtime.machine.host import usable_cores
from resonnx_server.runtime.model_files.manifest import DECODER_FILE, ENCODER_FILE, VersionFiles, read_version
from resonnx_server.runtime.pictures.images import Pixels
from resonnx_server.runtime.session import CPU, Array, Candidate, Session

ENCODER_BATCH: Final = 16


class EncodedPictures:
    """A captioner whose encoder has run already: pictures are numbers, and encoding one looks it up.

    What the engine asks of CaptionerGraphs, for measuring decoding alone.

    Args:
        graphs: The captioner's.
        pictures: uint8 [N,H,W,3]; encoded here.
    """

    def __init__(self, graphs: CaptionerGraphs, pictures: Pixels) -> None:
        self.graphs = graphs
        self.step = graphs.step
        self.attention_size = graphs.attention_size
        batches = [
            graphs.encode(pictures[start : start + ENCODER_BATCH]) for start in range(0, len(pictures), ENCODER_BATCH)
        ]
        self.state = [np.concatenate(parts) for parts in zip(*(batch[0] for batch in batches), strict=True)]
        self.features = [np.concatenate(parts) for parts in zip(*(batch[1] for batch in batches), strict=True)]
        first = [batch[2] for batch in batches if batch[2] is not None]
        self.first_log_probs = np.concatenate(first) if first else None

    def __len__(self) -> int:
        """Pictures."""
        return len(self.state[0])

    def encode(self, images: Pixels) -> tuple[list[Array], list[Array], Array | None]:
        """Return the encoder's outputs for pictures uint8 [N,1,1,3] made by `number`."""
        numbers = images[:, 0, 0].astype(np.int64) @ [1, 256, 65_536]
        first = None if self.first_log_probs is None else self.first_log_probs[numbers]
        return [state[numbers] for state in self.state], [feature[numbers] for feature in self.features], first


def number(picture: int) -> Pixels:
    """Return a picture's number as `EncodedPictures.encode` reads it: uint8 [1,1,3]."""
    return np.array([[[picture & 255, picture >> 8 & 255, picture >> 16]]], np.uint8)


def captioner_files(name: str, repository: Path | None = None) -> VersionFiles:
    """Read a captioner's version 1: of random_models/captioners.py, or of a repository."""
    return read_version((repository or captioners((name,))) / name / "1")


def open_graphs(files: VersionFiles, decoder: bytes | None = None, threads: int | None = None) -> CaptionerGraphs:
    """Open both files on the CPU provider, with another decoder if given.

    Raises:
        ModelRefused: The runtime cannot load one, or the decoder does not fit.
    """
    threads = threads or usable_cores()
    encoder = Candidate(CPU, stored_precision(files.manifest, ENCODER_FILE))
    return CaptionerGraphs(
        Session(files.files[ENCODER_FILE], encoder, threads),
        Session(decoder or files.files[DECODER_FILE], Candidate(CPU, pb.PRECISION_FP32), threads),
        files.manifest,
    )


def random_pictures(files: VersionFiles, count: int, seed: int = 0) -> Pixels:
    """Return uint8 [count,H,W,3], every value drawn by itself."""
    recipe = files.manifest.input
    return np.random.default_rng(seed).integers(0, 256, (count, recipe.height, recipe.width, 3), np.uint8)


def rows_of(arrays: Sequence[Array], rows: int) -> list[Array]:
    """Return `rows` rows of each array, over and over where there are fewer."""
    return [array[np.arange(rows) % len(array)] for array in arrays]
