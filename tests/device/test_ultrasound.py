"""The machine keeps an image until it is told that it is stored, always with the same SOP Instance UID."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom.uid import CTImageStorage
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, evt

from edgeward.device.ultrasound import acknowledged_before


class Site:
    """A scripted storage SCP over TLS 1.3 with client certificates: answers what the test says."""

    def __init__(self, site, answer=lambda n, uid: 0x0000, contexts=AllStoragePresentationContexts):
        roles = site.home.identity / "roles"
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.verify_mode = ssl.CERT_REQUIRED
        self.tls.load_cert_chain(roles / "gateway.pem", roles / "gateway.key")
        self.tls.load_verify_locations(site.home.identity / "ca.pem")
        self.answer, self.contexts, self.port = answer, contexts, site.settings.dicom.port
        self.requests: list[str] = []
        self.callers: set[str] = set()
        self.lock = threading.Lock()

    def _store(self, event):
        uid = str(event.request.AffectedSOPInstanceUID)
        with self.lock:
            self.requests.append(uid)
            self.callers.add(str(event.assoc.requestor.ae_title))
            number = len(self.requests)
        status = self.answer(number, uid)
        if status is None:
            event.assoc.abort()
            return 0xC001
        return status

    @contextmanager
    def open(self) -> Iterator[Site]:
        entity = AE(ae_title="EDGEWARD")
        for context in self.contexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
        server = entity.start_server(
            ("127.0.0.1", self.port), block=False, ssl_context=self.tls, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        try:
            yield self
        finally:
            server.shutdown()


@pytest.fixture
def folder(site):
    return site.enrol("us-1", "ultrasound", ae_title="US1")


def command(folder, *more):
    return [sys.executable, "-m", "edgeward.device.ultrasound", "--enrolment", str(folder), "--json", *map(str, more)]


def simulate(folder, *more, timeout=60):
    done = subprocess.run(command(folder, *more), capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_image_is_sent_once_when_all_is_well(site, folder, images, tmp_path):
    state = tmp_path / "state.jsonl"

    with Site(site).open() as door:
        summary, log = simulate(folder, "--images", images, "--rate", 50, "--count", 7, "--burst", 3, "--state", state)

    assert summary | {"seed": 0} == {
        "sent": 7, "acknowledged": 7, "refused": 0, "retried": 0, "repeated": 0, "pending": 0, "seed": 0,
    }  # fmt: skip
    assert len(set(door.requests)) == 7
    assert door.callers == {"US1"}
    assert acknowledged_before(state) == set(door.requests)
    assert not log, "nothing to say, and never an identifier"


def test_what_was_not_acknowledged_comes_again_under_the_same_uid(site, folder, images):
    def answer(number, uid):
        return {1: 0xA700, 2: None, 4: 0x0110, 6: 0xA701}.get(number, 0x0000)

    with Site(site, answer).open() as door:
        summary, log = simulate(folder, "--images", images, "--rate", 50, "--count", 4)

    assert summary["acknowledged"] == 4
    assert summary["retried"] == 4
    assert len(set(door.requests)) == 4
    assert summary["sent"] == len(door.requests) == 8
    assert "SIM" not in log


def test_an_image_that_can_never_be_taken_is_given_up_and_does_not_block_the_next(site, folder, images):
    first = []

    def answer(number, uid):
        first.append(uid)
        return 0xC000 if uid == first[0] else 0xB000

    with Site(site, answer).open() as door:
        summary, _ = simulate(folder, "--images", images, "--rate", 50, "--count", 3)

    assert (summary["acknowledged"], summary["refused"]) == (2, 1), "a warning status is an acknowledgement"
    assert Counter(door.requests)[first[0]] == 3


def test_a_site_that_takes_no_ultrasound_ends_in_refusals_not_in_a_loop(site, folder, images):
    contexts = [c for c in AllStoragePresentationContexts if c.abstract_syntax == CTImageStorage]

    with Site(site, contexts=contexts).open() as door:
        process = subprocess.Popen(
            command(folder, "--images", images, "--rate", 50, "--count", 1),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, _ = process.communicate(timeout=60)
        finally:
            process.kill()

    assert json.loads(out)["acknowledged"] == 0
    assert json.loads(out)["refused"] == 1
    assert door.requests == []


def test_machines_send_some_images_twice_if_asked(site, folder, images):
    with Site(site).open() as door:
        summary, _ = simulate(folder, "--images", images, "--rate", 50, "--count", 6, "--repeat-every", 2)

    assert (summary["acknowledged"], summary["repeated"], summary["sent"]) == (6, 3, 9)
    assert sorted(Counter(door.requests).values()) == [1, 1, 1, 2, 2, 2]


def test_a_machine_waits_for_a_site_that_is_down(site, folder, images):
    process = subprocess.Popen(
        command(folder, "--images", images, "--rate", 50, "--count", 3),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        first_line = process.stderr.readline()
        while "no association" not in first_line:
            assert first_line, "it ended"
            first_line = process.stderr.readline()
        with Site(site).open() as door:
            out, log = process.communicate(timeout=60)
    finally:
        process.kill()

    assert json.loads(out)["acknowledged"] == 3
    assert len(set(door.requests)) == 3
    assert log.count("no association") == 0, "an outage is said once"
    assert "takes images again" in log


def test_after_a_restart_with_the_same_seed_it_goes_on_where_it_was(site, folder, images, tmp_path):
    arguments = ("--images", images, "--rate", 50, "--seed", 3, "--state", tmp_path / "state.jsonl")
    with Site(site).open() as before:
        simulate(folder, *arguments, "--count", 2)
    with (tmp_path / "state.jsonl").open("a") as file:
        file.write('{"uid": "1.2.3", "acknow')  # killed while writing

    with Site(site).open() as after:
        summary, _ = simulate(folder, *arguments, "--count", 5)

    assert summary["acknowledged"] == 3
    assert len(set(before.requests + after.requests)) == 5


def test_a_machine_without_the_right_certificate_gets_nowhere(site, folder, images, tmp_path):
    from tests.support.site import TestSite, new_home

    other = TestSite(*new_home(tmp_path / "other"))
    other.settings.dicom.port = site.settings.dicom.port
    stranger = other.enrol("us-1", "ultrasound", ae_title="US1")
    with Site(site).open() as door:
        process = subprocess.Popen(
            command(stranger, "--images", images, "--rate", 9), stderr=subprocess.PIPE, text=True
        )
        try:
            while "no association" not in process.stderr.readline():
                assert process.poll() is None
        finally:
            process.terminate()
            assert process.wait(timeout=10) == 0

    assert door.requests == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_told_although_the_site_does_not_answer(folder, images, site, number):
    hanging = threading.Event()

    def answer(*_):
        hanging.set()
        time.sleep(20)
        return 0

    with Site(site, answer).open():
        process = subprocess.Popen(command(folder, "--images", images), stdout=subprocess.PIPE, text=True)
        try:
            assert hanging.wait(30)
            process.send_signal(number)
            out, _ = process.communicate(timeout=15)
        finally:
            process.kill()

    assert process.returncode == 0
    assert json.loads(out)["pending"] >= 1


def test_it_dies_with_its_parent(folder, images, tmp_path):
    parent = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen({command(folder, '--images', images, '--die-with-parent')!r}, stderr=subprocess.PIPE)\n"
        "p.stderr.readline()\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    mother = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    child = int(mother.stdout.readline())
    descriptor = os.pidfd_open(child)

    mother.kill()
    mother.wait()

    import select

    assert select.select([descriptor], [], [], 15)[0], "the child is still there"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--rate", "0"], "--rate"),
        (["--count", "0"], "--count"),
        (["--images", "/nowhere"], "no folder"),
        (["--enrolment", "/nowhere"], "no enrolment folder"),
    ],
)
def test_wrong_arguments_are_told(folder, arguments, reason):
    done = subprocess.run(command(folder, *arguments), capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_that_does_not_resolve_is_an_outage_not_a_crash(folder, images):
    card = json.loads((folder / "device.json").read_text())
    card["dicom"]["host"] = "no-such-host.invalid"
    (folder / "device.json").write_text(json.dumps(card))
    process = subprocess.Popen(command(folder, "--images", images, "--rate", 9), stderr=subprocess.PIPE, text=True)
    try:
        while "no association" not in (line := process.stderr.readline()):
            assert line, "it ended"
    finally:
        process.terminate()
        assert process.wait(timeout=15) == 0


def test_a_port_that_answers_nothing_does_not_hold_it_up(folder, images):
    card = json.loads((folder / "device.json").read_text())
    with socket.create_server(("127.0.0.1", 0)) as mute:
        card["dicom"]["port"] = mute.getsockname()[1]
        (folder / "device.json").write_text(json.dumps(card))
        process = subprocess.Popen(command(folder, "--images", images, "--rate", 9), stderr=subprocess.PIPE, text=True)
        try:
            while "no association" not in (line := process.stderr.readline()):
                assert line, "it ended"
        finally:
            process.terminate()
            assert process.wait(timeout=15) == 0
