"""The paper that demonstration pictures are drawn on."""

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]


def background(rng: np.random.Generator, side: int) -> Float32:
    """Return light paper, float32 [side,side,3]: plain, shaded or striped, and more or less noisy."""
    first, second = rng.uniform(185, 255, (2, 3)).astype(np.float32)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    down, across = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    ramp = across * np.float32(np.cos(angle)) + down * np.float32(np.sin(angle))
    match rng.integers(3):
        case 0:
            blend = np.zeros_like(ramp)
        case 1:
            blend = ramp + 0.5
        case _:
            waves = np.sin(ramp * np.float32(rng.uniform(15, 80)) + np.float32(phase))
            blend = (waves > 0).astype(np.float32)
    noise = int(rng.integers(1, 16))
    grain = rng.integers(-noise, noise, (side, side, 1), np.int8, endpoint=True)
    paper: Float32 = first + blend[..., None] * (second - first) + grain
    return paper
