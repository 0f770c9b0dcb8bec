"""A checkpoint's tensors are fitted to a module: of copies of a network, the average is not taken unasked."""

import pytest
import torch
from resonnx_export.checkpoints.fitting import Fitted, fit
from torch import Tensor

SHAPES = {"stem.weight": (4, 3, 3, 3), "head.weight": (5, 4), "head.bias": (5,)}


def tensors(value: float, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{key}": torch.full(shape, value) for key, shape in SHAPES.items()}


def value_of(fitted: Fitted) -> set[float]:
    assert fitted.state_dict.keys() == SHAPES.keys()
    return {float(each.flatten()[0]) for each in fitted.state_dict.values()}


@pytest.mark.parametrize(
    "content",
    [
        {"model_ema": tensors(2), "model": tensors(1)},
        {"ema": {"state_dict": tensors(2)}, "weights": tensors(1)},
        {"state_dict": tensors(2, "ema_model.module.") | tensors(1, "model.")},
        {"state_dict": tensors(1, "net.") | tensors(2, "net_ema.")},
        tensors(2, "model_ema.") | tensors(1),
    ],
)
def test_averages_are_passed_over_and_told(content: dict[str, object]) -> None:
    fitted = fit(content, SHAPES, "Net")
    assert value_of(fitted) == {1}
    assert any("ema" in note and "--weights" in note for note in fitted.notes)


def test_an_average_alone_is_taken() -> None:
    assert value_of(fit({"state_dict": tensors(2, "ema_model.")}, SHAPES, "Net")) == {2}
