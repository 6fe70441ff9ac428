"""A suspect object is analysed in a process of its own, and only that process dies of it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from pydicom.data import get_testdata_file

from edgeward.compute import isolated
from edgeward.compute.decode import DecodeError


def test_a_good_object_gives_its_finding() -> None:
    data = Path(str(get_testdata_file("examples_rgb_color.dcm"))).read_bytes()
    result = isolated.analyse(data, threads=1, model="")
    assert result.preview.startswith(b"\xff\xd8")
    assert result.model_version


def test_an_undecodable_object_is_told_as_such() -> None:
    with pytest.raises(DecodeError):
        isolated.analyse(b"not a DICOM object", threads=1, model="")


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]


def strike(how: signal.Signals, timeout_s: float) -> BaseException | None:
    """Analyse in a thread, send a signal to the child as soon as it is there, and return what was raised."""
    raised: list[BaseException] = []
    data = Path(str(get_testdata_file("examples_rgb_color.dcm"))).read_bytes()

    def work() -> None:
        try:
            isolated.analyse(data, threads=1, model="", timeout_s=timeout_s)
        except isolated.AnalysisCrashed as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not children():
        time.sleep(0.005)
    os.kill(children()[0].pid, how)
    thread.join(60)
    assert not thread.is_alive()
    return raised[0] if raised else None


def test_an_object_that_kills_kills_only_its_own_process() -> None:
    error = strike(signal.SIGSEGV, 40.0)
    assert error is not None
    assert "-11" in str(error)
    assert children() == []


def test_an_object_that_hangs_is_given_up_and_leaves_no_process() -> None:
    error = strike(signal.SIGSTOP, 3.0)
    assert error is not None
    assert "did not come back" in str(error)
    assert children() == []


def test_it_can_be_called_from_a_thread() -> None:
    results: list[object] = []
    data = Path(str(get_testdata_file("examples_rgb_color.dcm"))).read_bytes()
    thread = threading.Thread(target=lambda: results.append(isolated.analyse(data, threads=1, model="")))
    thread.start()
    thread.join(60)
    assert len(results) == 1
