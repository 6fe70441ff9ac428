"""Packets that wait for the kernel: their samples one after the other, and where each packet's lie.

Responsible for keeping them in arrays that the kernel reads as they are. Not responsible for what may enter
(``streams``, ``bank``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.kernel import BLOCK


class Queue:
    """Queued packets.

    Attributes
    ----------
    flat : ndarray of int16
        Samples; the first `used` are taken.
    blocks : ndarray of `BLOCK`
        The first `count` are taken.
    arrived : ndarray of int64
        Arrival of each block's packet, site time in ns.
    """

    def __init__(self) -> None:
        self.flat = np.empty(1 << 14, dtype=np.int16)
        self.blocks = np.zeros(64, dtype=BLOCK)
        self.arrived = np.zeros(64, dtype=np.int64)
        self.used = 0
        self.count = 0

    def __bool__(self) -> bool:
        """Whether anything is queued."""
        return self.count > 0

    def make_room(self, samples: int, blocks: int) -> None:
        """Make room for so many more."""
        while self.flat.size < self.used + samples:
            self.flat = np.concatenate((self.flat, np.empty_like(self.flat)))
        while self.blocks.size < self.count + blocks:
            self.blocks = np.concatenate((self.blocks, np.zeros_like(self.blocks)))
            self.arrived = np.concatenate((self.arrived, np.zeros_like(self.arrived)))

    def put(self, row: int, samples: NDArray[np.int16], first: int, off_mask: int, received_ns: int) -> None:
        """Queue one packet, samples of shape (leads, n)."""
        self.make_room(samples.size, 1)
        block = self.blocks[self.count]
        block["patient"], block["offset"], block["samples"] = row, self.used, samples.shape[1]
        block["first"], block["off_mask"] = first, off_mask
        self.flat[self.used : self.used + samples.size] = samples.ravel()
        self.arrived[self.count] = received_ns
        self.used += samples.size
        self.count += 1

    def clear(self) -> None:
        """Forget what was queued."""
        self.used = self.count = 0
