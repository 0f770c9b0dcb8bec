"""An assumption in the manifest and in one line."""

from resonnx_export.assumptions.assumption import Assumption
from resonnx_proto.v1 import manifest_pb2 as pb

ACTIVATION = Assumption("activation", "relu", "--assume activation=VALUE", ("silu", "gelu"))


def test_an_assumption_tells_its_value_and_the_option_that_changes_it() -> None:
    assert str(ACTIVATION) == "assumed: activation relu; --assume activation=VALUE (or silu, gelu)"
    assert ACTIVATION.message() == pb.Assumption(
        name="activation", value="relu", option="--assume activation=VALUE", alternatives=["silu", "gelu"]
    )


def test_a_confirmed_assumption_is_none() -> None:
    given = Assumption("pool", "none", "--assume pool=VALUE", confirmed=True)
    assert str(given) == "given: pool none; --assume pool=VALUE"
    assert given.message().confirmed
