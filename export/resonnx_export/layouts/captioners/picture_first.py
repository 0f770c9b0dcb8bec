"""yunjey/pytorch-tutorial's image captioning, and the Udacity CVND project that hundreds have written after it.

The picture's feature is the first input of a recurrent network. Students chose the decoder's names and modules, so
what a tensor is follows from its shape.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from resonnx_export.layouts.captioners.children import HALLMARK, prefixed, split_trunk
from resonnx_export.layouts.captioners.draft import Draft, Request, caption_spec, matrix_shape
from resonnx_export.layouts.captioners.recurrent import Cells, cell_kind, find_cells
from resonnx_export.networks import CheckpointMismatch, ShowTell, ShowTellConfig, resnet_config_from_state_dict
from resonnx_export.pictures.recipe import image_input

# sample() takes 20 steps, whatever comes out; the caption is cut at <end> afterwards.
_MAX_TOKENS: Final = 20
_INPUT_SIZE: Final = 224
_RESIZE_SHORT_SIDE: Final = 256
_NOT_RESIDUAL: Final = (
    "no residual connections between the stacked cells are assumed, as weights do not tell; --residual if each cell "
    "from the second on adds its input to its output"
)
# Ends the layout's name; weights keep no trace of it.
RESIDUAL: Final = "-residual"


def tutorial(request: Request) -> Draft | None:
    """An encoder (resnet.*, a linear layer, perhaps a BatchNorm) and a decoder (embedding, recurrent, linear layer)."""
    encoder = request.part_with(HALLMARK)
    found = ((part, cells) for part in request.parts if (cells := find_cells(part.tensors)) is not None)
    decoder, cells = next(found, (None, None))
    if encoder is None or decoder is None or cells is None:
        return None
    trunk, beside = split_trunk(encoder.tensors)
    state_dict = {**prefixed(trunk), **_renamed_encoder(beside), **cells.tensors, **_renamed_decoder(cells)}
    vocabulary_size, embedding_size = matrix_shape(state_dict, "embedding.weight")
    rows, hidden_size = matrix_shape(state_dict, "cells.layers.0.weight_hh")
    residual = request.residual and cells.listed
    network = ShowTell(
        ShowTellConfig(
            trunk=resnet_config_from_state_dict(trunk),
            vocabulary_size=vocabulary_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            cell=cell_kind(rows, hidden_size),
            layers=cells.count,
            cell_bias="cells.layers.0.bias_ih" in state_dict,
            residual=residual,
            batch_norm="norm.weight" in state_dict,
            picture_says_word=True,
        )
    )
    # The tutorial's encoder ends in `linear`, the project's in `embed`.
    if "linear.weight" in beside:
        layout, recipe = "yunjey", image_input(_INPUT_SIZE, resize_short_side=None, resize_filter="lanczos")
    else:
        layout, recipe = "udacity-cvnd", image_input(_INPUT_SIZE, resize_short_side=_RESIZE_SHORT_SIDE)
    return Draft(
        layout=layout + RESIDUAL if residual else layout,
        network=network,
        state_dict=state_dict,
        spec=caption_spec(request.vocabulary.words, max_tokens=_MAX_TOKENS, feeds_start=False),
        input=recipe,
        parts=(encoder, decoder),
        notes=(_NOT_RESIDUAL,) if cells.listed and not residual else (),
    )


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


def _renamed_decoder(cells: Cells) -> dict[str, Tensor]:
    """Name the embedding (no bias) and the output layer (with bias) by what they are."""
    _, inputs = matrix_shape(cells.tensors, "cells.layers.0.weight_ih")
    rest = cells.rest
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
            f"not one embedding and one linear layer beside the decoder's recurrent cells: {_told(rest)}"
        )
    return {**renamed, **{key: value for key, value in rest.items() if key not in names}}


def _told(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {list(value.shape)}" for key, value in tensors.items())
