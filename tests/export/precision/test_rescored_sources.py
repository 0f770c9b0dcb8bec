"""`--decoder-precision int8-rescored`: captioners of public sources, served with the sources' words and beams."""

from pathlib import Path

import pytest
import torch
from resonnx_export.proof.captions import beam_captions
from resonnx_export.proof.parity import open_session
from resonnx_server.runtime.graphs import CaptionerGraphs
from torch import nn

from ...conftest import StartServer
from ..caption_exports import PICTURES, SIZE, Written, assert_same_captions, assert_served, exported, write_vocabulary
from ..layouts.caption_sources.randomness import enliven, normalised, pictures, settle
from ..layouts.caption_sources.sgrvinod import DecoderWithAttention, Encoder
from ..layouts.caption_sources.tutorials import PictureEncoder, StackedDecoder, WordDecoder
from ..layouts.captioners.caption_checkpoints import animate
from .rescored_words import OPTION, WORDS

# The sources' own loops.


@pytest.mark.slow
@pytest.mark.parametrize("residual", [False, True], ids=["layers", "residual"])
@torch.no_grad()
def test_words_are_the_tutorials(tmp_path: Path, start_server: StartServer, torch_seeded: None, residual: bool) -> None:
    encoder = PictureEncoder(24, linear="embed", bn="bn")
    decoder: WordDecoder | StackedDecoder
    if residual:
        decoder = StackedDecoder("cells", [nn.LSTMCell(24, 32), nn.LSTMCell(32, 32)], len(WORDS), residual=True)
    else:
        decoder = WordDecoder(("embed", "lstm", "linear"), nn.LSTM(24, 32, 2, batch_first=True), len(WORDS))
    animate(encoder, decoder, WORDS)
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, tmp_path / "both.pth")
    vocabulary = write_vocabulary(tmp_path / "vocab.pkl", "vocabulary", WORDS)
    options = [*OPTION, *(["--residual"] if residual else [])]
    version = exported(tmp_path, [tmp_path / "both.pth"], vocabulary, *options)
    images = pictures(PICTURES, SIZE, 2)
    written = Written(*decoder.sample(encoder(normalised(images))))
    same = assert_same_captions(version, images, written)
    assert_served(start_server, tmp_path, images, written, version.manifest, same[:20])


@pytest.mark.slow
@torch.no_grad()
def test_words_and_beams_are_sgrvinods(tmp_path: Path, torch_seeded: None) -> None:
    encoder, decoder = Encoder(), DecoderWithAttention(12, 24, 32, len(WORDS), 256)
    start, end = WORDS.index("<start>"), WORDS.index("<end>")
    shown = normalised(pictures(32, SIZE, 1))
    settle(encoder, lambda: encoder(shown))
    enliven(decoder.eval(), decoder.fc, lambda: decoder.greedy(encoder(shown), start, 20), end)
    torch.save({"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}, tmp_path / "both.pth")
    (tmp_path / "words.txt").write_text("\n".join(WORDS))
    version = exported(tmp_path, [tmp_path / "both.pth"], tmp_path / "words.txt", *OPTION)
    images = pictures(PICTURES, SIZE, 2)
    grids = encoder(normalised(images))
    assert_same_captions(version, images, Written(*decoder.greedy(grids, start)))
    agreement = version.manifest.parity.agreements[1]
    assert agreement.asked == "check pictures, a beam of 5"
    graphs = CaptionerGraphs(
        *(open_session(version.files[f"{half}.onnx"]) for half in ("encoder", "decoder")), version.manifest
    )
    expected = [decoder.beam_search(grid[None], start, end, 5) for grid in grids[:40]]
    found = beam_captions(graphs, images[:40], version.manifest.captioner, 5)
    pairs = [(ours, theirs) for ours, theirs in zip(found, expected, strict=True) if theirs]
    assert len(pairs) >= 10
    same = sum([token.id for token in ours.tokens] == theirs for ours, theirs in pairs)
    assert same >= len(pairs) - 1
