"""The linear recurrence h_t = W h_{t-1}, predicted at any distance from the eigendecomposition of W.

*Deep Learning* (Goodfellow, Bengio and Courville, 2016), section 10.7, equations 10.36 to 10.39: with W = Qᵀ Λ Q, eigenvalues of
magnitude below one vanish, those above one explode, and what is not along the largest eigenvector is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgeseq.diagnostics.recurrence import DiagnosticsError

# Eigenvectors this badly conditioned lose more than half of float64's digits.
MAX_CONDITION = 1e8


def spectral_radius(matrix: Tensor) -> float:
    """Largest magnitude of an eigenvalue of a square matrix (n, n)."""
    return float(torch.linalg.eigvals(matrix.detach().double()).abs().max())


@dataclass(frozen=True)
class LinearRecurrence:
    """h_t = W h_{t-1} in its eigenbasis: W = V Λ V⁻¹, and V = Qᵀ, V⁻¹ = Q where W is symmetric.

    Attributes:
        values: eigenvalues (n,), real for a symmetric W, else complex.
        vectors: V (n, n), an eigenvector a column.
        inverse: V⁻¹ (n, n).
    """

    values: Tensor
    vectors: Tensor
    inverse: Tensor

    @staticmethod
    def of(W: Tensor) -> LinearRecurrence:
        """Decompose W (n, n), in float64.

        Raises:
            DiagnosticsError: W is not square, or its eigenvectors do not span the space accurately (a defective matrix).
        """
        if W.dim() != 2 or W.shape[0] != W.shape[1]:
            raise DiagnosticsError(f"W has shape {tuple(W.shape)}; a recurrence h_t = W h_(t-1) needs a square matrix")
        W = W.detach().double()
        if torch.equal(W, W.T):
            values, vectors = torch.linalg.eigh(W)
            return LinearRecurrence(values, vectors, vectors.T)
        values, vectors = torch.linalg.eig(W)
        condition = float(torch.linalg.cond(vectors))
        if not condition < MAX_CONDITION:
            raise DiagnosticsError(
                f"W is not diagonalizable in float64: its eigenvectors have condition number {condition:.1e}, "
                f"over {MAX_CONDITION:.0e}; multiply the matrix out instead"
            )
        return LinearRecurrence(values, vectors, torch.linalg.inv(vectors))

    @property
    def radius(self) -> float:
        """Spectral radius of W: in the long run, h and the gradient change by this factor a step."""
        return float(self.values.abs().max())

    def jacobian(self, t: int) -> Tensor:
        """∂h_t/∂h_0 = W^t = V Λ^t V⁻¹: (n, n), real."""
        return _real((self.vectors * self.values**t) @ self.inverse)

    def state(self, h0: Tensor, t: int) -> Tensor:
        """h_t = V Λ^t V⁻¹ h_0 (10.39) for h_0 (..., n)."""
        coordinates = h0.to(self.vectors.dtype) @ self.inverse.T  # (..., n)
        return _real((coordinates * self.values**t) @ self.vectors.T)

    def gradient(self, gradient: Tensor, t: int) -> Tensor:
        """dL/dh_0 = (W^t)ᵀ dL/dh_t for dL/dh_t (..., n)."""
        coordinates = gradient.to(self.vectors.dtype) @ self.vectors  # (..., n)
        return _real((coordinates * self.values**t) @ self.inverse)

    def growth(self, t: int) -> float:
        """‖∂h_t/∂h_0‖₂: the most that a gradient can grow by over t steps. For a symmetric W it is radius^t."""
        return float(torch.linalg.matrix_norm(self.jacobian(t), 2))


def _real(x: Tensor) -> Tensor:
    return x.real if x.is_complex() else x
