"""A suspect object is analysed in a process of its own, and only that process dies of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pydicom.data import get_testdata_file

from edgeward.compute import isolated
from edgeward.compute.decode import DecodeError
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.vault import FileVault, VaultDamaged


@pytest.fixture
def kept(tmp_path: Path) -> Callable[[bytes], tuple[str, bytes]]:
    """Put an object into a vault; return where it is, and its key."""

    def put(data: bytes) -> tuple[str, bytes]:
        vault = FileVault(tmp_path, SiteKey(bytes(32)))
        stored = vault.put(data)
        reference = vault.reference(stored.object_id, stored.wrapped_key, stored.size)
        return reference.path, reference.data_key

    return put


Kept = Callable[[bytes], tuple[str, bytes]]


def picture() -> bytes:
    return Path(str(get_testdata_file("examples_rgb_color.dcm"))).read_bytes()


def test_a_good_object_gives_its_finding(kept: Kept) -> None:
    result = isolated.analyse(*kept(picture()), threads=1, model="")
    assert result.preview.startswith(b"\xff\xd8")
    assert result.model_version


def test_an_undecodable_object_is_told_as_such(kept: Kept) -> None:
    with pytest.raises(DecodeError):
        isolated.analyse(*kept(b"not a DICOM object"), threads=1, model="")


def test_a_damaged_object_is_told_as_such(kept: Kept) -> None:
    path, _ = kept(picture())
    with pytest.raises(VaultDamaged):
        isolated.analyse(path, bytes(32), threads=1, model="")


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended: of another test, perhaps
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
    return found


def strike(where: tuple[str, bytes], how: signal.Signals, timeout_s: float) -> BaseException | None:
    """Analyse in a thread, send a signal to the child as soon as it is there, and return what was raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            isolated.analyse(*where, threads=1, model="", timeout_s=timeout_s)
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


def test_an_object_that_kills_kills_only_its_own_process(kept: Kept) -> None:
    error = strike(kept(picture()), signal.SIGSEGV, 40.0)
    assert error is not None
    assert "-11" in str(error)
    assert children() == []


def test_an_object_that_hangs_is_given_up_and_leaves_no_process(kept: Kept) -> None:
    error = strike(kept(picture()), signal.SIGSTOP, 3.0)
    assert error is not None
    assert "did not come back" in str(error)
    assert children() == []


def test_it_can_be_called_from_a_thread(kept: Kept) -> None:
    results: list[object] = []
    where = kept(picture())
    thread = threading.Thread(target=lambda: results.append(isolated.analyse(*where, threads=1, model="")))
    thread.start()
    thread.join(60)
    assert len(results) == 1
