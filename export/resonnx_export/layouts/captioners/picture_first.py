"""yunjey/pytorch-tutorial's image captioning, and the Udacity CVND project that follows it.

The picture's feature is the first input of a recurrent network. Names and modules of the decoders vary, so tensors are
recognised by their shapes.
"""

from collections.abc import Mapping
from typing import Final

from torch import Tensor

from resonnx_export.assumptions.assumption import Assumption
from resonnx_export.layouts.captioners.draft import Draft, Request, caption_spec
from resonnx_export.layouts.captioners.parts import HALLMARK, prefixed, split_trunk
from resonnx_export.layouts.captioners.recurrent import Cells, cell_kind, find_cells
from resonnx_export.networks.detect import CheckpointMismatch, matrix_shape, resnet_config_from_state_dict
from resonnx_export.networks.show_tell import ShowTell, ShowTellConfig
from resonnx_export.pictures.recipe import image_input

# sample() always takes 20 steps; the caption is cut at <end> afterwards.
_MAX_TOKENS: Final = 20
_INPUT_SIZE: Final = 224
_RESIZE_SHORT_SIDE: Final = 256
# Suffix of the layout's name, as the weights do not record it.
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
        spec=caption_spec(request, max_tokens=_MAX_TOKENS, feeds_start=False),
        input=recipe,
        parts=(encoder, decoder),
        assumptions=(_stacking(residual=residual),) if cells.listed else (),
    )


def _stacking(*, residual: bool) -> Assumption:
    values = ("skip connections from the second on", "no skip connections")
    value, other = values if residual else reversed(values)
    return Assumption("stacked cells", value, "--residual", (other,), confirmed=residual)


def _renamed_encoder(beside: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the projection and its BatchNorm; other tensors keep their keys, and will not load."""
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
        raise CheckpointMismatch(f"more than one linear layer and one BatchNorm after the ResNet: {_listed(beside)}")
    return renamed


def _renamed_decoder(cells: Cells) -> dict[str, Tensor]:
    """Rename the embedding (without bias) and the output layer (with bias), by their shapes."""
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
            f"not one embedding and one linear layer beside the decoder's recurrent cells: {_listed(rest)}"
        )
    return {**renamed, **{key: value for key, value in rest.items() if key not in names}}


def _listed(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{key} {list(value.shape)}" for key, value in tensors.items())
