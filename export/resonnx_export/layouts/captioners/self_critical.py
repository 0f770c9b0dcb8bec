"""ruotianluo/ImageCaptioning.pytorch: show_tell, fc, newfc, att2in, att2in2 and updown on a ResNet's features.

The checkpoint has no CNN: its features were computed beforehand by Caffe's variant of ResNet, whose weights are another
file and do not record the variant. The infos file, given as the vocabulary, has the training's options.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from resonnx_proto.v1 import manifest_pb2 as pb
from torch import Tensor

from resonnx_export.errors import BadInput
from resonnx_export.layouts.captioners.assumed import Assumed
from resonnx_export.layouts.captioners.draft import Draft, Request
from resonnx_export.layouts.captioners.parts import prefixed
from resonnx_export.layouts.captioners.recurrent import Cells, cell_kind, cells_at, find_cells
from resonnx_export.networks.detect import matrix_shape, resnet_config_from_state_dict
from resonnx_export.networks.resnet import ResNetConfig
from resonnx_export.networks.show_tell import ShowTell, ShowTellConfig
from resonnx_export.networks.top_down import TopDown, TopDownConfig
from resonnx_export.networks.unrecorded import CAFFE
from resonnx_export.pictures.recipe import image_input

NAME: Final = "ruotianluo"
# The source keeps pictures at their own size and averages the map to 14 x 14, the size of a ResNet's map at this size.
_INPUT_SIZE: Final = 448
_MAX_TOKENS: Final = 20
_UNKNOWN: Final = "UNK"
# Of its recurrent cells, which other decoders with a `logit` name differently.
_CORE: Final = "core."
# Names of feature folders in the source's instructions: data/cocobu_att, data/cocobu_fc.
_REGIONS: Final = re.compile(r"bu_|bottom.?up", re.IGNORECASE)

# Properties of the ResNet that its variant settles.
_VARIANT: Final = ("stride-in", "pool")

_Plain = Literal["show_tell", "fc", "newfc"]
_Attending = Literal["att2in", "att2in2", "updown"]
_POOLED: Final = get_args(_Plain)


def self_critical(request: Request) -> Draft | None:
    """A decoder with `logit`, and a ResNet under torchvision's keys."""
    decoder = next((part for part in request.parts if any(key.startswith("logit.") for key in part.tensors)), None)
    if decoder is None or (find_cells(decoder.tensors) and not any(key.startswith(_CORE) for key in decoder.tensors)):
        return None
    request.tokens.check_first(NAME, request.vocabulary.words)
    options = request.vocabulary.options
    kind = _kind(decoder.tensors, options)
    _refuse_other_features(kind, options)
    cnn = request.part_with("layer1.0.conv1.weight")
    if cnn is None:
        raise BadInput(
            f"layout {NAME} ({kind}) has no CNN: give the ResNet whose features it was trained on as a second file; "
            "a model trained on region features (bottom-up attention) needs an object detector and is not exported"
        )
    stated = {"resnet": "caffe" if request.caffe_resnet else "torchvision"} if request.caffe_resnet is not None else {}
    assumed = Assumed({**stated, **request.assume})
    if "resnet" not in assumed.given:
        raise BadInput(
            f"layout {NAME}: a ResNet's keys do not record whether it is Caffe's (the stride in each stage's first 1x1 "
            "convolution, as in the source's own feature extraction) or torchvision's; give --caffe-resnet or "
            "--torchvision-resnet"
        )
    trunk = resnet_config_from_state_dict(cnn.tensors)
    if assumed("resnet", "caffe") == "caffe":
        trunk = replace(trunk, unrecorded=CAFFE)
    trunk = assumed.trunk(trunk, NAME, pooled=kind in _POOLED, known=_VARIANT)
    assumed.check(NAME)
    network: ShowTell | TopDown
    if kind == "show_tell" or kind == "fc" or kind == "newfc":
        state_dict = _show_tell_keys(kind, decoder.tensors)
        network = ShowTell(_show_tell_config(kind, state_dict, trunk))
    else:
        state_dict = dict(decoder.tensors)
        network = TopDown(_top_down_config(kind, state_dict, trunk))
    return Draft(
        layout=NAME,
        network=network,
        state_dict={**prefixed(cnn.tensors), **state_dict},
        spec=_spec(request.vocabulary.words, kind, options),
        input=image_input(_INPUT_SIZE, resize_short_side=None),
        parts=(decoder, cnn),
        notes=("the source takes pictures at their own size; here all are stretched to one",),
        assumptions=tuple(assumed.taken),
    )


def _kind(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> _Plain | _Attending:
    if "core.att_lstm.weight_ih" in tensors:
        return "updown"
    if "core.a2c.weight" in tensors:
        return "att2in" if "embed.weight" in tensors else "att2in2"
    if "_core.i2h.weight" in tensors and "fc_embed.weight" in tensors:
        return "newfc"
    if "img_embed.weight" in tensors:
        return "fc" if "core.i2h.weight" in tensors else "show_tell"
    named = f" ({options['caption_model']})" if "caption_model" in options else ""
    raise BadInput(
        f"layout {NAME}: this caption_model{named} is not exported; show_tell, fc, newfc, att2in, att2in2, updown are"
    )


def _refuse_other_features(kind: _Plain | _Attending, options: Mapping[str, Any]) -> None:
    """Raise BadInput if the training's options name features other than a ResNet's."""
    attends = kind in ("att2in", "att2in2", "updown")
    used = {"input_fc_dir": kind not in ("att2in", "att2in2"), "input_att_dir": attends}
    folders = [str(options.get(name, "")) for name, is_used in used.items() if is_used]
    regions = [folder for folder in folders if _REGIONS.search(folder)]
    if regions or (attends and options.get("use_box")):
        raise BadInput(
            f"layout {NAME} ({kind}): trained on region features ({regions[0] if regions else 'use_box'}), which an "
            "object detector computes (bottom-up attention), not a ResNet; not exported"
        )
    if attends and options.get("norm_att_feat"):
        raise BadInput(f"layout {NAME} ({kind}): trained on features of length 1 (norm_att_feat); not exported")


def _show_tell_keys(kind: _Plain, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors under ShowTell's keys."""
    cells = cells_at(tensors, "core.") if kind == "show_tell" else Cells({}, tensors)
    renamed = dict(cells.tensors)
    places = {
        "fc_embed." if kind == "newfc" else "img_embed.": "project.0.",
        "_core." if kind == "newfc" else "core.": "cells.",
        "embed.": "embedding.",
        "logit.": "output.",
    }
    for key, value in cells.rest.items():
        source = next((source for source in places if key.startswith(source)), "")
        renamed[places.get(source, "") + key.removeprefix(source)] = value
    return renamed


def _show_tell_config(kind: _Plain, state_dict: Mapping[str, Tensor], trunk: ResNetConfig) -> ShowTellConfig:
    vocabulary_size, embedding_size = matrix_shape(state_dict, "embedding.weight")
    hidden_size = matrix_shape(state_dict, "output.weight")[1]
    _check_features(matrix_shape(state_dict, "project.0.weight")[1], trunk)
    return ShowTellConfig(
        trunk=trunk,
        vocabulary_size=vocabulary_size,
        embedding_size=embedding_size,
        hidden_size=hidden_size,
        cell=cell_kind(*matrix_shape(state_dict, "cells.layers.0.weight_hh")) if kind == "show_tell" else "maxout",
        layers=max(1, sum(key.endswith(".weight_hh") for key in state_dict)),
        cell_bias="cells.layers.0.bias_ih" in state_dict,
        residual=False,
        batch_norm=False,
        # The output for the picture is dropped; then token 0 is fed.
        picture_says_word=False,
    )


def _top_down_config(kind: _Attending, state_dict: Mapping[str, Tensor], trunk: ResNetConfig) -> TopDownConfig:
    words = "embed.weight" if kind == "att2in" else "embed.0.weight"
    vocabulary_size, embedding_size = matrix_shape(state_dict, words)
    # BatchNorms are before and after the linear layer.
    batch_norms = sum(f"att_embed.{place}.running_mean" in state_dict for place in (0, 4))
    reader = "ctx2att.weight" if kind == "att2in" else f"att_embed.{min(batch_norms, 1)}.weight"
    _check_features(matrix_shape(state_dict, reader)[1], trunk)
    return TopDownConfig(
        kind=kind,
        trunk=trunk,
        vocabulary_size=vocabulary_size,
        embedding_size=embedding_size,
        hidden_size=matrix_shape(state_dict, "logit.weight")[1],
        attention_size=matrix_shape(state_dict, "ctx2att.weight")[0],
        batch_norms=batch_norms,
    )


def _check_features(size: int, trunk: ResNetConfig) -> None:
    if size != trunk.feature_size:
        raise BadInput(f"layout {NAME}: trained on {size} features; the ResNet given has {trunk.feature_size}")


def _spec(words: tuple[str, ...], kind: _Plain | _Attending, options: Mapping[str, Any]) -> pb.CaptionerSpec:
    """Return the rule: token 0 starts, ends and pads; greedy, as eval.py without --beam_size.

    Its --suppress_UNK, on by default, applies to CaptionModel.beam_search only: it lowers the last word's
    log-probability by 1000 if that is UNK, in models that have their vocabulary (not show_tell and fc).
    """
    length = options.get("seq_length")
    if kind not in ("show_tell", "fc"):
        length = options.get("max_length", _MAX_TOKENS) or length
    spec = pb.CaptionerSpec(
        vocabulary=words,
        start_id=0,
        end_id=0,
        pad_id=0,
        max_tokens=length if isinstance(length, int) else _MAX_TOKENS,
        beam_width=1,
        length_normalization=pb.CaptionerSpec.LENGTH_NORMALIZATION_NONE,
        finished_beams=pb.CaptionerSpec.FINISHED_BEAMS_REPLACE,
    )
    if _UNKNOWN in words:
        spec.unknown_id = words.index(_UNKNOWN)
    if words[-1] == _UNKNOWN and kind not in ("show_tell", "fc"):
        spec.beam_forbidden_ids.append(len(words) - 1)
    return spec
