"""Muon: momentum, then each update made orthogonal (Jordan et al. 2024).

torch.optim.Muon iterates in bfloat16, which takes nine tenths of a step on a CPU without bfloat16 units; here
the precision is the caller's choice, and matrices of one shape share batched products.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

# The quintic Newton-Schulz iteration of the paper; five rounds bring singular values into about 0.7..1.2.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest near-orthogonal matrices of a stack (count, rows, columns), by Newton-Schulz."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonal updates and decoupled weight decay, for matrices only."""

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        precision: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._precision = precision

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every matrix from its gradient; matrices of the same shape go together."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                steps = torch.stack([self._momentum(m, group["momentum"]) for m in matrices])
                updates = orthogonalize(steps.to(self._precision)).to(steps.dtype)
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"])
                    matrix.add_(update, alpha=-group["lr"] * scale)

    def _momentum(self, matrix: Tensor, momentum: float) -> Tensor:
        if matrix.grad is None:
            raise ValueError("Muon needs a gradient for every matrix")
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        buffer: Tensor = state["momentum"]
        buffer.lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(buffer, momentum)
