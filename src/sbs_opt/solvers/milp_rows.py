"""A mixed-integer linear programme as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sbs_opt.models.checks import BoolArray, IntArray

FloatArray = npt.NDArray[np.float64]


class Rows(NamedTuple):
    """Rows of a sparse matrix with their bounds: lower ≤ Σ value·z[column] ≤ upper.

    Parameters
    ----------
    row, column, value
        int64[k], int64[k], float64[k], the entries by ascending row; rows are numbered from 0, and none is empty.
    lower, upper
        float64[rows]; −∞ or ∞ where there is none.
    """

    row: IntArray
    column: IntArray
    value: FloatArray
    lower: FloatArray
    upper: FloatArray


class Programme(NamedTuple):
    """Minimise cost·z over the rows, with lower ≤ z ≤ upper, and z whole where `whole`.

    A value v of the objective stands for `offset` + `scale`·v; at a whole z it is whole.

    Parameters
    ----------
    cost, lower, upper
        float64[columns].
    whole
        bool[columns].
    rows
        The constraints.
    offset, scale
        Exact integers, scale ≥ 1.
    """

    cost: FloatArray
    lower: FloatArray
    upper: FloatArray
    whole: BoolArray
    rows: Rows
    offset: int
    scale: int


def labelled_rows(
    label: IntArray, column: IntArray, value: IntArray | FloatArray, lower: FloatArray, upper: FloatArray
) -> Rows:
    """Return one row per label that has an entry other than 0; `lower` and `upper` are indexed by label."""
    order = np.lexsort((column, label))
    order = order[value[order] != 0]
    names, row = np.unique(label[order], return_inverse=True)
    return Rows(row.astype(np.int64), column[order], value[order].astype(np.float64), lower[names], upper[names])


def stacked(blocks: Sequence[Rows]) -> Rows:
    """Return the rows of all blocks, one below the other."""
    first = np.cumsum([0, *(len(block.lower) for block in blocks)])
    return Rows(
        np.concatenate([block.row + start for block, start in zip(blocks, first[:-1], strict=True)]),
        np.concatenate([block.column for block in blocks]),
        np.concatenate([block.value for block in blocks]),
        np.concatenate([block.lower for block in blocks]),
        np.concatenate([block.upper for block in blocks]),
    )


def no_bound(labels: int) -> FloatArray:
    """Return float64[labels], all −∞: rows that are bounded from above only."""
    return np.full(labels, -np.inf)
