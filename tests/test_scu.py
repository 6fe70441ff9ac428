"""Requests by pynetdicom: its own thread never takes the answer."""

from __future__ import annotations

import threading

from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification

from edgeward.scu import Checkpoint, steady


class Passer(threading.Thread):
    """Passes a checkpoint again and again, and is held up right after it, as by a machine that is busy."""

    def __init__(self):
        super().__init__(daemon=True)
        self.checkpoint = Checkpoint(self)
        self.go_on, self.past, self.over = threading.Event(), threading.Event(), False

    def run(self):
        while not self.over:
            self.checkpoint.wait()
            self.past.set()
            self.go_on.wait()


def released(passer):
    passer.over = True
    passer.go_on.set()
    passer.checkpoint.set()
    passer.join(10)
    return not passer.is_alive()


def test_whoever_closes_the_checkpoint_waits_for_a_thread_that_has_just_passed_it():
    passer = Passer()
    passer.start()
    passer.past.wait()  # it is beyond the checkpoint, and has done nothing yet
    closed, go_on = threading.Event(), threading.Event()

    def close():
        passer.checkpoint.clear()
        closed.set()
        go_on.wait()
        passer.checkpoint.set()

    closing = threading.Thread(target=close, daemon=True)
    closing.start()

    assert not closed.wait(0.05), "the thread may still take what arrives"
    passer.go_on.set()
    assert closed.wait(10)
    assert passer.checkpoint._stands
    passer.checkpoint.set()  # by somebody else, as an abort in a handler does
    assert not passer.checkpoint.is_set()

    go_on.set()
    closing.join(10)
    assert released(passer)
    passer.checkpoint.clear()  # returns: nobody is left to wait for


def test_an_association_works_with_it():
    answered = []

    def handle(event):
        answered.append(event.message_id)
        return 0x0000

    ae = AE(ae_title="SCP")
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, handle)])
    try:
        user = AE(ae_title="SCU")
        user.add_requested_context(Verification)
        association = steady(user.associate("127.0.0.1", server.server_address[1]))
        assert [association.send_c_echo(number).Status for number in range(1, 30)] == [0] * 29
        association.release()
        association.join(10)
        assert not association.is_alive()
        assert association.is_released
    finally:
        server.shutdown()
    assert answered == list(range(1, 30))


def test_a_rejection_that_came_before_the_asking_thread_looked_is_one():
    """The library closes the connection on a rejection, and takes a closed one for one that was never there."""
    ae = AE(ae_title="SCP")
    ae.require_called_aet = True
    ae.add_supported_context(Verification)
    server = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        user = AE(ae_title="SCU")
        user.add_requested_context(Verification)
        closed = threading.Event()
        held = [(evt.EVT_CONN_CLOSE, lambda _: closed.set()), (evt.EVT_REQUESTED, lambda _: closed.wait(10))]
        association = steady(user.associate("127.0.0.1", server.server_address[1], ae_title="OTHER", evt_handlers=held))
    finally:
        server.shutdown()
    assert association.is_rejected
    assert not association.is_aborted
    primitive = association.acceptor.primitive
    assert (primitive.result, primitive.result_source, primitive.diagnostic) == (1, 1, 7)


def test_a_thread_that_was_let_go_and_is_held_again_at_once_has_not_passed():
    passer = Passer()
    passer.go_on.set()
    passer.start()
    for _ in range(2000):  # the thread may not have woken yet when the checkpoint is closed again
        passer.checkpoint.clear()
        passer.past.clear()
        assert not passer.past.is_set()
        passer.checkpoint.set()
        passer.checkpoint.clear()
        assert passer.checkpoint._stands
        passer.checkpoint.set()
    assert released(passer)


def test_who_takes_the_flag_away_does_not_hold_up_a_request():
    passer = Passer()
    passer.go_on.set()
    passer.start()
    passer.checkpoint.clear()
    passer._is_paused = False  # as the thread does that has served an event report

    end = threading.Event()
    for _ in range(1000):
        if passer._is_paused:
            break
        end.wait(0.01)
    assert passer._is_paused
    assert released(passer)
