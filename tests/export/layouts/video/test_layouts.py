"""Checkpoints of video classifiers: public layouts are read as their own code computes, others refused with reasons."""

import random
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from resonnx_export.errors import BadInput
from resonnx_export.inspection import inspect_file
from resonnx_export.layouts.video import recognise_video
from resonnx_export.networks.video import VideoNetwork
from torch import Tensor, nn

from .sources import CLASSES, SIDE, SOURCES, Crnn, Given, source_of


def write(folder: Path, name: str) -> tuple[nn.Module, list[Path]]:
    source = source_of(name)
    if isinstance(source, Crnn):
        files = [folder / "cnn_encoder_epoch8.pth", folder / "rnn_decoder_epoch8.pth"]
        torch.save({f"module.{key}": value for key, value in source.encoder.state_dict().items()}, files[0])
        torch.save({"epoch": 8, "state_dict": source.decoder.state_dict()}, files[1])
        return source, files
    torch.save({"model": source.state_dict()}, folder / "m.pth")
    return source, [folder / "m.pth"]


@torch.no_grad()
def logits_of(network: VideoNetwork, clips: list[Tensor]) -> np.ndarray:
    features = [network.encode(clip) if network.in_channels else clip for clip in clips]
    padded = nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=9.0)
    return network.classify(padded, torch.tensor([len(clip) for clip in clips])).numpy()


@pytest.mark.parametrize("name", SOURCES)
def test_networks_compute_what_their_source_does(name: str, tmp_path: Path) -> None:
    source, files = write(tmp_path, name)
    found = recognise_video(files[::-1], assume=SOURCES[name][1])
    network = found.recognised.network
    assert isinstance(network, VideoNetwork)
    shape = (6,) if isinstance(source, Given) else (3, SIDE, SIDE)
    clips = [torch.randn(length, *shape) for length in (1, 4, 7, 2)]
    with torch.no_grad():
        expected = torch.cat([source(clip) for clip in clips]).numpy()
    assert expected.shape == (4, CLASSES)
    assert np.abs(logits_of(network, clips) - expected).max() <= 1e-4 * np.abs(expected).max()
    others = {"given features": "video-features"}
    assert found.recognised.layout == (name if name.startswith("video-") else others.get(name, "video-frames"))
    assert (found.input is None) == isinstance(source, Given)


def test_what_keys_do_not_record_is_listed_with_its_values(tmp_path: Path) -> None:
    _, files = write(tmp_path, "mean both ways")
    with pytest.raises(BadInput, match=r"--assume pooling=VALUE, of last, states, mean, max .* or --expect FILE"):
        recognise_video(files)
    assumed = {each.name: each for each in recognise_video(files, decided=True).recognised.assumptions}
    assert assumed["pooling"].alternatives == ("states", "mean", "max")
    assert not assumed["pooling"].confirmed


def test_inspect_describes_a_whole_video_classifier(tmp_path: Path) -> None:
    _, (file,) = write(tmp_path, "both ends")
    lines = list(inspect_file(file))
    shown = dict(lines)
    assert shown["layout"] == "video-frames"
    assert shown["architecture"].endswith(" and bidirectional lstm 6")
    assert shown["outputs"] == "5 classes of clips, from frames"
    assert any(title == "assumption" and value.startswith("assumed: pooling last") for title, value in lines)
    assert shown["next"] == f"resonnx-export video-classifier {file} --labels LABELS --repository models --name NAME"


REFUSED: Mapping[str, tuple[str, dict[str, str]]] = {
    "takes last, mean, max, not 'states'": ("given features", {"pooling": "states"}),
    "has no property 'residual'": ("mean both ways", {"pooling": "mean", "residual": "yes"}),
    "takes tanh, relu, not 'elu'": ("residual", {"pooling": "max", "rnn-activation": "elu"}),
}


@pytest.mark.parametrize("said", REFUSED)
def test_wrong_values_are_refused(said: str, tmp_path: Path) -> None:
    name, assume = REFUSED[said]
    with pytest.raises(BadInput, match=said):
        recognise_video(write(tmp_path, name)[1], assume=assume)


def _state(name: str = "both ends", **changes: Tensor) -> dict[str, Tensor]:
    return {**source_of(name).state_dict(), **changes}


OTHERS = {
    "a ResNet and no recurrent layers": lambda: {k: v for k, v in _state().items() if "lstm" not in k},
    "no recurrent layers were found": lambda: {"fc.weight": torch.zeros(3, 4)},
    "tensors beside the ResNet and its head are not known; unexpected: mystery": lambda: _state(
        mystery=torch.zeros(3, 3, 3)
    ),
    "do not lead from a frame's 16 features": lambda: _state(**{"fc.weight": torch.zeros(CLASSES, 13)}),
    "proj_size": lambda: _state(**{"lstm.weight_hr_l0": torch.zeros(3, 6)}),
    "are no RNN's, GRU's or LSTM's": lambda: _state(**{"lstm.weight_hh_l0": torch.zeros(12, 6)}),
    "layer 1 of lstm reads 5 numbers": lambda: _state(
        **{f"lstm.{key}_l1{end}": value for end in ("", "_reverse") for key, value in _second(5).items()}
    ),
    "wrong shape: sequence.cells.0.bias_hh_l0": lambda: _state(**{"lstm.bias_hh_l0": torch.zeros(7)}),
}


def _second(inputs: int) -> dict[str, Tensor]:
    return {
        "weight_ih": torch.zeros(24, inputs),
        "weight_hh": torch.zeros(24, 6),
        "bias_ih": torch.zeros(24),
        "bias_hh": torch.zeros(24),
    }


@pytest.mark.parametrize("said", OTHERS)
def test_other_files_are_refused_with_the_reason(said: str, tmp_path: Path) -> None:
    torch.save(OTHERS[said](), tmp_path / "m.pth")
    with pytest.raises(BadInput, match=said):
        recognise_video([tmp_path / "m.pth"], decided=True)


def test_empty_and_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pth").write_bytes(b"")
    with pytest.raises(BadInput, match=r"m\.pth"):
        recognise_video([tmp_path / "m.pth"])


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_damaged_state_dicts_are_bad_input_or_exact(name: str, tmp_path: Path) -> None:
    """One key missing, renamed or of another shape: never another exception."""
    rng, state, refused = random.Random(0), source_of(name).state_dict(), 0
    for _ in range(40):
        key = rng.choice(list(state))
        damaged = dict(state)
        value = damaged.pop(key)
        other = rng.choice([None, value[None], torch.zeros([size + 1 for size in value.shape]), torch.zeros(())])
        damaged |= {} if other is None else {rng.choice([key, f"x.{key}"]): other}
        torch.save(damaged, tmp_path / "m.pth")
        try:
            recognise_video([tmp_path / "m.pth"], decided=True)
        except BadInput:
            refused += 1
    assert refused >= 20
