"""Calibration pictures for int8, made of training digits: the held-out ones stay unseen."""

import numpy as np
from PIL import Image
from resonnx_proto.v1 import manifest_pb2 as pb
from resonnx_server.runtime.pictures.images import fit

from resonnx_export.demo.digits import render, split
from resonnx_export.demo.scenes import compose
from resonnx_export.pictures.calibration import Calibration, split_pictures

_DIGITS = 512
_SCENES = 256
_SEED = 0


def digits(recipe: pb.ImageInput) -> Calibration:
    """Render training digits on varied paper with varied ink, with their classes."""
    train, _ = split()
    rng = np.random.default_rng(_SEED)
    rows = rng.permutation(len(train))[:_DIGITS]
    pictures = [fit(Image.fromarray(render(train.ink[row], rng)), recipe) for row in rows]
    return split_pictures(np.stack(pictures), train.labels[rows])


def scenes(recipe: pb.ImageInput) -> Calibration:
    """Compose scenes of training digits."""
    train, _ = split()
    rng = np.random.default_rng(_SEED)
    pictures = [fit(Image.fromarray(compose(rng, train.ink, train.labels).image), recipe) for _ in range(_SCENES)]
    return split_pictures(np.stack(pictures))
