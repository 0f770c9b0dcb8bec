"""Limits of caption requests: the last value that is taken, and the first that is refused."""

from typing import Any

import pytest
from resonnx_proto.v1 import vision_pb2
from resonnx_server.captioning.request import CaptionerInfo
from resonnx_server.errors import InvalidInput
from resonnx_server.protocol.decode_options import decode_options

from ..language import spec

INFO = CaptionerInfo(spec(), {word: i for i, word in enumerate(spec().vocabulary)}, 32)


@pytest.mark.parametrize(
    ("field", "taken", "refused"),
    [
        ("forbidden_words", {"forbidden_words": ["w2"] * 256}, {"forbidden_words": ["w2"] * 257}),
        ("top_p", {"temperature": 1.0, "top_p": 1.0}, {"temperature": 1.0, "top_p": 1.01}),
        ("top_k", {"temperature": 1.0, "top_k": 40}, {"temperature": 1.0, "top_k": 41}),
        ("max_tokens", {"max_tokens": 24}, {"max_tokens": 25}),
        ("min_tokens", {"min_tokens": 9, "max_tokens": 9}, {"min_tokens": 10, "max_tokens": 9}),
        ("beam_width", {"beam_width": 10}, {"beam_width": 11}),
        ("num_captions", {"beam_width": 3, "num_captions": 3}, {"beam_width": 3, "num_captions": 4}),
    ],
)
def test_the_limits_themselves_are_taken(field: str, taken: dict[str, Any], refused: dict[str, Any]) -> None:
    decode_options(vision_pb2.CaptionRequest(**taken), INFO)
    with pytest.raises(InvalidInput) as error:
        decode_options(vision_pb2.CaptionRequest(**refused), INFO)
    assert error.value.field == field
