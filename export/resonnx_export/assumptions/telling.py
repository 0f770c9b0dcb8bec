"""The reference and the assumptions of an export, in words, from its manifest."""

from collections.abc import Iterator
from typing import Final

from resonnx_proto.v1 import manifest_pb2 as pb

from resonnx_export.assumptions.assumption import describe
from resonnx_export.wording import precision_name

# The parity check of answers that the user recorded has a name that begins so.
ANSWERS: Final = "your answers"
# Stands for the pictures of an agreement of reduced files with them.
ANSWERED: Final = "pictures of your answers"
# The layout of ONNX files: nothing of the network is assumed.
ONNX: Final = "onnx"


def headline(manifest: pb.Manifest) -> str:
    """Return the reference that the graphs are equal to and the number of unconfirmed assumptions, in one phrase."""
    if manifest.verified_against == pb.REFERENCE_USER_CODE:
        equal = "equal to your code"
    elif manifest.verified_against == pb.REFERENCE_USER_ANSWERS:
        pictures = sum(check.pictures for check in manifest.parity.checks if check.name.startswith(ANSWERS))
        kind = "clips" if manifest.HasField("video_classifier") else "pictures"
        equal = f"equal to your answers ({pictures} {kind})" if pictures else "equal to your answers"
        equal += _reduced(manifest)
    elif manifest.source.layout == ONNX:
        equal = "equal to the ONNX file in ONNX Runtime, after our reading of its preprocessing"
    else:
        equal = "equal to our reading of the file"
    unconfirmed = sum(not assumption.confirmed for assumption in manifest.assumptions)
    if not unconfirmed:
        return equal
    return f"{equal}; {unconfirmed} assumption{'s' if unconfirmed > 1 else ''}"


def _reduced(manifest: pb.Manifest) -> str:
    """Say how far the files in reduced precision, which are served, agree with the answers."""
    compared = [each for each in manifest.parity.agreements if each.asked == ANSWERED]
    return "".join(
        f" in float32, {each.identical} of {each.pictures} the same in {precision_name(each.precision)}"
        for each in compared
    )


def reference_name(manifest: pb.Manifest) -> str:
    """Return what the graphs' outputs were compared with."""
    return "the ONNX file" if manifest.source.layout == ONNX else "PyTorch"


def assumption_lines(manifest: pb.Manifest) -> Iterator[str]:
    """Yield a line for each assumption."""
    confirmed = "confirmed" if manifest.verified_against == pb.REFERENCE_USER_ANSWERS else "given"
    for assumption in manifest.assumptions:
        yield describe(assumption, confirmed)
