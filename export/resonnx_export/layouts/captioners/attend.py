"""Captioners with soft attention: sgrvinod's Show, Attend and Tell, our variant of it, and Flickr8k notebooks'."""

import re
from dataclasses import replace
from typing import Final, Literal, cast

from resonnx_export.layouts.captioners.assumed import Assumed
from resonnx_export.layouts.captioners.draft import Draft, Request, caption_spec
from resonnx_export.layouts.captioners.parts import prefixed
from resonnx_export.layouts.captioners.pickled import recorded
from resonnx_export.layouts.captioners.recurrent import cell_kind
from resonnx_export.layouts.captioners.roles import Layer, Roles, find_roles
from resonnx_export.networks.captioner import Captioner, CaptionerConfig, config_from_state_dict
from resonnx_export.networks.detect import CheckpointMismatch
from resonnx_export.pictures.recipe import image_input

_INPUT: Final = image_input(256, resize_short_side=None)
# The notebooks' Resize(226) and crop of 224.
_NOTEBOOK_INPUT: Final = image_input(224, resize_short_side=226)
_MAX_TOKENS: Final = 50
_NOTEBOOK_TOKENS: Final = 20
# caption.py --beam_size. The published scores: BLEU-4 33.29 with it, 30.28 greedily.
_BEAM_WIDTH: Final = 5
# The tutorial's Encoder(encoded_image_size=14).
_MAP_SIZE: Final = "14"
# Names of an attention's layers of the picture and of the state, where shapes do not tell them apart.
_PICTURE: Final = re.compile(r"enc|img|image|feat|visual|cnn|key|^u$|u_|w1", re.IGNORECASE)
_STATE: Final = re.compile(r"dec|hid|h2|query|lstm|^w$|w_|w2", re.IGNORECASE)


def own(request: Request) -> Draft | None:
    """One state_dict with trunk.* and the tutorial's decoder keys: `Captioner.state_dict()`."""
    part = request.part_with("decode_step.weight_ih")
    if part is None or not any(key.startswith("trunk.") for key in part.tensors):
        return None
    layout, assumed = "resonnx-captioner", Assumed(request.assume)
    config = config_from_state_dict(part.tensors)
    config = replace(config, trunk=assumed.trunk(config.trunk, layout, pooled=False))
    assumed.check(layout)
    return Draft(
        layout=layout,
        network=Captioner(config),
        state_dict=part.tensors,
        spec=caption_spec(request.vocabulary, request.tokens, max_tokens=_MAX_TOKENS, feeds_start=True),
        input=_INPUT,
        parts=(part,),
        assumptions=tuple(assumed.taken),
    )


def attending(request: Request) -> Draft | None:
    """A ResNet's map, a layer that scores its positions, and an LSTM cell that reads word and attended map."""
    if (roles := find_roles(request.parts)) is None or len(scores := roles.matrices(rows=1)) != 1:
        return None
    assumed = Assumed(request.assume, recorded(roles.parts))
    size, hidden_size = roles.config.feature_size, roles.hidden_size
    score = roles.take(scores[0])
    if (head := roles.head()) is not None:
        roles.drop(head)
    state = roles.states()
    keys, query = _keys_and_query(roles, score.shape[1])
    gates = roles.matrices(rows=size, columns=hidden_size)
    gate = roles.take(gates[0]) if len(gates) == 1 else None
    roles.refuse_left()
    _check(roles, state)
    sgrvinod = keys.name.endswith("encoder_att")
    layout = "sgrvinod" if sgrvinod else "flickr8k-attention"
    stored = roles.attributes.get("enc_image_size")
    side = str(stored) if isinstance(stored, int) else assumed("attention-map", _MAP_SIZE if sgrvinod else "none")
    activation = assumed("attention-activation", "relu" if sgrvinod else "tanh")
    gated = gate is not None and assumed("attention-gate", "sigmoid" if sgrvinod else "none") == "sigmoid"
    if gate is not None and not gated:
        roles.unused.append(gate.name)
    config = CaptionerConfig(
        trunk=assumed.trunk(roles.config, layout, pooled=False),
        vocabulary_size=roles.embedding.shape[0],
        embedding_size=roles.embedding.shape[1],
        hidden_size=hidden_size,
        attention_size=score.shape[1],
        score=cast(Literal["relu", "tanh"], activation),
        gated=gated,
        picture_before_word=assumed("cell-input", "word-picture") == "picture-word",
        map_size=None if side == "none" else int(side),
    )
    assumed.of_cells()
    assumed.check(layout)
    network = Captioner(config)
    named: dict[str, Layer] = {
        "attention.encoder_att": keys,
        "attention.decoder_att": query,
        "attention.full_att": score,
        "init_h": state["h"],
        "init_c": state["c"],
        "fc": roles.output,
    }
    if gated and gate is not None:
        named["f_beta"] = gate
    tokens, beam_width = (_MAX_TOKENS, _BEAM_WIDTH) if sgrvinod else (_NOTEBOOK_TOKENS, 1)
    return Draft(
        layout=layout,
        network=network,
        state_dict={
            **prefixed(roles.encoder.tensors),
            **roles.embedding.under("embedding"),
            **{key: value for name, layer in named.items() for key, value in layer.with_bias(name).items()},
            **{f"decode_step.{key.rpartition('.')[2]}": value for key, value in roles.cells.tensors.items()},
        },
        spec=caption_spec(
            request.vocabulary, request.tokens, max_tokens=tokens, feeds_start=True, beam_width=beam_width
        ),
        input=_INPUT if sgrvinod else _NOTEBOOK_INPUT,
        parts=roles.parts,
        notes=roles.notes(),
        assumptions=tuple(assumed.taken),
    )


def _keys_and_query(roles: Roles, width: int) -> tuple[Layer, Layer]:
    """Take the attention's layers of the map and of the state."""
    size, hidden = roles.config.feature_size, roles.hidden_size
    layers = roles.matrices(rows=width)
    keys = [each for each in layers if each.shape[1] == size]
    queries = [each for each in layers if each.shape[1] == hidden]
    if size == hidden:
        keys = [each for each in keys if _PICTURE.search(each.name.rpartition(".")[2])]
        queries = [each for each in queries if _STATE.search(each.name.rpartition(".")[2])]
    if len(keys) != 1 or len(queries) != 1 or keys == queries:
        listed = ", ".join(map(str, layers)) or "none"
        raise CheckpointMismatch(
            f"an attention has one layer of the map's {size} and one of the state's {hidden} numbers, not {listed}"
        )
    return roles.take(keys[0]), roles.take(queries[0])


def _check(roles: Roles, state: dict[str, Layer]) -> None:
    """Raise CheckpointMismatch if the decoder is not one LSTM cell of word and map, whose state begins with the map."""
    size, embedding_size = roles.config.feature_size, roles.embedding.shape[1]
    if set(state) != {"h", "c"} or any(each.shape != (roles.hidden_size, size) for each in state.values()):
        raise CheckpointMismatch("the attention's LSTM has no init_h and init_c from the ResNet's features")
    kind = cell_kind(roles.cells.tensors["cells.layers.0.weight_hh"].shape[0], roles.hidden_size)
    if kind != "lstm" or roles.cells.count != 1 or roles.input_size != embedding_size + size:
        raise CheckpointMismatch(
            f"{roles.cells.count} {kind} cells have {roles.input_size} inputs; one LSTM cell that reads a word and the "
            f"attended map, {embedding_size} + {size}, is exported"
        )
