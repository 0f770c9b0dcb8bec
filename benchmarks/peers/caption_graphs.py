"""The captioner of the peers as ONNX graphs, exported as PyTorch's documentation does it.

    python benchmarks/peers/caption_graphs.py CHECKPOINT FOLDER

Writes encoder.onnx (image [1,3,224,224] to the LSTM's first input [1,units]), step.onnx (a word's logits and the new
state) and embedding.npy [words,units].
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).with_name("apps")))
from captioner import Decoder, load

_SIDE = 224


class _Step(nn.Module):
    """One word of the decoder."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.lstm, self.linear = decoder.lstm, decoder.linear

    def forward(
        self, given: torch.Tensor, hidden: torch.Tensor, cell: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits [1,words], and the state."""
        output, (hidden, cell) = self.lstm(given, (hidden, cell))
        return self.linear(output.squeeze(1)), hidden, cell


def main() -> None:
    """Export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    encoder, decoder = load(given.checkpoint)
    units = decoder.linear.in_features
    image = torch.zeros(1, 3, _SIDE, _SIDE)
    # Three tensors: the exporter takes one that is given twice for one input.
    state = {name: torch.zeros(1, 1, units) for name in ("input", "hidden", "cell")}
    for name, module, inputs in (
        ("encoder", encoder, {"image": image}),
        ("step", _Step(decoder).eval(), state),
    ):
        torch.onnx.export(
            module, tuple(inputs.values()), given.folder / f"{name}.onnx", input_names=list(inputs), dynamo=True
        )
    np.save(given.folder / "embedding.npy", decoder.embed.weight.detach().numpy())


if __name__ == "__main__":
    main()
