"""Decoders with recurrent modules in a list, with residual connections or without; as test_tutorials.py."""

from pathlib import Path

import pytest
import torch
from resonnx_export.cli import app
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.layouts.captioners.recurrent import find_cells
from resonnx_export.vocabulary import Vocabulary
from resonnx_server.runtime.model_files.manifest import read_version
from torch import Tensor, nn
from typer.testing import CliRunner

from ....conftest import StartServer
from ...caption_exports import (
    PICTURES,
    SIZE,
    UDACITY,
    YUNJEY,
    Written,
    assert_same_captions,
    assert_served,
    export,
    write_vocabulary,
)
from ..caption_sources.randomness import normalised, pictures
from ..caption_sources.tutorials import PictureEncoder, StackedDecoder
from .caption_checkpoints import animate, self_critical, write_tutorial

pytestmark = pytest.mark.usefixtures("torch_seeded")


@pytest.mark.parametrize(
    ("name", "cell", "layers", "residual"),
    [
        pytest.param("lstm_cells", nn.LSTMCell, 3, True, marks=pytest.mark.slow),
        pytest.param("rnns", nn.LSTM, 2, True, marks=pytest.mark.slow),
        pytest.param("layers", nn.GRUCell, 2, True, marks=pytest.mark.slow),
        pytest.param("rnn_cells", nn.RNNCell, 2, True, marks=pytest.mark.slow),
        pytest.param("lstm_cells", nn.LSTMCell, 2, False, marks=pytest.mark.slow),
        pytest.param("cell", nn.GRUCell, 1, False, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_cells_in_a_list(
    tmp_path: Path,
    start_server: StartServer,
    name: str,
    cell: type[nn.RNNCellBase | nn.RNNBase],
    layers: int,
    residual: bool,
) -> None:
    cells = [cell(32 if i else 24, 32) for i in range(layers)]
    encoder = PictureEncoder(24, linear="embed", bn="bn")
    decoder = StackedDecoder(name, cells, len(UDACITY), residual=residual)
    animate(encoder, decoder, UDACITY)
    file = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, file)
    vocabulary = write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", UDACITY)
    result = export(tmp_path, [file], vocabulary, "--size", SIZE, *(["--residual"] if residual else []))
    assert result.exit_code == 0, result.output
    assert ("assumed: residual no; --residual (or yes)" in result.stdout) == (layers > 1 and not residual)
    assert ("given: residual yes; --residual (or no)" in result.stdout) == residual
    version = read_version(tmp_path / "models" / "m" / "1")
    assert version.manifest.source.layout == ("udacity-cvnd-residual" if residual else "udacity-cvnd")
    images = pictures(PICTURES, SIZE, 2)
    features = encoder(normalised(images))
    written = Written(*decoder.sample(features))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)
    if residual:
        verified = CliRunner().invoke(app, ["verify", str(tmp_path / "models/m/1"), "--checkpoint", str(file)])
        assert verified.exit_code == 0, verified.output
        decoder.residual = False
        assert (decoder.sample(features)[0] != written.ids).any(dim=1).sum() > PICTURES / 2


def test_residual_is_for_cells_in_a_list(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("\n".join(YUNJEY))
    layered = write_tutorial(tmp_path, nn.LSTM(24, 32, 2))
    alone = tmp_path / "alone.ckpt"
    torch.save(StackedDecoder("cells", [nn.LSTMCell(24, 32)], len(YUNJEY), residual=False).state_dict(), alone)
    _, _, source, infos = self_critical(tmp_path, "show_tell", caffe=False, layers=2)
    for files, words, options in (
        (layered, tmp_path / "words.txt", ()),
        ([layered[0], alone], tmp_path / "words.txt", ()),
        (source, infos, ("--torchvision-resnet",)),
    ):
        result = export(tmp_path, files, words, "--residual", *options)
        assert result.exit_code == 2, result.output
        assert "--residual is for decoders with a list" in result.stderr.splitlines()[-1]
        assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("keys", "count", "listed"),
    [
        (["cells.0.weight_hh", "cells.1.weight_hh"], 2, True),
        (["a.rnns.0.weight_hh_l0", "a.rnns.1.weight_hh_l0"], 2, True),
        (["0.cell.weight_hh", "1.cell.weight_hh"], 2, True),
        (["lstm.weight_hh_l0", "lstm.weight_hh_l1"], 2, False),
        (["rnn.1.weight_hh_l0", "rnn.1.weight_hh_l1"], 2, False),
        (["layers.2.lstm.weight_hh_l0"], 1, False),
        (["weight_hh"], 1, False),
    ],
)
def test_cells_are_found(keys: list[str], count: int, listed: bool) -> None:
    tensors = {"embed.weight": torch.zeros(2, 3), **{key: torch.full((8, 2), i) for i, key in enumerate(keys)}}
    cells = find_cells(tensors)
    assert cells is not None
    assert {key: value[0, 0] for key, value in cells.tensors.items()} == {
        f"cells.layers.{i}.weight_hh": i for i in range(count)
    }
    assert (list(cells.rest), cells.count, cells.listed) == (["embed.weight"], count, listed)


@pytest.mark.parametrize(
    "odd",
    [
        {"cells.2.weight_hh": torch.zeros(128, 32)},
        {"cells.1.weight_hh_l0": torch.zeros(128, 32)},
        {"cells.1.weight_hh_l1": torch.zeros(128, 32)},
        {"others.0.weight_hh": torch.zeros(128, 32)},
        {"cells.01.weight_hh": torch.zeros(128, 32)},
    ],
)
def test_an_odd_list_of_cells_is_refused(tmp_path: Path, odd: dict[str, Tensor]) -> None:
    encoder, file = write_tutorial(tmp_path)
    cells = [nn.LSTMCell(24, 32), nn.LSTMCell(32, 32)]
    state = StackedDecoder("cells", cells, len(YUNJEY), residual=False).state_dict()
    torch.save(state, file)
    assert recognise_captioner([encoder, file], Vocabulary(YUNJEY)).recognised.layout == "yunjey"
    torch.save({**state, **odd}, file)
    with pytest.raises(BadInput, match=r"cells\.|others"):
        recognise_captioner([encoder, file], Vocabulary(YUNJEY))
