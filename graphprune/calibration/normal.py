"""Normal equations of a layer: what a least-squares fit of its weight needs to know of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, cho_factor, cho_solve, lapack

from graphprune.graph.model import Array

Real = NDArray[np.float64]


def solved(matrix: Real, right: Real) -> Real:
    """The solution of a symmetric positive system; by least squares where rounding left it without one."""
    try:
        return np.asarray(cho_solve(cho_factor(matrix, lower=True, check_finite=False), right, check_finite=False))
    except LinAlgError:
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0])


def inverse(matrix: Real) -> Real:
    """The inverse of a symmetric positive matrix; by least squares where rounding left it without one."""
    factor, bad = lapack.dpotrf(matrix.T, lower=True)  # column major and symmetric: .T saves a copy
    if bad:
        return np.asarray(np.linalg.pinv(matrix, hermitian=True))
    made: Real = lapack.dpotri(factor, lower=True, overwrite_c=True)[0].T
    np.copyto(made, made.T, where=np.tri(len(made), k=-1, dtype=bool))
    return made


def minus_product(matrix: Real, left: Real, right: Real) -> Real:
    """The matrix (n, n) less the product left · right, (n, k) · (k, n); a row-major matrix is overwritten."""
    return np.asarray(blas.dgemm(-1.0, right.T, left.T, beta=1.0, c=matrix.T, overwrite_c=True).T)


@dataclass
class Normal:
    """Sums over positions, per group of a layer; float64.

    Attributes:
        xx: Products of inputs, shape (groups, inputs, inputs).
        xy: Products of inputs and targets, shape (groups, inputs, outputs).
        yy: Squares of targets, shape (groups, outputs).
        x: Sums of inputs, shape (groups, inputs).
        y: Sums of targets, shape (groups, outputs).
        count: Number of positions.
    """

    xx: Real
    xy: Real
    yy: Real
    x: Real
    y: Real
    count: int = 0

    @classmethod
    def empty(cls, groups: int, inputs: int, outputs: int) -> Normal:
        """Nothing seen yet."""
        sizes = ((inputs, inputs), (inputs, outputs), (outputs,), (inputs,), (outputs,))
        xx, xy, yy, x, y = (np.zeros((groups, *s)) for s in sizes)
        return cls(xx, xy, yy, x, y)

    def add(self, inputs: Array, targets: Array) -> None:
        """See more positions: inputs (groups, positions, inputs), targets (groups, positions, outputs)."""
        x, y = inputs.astype(np.float32, copy=False), targets.astype(np.float32, copy=False)
        turned = x.transpose(0, 2, 1)
        self.xx += turned @ x
        self.xy += turned @ y
        self.yy += np.einsum("gpo,gpo->go", y, y, dtype=np.float64)
        self.x += x.sum(axis=1, dtype=np.float64)
        self.y += y.sum(axis=1, dtype=np.float64)
        self.count += x.shape[1]

    def plus(self, other: Normal) -> Normal:
        """Both together."""
        return Normal(
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
            self.x + other.x,
            self.y + other.y,
            self.count + other.count,
        )

    def centred(self) -> tuple[Real, Real, Real]:
        """Inputs' and targets' covariances times the count, and the targets' variances times the count."""
        n = max(self.count, 1)
        return (
            self.xx - self.x[:, :, None] * self.x[:, None, :] / n,
            self.xy - self.x[:, :, None] * self.y[:, None, :] / n,
            self.yy - self.y**2 / n,
        )

    def error(self, weight: Real, bias: Real) -> float:
        """Sum of squared errors of x·weight + bias, weight (groups, inputs, outputs), bias (groups, outputs)."""
        fitted = np.einsum("gio,gio->go", weight, self.xx @ weight)
        cross = np.einsum("gio,gio->go", weight, self.xy)
        means = np.einsum("gi,gio->go", self.x, weight)
        per_output = fitted - 2 * cross + self.yy + 2 * bias * (means - self.y) + self.count * bias**2
        return float(np.maximum(per_output, 0.0).sum())
