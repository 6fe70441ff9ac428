"""Trains the networks of ``beat_net`` (PyTorch), those of all folds side by side.

Responsible for the loss, for what is varied while learning (curves turned over, stretched, shifted, higher, lower,
noisy and on a slope; features a little wrong) and for turning the result into arrays. Not responsible for examples
(``train``).

All networks see the same examples in the same order, changed in the same way; those of a fold do not learn from the
records that the fold leaves out. So what takes most of the time, changing examples, is done once. The members of a net
differ in nothing but their first random weights and in what is left out at random.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from edgeward.clinic.monitor.beat_net import CLASSES, FEATURES, INPUTS, BeatNet
from edgeward.clinic.monitor.state import CURVE

MEMBERS = 4
CURVE_UNITS, FACT_UNITS, BOTH_UNITS = 32, 16, 16
EPOCHS, BATCH = 6, 512
RATE, RATE_MOST, DECAY = 3e-3, 5e-3, 2e-2
SEED = 0


class Layer:
    """One layer of all networks: weights (networks, inputs, outputs) and biases (networks, 1, outputs)."""

    def __init__(self, networks: int, inputs: int, outputs: int) -> None:
        most = 1.0 / math.sqrt(inputs)
        self.weight = ((torch.rand(networks, inputs, outputs) * 2.0 - 1.0) * most).requires_grad_()
        self.bias = ((torch.rand(networks, 1, outputs) * 2.0 - 1.0) * most).requires_grad_()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def arrays(self, networks: slice) -> list[NDArray[np.float64]]:
        """Return weights and biases of some of the networks."""
        parts = self.weight[networks], self.bias[networks, 0]
        return [np.ascontiguousarray(part.detach().numpy(), dtype=np.float64) for part in parts]


class Networks:
    """Many networks of one form, with parts left out at random while they learn."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.curve, self.fact = Layer(count, INPUTS, CURVE_UNITS), Layer(count, FEATURES, FACT_UNITS)
        self.both, self.out = Layer(count, CURVE_UNITS + FACT_UNITS, BOTH_UNITS), Layer(count, BOTH_UNITS, CLASSES)
        self.layers = (self.curve, self.fact, self.both, self.out)

    def learn(self, curves: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
        """Return what the networks say of a batch, (networks, batch, classes)."""
        curves, facts = functional.dropout(curves, 0.1), functional.dropout(facts, 0.2)
        a = functional.relu(self.curve(curves.expand(self.count, -1, -1)))
        b = functional.relu(self.fact(facts.expand(self.count, -1, -1)))
        hidden = torch.cat((functional.dropout(a, 0.3), functional.dropout(b, 0.2)), 2)
        return self.out(functional.relu(self.both(hidden)))


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


def train(  # noqa: PLR0917 - what is known of the examples, column by column
    curves: NDArray[Any],
    facts: NDArray[Any],
    kinds: NDArray[Any],
    weight: NDArray[Any],
    group: NDArray[Any],
    left_out: list[int],
) -> list[BeatNet]:
    """Train networks of `MEMBERS` members each, one for each entry of `left_out`.

    Parameters
    ----------
    curves : ndarray, shape (n, INPUTS)
    facts : ndarray, shape (n, FEATURES)
    kinds, weight, group : ndarray, shape (n,)
        The class, the weight and the group of records of each example.
    left_out : list of int
        The group from whose examples a network does not learn (that is none, for a number that no group has). Only
        what the features are taken relative to, their mean and spread, is of all examples.
    """
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    centre, spread = facts.mean(axis=0), facts.std(axis=0) + 1e-3
    x = torch.tensor(curves, dtype=torch.float32)
    z = torch.tensor((facts - centre) / spread, dtype=torch.float32)
    y, groups = torch.tensor(kinds, dtype=torch.long), torch.tensor(group, dtype=torch.long)
    each = torch.tensor(weight, dtype=torch.float32)
    nets = Networks(len(left_out) * MEMBERS)
    without = torch.tensor(left_out).repeat_interleave(MEMBERS)
    optimiser = torch.optim.AdamW([t for layer in nets.layers for t in (layer.weight, layer.bias)], weight_decay=DECAY)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE_MOST, total_steps=steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            said = nets.learn(*vary(x[rows], z[rows]))
            wrong = functional.cross_entropy(said.flatten(0, 1), y[rows].repeat(nets.count), reduction="none")
            counts = (groups[rows] != without[:, None]).float() * each[rows]
            optimiser.zero_grad()
            ((wrong.view(nets.count, -1) * counts).sum() / len(rows)).backward()
            optimiser.step()
            schedule.step()
        print("networks: epoch", epoch + 1, "of", EPOCHS, flush=True)
    parts = [slice(k * MEMBERS, (k + 1) * MEMBERS) for k in range(len(left_out))]
    return [BeatNet(centre, spread, *(a for layer in nets.layers for a in layer.arrays(part))) for part in parts]
