"""The program that records answers.npz where this package is not installed."""

from typing import Final

# As record.py; a list of bytes becomes an array of rows, with zeros after the shorter files.
SNIPPET: Final = """\
# Writes answers.npz for `resonnx-export ... --expect answers.npz`; needs torch, numpy and Pillow. Yours are:
#   model: a torch.nn.Module that returns logits [N,K];
#   preprocess: a function of a PIL picture in RGB that returns a float tensor [C,H,W], as in your evaluation;
#   files: paths of 4 to 64 typical pictures.
import numpy as np, torch
from pathlib import Path
from PIL import Image

model.eval()
weight = next(model.parameters())
inputs = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in files])
with torch.no_grad():
    logits = torch.cat([model(batch.to(weight)) for batch in inputs.split(16)]).float().cpu().numpy()
images = [Path(file).read_bytes() for file in files]
tf32 = torch.backends.cudnn.allow_tf32 and weight.is_cuda or torch.get_float32_matmul_precision() != "highest"
np.savez("answers.npz", images=images, inputs=inputs.cpu().float().numpy(), logits=logits,
         device=weight.device.type, dtype=str(weight.dtype), tf32=tf32)
"""
