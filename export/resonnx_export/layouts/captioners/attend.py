"""Show, Attend and Tell: sgrvinod/a-PyTorch-Tutorial-to-Image-Captioning, and the demonstration's variant of it."""

from dataclasses import replace
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.layouts.captioners.draft import Draft, Request, caption_spec
from resonnx_export.layouts.captioners.parts import HALLMARK, prefixed, split_trunk
from resonnx_export.networks.captioner import Captioner, config_from_state_dict
from resonnx_export.pictures.recipe import image_input

_INPUT: Final = image_input(256, resize_short_side=None)
_MAX_TOKENS: Final = 50
# caption.py --beam_size. The published scores: BLEU-4 33.29 with it, 30.28 greedily.
_BEAM_WIDTH: Final = 5
# The tutorial's Encoder(encoded_image_size=14).
_MAP_SIZE: Final = 14


def own(request: Request) -> Draft | None:
    """One state_dict with trunk.* and the tutorial's decoder keys: `Captioner.state_dict()`."""
    part = request.part_with("decode_step.weight_ih")
    if part is None or not any(key.startswith("trunk.") for key in part.tensors):
        return None
    network = Captioner(config_from_state_dict(part.tensors))
    return Draft("resonnx-captioner", network, part.tensors, _spec(request, beam_width=1), _INPUT, (part,))


def show_attend_tell(request: Request) -> Draft | None:
    """Encoder and DecoderWithAttention, pickled whole in one file, or as state_dicts."""
    encoder = request.part_with(HALLMARK)
    decoder = request.part_with("decode_step.weight_ih", "attention.encoder_att.weight", "init_h.weight")
    if encoder is None or decoder is None:
        return None
    trunk, beside = split_trunk(encoder.tensors)
    state_dict = {**prefixed(trunk), **beside, **decoder.tensors}
    stored = encoder.attributes.get("enc_image_size")
    config = replace(config_from_state_dict(state_dict), map_size=stored if isinstance(stored, int) else _MAP_SIZE)
    spec = _spec(request, _BEAM_WIDTH)
    return Draft("sgrvinod", Captioner(config), state_dict, spec, _INPUT, (encoder, decoder))


def _spec(request: Request, beam_width: int) -> pb.CaptionerSpec:
    return caption_spec(request, max_tokens=_MAX_TOKENS, feeds_start=True, beam_width=beam_width)
