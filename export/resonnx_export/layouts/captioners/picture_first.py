"""Captioners of a picture's feature vector: yunjey/pytorch-tutorial's, Udacity's CVND project, and their variants.

The picture is the first input of the recurrent cells, is read beside each word, or becomes their first state. Names and
modules vary, so layers are found by their shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast

from torch import Tensor

from resonnx_export.layouts.captioners.assumed import Assumed
from resonnx_export.layouts.captioners.draft import Draft, Request, caption_spec
from resonnx_export.layouts.captioners.parts import prefixed
from resonnx_export.layouts.captioners.pickled import recorded
from resonnx_export.layouts.captioners.recurrent import cell_kind
from resonnx_export.layouts.captioners.roles import Layer, Roles, find_roles
from resonnx_export.networks.detect import CheckpointMismatch
from resonnx_export.networks.show_tell import PictureEach, ShowTell, ShowTellConfig, StateConfig
from resonnx_export.pictures.recipe import image_input

# sample() always takes 20 steps; the caption is cut at <end> afterwards.
_MAX_TOKENS: Final = 20
_INPUT_SIZE: Final = 224
_RESIZE_SHORT_SIDE: Final = 256
# Suffix of the layout's name, as the weights do not record it.
RESIDUAL: Final = "-residual"


@dataclass(frozen=True)
class _Picture:
    """The layers after the ResNet, the size of their output, and whether the first is the ResNet's own classes."""

    layers: tuple[Layer, ...]
    norm: Layer | None
    size: int
    own_head: bool

    def tensors(self) -> dict[str, Tensor]:
        norm = {} if self.norm is None else self.norm.under("norm")
        layers = [layer.with_bias(f"project.{number}") for number, layer in enumerate(self.layers)]
        return {key: value for tensors in (*layers, norm) for key, value in tensors.items()}


def tutorial(request: Request) -> Draft | None:
    """A ResNet, perhaps linear layers and a BatchNorm, an embedding, recurrent cells and a linear layer."""
    if (roles := find_roles(request.parts)) is None:
        return None
    stated = {"residual": "yes"} if request.residual and roles.cells.listed else {}
    assumed, cells = Assumed({**stated, **request.assume}, recorded(roles.parts)), roles.cells
    words, embedding_size = roles.embedding.shape
    state = roles.states()
    picture = _picture(roles)
    each = roles.input_size == embedding_size + picture.size
    if not each and (roles.input_size != embedding_size or (not state and picture.size != embedding_size)):
        raise CheckpointMismatch(
            f"the cells have {roles.input_size} inputs, a word {embedding_size} numbers, the picture {picture.size}: "
            "they read neither the word alone nor both"
        )
    roles.refuse_left()
    usual = "none" if picture.own_head else "relu"
    between = assumed("head-activation", usual) if len(picture.layers) > 1 else "none"
    activation = assumed("encoder-activation", "none") if picture.layers else "none"
    how = _state(state, roles, picture, assumed)
    first = how is None and not each
    if not each and how is not None and picture.size == embedding_size:
        first = assumed("picture-first", "no") == "yes"
    says_word = first and assumed("picture-output", "word" if how is None else "dropped") == "word"
    kind = cell_kind(cells.tensors["cells.layers.0.weight_hh"].shape[0], roles.hidden_size)
    if kind == "rnn" and assumed("rnn-activation", "tanh") == "relu":
        kind = "rnn-relu"
    residual = cells.listed and assumed("residual", "no") == "yes"
    layout = _layout(roles, picture, each, how)
    config = ShowTellConfig(
        trunk=assumed.trunk(roles.config, layout),
        vocabulary_size=words,
        embedding_size=embedding_size,
        hidden_size=roles.hidden_size,
        cell=kind,
        layers=cells.count,
        cell_bias="cells.layers.0.bias_ih" in cells.tensors,
        residual=residual,
        batch_norm=picture.norm is not None,
        picture_says_word=says_word,
        projections=tuple(layer.shape[0] for layer in picture.layers),
        between=between,
        activation=activation,
        picture_first=first,
        picture_each=cast(PictureEach, assumed("cell-input", "word-picture")) if each else "no",
        state=how,
    )
    assumed.of_cells()
    assumed.check(layout)
    network = ShowTell(config)
    recipe = image_input(_INPUT_SIZE, resize_short_side=_RESIZE_SHORT_SIDE)
    if layout == "yunjey":
        recipe = image_input(_INPUT_SIZE, resize_short_side=None, resize_filter="lanczos")
    return Draft(
        layout=layout + RESIDUAL if residual else layout,
        network=network,
        state_dict={
            **prefixed(roles.encoder.tensors),
            **picture.tensors(),
            **cells.tensors,
            **roles.embedding.under("embedding"),
            **roles.output.with_bias("output"),
            **{key: value for role, layer in state.items() for key, value in layer.with_bias(f"init_{role}").items()},
        },
        spec=caption_spec(request.vocabulary, request.tokens, max_tokens=_MAX_TOKENS, feeds_start=not says_word),
        input=recipe,
        parts=roles.parts,
        notes=roles.notes(),
        assumptions=tuple(assumed.taken),
    )


def _picture(roles: Roles) -> _Picture:
    """Take the linear layers after the ResNet, each reading the one before, and the BatchNorm of the last."""
    layers: list[Layer] = []
    size, head = roles.config.feature_size, roles.head()
    last = (roles.embedding.shape[1], roles.input_size - roles.embedding.shape[1])
    if head is not None and head.shape[0] not in last and len(roles.matrices(columns=size)) > 1:
        # The ResNet keeps its classes, and the encoder reads its features.
        roles.drop(head)
    while not layers or size not in last:
        reading = roles.matrices(columns=size)
        if not reading:
            break
        if len(reading) > 1:
            names = ", ".join(map(str, reading))
            raise CheckpointMismatch(f"more than one linear layer reads the picture: {names}")
        layers.append(roles.take(reading[0]))
        size = layers[-1].shape[0]
    norms = [layer for layer in roles.left if layer.is_norm and layer.tensors["running_mean"].shape == (size,)]
    norm = roles.take(norms[0]) if len(norms) == 1 and layers else None
    return _Picture(tuple(layers), norm, size, own_head=bool(layers) and layers[0] is head)


def _state(state: Mapping[str, Layer], roles: Roles, picture: _Picture, assumed: Assumed) -> StateConfig | None:
    if not state:
        return None
    hidden, features = state["h"], roles.config.feature_size
    if any(each.shape != hidden.shape for each in state.values()):
        raise CheckpointMismatch(f"the layers of the first state differ: {', '.join(map(str, state.values()))}")
    if hidden.shape[1] not in (picture.size, features):
        raise CheckpointMismatch(f"{hidden} reads neither the picture's {picture.size} numbers nor the ResNet's")
    projected = hidden.shape[1] == picture.size
    if projected and picture.layers and picture.size == features:
        projected = assumed("state-input", "encoder") == "encoder"
    return StateConfig(
        cell="c" in state,
        layers=hidden.shape[0] // roles.hidden_size,
        input_size=hidden.shape[1],
        projected=projected,
        activation=assumed("state-activation", "none"),
    )


def _layout(roles: Roles, picture: _Picture, each: bool, how: StateConfig | None) -> str:
    if each:
        return "picture-each-step"
    if how is not None:
        return "picture-state"
    # The tutorial's encoder ends in `linear`, or in 2017 in the ResNet's own fc; the project's in `embed`.
    names = [layer.name.rpartition(".")[2] for layer in picture.layers]
    tutorial_2017 = roles.encoder.head is not None and names == ["fc"] and picture.norm is not None
    return "yunjey" if names == ["linear"] or tutorial_2017 else "udacity-cvnd"
