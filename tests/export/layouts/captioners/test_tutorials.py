"""yunjey's and Udacity's captioners: from random checkpoints in their own files to captions out of the exported graphs.

What is compared with is caption_sources/tutorials.py: token by token, on 100 pictures.
"""

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners import recognise_captioner
from resonnx_export.networks.show_tell import ShowTell
from resonnx_export.vocabulary import Vocabulary
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from ....conftest import StartServer
from ...caption_exports import (
    PICTURES,
    SIZE,
    UDACITY,
    YUNJEY,
    Written,
    assert_same_captions,
    assert_served,
    exported,
    write_vocabulary,
)
from ..caption_sources.randomness import normalised, pictures
from ..caption_sources.resnet import Net
from ..caption_sources.tutorials import PictureEncoder, WordDecoder
from .caption_checkpoints import animate, write_tutorial

pytestmark = pytest.mark.usefixtures("torch_seeded")


@torch.no_grad()
def test_yunjey(tmp_path: Path, start_server: StartServer) -> None:
    names = ("embed", "lstm", "linear")
    rnn = nn.LSTM(24, 32, 2, batch_first=True)
    encoder, decoder = PictureEncoder(24, linear="linear", bn="bn"), WordDecoder(names, rnn, len(YUNJEY))
    animate(encoder, decoder, YUNJEY)
    files = [tmp_path / "decoder-5-3000.pkl", tmp_path / "encoder-5-3000.pkl"]
    for file, module in zip(files, (decoder, encoder), strict=True):
        # As PyTorch 0.4 wrote it, and without what it did not have.
        state = {key: value for key, value in module.state_dict().items() if "num_batches" not in key}
        torch.save(OrderedDict(state), file, _use_new_zipfile_serialization=False)
    version = exported(tmp_path, files, write_vocabulary(tmp_path / "vocab.pkl", "__main__", YUNJEY))
    manifest = version.manifest
    assert manifest.source.layout == "yunjey"
    assert manifest.input.filter == pb.ImageInput.FILTER_LANCZOS
    assert not manifest.captioner.HasField("start_id")
    assert list(manifest.captioner.stripped_ids) == [1, 0]
    assert manifest.captioner.beam_width == 1
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*decoder.sample(encoder(normalised(images))))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, manifest, same)


@pytest.mark.parametrize(
    ("bn", "names", "kind", "hidden", "layers"),
    [
        pytest.param(None, ("word_embeddings", "lstm", "hidden2tag"), nn.LSTM, 24, 1, marks=pytest.mark.slow),
        pytest.param("batch_layer", ("embedding", "gru", "fc"), nn.GRU, 32, 2, marks=pytest.mark.slow),
        pytest.param("bn", ("embed", "rnn", "linear"), nn.RNN, 32, 1, marks=pytest.mark.slow),
    ],
    ids=["lstm", "gru", "rnn"],
)
@torch.no_grad()
def test_udacity(
    tmp_path: Path,
    start_server: StartServer,
    bn: str | None,
    names: tuple[str, str, str],
    kind: type[nn.RNNBase],
    hidden: int,
    layers: int,
) -> None:
    rnn = kind(24, hidden, layers, batch_first=True)
    encoder, decoder = PictureEncoder(24, linear="embed", bn=bn), WordDecoder(names, rnn, len(UDACITY))
    animate(encoder, decoder, UDACITY)
    file = tmp_path / "both.pth"
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict(), "epoch": 3}, file)
    version = exported(tmp_path, [file], write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", UDACITY))
    manifest = version.manifest
    assert manifest.source.layout == "udacity-cvnd"
    assert manifest.input.resize_short_side == SIZE * 256 // 224
    assert not manifest.captioner.HasField("pad_id")
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*decoder.sample(encoder(normalised(images))))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, manifest, same)


def test_order_and_packing_do_not_matter(tmp_path: Path) -> None:
    vocabulary = Vocabulary(YUNJEY)
    torch.manual_seed(0)
    files = write_tutorial(tmp_path)
    torch.manual_seed(0)
    both = write_tutorial(tmp_path, file_of_both=True)
    found = [recognise_captioner(given, vocabulary) for given in (files, files[::-1], both)]
    for source in found:
        assert source.recognised.layout == "yunjey"
        assert isinstance(source.recognised.network, ShowTell)
        for key, value in found[0].recognised.network.state_dict().items():
            if "num_batches" not in key:
                assert torch.equal(value, source.recognised.network.state_dict()[key])
    assert found[0].files == found[1].files[::-1]


def test_what_is_missing_or_too_much_is_said(tmp_path: Path) -> None:
    encoder, decoder = write_tutorial(tmp_path)
    torch.save(Net().state_dict(), tmp_path / "net.pth")
    for files, words, said in (
        ([encoder], YUNJEY, "a ResNet and no recurrent cells: give the decoder's file too"),
        ([encoder], YUNJEY, "or export it with an adapter .* resonnx-export module"),
        ([decoder], YUNJEY, "recurrent cells and no ResNet: give the encoder's file too"),
        ([encoder, decoder, tmp_path / "net.pth"], YUNJEY, "does not use a part of the files"),
        ([tmp_path / "net.pth"], YUNJEY, "is a classifier"),
        ([encoder, decoder], YUNJEY[:-1], "has 29 words, the network 30"),
        ([encoder, decoder], UDACITY[1:] + UDACITY[3:4], "lacks a token as <start>"),
    ):
        with pytest.raises(BadInput, match=said):
            recognise_captioner(files, Vocabulary(tuple(words)))
    with pytest.raises(BadInput, match="--caffe-resnet is for ruotianluo"):
        recognise_captioner([encoder, decoder], Vocabulary(YUNJEY), caffe_resnet=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update({"lstm.weight_hh_l0": torch.zeros(100, 32)}),
        lambda state: state.update({"lstm.weight_ih_l0_reverse": torch.zeros(128, 24)}),
        lambda state: state.update({"hidden.weight": torch.zeros(32, 24), "hidden.bias": torch.zeros(32)}),
        lambda state: state.update({"embed.weight": torch.zeros(30)}),
        lambda state: state.update({"embed.weight": torch.zeros(0, 24)}),
        lambda state: state.update({"second.weight_ih_l0": torch.zeros(128, 24)}),
        lambda state: state.pop("lstm.weight_hh_l0"),
    ],
)
def test_a_decoder_of_other_shapes_is_refused(tmp_path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    encoder, decoder = write_tutorial(tmp_path)
    state = torch.load(decoder)
    change(state)
    torch.save(state, decoder)
    with pytest.raises(BadInput, match=r"encoder\.ckpt, decoder\.ckpt"):
        recognise_captioner([encoder, decoder], Vocabulary(YUNJEY))
