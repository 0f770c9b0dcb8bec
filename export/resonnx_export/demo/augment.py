"""Augments digits for training: rotation, slant, scale, shift, elastic distortion and pen pressure."""

import numpy as np
import torch
from torch.nn import functional

from resonnx_export.demo.digits import Digits, enlarge

_SIZE = 24
_DEGREES = 12.0
_SLANT = 0.15
_SCALE = 0.1
_SHIFT = 0.06
_WOBBLE = 0.06
_PRESSURE = 0.3


def prepare_rewriting(digits: Digits) -> Digits:
    """Enlarge ink to uint8 [N,24,24], as drawing does: an unchanged digit keeps its pixels."""
    return Digits(np.stack([enlarge(ink, _SIZE) for ink in digits.ink]), digits.labels)


def rewrite(digits: Digits, rng: np.random.Generator) -> Digits:
    """Return each digit of `prepare_rewriting` written anew: ink uint8 [N,24,24]."""
    count = len(digits)
    pictures = torch.from_numpy(digits.ink).float().unsqueeze(1)
    angle = np.deg2rad(rng.uniform(-_DEGREES, _DEGREES, count))
    slant = rng.uniform(-_SLANT, _SLANT, count)
    zoom = 1 + rng.uniform(-_SCALE, _SCALE, (2, count))
    matrix = np.zeros((count, 2, 3), np.float32)
    matrix[:, 0, 0] = zoom[0] * np.cos(angle)
    matrix[:, 0, 1] = slant - np.sin(angle)
    matrix[:, 1, 0] = np.sin(angle)
    matrix[:, 1, 1] = zoom[1] * np.cos(angle)
    matrix[:, :, 2] = rng.uniform(-_SHIFT, _SHIFT, (count, 2)) * 2
    grid = functional.affine_grid(torch.from_numpy(matrix), [count, 1, _SIZE, _SIZE], align_corners=False)
    knots = rng.normal(0, _WOBBLE, (count, 2, 4, 4)).astype(np.float32)
    wobble = functional.interpolate(torch.from_numpy(knots), (_SIZE, _SIZE), mode="bicubic", align_corners=True)
    warped = functional.grid_sample(pictures, grid + wobble.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)
    pressure = np.exp(rng.uniform(-_PRESSURE, _PRESSURE, (count, 1, 1, 1))).astype(np.float32)
    ink = 255 * (warped / 255).clamp(0, 1) ** torch.from_numpy(pressure)
    return Digits(ink.squeeze(1).round().to(torch.uint8).numpy(), digits.labels)
