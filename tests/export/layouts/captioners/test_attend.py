"""Show, Attend and Tell: sgrvinod's captioner and our own, as test_tutorials.py has others."""

import json
from pathlib import Path

import pytest
import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor, nn

from ....conftest import StartServer
from ...caption_exports import (
    PICTURES,
    SGRVINOD,
    SIZE,
    Written,
    assert_same_captions,
    assert_served,
    exported,
    importable,
)
from ..caption_sources.randomness import enliven, normalised, pictures, settle
from ..caption_sources.resnet import Block, Net
from ..caption_sources.sgrvinod import Attention, DecoderWithAttention, Encoder

pytestmark = pytest.mark.usefixtures("torch_seeded")


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True], ids=["legacy", "zip"])
@torch.no_grad()
def test_sgrvinod(tmp_path: Path, start_server: StartServer, zipped: bool) -> None:
    encoder, decoder = Encoder(), DecoderWithAttention(12, 24, 32, len(SGRVINOD), 256)
    end = SGRVINOD.index("<end>")
    shown = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(shown))
    enliven(decoder.eval(), decoder.fc, lambda: decoder.greedy(encoder(shown), SGRVINOD.index("<start>"), 20), end)
    optimiser = torch.optim.Adam(decoder.parameters())
    file = tmp_path / "BEST_checkpoint_coco_5_cap_per_img_5_min_word_freq.pth.tar"
    content = {"epoch": 9, "bleu-4": 0.24, "encoder": encoder, "decoder": decoder, "decoder_optimizer": optimiser}
    models = {module.__name__: module for module in (Encoder, DecoderWithAttention, Attention)}
    with importable("models", **models), importable("resnet", Block=Block):
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
    (tmp_path / "WORDMAP.json").write_text(json.dumps({word: i for i, word in enumerate(SGRVINOD)}))
    version = exported(tmp_path, [file], tmp_path / "WORDMAP.json")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "sgrvinod"
    assert (spec.attention_rows, spec.attention_columns, spec.max_tokens) == (14, 14, 50)
    images = pictures(PICTURES, SIZE, 2)
    start = SGRVINOD.index("<start>")
    grids = encoder(normalised(images))
    assert_same_captions(version, images, Written(*decoder.greedy(grids, start)))
    # Who asks for nothing else gets what caption.py writes: its beam of five.
    assert (spec.beam_width, spec.finished_beams) == (5, pb.CaptionerSpec.FINISHED_BEAMS_SHRINK)
    if zipped:
        found = [decoder.beam_search(grid[None], start, end, spec.beam_width) for grid in grids[:40]]
        rows = [row for row, caption in enumerate(found) if caption][:20]
        assert len(rows) == 20
        ids = nn.utils.rnn.pad_sequence([torch.tensor(found[row]) for row in rows], True, end)
        greedy = Written(*decoder.greedy(grids[rows], start)).captions(end)
        assert sum(found[row] != caption for row, caption in zip(rows, greedy, strict=True)) >= 5
        assert_served(start_server, tmp_path, images[rows], Written(ids, torch.zeros(0)), version.manifest, range(20))


@pytest.mark.slow
@torch.no_grad()
def test_our_own(tmp_path: Path, start_server: StartServer) -> None:
    net = Net(deep=True)
    decoder = DecoderWithAttention(12, 24, 32, len(SGRVINOD), net.fc.in_features).eval()
    start, end = SGRVINOD.index("<start>"), SGRVINOD.index("<end>")
    shown = normalised(pictures(32, SIZE, 1))
    settle(net, lambda: net.grid(shown))

    def write(images: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        # As sgrvinod's, but for the map, which keeps its size.
        return decoder.greedy(net.grid(images).permute(0, 2, 3, 1), start, steps)

    enliven(decoder, decoder.fc, lambda: write(shown, 20), end)
    trunk = {f"trunk.{key}": value for key, value in net.state_dict().items() if not key.startswith("fc.")}
    torch.save({**trunk, **decoder.state_dict()}, tmp_path / "own.pth")
    (tmp_path / "words.txt").write_text("\n".join(SGRVINOD))
    version = exported(tmp_path, [tmp_path / "own.pth"], tmp_path / "words.txt")
    spec = version.manifest.captioner
    assert version.manifest.source.layout == "resonnx-captioner"
    assert (spec.attention_rows, spec.attention_columns, spec.beam_width) == (2, 2, 1)
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*write(normalised(images), spec.max_tokens))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same)
