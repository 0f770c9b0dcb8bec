"""yunjey/pytorch-tutorial's image captioning, and the Udacity CVND project that hundreds have written after it.

The picture's feature is the first input of a recurrent network. Students chose the decoder's names, so what a tensor
is follows from its shape.
"""

import re
from collections.abc import Mapping
from typing import Final

from torch import Tensor

from resonnx_export.caption_layouts.children import HALLMARK, prefixed, split_trunk
from resonnx_export.caption_layouts.draft import Draft, Request, caption_spec, matrix_shape
from resonnx_export.caption_layouts.parts import Part
from resonnx_export.networks import CheckpointMismatch, ShowTell, ShowTellConfig, resnet_config_from_state_dict
from resonnx_export.networks.cells import Kind
from resonnx_export.recipe import image_input

# sample() takes 20 steps, whatever comes out; the caption is cut at <end> afterwards.
_MAX_TOKENS: Final = 20
_INPUT_SIZE: Final = 224
_RESIZE_SHORT_SIDE: Final = 256
# Rows of weight_hh for each hidden number.
KINDS: Final[Mapping[int, Kind]] = {1: "rnn", 3: "gru", 4: "lstm"}
_LAYER: Final = re.compile(r"(.*)((?:weight|bias)_(?:ih|hh))_l(\d+)")


def tutorial(request: Request) -> Draft | None:
    """An encoder (resnet.*, a linear layer, perhaps a BatchNorm) and a decoder (embedding, recurrent, linear layer)."""
    encoder = request.part_with(HALLMARK)
    decoder = next((part for part in request.parts if any(key.endswith("weight_ih_l0") for key in part.tensors)), None)
    if encoder is None or decoder is None:
        return None
    trunk, beside = split_trunk(encoder.tensors)
    state_dict = {**prefixed(trunk), **_renamed_encoder(beside), **_renamed_decoder(decoder)}
    vocabulary_size, embedding_size = matrix_shape(state_dict, "embedding.weight")
    rows, hidden_size = matrix_shape(state_dict, "cells.layers.0.weight_hh")
    if rows % hidden_size or rows // hidden_size not in KINDS:
        raise CheckpointMismatch(f"the recurrent weights [{rows}, {hidden_size}] are no RNN's, GRU's or LSTM's")
    network = ShowTell(
        ShowTellConfig(
            trunk=resnet_config_from_state_dict(trunk),
            vocabulary_size=vocabulary_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            cell=KINDS[rows // hidden_size],
            layers=sum(key.endswith(".weight_hh") for key in state_dict),
            cell_bias="cells.layers.0.bias_ih" in state_dict,
            batch_norm="norm.weight" in state_dict,
            picture_says_word=True,
        )
    )
    # The tutorial's encoder ends in `linear`, the project's in `embed`.
    if "linear.weight" in beside:
        layout, recipe = "yunjey", image_input(_INPUT_SIZE, resize_short_side=None, resize_filter="lanczos")
    else:
        layout, recipe = "udacity-cvnd", image_input(_INPUT_SIZE, resize_short_side=_RESIZE_SHORT_SIDE)
    spec = caption_spec(request.vocabulary.words, max_tokens=_MAX_TOKENS, feeds_start=False)
    return Draft(layout, network, state_dict, spec, recipe, (encoder, decoder))


def split_cells(tensors: Mapping[str, Tensor], prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split nn.RNN's, GRU's or LSTM's tensors (prefix + weight_ih_l0), under StackedCells' keys, from the rest."""
    cells, rest = {}, {}
    for key, value in tensors.items():
        if (match := _LAYER.fullmatch(key)) and match[1] == prefix:
            cells[f"cells.layers.{match[3]}.{match[2]}"] = value
        else:
            rest[key] = value
    return cells, rest


def _renamed_encoder(beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the projection and its BatchNorm; what is neither keeps its key, and does not load."""
    renamed = {}
    for key, value in beside.items():
        module, _, leaf = key.rpartition(".")
        weight = beside.get(f"{module}.weight")
        if f"{module}.running_mean" in beside:
            module = "norm"
        elif weight is not None and weight.dim() == 2:
            module = "project"
        renamed[f"{module}.{leaf}"] = value
    if len(renamed) < len(beside):
        raise CheckpointMismatch(f"more than one linear layer and one BatchNorm after the ResNet: {_told(beside)}")
    return renamed


def _renamed_decoder(decoder: Part) -> dict[str, Tensor]:
    """Name the recurrent layers, the embedding (no bias) and the output layer (with bias) by what they are."""
    tensors = decoder.tensors
    prefix = next(key for key in tensors if key.endswith("weight_ih_l0")).removesuffix("weight_ih_l0")
    cells, rest = split_cells(tensors, prefix)
    _, inputs = matrix_shape(cells, "cells.layers.0.weight_ih")
    names: dict[str, str] = {}
    for key, value in rest.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "weight" and value.dim() == 2:
            if f"{module}.bias" in rest:
                names |= {key: "output.weight", f"{module}.bias": "output.bias"}
            elif value.shape[1] == inputs:
                names[key] = "embedding.weight"
    renamed = {names[key]: rest[key] for key in names}
    if len(renamed) < len(names) or len(renamed) < 3:
        raise CheckpointMismatch(
            f"not one embedding, one recurrent and one linear layer in the decoder: {_told(tensors)}"
        )
    return {**cells, **renamed, **{key: value for key, value in rest.items() if key not in names}}


def _told(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {list(value.shape)}" for key, value in tensors.items())
