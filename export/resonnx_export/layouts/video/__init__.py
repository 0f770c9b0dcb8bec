"""Recognises a video classifier's files: a ResNet over frames and recurrent layers over time, or the latter alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

import torch
from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor

from resonnx_export.checkpoints.files import SourceFile
from resonnx_export.errors import BadInput
from resonnx_export.layouts import left_out
from resonnx_export.layouts.captioners.assumed import Assumed
from resonnx_export.layouts.captioners.encoder import Encoder, find_encoder, other_encoder
from resonnx_export.layouts.captioners.parts import Part, prefixed, read_parts
from resonnx_export.layouts.captioners.pickled import recorded
from resonnx_export.layouts.heads import Head, Layer, layers_in
from resonnx_export.layouts.recognised import RecognisedCheckpoint, loaded
from resonnx_export.layouts.video.cells import RecurrentLayers, find_layers
from resonnx_export.layouts.video.stages import Stages, divided
from resonnx_export.networks.cells import Kind
from resonnx_export.networks.detect import CheckpointMismatch, check_fits, resnet_config_from_state_dict
from resonnx_export.networks.heads import HeadLayer, activation_places
from resonnx_export.networks.sequence import Pooling, SequenceConfig
from resonnx_export.networks.video import RecurrentVideo, VideoConfig
from resonnx_export.pictures.recipe import image_input

__all__ = ["VideoSource", "recognise_video"]

# HHTseng's ResNet CRNN: an encoder of fc1, bn1, fc2, bn2, fc3, and a decoder of LSTM, fc1, fc2, in two files.
CRNN: Final = "video-crnn"
# pranoyr's CNNLSTM and its kin: resnet, lstm, fc1 and perhaps fc2 in one file.
CNN_LSTM: Final = "video-cnn-lstm"
FRAMES: Final = "video-frames"
GIVEN: Final = "video-features"
# All of them resize frames to a square; the CRNN's is 224.
_INPUT: Final = image_input(224, resize_short_side=None)


@dataclass(frozen=True)
class VideoSource:
    """A recognised video classifier.

    Attributes:
        recognised: The network, without the recipe's assumptions.
        input: The source's picture recipe; None for a network over given features.
        files: The files' identities.
        rebuild: Returns it with other values of its assumptions by name, or raises BadInput; None for the user's code.
    """

    recognised: RecognisedCheckpoint
    input: pb.ImageInput | None
    files: tuple[SourceFile, ...]
    rebuild: "Callable[[Mapping[str, str]], VideoSource] | None" = None


@dataclass(frozen=True)
class _Found:
    """The parts of a network in its files."""

    encoder: Encoder | None
    cells: RecurrentLayers
    first: Sequence[Layer]
    last: Sequence[Layer]
    left_out: Mapping[str, Tensor]
    parts: Sequence[Part]


def recognise_video(
    files: Sequence[Path], *, assume: Mapping[str, str] | None = None, decided: bool = False
) -> VideoSource:
    """Read a video classifier's files, in any order.

    Args:
        files: One, or two: the network over frames and the one over time.
        assume: Values of properties that the files do not record, by their names in assumed.AXES.
        decided: Whether answers of the user's model decide between readings; the pooling need not be stated then.

    Raises:
        BadInput: A file cannot be read, no such network is found, or keys, shapes or values do not fit.
    """
    contents = read_parts(files)
    names = ", ".join(file.name for file in files)
    try:
        found = _found(contents.parts)
        with torch.device("meta"):
            layout, network, state, assumed, notes = _drafted(found, assume or {}, decided=decided)
        check_fits(network, state)
        recognised = loaded(layout, network.to_empty(device="cpu"), state)
    except CheckpointMismatch as error:
        raise BadInput(f"{names}: {error}") from None
    except (RuntimeError, ValueError) as error:
        raise BadInput(f"{names}: the shapes do not belong together") from error
    for name, buffer in recognised.network.named_buffers():
        # The file may lack it.
        if name.endswith("num_batches_tracked"):
            buffer.zero_()
    recognised = replace(recognised, notes=notes, assumptions=tuple(assumed.taken))
    return VideoSource(recognised, None if found.encoder is None else _INPUT, contents.sources)


def _found(parts: Sequence[Part]) -> _Found:
    """Find the ResNet, the recurrent layers and the other layers. Raises BadInput and CheckpointMismatch."""
    of_time = [(part, cells) for part in parts if (cells := find_layers(part.tensors))]
    of_frames = [(part, encoder) for part in parts if (encoder := find_encoder(part.tensors))]
    if not of_time:
        missing = "a ResNet and no recurrent layers: give the recurrent network's file too" if of_frames else ""
        raise BadInput(f"no video classifier: {missing or 'no recurrent layers were found'}; {_listed(parts)}")
    if len(of_time) > 1 or len(of_frames) > 1:
        raise BadInput(
            f"{len(of_time)} recurrent networks and {len(of_frames)} ResNets; a video classifier has one each"
        )
    time, cells = of_time[0]
    used = [time]
    if not of_frames:
        if (other := other_encoder([part.tensors for part in parts])) is not None:
            raise BadInput(
                f"the network over frames is {other}; only ResNets are exported from a checkpoint: export others with "
                "an adapter (docs/adapters.md): resonnx-export module your_file.py:build"
            )
        encoder, kept, first = None, dict(cells.rest), list[Layer]()
        rest, dropped = _weights(kept)
        first, last = _around(rest, cells, time)
    else:
        frames, encoder = of_frames[0]
        if frames is time:
            kept = {key: value for key, value in encoder.rest.items() if key in cells.rest}
            rest, dropped = _weights(kept)
            first, last = _around(rest, cells, time)
        else:
            used.append(frames)
            (before, dropped), (after, also) = _weights(encoder.rest), _weights(cells.rest)
            first, last, dropped = layers_of(before), layers_of(after), {**dropped, **also}
            start = _position(time, cells.modules[0])
            first += [layer for layer in last if _position(time, layer.name) < start]
            last = [layer for layer in last if _position(time, layer.name) > start]
    if unused := [part for part in parts if part not in used]:
        raise BadInput(f"a part of the files is not used: {unused[0]}")
    return _Found(encoder, cells, first, last, dropped, used)


def layers_of(tensors: Mapping[str, Tensor]) -> list[Layer]:
    """Return linear layers and normalisations. Raises CheckpointMismatch if tensors are left that belong to none."""
    layers = layers_in(tensors)
    known = {f"{layer.name}.{name}" for layer in layers for name in layer.tensors}
    left_out.refuse_the_rest(key for key in tensors if key not in known)
    return layers


def _weights(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Separate the network's weights from counters, losses and the like."""
    dropped = {
        key: value
        for key, value in tensors.items()
        if value.dim() < 2 and not key.endswith("num_batches_tracked") and left_out.is_left_out(key, value)
    }
    return {key: value for key, value in tensors.items() if key not in dropped}, dropped


def _around(tensors: Mapping[str, Tensor], cells: RecurrentLayers, part: Part) -> tuple[list[Layer], list[Layer]]:
    """Divide layers by the position of their keys, which is that of their registration."""
    layers, start = layers_of(tensors), _position(part, cells.modules[0])
    first = [layer for layer in layers if _position(part, layer.name) < start]
    return first, [layer for layer in layers if _position(part, layer.name) > start]


def _position(part: Part, module: str) -> int:
    """Return the place of a module's first key; translated names of ResNets count as the first."""
    keys = (place for place, key in enumerate(part.tensors) if not module or key.startswith(f"{module}."))
    return next(keys, -1)


def _drafted(
    found: _Found, given: Mapping[str, str], *, decided: bool
) -> tuple[str, RecurrentVideo, dict[str, Tensor], Assumed, tuple[str, ...]]:
    """Return the layout's name, the network on the meta device, its state_dict, the assumptions, and notes."""
    cells, encoder = found.cells, found.encoder
    assumed = Assumed(given, recorded(found.parts))
    config = None if encoder is None else resnet_config_from_state_dict(encoder.tensors)
    size = _given_size(found) if config is None else config.feature_size
    stages = divided(found.first, found.last, size, cells, None if encoder is None else encoder.head)
    layout = _layout(found, stages)
    trunk = None if config is None else assumed.trunk(config, layout)
    before = _layers(stages.before)
    between = assumed("projection-activation", "relu") if activation_places(before) else "none"
    after = assumed("encoder-activation", "none") if before else "none"
    pooling = _pooling(assumed, stages, cells, layout, decided=decided)
    head, scores = _layers(stages.head), _layers(stages.scores)
    scoring = assumed("attention-activation", "tanh") if activation_places(scores) else "none"
    pooled = assumed("pooled-activation", "none")
    heading = assumed("head-activation", "relu") if activation_places(head) else "none"
    kind: Kind = cells.kind
    if kind == "rnn" and assumed("rnn-activation", "tanh") == "relu":
        kind = "rnn-relu"
    residual = cells.may_add_inputs and assumed("residual", "no") == "yes"
    assumed.of_cells()
    assumed.check(layout)
    sequence = SequenceConfig(
        input_size=cells.inputs,
        cell=kind,
        hidden=cells.hidden,
        head=head,
        bidirectional=cells.bidirectional,
        bias=cells.bias,
        residual=residual,
        pooling=pooling,
        attention=scores,
        attention_activation=scoring,
        pooled_activation=pooled,
        head_activation=heading,
        bn_eps=1e-5 if trunk is None else trunk.unrecorded.bn_eps,
    )
    network = RecurrentVideo(VideoConfig(trunk, sequence, size if trunk is None else 0, before, between, after))
    state = {
        **(prefixed(encoder.tensors) if encoder else {}),
        **_tensors(stages.before, "project"),
        **{f"sequence.{key}": value for key, value in cells.tensors.items()},
        **_tensors(stages.scores, "sequence.attention"),
        **_tensors(stages.head, "sequence.head"),
    }
    unused = [f"left out, as the network does not use it: {name}" for name in stages.unused]
    return layout, network, state, assumed, (*left_out.told(found.left_out), *unused)


def _given_size(found: _Found) -> int:
    """Return the size of given features: what the first layer reads."""
    linear = [layer for layer in found.first if layer.kind == "linear"] or list(found.first)
    return linear[0].inputs if linear else found.cells.inputs


def _pooling(assumed: Assumed, stages: Stages, cells: RecurrentLayers, layout: str, *, decided: bool) -> Pooling:
    if stages.scores is not None:
        return "attention"
    if stages.backward:
        return "backward"
    values = ("last", "states", "mean", "max") if cells.bidirectional else ("last", "mean", "max")
    known = "pooling" in assumed.given or decided or layout in (CRNN, CNN_LSTM)
    if not known:
        raise BadInput(
            f"layout {layout}: keys do not record how the outputs of a clip's frames become one: give "
            f"--assume pooling=VALUE, of {', '.join(values)} (docs/video.md), or --expect FILE with answers of your "
            "model, which decide"
        )
    return cast(Pooling, assumed("pooling", "last", values))


def _layout(found: _Found, stages: Stages) -> str:
    if found.encoder is None:
        return GIVEN
    before = [layer.name for layer in stages.before.layers] if stages.before else []
    head = [layer.name.rpartition(".")[2] for layer in stages.head.layers]
    if len(found.parts) == 2 and before == ["fc1", "bn1", "fc2", "bn2", "fc3"] and head == ["fc1", "fc2"]:
        return CRNN
    if len(found.parts) == 1 and found.cells.modules == ("lstm",) and head == ["fc1", "fc2"]:
        return CNN_LSTM
    return FRAMES


def _layers(head: Head | None) -> tuple[HeadLayer, ...]:
    if head is None:
        return ()
    return tuple(
        HeadLayer(index, layer.outputs, layer.kind, "bias" in layer.tensors)
        for index, layer in zip(head.indices, head.layers, strict=True)
    )


def _tensors(head: Head | None, place: str) -> dict[str, Tensor]:
    if head is None:
        return {}
    return {
        f"{place}.{index}.{name}": value
        for index, layer in zip(head.indices, head.layers, strict=True)
        for name, value in layer.tensors.items()
    }


def _listed(parts: Sequence[Part]) -> str:
    return "; ".join(map(str, parts))
