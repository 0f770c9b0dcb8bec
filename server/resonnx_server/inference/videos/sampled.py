"""Which frames of a video a model reads."""

import math
from collections.abc import Sequence
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_server.errors import InvalidInput
from resonnx_server.preprocessing.clips.sampling import Rule, Sampling

_RULES: Final = {
    pb.VideoClassifierSpec.Sampling.RULE_ALL: Rule.ALL,
    pb.VideoClassifierSpec.Sampling.RULE_EVERY: Rule.EVERY,
    pb.VideoClassifierSpec.Sampling.RULE_UNIFORM: Rule.UNIFORM,
    pb.VideoClassifierSpec.Sampling.RULE_TIME: Rule.TIME,
}


def sampling_of(spec: pb.VideoClassifierSpec) -> Sampling:
    """Return a model's rule of sampling."""
    rule = _RULES[spec.sampling.rule]
    return Sampling(
        rule,
        spec.sampling.n if rule in (Rule.EVERY, Rule.UNIFORM) else 0,
        spec.sampling.frames_per_second if rule is Rule.TIME else 0.0,
    )


def sampled(sampling: Sampling, count: int, times_s: Sequence[float], field: str) -> list[int]:
    """Return the indices of the frames that a model reads of a whole video.

    Args:
        sampling: The model's rule.
        count: Frames of the video.
        times_s: Their times in seconds; may be empty if the rule does not look at them.
        field: The field of the times, for errors.

    Raises:
        InvalidInput: Times are missing, of another number, not finite, or not ascending.
    """
    if not times_s and sampling.rule is not Rule.TIME:
        times_s = range(count)
    if len(times_s) != count:
        needed = "; the model samples by time" if sampling.rule is Rule.TIME else ""
        raise InvalidInput(field, f"{len(times_s)} times of {count} frames{needed}")
    before = -math.inf
    for i, time_s in enumerate(times_s):
        if not before <= time_s < math.inf:
            raise InvalidInput(f"{field}[{i}]", f"{time_s:g} is not finite, or below the time before it")
        before = time_s
    return sampling.indices(times_s)
