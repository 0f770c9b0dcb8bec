"""Channel order, pixel scale and inputs that are not square: from the checkpoint to a real server's answers."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resonnx import Client
from resonnx_export.pictures.examples import smooth
from torch import Tensor

from ...conftest import StartServer
from ..caption_exports import SGRVINOD, Written, assert_same_captions, assert_served, exported
from .caption_sources.randomness import enliven, normalised, settle
from .caption_sources.resnet import Net
from .caption_sources.sgrvinod import DecoderWithAttention
from .classifier_sources import randomise
from .same_answers import assert_close, run, saved, small

pytestmark = pytest.mark.usefixtures("torch_seeded")

CAFFE_MEAN = (103.939, 116.779, 123.68)
HEIGHT, WIDTH = 64, 96


def oblong(count: int, seed: int, height: int, width: int) -> np.ndarray:
    """Make pictures uint8 [count,height,width,3], RGB."""
    rng = np.random.default_rng(seed)
    return np.stack([smooth(rng, height, width) for _ in range(count)])


@torch.no_grad()
def test_a_caffe_like_classifier_of_oblong_pictures(tmp_path: Path, start_server: StartServer) -> None:
    source = randomise(small())
    checkpoint = saved(tmp_path / "x.pth", source.state_dict())
    images = oblong(4, 5, 48, 32)
    blue_first = torch.from_numpy(images[:, :, :, ::-1].copy()).permute(0, 3, 1, 2).float()
    logits = source(blue_first - torch.tensor(CAFFE_MEAN).view(3, 1, 1))
    labels = [f"label {i}" for i in range(logits.shape[1])]
    (tmp_path / "labels.txt").write_text("\n".join(labels))
    options = ["--size", "48x32", "--channel-order", "bgr", "--scale", "255", "--mean", ",".join(map(str, CAFFE_MEAN))]
    options += ["--activation", "none", "--no-allow-reduced", "--labels", tmp_path / "labels.txt"]
    result = run("classifier", checkpoint, "--repository", tmp_path / "m", "--name", "caffe", *options)
    assert result.exit_code == 0, result.output
    assert re.search(r"equal to our reading of the file; \d+ assumptions", result.stdout)
    assert "assumed: resizing" in result.stdout
    assert "given: channel-order bgr" in result.stdout
    verified = run("verify", tmp_path / "m" / "caffe" / "1", "--checkpoint", checkpoint)
    assert verified.exit_code == 0, verified.output
    with start_server(tmp_path / "m", "--strict") as server, Client(server.grpc) as client:
        found = np.zeros(logits.shape, np.float32)
        for row, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            for prediction in client.classify(file.getvalue(), "caffe", top_k=len(labels)).predictions:
                found[row, labels.index(prediction.label)] = prediction.score
    assert_close(found, logits)


@pytest.mark.slow
@torch.no_grad()
def test_an_attending_captioner_of_oblong_pictures(tmp_path: Path, start_server: StartServer) -> None:
    net = Net(deep=True)
    decoder = DecoderWithAttention(12, 24, 32, len(SGRVINOD), net.fc.in_features).eval()
    start, end = SGRVINOD.index("<start>"), SGRVINOD.index("<end>")
    shown = normalised(oblong(32, 1, HEIGHT, WIDTH))
    settle(net, lambda: net.grid(shown))

    def write(images: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        return decoder.greedy(net.grid(images).permute(0, 2, 3, 1), start, steps)

    enliven(decoder, decoder.fc, lambda: write(shown, 20), end)
    trunk = {f"trunk.{key}": value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    torch.save({**trunk, **decoder.state_dict()}, tmp_path / "own.pth")
    (tmp_path / "words.txt").write_text("\n".join(SGRVINOD))
    version = exported(tmp_path, [tmp_path / "own.pth"], tmp_path / "words.txt", "--size", f"{HEIGHT}x{WIDTH}")
    spec, recipe = version.manifest.captioner, version.manifest.input
    assert (recipe.height, recipe.width) == (HEIGHT, WIDTH)
    assert (spec.attention_rows, spec.attention_columns) == (2, 3)
    images = oblong(64, 2, HEIGHT, WIDTH)
    written = Written(*write(normalised(images), spec.max_tokens))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)
