"""The headline of an export, and the lines of its assumptions."""

from resonnx_export.assumptions.telling import assumption_lines, headline
from resonnx_proto.v1 import manifest_pb2 as pb

_SILU = pb.Assumption(name="activation", value="relu", option="--assume activation=VALUE", alternatives=["silu"])
_POOL = pb.Assumption(name="pool", value="max", option="--assume pool=VALUE", confirmed=True)


def test_the_headline_names_the_reference_and_counts_what_is_unconfirmed() -> None:
    assert headline(pb.Manifest()) == "equal to our reading of the file"
    ours = pb.Manifest(verified_against=pb.REFERENCE_OUR_READING, assumptions=[_SILU, _POOL])
    assert headline(ours) == "equal to our reading of the file; 1 assumption"
    ours.assumptions.append(_SILU)
    assert headline(ours) == "equal to our reading of the file; 2 assumptions"
    checks = [pb.ParityCheck(name="your answers: logits", pictures=64), pb.ParityCheck(name="batch 3", pictures=3)]
    answers = pb.Manifest(verified_against=pb.REFERENCE_USER_ANSWERS, parity={"checks": checks})
    assert headline(answers) == "equal to your answers (64 pictures)"
    assert headline(pb.Manifest(verified_against=pb.REFERENCE_USER_CODE)) == "equal to your code"


def test_lines_name_the_value_the_option_and_the_alternatives() -> None:
    assert list(assumption_lines(pb.Manifest(assumptions=[_SILU, _POOL]))) == [
        "assumed: activation relu; --assume activation=VALUE (or silu)",
        "given: pool max; --assume pool=VALUE",
    ]
