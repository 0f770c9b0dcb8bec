"""Turns pictures and captions into cells: yes-or-no statements about one of them, whose shares are compared.

Shares of cells need no assumption about how features are distributed, and one odd picture moves them little.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from resonnx_server.runtime.model_files.drift_reference import NO_TOKEN, Float, Tokens

# Rows of any kind: projections, captions.
Rows = npt.NDArray[Any]
# Cells of rows: float32 [n,d] of 0 and 1.
Cells = Callable[[Rows], Float]

# Bins of equal share for each direction.
_BINS: Final = 12
# Of the mean variance, added to each: directions in which reference pictures do not vary would count most.
_RIDGE: Final = 1e-3
# If no direction has any.
_LEAST_VARIANCE: Final = 1e-12
# Words with a cell of their own, the most frequent ones; others share one.
_WORDS: Final = 64
_LENGTHS: Final = 8


def whitened(projections: Float) -> Float:
    """Return float32 [k,k] that turns projections [m,k] into uncorrelated ones of unit variance (PCA whitening).

    Random directions overlap, so that a few combinations have most of the variance; changes in the others would be lost
    among it.
    """
    covariance = np.atleast_2d(np.cov(projections, rowvar=False, dtype=np.float64))
    variances, axes = np.linalg.eigh(covariance)
    ridge = _RIDGE * max(float(variances.mean()), _LEAST_VARIANCE)
    transform: Float = (axes / np.sqrt(np.maximum(variances, 0) + ridge)).astype(np.float32)
    return transform


def picture_cells(projections: Float) -> Cells:
    """Return the cells of projections [n,k], by the reference's [m,k].

    For each uncorrelated direction and each inner border of bins that have equal shares on the reference, the cell says
    that the projection is at most the border.
    """
    transform = whitened(projections)
    borders = np.quantile(projections @ transform, np.linspace(0, 1, _BINS + 1)[1:-1], axis=0).astype(np.float32)

    def cells(rows: Rows) -> Float:
        is_below: npt.NDArray[np.bool_] = (rows @ transform)[:, np.newaxis] <= borders
        return is_below.reshape(len(rows), -1).astype(np.float32)

    return cells


def caption_cells(tokens: Tokens) -> Cells:
    """Return the cells of captions int32 [n,T], by the reference's [m,T]; rows are filled up with NO_TOKEN.

    They say that a frequent word is in the caption, that another one is, and that it has at most so many words.
    """
    is_word = tokens != NO_TOKEN
    size = int(tokens.max(initial=0)) + 1
    # Each word once a caption; a table of captions and words would be large for a large vocabulary.
    rows = np.broadcast_to(np.arange(len(tokens))[:, np.newaxis], tokens.shape)
    once = np.unique(tokens[is_word].astype(np.int64) * len(tokens) + rows[is_word]) // len(tokens)
    captions = np.bincount(once, minlength=size)
    frequent = np.argsort(-captions, kind="stable")[:_WORDS]
    frequent = frequent[captions[frequent] > 0]
    other, none = len(frequent), len(frequent) + 1
    column = np.full(size + 1, other)
    column[frequent] = np.arange(len(frequent))
    lengths = np.unique(np.quantile(is_word.sum(axis=1), np.linspace(0, 1, _LENGTHS + 1)[:-1], method="lower"))

    def cells(rows: Rows) -> Float:
        is_word = rows != NO_TOKEN
        # Ids beyond those of the reference are other words, as the last one is.
        columns = np.where(is_word, column[np.clip(rows, 0, size).astype(np.intp)], none)
        found = np.zeros((len(rows), none + 1), np.float32)
        found[np.arange(len(rows))[:, np.newaxis], columns] = 1
        is_short = (is_word.sum(axis=1)[:, np.newaxis] <= lengths).astype(np.float32)
        return np.concatenate([found[:, :none], is_short], axis=1)

    return cells
