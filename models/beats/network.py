"""Trains the networks of ``beat_net`` (PyTorch).

Responsible for the loss, for what is varied while learning (curves turned over, stretched, shifted, higher, lower,
noisy and on a slope; features a little wrong) and for turning the result into arrays. Not responsible for examples
(``train``).
The members of the net differ in nothing but the seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from edgeward.clinic.monitor.beat_net import CLASSES, FEATURES, INPUTS, BeatNet
from edgeward.clinic.monitor.state import CURVE

MEMBERS = 2
CURVE_UNITS, FACT_UNITS, BOTH_UNITS = 32, 16, 16
EPOCHS, BATCH = 8, 512
RATE, RATE_MOST, DECAY = 3e-3, 5e-3, 2e-2


class Member(nn.Module):
    """One network, with parts left out at random while it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.curve, self.fact = nn.Linear(INPUTS, CURVE_UNITS), nn.Linear(FEATURES, FACT_UNITS)
        self.both, self.out = nn.Linear(CURVE_UNITS + FACT_UNITS, BOTH_UNITS), nn.Linear(BOTH_UNITS, CLASSES)

    def forward(self, curves: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        def without(x: torch.Tensor, part: float) -> torch.Tensor:
            return functional.dropout(x, part, self.training)

        a = without(functional.relu(self.curve(without(curves, 0.1))), 0.3)
        b = without(functional.relu(self.fact(without(facts, 0.2))), 0.2)
        out: torch.Tensor = self.out(functional.relu(self.both(torch.cat((a, b), 1))))
        return out


def vary(curves: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return examples as they might have been in another patient; beat and usual beat are changed alike."""
    n = len(curves)
    both = torch.stack((curves[:, :CURVE] + curves[:, CURVE:], curves[:, CURVE:]), 1)
    both = both * torch.where(torch.rand(n, 1, 1) < 0.5, -1.0, 1.0) * torch.exp(0.2 * torch.randn(n, 1, 1))
    line = torch.linspace(-1.0, 1.0, CURVE)
    at = line * torch.exp(0.06 * torch.randn(n, 1)) + 0.02 * torch.randn(n, 1)
    at = (0.5 * (at + 1.0) * (CURVE - 1)).clamp(0.0, CURVE - 1.001)
    low = at.long()
    part = (at - low)[:, None]
    index = low[:, None].expand(-1, 2, -1)
    both = both.gather(2, index) * (1.0 - part) + both.gather(2, index + 1) * part
    both = both + 0.02 * torch.rand(n, 1, 1) * torch.randn_like(both)
    both = both + 0.15 * torch.randn(n, 2, 1) * line * torch.rand(n, 1, 1)
    return torch.cat((both[:, 0] - both[:, 1], both[:, 1]), 1), facts + 0.1 * torch.randn_like(facts)


def member(curves: torch.Tensor, facts: torch.Tensor, kinds: torch.Tensor, weight: torch.Tensor, seed: int) -> Member:
    """Train one network."""
    torch.manual_seed(seed)
    net = Member()
    steps = EPOCHS * -(-len(curves) // BATCH)
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE_MOST, total_steps=steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(curves)).split(BATCH):
            loss = functional.cross_entropy(net(*vary(curves[rows], facts[rows])), kinds[rows], reduction="none")
            optimiser.zero_grad()
            (loss * weight[rows]).mean().backward()
            optimiser.step()
            schedule.step()
    return net.eval()


def train(curves: NDArray[Any], facts: NDArray[Any], kinds: NDArray[Any], weight: NDArray[Any]) -> BeatNet:
    """Train `MEMBERS` networks and return them as arrays."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    centre, spread = facts.mean(axis=0), facts.std(axis=0) + 1e-3
    given = (
        torch.tensor(curves, dtype=torch.float32),
        torch.tensor((facts - centre) / spread, dtype=torch.float32),
        torch.tensor(kinds, dtype=torch.long),
        torch.tensor(weight, dtype=torch.float32),
    )
    nets = [member(*given, seed) for seed in range(MEMBERS)]

    def arrays(name: str) -> list[NDArray[np.float64]]:
        layers = [getattr(net, name) for net in nets]
        return [
            np.stack([layer.weight.detach().numpy().T for layer in layers]).astype(np.float64),
            np.stack([layer.bias.detach().numpy() for layer in layers]).astype(np.float64),
        ]

    return BeatNet(centre, spread, *arrays("curve"), *arrays("fact"), *arrays("both"), *arrays("out"))
