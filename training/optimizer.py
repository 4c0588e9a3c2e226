"""Muon for the matrices inside the layers, AdamW for everything else.

Muon: Jordan et al. 2024, momentum orthogonalised by a quintic Newton-Schulz iteration; here over
stacks of equally shaped matrices, so that a step costs a few per cent.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

MATRICES = (
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "per_layer_input_gate",
    "per_layer_projection.", "altup_projections", "altup_unembed_projections", "per_layer_model_projection",
    "linear_left", "linear_right",
)


def orthogonalised(g: Tensor) -> Tensor:
    """A stack [N, rows, cols] with singular values pushed to about one."""
    x = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.mT if flip else x


class Optimizer:
    """Both optimizers behind one step; `scale` multiplies the peak learning rates."""

    def __init__(self, model: nn.Module, adam_lr: float = 3e-3, muon_lr: float = 0.02) -> None:
        self.muon_lr = muon_lr
        groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        plain: list[nn.Parameter] = []
        for name, p in model.named_parameters():
            (groups[p.shape] if any(m in name for m in MATRICES) else plain).append(p)
        self.groups = list(groups.values())
        self.momentum = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
        self.plain = plain
        self.adam = torch.optim.AdamW(plain, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.adam_lr = adam_lr

    def step(self, scale: float) -> None:
        """One update; gradients are cleared."""
        torch.nn.utils.clip_grad_norm_(self.plain, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for params, momentum in zip(self.groups, self.momentum, strict=True):
            grad = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in params])
            momentum.lerp_(grad, 0.05)
            update = orthogonalised(grad.lerp(momentum, 0.95))
            rate = self.muon_lr * scale * max(1.0, params[0].shape[0] / params[0].shape[1]) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.data.mul_(1.0 - 0.01 * self.muon_lr * scale).add_(u, alpha=-rate)
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict`."""
        self.adam.load_state_dict(state["adam"])
        self.momentum = state["momentum"]
