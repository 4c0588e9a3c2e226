"""Muon for the matrices inside the layers, AdamW for everything else, shared among workers.

Muon: Jordan et al. 2024, momentum orthogonalised by a quintic Newton-Schulz iteration; here over
stacks of equally shaped matrices, of which each worker does its part.
"""

from collections import defaultdict
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

MATRICES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
    "per_layer_input_gate",
    "per_layer_projection.",
    "altup_projections",
    "altup_unembed_projections",
    "per_layer_model_projection",
    "linear_left",
    "linear_right",
)


def orthogonalised(g: Tensor) -> Tensor:
    """Return a stack [N, rows, cols] with singular values pushed to about one."""
    x: Tensor = g / (g.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    flip = x.shape[1] > x.shape[2]
    x = x.mT if flip else x
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.775 * a + 2.0315 * a @ a) @ x
    return x.mT if flip else x


def summed(tensors: list[Tensor]) -> None:
    """Add up the tensors over all workers, in place."""
    if not dist.is_initialized():
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    start = 0
    for t in tensors:
        t.copy_(flat[start : start + t.numel()].view_as(t))
        start += t.numel()


class Optimizer:
    """Both optimizers behind one step; `scale` multiplies the peak learning rates."""

    def __init__(self, model: nn.Module, adam_lr: float = 3e-3, muon_lr: float = 0.02) -> None:
        self.muon_lr, self.adam_lr = muon_lr, adam_lr
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.workers = dist.get_world_size() if dist.is_initialized() else 1
        groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        self.plain: list[nn.Parameter] = []
        for name, p in model.named_parameters():
            (groups[p.shape] if any(m in name for m in MATRICES) else self.plain).append(p)
        self.groups = list(groups.values())
        self.momentum = [torch.zeros(len(g), *g[0].shape) for g in self.groups]
        self.adam = torch.optim.AdamW(
            self.plain, lr=adam_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True
        )

    def _share_gradients(self) -> None:
        everything = [p for g in self.groups for p in g] + self.plain
        for p in everything:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        summed([p.grad for p in everything if p.grad is not None])

    def _updates(self) -> list[Tensor]:
        """Return each group's orthogonalised momentum; each worker computes every n-th matrix."""
        updates = []
        for params, momentum in zip(self.groups, self.momentum, strict=True):
            grad = torch.stack([p.grad for p in params if p.grad is not None])
            momentum.lerp_(grad, 0.05)
            update = torch.zeros_like(momentum)
            mine = slice(self.rank, None, self.workers)
            if len(params) > self.rank:
                update[mine] = orthogonalised(grad[mine].lerp(momentum[mine], 0.95))
            updates.append(update)
        summed(updates)
        return updates

    def step(self, scale: float) -> None:
        """Update the weights from the gradients of all workers, and clear the gradients."""
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.plain, 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.adam_lr * scale
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        for params, update in zip(self.groups, self._updates(), strict=True):
            rate = self.muon_lr * scale * max(1.0, params[0].shape[0] / params[0].shape[1]) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.data.mul_(1.0 - 0.01 * self.muon_lr * scale).add_(u, alpha=-rate)
                p.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"adam": self.adam.state_dict(), "momentum": self.momentum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        self.adam.load_state_dict(state["adam"])
        self.momentum = state["momentum"]
