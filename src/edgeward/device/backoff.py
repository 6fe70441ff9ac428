"""How a device waits between attempts to reach the site: exponentially longer, with full jitter.

After a site restarts, hundreds of devices come back. Full jitter spreads them over the whole interval (Brooker,
"Exponential Backoff And Jitter", AWS Architecture Blog, 2015), so that they do not knock in step.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class Backoff:
    """The delays before the next attempts, in seconds.

    Attributes
    ----------
    first
        Upper bound of the first delay.
    most
        Upper bound of any delay.
    rng
        Source of the jitter; give a seeded one to repeat a run.
    """

    first: float = 0.5
    most: float = 15.0
    rng: random.Random = field(default_factory=random.Random)
    _bound: float = field(default=0.0, init=False)

    @property
    def failed(self) -> bool:
        """Whether an attempt has failed since the last success."""
        return self._bound > 0.0

    def delay(self) -> float:
        """Return the next delay: uniform between a tenth of the bound and the bound, which then doubles."""
        self._bound = min(self.most, self._bound * 2 if self._bound else self.first)
        return self.rng.uniform(0.1 * self._bound, self._bound)

    def reset(self) -> None:
        """Start anew: an attempt succeeded."""
        self._bound = 0.0
