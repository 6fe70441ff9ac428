"""Inference in rows: each row of a batch by whoever is free, the thread that asks or a helper of low priority.

Responsible for handing rows out, once each as a rule, and for never waiting long for a helper. Not responsible for what
a row is or for the order in which objects have their turn (``engine.py``).

Helpers run nothing but the model, outside the interpreter's lock, and at a priority at which they only have the time
that nobody else on the machine wants: not the monitor, nor the engine's own threads. Such a thread may be kept from a
processor for long. Whoever waits for its row therefore computes it once more, after one and a half times a row's usual
time: a row's outputs are the same whoever computes them (see ``Runtime``), and the first ones count. Helpers that were
overtaken so rest a while, four times as long each time: on a machine that has nothing to spare, hardly any work is done
twice.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward.compute.runtime import Arrays, Runtime, RuntimeFailure

NICE = 10  # of a helper: about a tenth of a processor that another thread wants, all of one that nobody wants
_PATIENCE = 1.5  # times the usual time of a row
_REST_S = (0.05, 5.0)  # of helpers that were overtaken: at first, and at most
_FIRST_GUESS_S = 0.05
_SMOOTHING = 0.2
_FAILED = -1e9  # begun long ago: nobody waits for it


@dataclass(slots=True, eq=False)
class _Row:
    inputs: Arrays
    outputs: Arrays | None = None
    begun: float = 0.0  # monotonic, by whoever began last; 0 while nobody has


@dataclass(slots=True, eq=False)
class Batch:
    """A batch whose rows are computed, or will be."""

    rows: list[_Row] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        """Whether all rows are computed."""
        return all(row.outputs is not None for row in self.rows)

    def outputs(self) -> Arrays:
        """Return the outputs of the whole batch; only once it is ready."""
        parts = [row.outputs for row in self.rows if row.outputs is not None]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Rows:
    """Runs a model row by row. Safe to use from several threads.

    Parameters
    ----------
    runtime : what runs the model
    helpers : threads beside the callers'; without any, callers compute all of their rows themselves
    """

    def __init__(self, runtime: Runtime, helpers: int = 0) -> None:
        self.helpers = helpers
        self._runtime = runtime
        # A model may be made for one size of batch; then the batch is the piece that is handed out.
        self._divisible = all(shape and shape[0] is None for shape in runtime.inputs.values())
        self._news = threading.Condition()
        self._waiting: deque[_Row] = deque()
        self._usual_s = _FIRST_GUESS_S
        self._rest_s = 0.0  # the last one; less for each row in time since
        self._rest_until = 0.0  # monotonic
        self._closed = False
        for number in range(helpers):
            # Daemons, as the threads that analyse.
            threading.Thread(target=self._help, name=f"helper-{number}", daemon=True).start()

    def close(self) -> None:
        """Let the helpers end; whoever waits does the rest alone."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def hungry(self) -> bool:
        """Whether the helpers will soon have nothing to do."""
        return 0 < self.helpers >= len(self._waiting) and time.monotonic() >= self._rest_until

    def submit(self, inputs: Mapping[str, NDArray[np.float32]], *, offered: bool = True) -> Batch:
        """Take a batch to be computed.

        Parameters
        ----------
        offered : to the helpers too; otherwise by the caller alone, who then never waits for one
        """
        count = min((len(array) for array in inputs.values()), default=0)
        if self._divisible and count > 1:
            rows = [_Row({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(count)]
        else:
            rows = [_Row(dict(inputs))]
        if offered and self.helpers:
            with self._news:
                self._waiting.extend(rows)
                self._news.notify_all()
        return Batch(rows)

    def run(self, batch: Batch) -> Arrays:
        """See that all rows of a batch are computed, and return its outputs.

        Raises
        ------
        RuntimeFailure
            If the inputs do not fit the model or the computation fails.
        """
        while not batch.ready:
            self.advance([batch])
        return batch.outputs()

    def advance(self, batches: Sequence[Batch]) -> None:
        """Compute one row of these batches, or wait a while for one that is being computed; errors as `run`."""
        with self._news:
            row = self._next([row for batch in batches for row in batch.rows if row.outputs is None])
            if row is None:
                return
            row.begun = started = time.monotonic()
        try:
            outputs = self._runtime.run(row.inputs)
        except RuntimeFailure:
            self.drop(batches)
            raise
        with self._news:
            self._usual_s += _SMOOTHING * (time.monotonic() - started - self._usual_s)
            row.outputs = row.outputs or outputs

    def drop(self, batches: Sequence[Batch]) -> None:
        """Offer the rows of these batches to nobody any more: their outputs are not wanted."""
        gone = {id(row) for batch in batches for row in batch.rows}
        with self._news:
            self._waiting = deque(row for row in self._waiting if id(row) not in gone)

    def _next(self, open_: list[_Row]) -> _Row | None:
        """Choose what a caller computes. None if it is to look again: it has waited."""
        if not open_:
            return None
        if fresh := [row for row in open_ if not row.begun]:
            with contextlib.suppress(ValueError):  # not offered
                self._waiting.remove(fresh[0])
            return fresh[0]
        oldest = min(open_, key=lambda row: row.begun)
        left_s = oldest.begun + _PATIENCE * self._usual_s - time.monotonic()
        if left_s <= 0:
            if oldest.begun > _FAILED:
                shortest, longest = _REST_S
                self._rest_s = min(longest, max(shortest, 4 * self._rest_s))
                self._rest_until = time.monotonic() + self._rest_s
            return oldest
        self._news.wait(left_s)
        return None

    # ------------------------------------------------------------ in the helpers

    def _help(self) -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own
            with contextlib.suppress(OSError):
                us = threading.get_native_id()
                os.setpriority(os.PRIO_PROCESS, us, max(NICE, os.getpriority(os.PRIO_PROCESS, us)))
        while True:
            with self._news:
                while not self._closed and (not self._waiting or (rest_s := self._rest_until - time.monotonic()) > 0):
                    self._news.wait(rest_s if self._waiting else None)
                if self._closed:
                    return
                row = self._waiting.popleft()
                row.begun = time.monotonic()
            outputs: Arrays | None = None
            with contextlib.suppress(RuntimeFailure):  # whoever waits tries it again, and meets the failure itself
                outputs = self._runtime.run(row.inputs)
            with self._news:
                if row.outputs is None:
                    self._rest_s /= 2
                    row.outputs = outputs
                if row.outputs is None:
                    row.begun = _FAILED
                self._news.notify_all()
