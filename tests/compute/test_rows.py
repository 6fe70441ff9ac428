"""Rows of a batch, computed by whoever is free: right whoever did it, and nobody waits for a helper that is kept away."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeward.compute import rows as rows_module
from edgeward.compute.package import SHIPPED
from edgeward.compute.rows import NICE, Rows
from edgeward.compute.runtime import Arrays, OnnxRuntime, RuntimeFailure


def in_helper() -> bool:
    return threading.current_thread().name.startswith("helper")


class RuntimeDouble:
    """Doubles its input; does what the test says before that."""

    name = "double"
    outputs = ("twice",)

    def __init__(self, act: Callable[[float], None] = lambda _: None, batch: int | None = None) -> None:
        self.inputs = {"image": (batch, 1)}
        self.act = act
        self.calls: list[tuple[bool, int]] = []  # by a helper; rows

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> Arrays:
        self.calls.append((in_helper(), len(inputs["image"])))
        self.act(float(inputs["image"][0, 0]))
        return {"twice": inputs["image"] * 2}


def batch(*values: float) -> dict[str, NDArray[np.float32]]:
    return {"image": np.array([[v] for v in values], np.float32)}


@pytest.fixture
def made() -> Iterator[Callable[..., Rows]]:
    all_: list[Rows] = []

    def make(runtime: RuntimeDouble, helpers: int) -> Rows:
        all_.append(Rows(runtime, helpers))
        return all_[-1]

    yield make
    for rows in all_:
        rows.close()


@pytest.mark.parametrize("helpers", [0, 1, 3])
def test_outputs_are_those_of_the_whole_batch_in_its_order(made: Callable[..., Rows], helpers: int) -> None:
    runtime = OnnxRuntime((SHIPPED / "model.onnx").read_bytes())
    shape = [2 if d is None else d for d in runtime.inputs["image"]]
    images = [np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32) for seed in range(4)]
    rows = made(runtime, helpers)

    offered = [rows.submit({"image": image}) for image in images]
    together = [rows.run(one) for one in offered]

    for image, outputs in zip(images, together, strict=True):
        expected = runtime.run({"image": image})
        assert set(outputs) == set(expected)
        for name in expected:
            np.testing.assert_allclose(outputs[name], expected[name], atol=1e-4)


def test_a_helper_computes_beside_the_caller(made: Callable[..., Rows]) -> None:
    both = threading.Barrier(2, timeout=20)
    runtime = RuntimeDouble(lambda _: both.wait() and None)

    outputs = (rows := made(runtime, 1)).run(rows.submit(batch(1, 2)))

    assert outputs["twice"].tolist() == [[2], [4]]
    assert sorted(runtime.calls) == [(False, 1), (True, 1)]


def test_a_helper_kept_from_the_processor_holds_nobody_up(made: Callable[..., Rows]) -> None:
    begun, released = threading.Event(), threading.Event()

    def act(_: float) -> None:
        if in_helper():
            begun.set()
            released.wait(20)

    rows = made(RuntimeDouble(act), 1)

    first = rows.submit(batch(1, 2))
    assert begun.wait(20)
    assert rows.run(first)["twice"].tolist() == [[2], [4]]  # while the helper still has one of them
    released.set()
    assert rows.run(rows.submit(batch(3, 4, 5)))["twice"].tolist() == [[6], [8], [10]]
    assert first.outputs()["twice"].tolist() == [[2], [4]]


def test_helpers_that_were_overtaken_rest_and_come_back(
    made: Callable[..., Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_REST_S", (30.0, 30.0))
    begun, released = threading.Event(), threading.Event()

    def act(_: float) -> None:
        if in_helper() and not released.is_set():
            begun.set()
            released.wait(20)

    rows = made(runtime := RuntimeDouble(act), 1)
    overtaken = rows.submit(batch(1))
    assert begun.wait(20)
    rows.run(overtaken)
    released.set()
    runtime.calls.clear()
    for _ in range(20):
        rows.run(rows.submit(batch(1, 2, 3)))
    assert [by_helper for by_helper, _ in runtime.calls] == [False] * 60
    assert not rows.hungry

    rows._rest_until = 0.0  # rested
    back = rows.submit(batch(4))
    until = time.monotonic() + 20
    while not back.ready and time.monotonic() < until:
        time.sleep(0.001)
    assert runtime.calls[-1] == (True, 1)
    assert rows._rest_s == 15.0  # half as long, if it came to that again


def test_a_failure_is_met_by_who_waits_wherever_it_happened(made: Callable[..., Rows]) -> None:
    def act(value: float) -> None:
        if value == 2:
            raise RuntimeFailure("broken")

    rows = made(RuntimeDouble(act), 2)

    for _ in range(5):
        with pytest.raises(RuntimeFailure, match="broken"):
            rows.run(rows.submit(batch(1, 2, 3)))
        assert rows.run(rows.submit(batch(4, 5)))["twice"].tolist() == [[8], [10]]


def test_what_is_not_offered_is_computed_by_the_caller_alone(made: Callable[..., Rows]) -> None:
    rows = made(runtime := RuntimeDouble(), 2)

    for _ in range(20):
        assert rows.run(rows.submit(batch(1, 2), offered=False))["twice"].tolist() == [[2], [4]]

    assert runtime.calls == [(False, 1)] * 40


def test_what_is_dropped_is_computed_by_nobody(made: Callable[..., Rows]) -> None:
    begun, released, done = threading.Event(), threading.Event(), threading.Semaphore(0)
    order: list[float] = []

    def act(value: float) -> None:
        order.append(value)
        begun.set()
        released.wait(20)
        done.release()

    rows = made(RuntimeDouble(act), 1)
    kept, gone = rows.submit(batch(0)), rows.submit(batch(1, 2))
    assert begun.wait(20)
    rows.drop([gone])
    last = rows.submit(batch(3))
    released.set()

    assert all(done.acquire(timeout=20) for _ in range(2))
    assert order == [0, 3]
    assert rows.run(kept)["twice"].tolist() == [[0]]
    assert rows.run(last)["twice"].tolist() == [[6]]


@pytest.mark.parametrize("helpers", [0, 1])
def test_a_model_of_one_size_of_batch_gets_whole_batches(made: Callable[..., Rows], helpers: int) -> None:
    runtime = RuntimeDouble(batch=2)

    assert (rows := made(runtime, helpers)).run(rows.submit(batch(1, 2)))["twice"].tolist() == [[2], [4]]

    assert {count for _, count in runtime.calls} == {2}


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_helpers_and_nobody_else_have_low_priority(made: Callable[..., Rows]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    both = threading.Barrier(2, timeout=20)
    seen: dict[bool, int] = {}

    def act(_: float) -> None:
        both.wait()
        seen[in_helper()] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    (rows := made(RuntimeDouble(act), 1)).run(rows.submit(batch(1, 2)))

    assert seen == {False: before, True: min(19, max(before, NICE))}
    assert os.getpriority(os.PRIO_PROCESS, os.getpid()) == before
