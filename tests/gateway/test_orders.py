"""The order book: the same order again is one order, the later update counts, and what was accepted survives a kill."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from tests.gateway.hl7_door import orm
from tests.support.site import new_home

from edgeward.gateway.hl7_orders import Hl7Orders
from edgeward.gateway.order_entry import STATUSES
from edgeward.gateway.orders import OrderBook
from edgeward.hl7 import er7
from edgeward.hl7.acknowledgement import ACCEPTED, Answer, Code, write
from edgeward.messages import OrdersQuery
from edgeward.privacy.database import DatabaseError
from edgeward.privacy.keys import SiteKey

LATER = 4_102_444_800 * 10**9  # the year 2100: messages here are never from the future


class Desk:
    """An order book, and messages to it."""

    def __init__(self, path):
        self.home, _ = new_home(path)
        self.now = time.time_ns()
        self.open()

    def open(self):
        self.book = OrderBook(self.home.db("orders"), SiteKey.load(self.home), clock=lambda: self.now)
        self.orders = Hl7Orders(self.book)

    def reopen(self):
        self.book.close()
        self.open()

    def take(self, text):
        return self.orders.take(er7.parse(text), "his", LATER)

    def all(self):
        return self.book.query(OrdersQuery(limit=1000)).orders

    def one(self):
        [order] = self.all()
        return order


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "home")
    yield desk
    desk.book.close()


def omi(control="NW", number="P1", steps=(), at="20260301120000"):
    """An imaging order (OMI^O23) with its steps: (accession, procedure, study, step, modality, station)."""
    lines = [
        f"MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|{at}||OMI^O23^OMI_O23|M{at}|P|2.5.1||||||UNICODE UTF-8",
        "PID|1||4711^^^HOSP&1.2.3&ISO^PI~815^^^REG^MR||Muster^Erika^^^Dr^^L||19640812|F",
        "PV1|1|I|WARD^3^2|||||1234^Referrer^Rita|||||||||||V77",
        "AL1|1|DA|P^Penicillin|SV",
        f"ORC|{control}|{number}|F1||SC|||||||99^Surgeon^Sam",
        "TQ1|1||||||20260302083000||S",
        f"OBR|1|{number}|F1|BUS^Breast ultrasound^L|||||||||||||||||||||||||||^Lump left",
        "OBX|1|NM|3141-9^Body weight^LN||70.5|kg",
        *("IPC|{}^HIS|{}|{}|{}|{}|P1^Protocol^L|STATION||{}".format(*step) for step in steps),
    ]
    return "\r".join(lines) + "\r"


def test_an_order_holds_what_the_message_says(desk):
    assert desk.take(orm(more=("ZDS|1.2.3.4^HIS^Application^DICOM",))).outcome == "AA"

    order = desk.one()
    assert order.order_id == "P1"
    assert order.accession_number == "A1"
    assert (order.patient_id, order.patient_name) == ("4711", "Muster^Erika")
    assert (order.birth_date, order.sex) == ("19640812", "F")
    assert (order.modality, order.procedure_code, order.procedure) == ("US", "BUS", "Breast ultrasound")
    assert order.study_instance_uid == "1.2.3.4"
    assert order.scheduled == "20260302083000"
    assert order.referring_physician == "Surgeon^Sam"
    assert (order.status, order.source) == ("scheduled", "his")


def placed(
    control, number, *, pid="4711^^^HOSP^MR", name="Muster^Erika", at="20260301120000", obr="BUS^Breast ultrasound^L"
):
    """An order message whose placer order number is told whole, with whoever gave it."""
    lines = [
        f"MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|{at}||ORM^O01^ORM_O01|M{at}|P|2.5.1",
        f"PID|1||{pid}||{name}",
        f"ORC|{control}|{number}",
    ]
    return "\r".join([*lines, f"OBR|1|{number}||{obr}"] if obr else lines) + "\r"


def test_an_update_needs_no_name_and_no_procedure_where_the_order_is_known(desk):
    assert desk.take(orm(name="")).where == "PID-5", "a new one does"
    desk.take(orm())

    assert desk.take(placed("XO", "P1", name="", pid="4711", at="20260301120500")).outcome == "AA"
    assert desk.one().patient_name == "Muster^Erika"
    [line] = [line for line in placed("XO", "P1").split("\r") if line.startswith("MSH")]
    assert desk.take(f"{line.replace('120000', '120600')}\rORC|XO|P1|||||^^^20260309101500^^S\r").outcome == "AA"
    assert (desk.one().scheduled, desk.one().priority, desk.one().patient_id) == ("20260309101500", "stat", "4711")

    for text, where in ((placed("XO", "P9", name=""), "PID-5"), (placed("XO", "P9", pid=""), "PID-3")):
        answer = desk.take(text)
        assert (answer.outcome, answer.where) == ("AE", where), "an unknown order cannot be made of it"
    assert desk.take(placed("XO", "P9", obr="")).where == "OBR"
    assert len(desk.all()) == 1


@pytest.mark.parametrize("told", ["soon", "2026-03-02 08:30", "20261332"])
def test_an_order_whose_time_cannot_be_read_is_taken_with_a_warning(desk, told):
    answer = desk.take(orm(scheduled=told))

    assert (answer.outcome, answer.code, answer.where) == ("AA", "102", "TQ1-7")
    assert told not in answer.text
    first = desk.one()
    assert first.scheduled, "it is due when it came"

    assert desk.take(orm("XO", scheduled="20260304101500", at="20260301120100")) == ACCEPTED
    assert desk.take(orm("XO", scheduled=told, at="20260301120200")).code == "102"
    assert desk.one().scheduled == "20260304101500", "what was known stays"
    [line] = [line for line in orm().split("\r") if line.startswith("MSH")]
    assert desk.take(f"{line.replace('120000', '120600')}\rORC|XO|P1|||||^^^{told}\r").code == "102"
    assert desk.take(orm("CA", scheduled="", at="20260301120700")) == ACCEPTED


def test_the_warning_is_written_as_one():
    message = er7.parse(orm())
    warning = Answer(ACCEPTED.outcome, "the time cannot be read", Code.DATA_TYPE, "TQ1-7")

    text = write(message, warning, "AA", dt.datetime(2026, 3, 1, tzinfo=dt.UTC))

    assert "\rMSA|AA|" in text
    assert "\rERR||TQ1^1^7|102^Data type error^HL70357|W|" in text
    older = er7.parse(orm(msh="|P|2.3.1"))
    text = write(older, warning, "AA", dt.datetime(2026, 3, 1, tzinfo=dt.UTC))
    assert "\rERR" not in text, "an ERR segment of that version says that the message failed"
    assert "the time cannot be read" in text


@pytest.mark.parametrize(
    ("one", "other"), [("7^WARD", "7^ICU"), ("7^^1.2.3^ISO", "7^^1.2.4^ISO"), ("7^A^1.2^ISO", "7^A^1.3^ISO")]
)
def test_the_same_number_of_two_placers_is_two_orders(desk, one, other):
    assert desk.take(placed("NW", one)).outcome == "AA"
    assert desk.take(placed("NW", other, pid="815^^^HOSP^MR", name="Other^Otto")).outcome == "AA"

    first, second = desk.book.steps()
    assert (first.order.patient_id, second.order.patient_id) == ("4711", "815")
    assert first.order.order_id == second.order.order_id == "7"
    assert first.order.accession_number != second.order.accession_number
    assert first.order.study_instance_uid != second.order.study_instance_uid
    assert (first.step_id, first.resource_id) != (second.step_id, second.resource_id)

    desk.reopen()
    assert desk.take(placed("CA", other, pid="", name="", at="20260301120100")).outcome == "AA"
    assert [entry.order.patient_id for entry in desk.book.steps()] == ["4711"]
    unclear = desk.take(placed("CA", "7", pid="", name="", at="20260301120200"))
    assert (unclear.outcome, unclear.where) == ("AE", "ORC-2"), "nobody can say whose order it is"
    assert desk.take(placed("CA", "7", name="", at="20260301120300")).outcome == "AA", "the patient tells"
    assert desk.book.steps() == []


@pytest.mark.parametrize("again", ["7", "7^ward", "7^^1.2.3^ISO", "7^WARD^1.2.3^ISO"])
def test_a_placer_that_is_told_in_part_is_the_same(desk, again):
    desk.take(placed("NW", "7^WARD"))

    assert desk.take(placed("NW", again, at="20260301120100")).outcome == "AA"

    assert len(desk.all()) == 1


def test_an_order_message_of_two_patients_is_refused(desk):
    second = placed("NW", "2", pid="815^^^HOSP^MR", name="Other^Otto").split("\r", 1)[1]

    answer = desk.take(placed("NW", "1") + second)

    assert (answer.outcome, answer.where) == ("AE", "PID")
    assert desk.all() == [], "not even the first: the second would have been filed under it"


def test_a_patient_whom_a_message_also_calls_by_the_known_number_is_the_same(desk):
    desk.take(placed("NW", "1", pid="4711^^^HOSP^PI"))

    assert desk.take(placed("XO", "1", pid="4711^^^HOSP^PI~815^^^REG^MR", at="20260301120100")).outcome == "AA"
    assert desk.one().patient_id == "815", "the medical record number came later"
    assert desk.take(placed("XO", "1", pid="4711^^^HOSP^PI~816^^^REG^MR", at="20260301120200")).where == "PID-3"


def test_the_same_patient_number_of_two_authorities_is_two_patients(desk):
    desk.take(placed("NW", "1", pid="4711^^^HOSP^MR"))
    desk.take(placed("NW", "2", pid="4711^^^CLINIC^MR", name="Other^Otto"))
    msh = "MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|20260301120100||ADT^A08^ADT_A01|M1|P|2.5.1"

    assert desk.take(f"{msh}\rPID|1||4711^^^CLINIC^MR||New^Name\r").outcome == "AA"
    assert (
        desk.take(f"{msh.replace('A08', 'A40')}\rPID|1||99^^^HOSP^MR||Muster^Erika\rMRG|4711^^^HOSP^MR\r").outcome
        == "AA"
    )

    assert {(o.order_id, o.patient_id, o.patient_name) for o in desk.all()} == {
        ("1", "99", "Muster^Erika"),
        ("2", "4711", "New^Name"),
    }
    assert desk.take(placed("XO", "1", pid="99^^^CLINIC^MR")).outcome == "AE", "that is another patient"


def test_an_imaging_order_makes_one_entry_for_each_step(desk):
    steps = [("ACC1", "RP1", "1.2.3", "STEP1", "US", "US1"), ("ACC1", "RP1", "1.2.3", "STEP2", "MG", "")]

    assert desk.take(omi(steps=steps)).outcome == "AA"

    first, second = desk.book.steps()
    assert (first.step_id, first.order.modality, first.order.station_ae_title) == ("STEP1", "US", "US1")
    assert (second.step_id, second.order.modality, second.order.station_ae_title) == ("STEP2", "MG", "")
    assert first.order.patient_id == "815", "the medical record number is preferred"
    assert first.issuer_of_patient_id == "REG"
    assert first.order.priority == "stat"
    assert (first.step_code.value, first.step_code.meaning) == ("P1", "Protocol")
    assert (first.procedure_id, first.station_name, first.reason) == ("RP1", "STATION", "Lump left")
    assert (first.admission_id, first.allergies, first.weight_kg) == ("V77", "Penicillin", "70.5")
    assert first.order.scheduled == "20260302083000"


def observed(code, value, unit, status="F"):
    """An order with one observation of the patient's body (OBX)."""
    return orm(more=(f"OBX|1|NM|{code}^^LN||{value}|{unit}|||||{status}",))


@pytest.mark.parametrize(
    ("code", "value", "unit", "weight", "size"),
    [
        ("29463-7", "70.5", "kg^kilogram^UCUM", "70.5", ""),
        ("29463-7", "70", "KG", "70", ""),
        ("3141-9", "155", "lb", "70.3068", ""),
        ("3141-9", "155", "[lb_av]", "70.3068", ""),
        ("29463-7", "950", "gm", "0.95", ""),
        ("29463-7", "3200", "g", "3.2", ""),
        ("29463-7", "120", "[oz_av]", "3.40194", ""),
        ("29463-7", "3200000", "mg", "3.2", ""),
        ("29463-7", "80", "", "80", ""),
        ("29463-7", "3200", "", "", ""),
        ("29463-7", "70", "^kg", "70", ""),
        ("29463-7", "70", "stone", "", ""),
        ("29463-7", "70", "cm", "", ""),
        ("29463-7", "950", "kg", "", ""),
        ("29463-7", "-70", "kg", "", ""),
        ("29463-7", "nan", "kg", "", ""),
        ("8302-2", "67", "[in_i]", "", "1.7018"),
        ("8302-2", "67", "in", "", "1.7018"),
        ("8302-2", "5.5", "ft", "", "1.6764"),
        ("8302-2", "6", "[ft_i]", "", "1.8288"),
        ("8302-2", "1702", "mm", "", "1.702"),
        ("8302-2", "170", "CM", "", "1.7"),
        ("8302-2", "1.7", "m", "", "1.7"),
        ("8302-2", "1.7", "", "", "1.7"),
        ("8302-2", "170", "", "", "1.7"),
        ("8302-2", "170", "m", "", ""),
        ("8302-2", "170", "cubits", "", ""),
        ("8302-2", "67", "lb", "", ""),
    ],
)
def test_weight_and_height_are_converted_from_their_unit_or_dropped(desk, code, value, unit, weight, size):
    assert desk.take(observed(code, value, unit)) == ACCEPTED

    [entry] = desk.book.steps()
    assert (entry.weight_kg, entry.size_m) == (weight, size)


@pytest.mark.parametrize("status", ["W", "X", "D", "I", "O", "N", "F", "P", "C", ""])
def test_an_observation_that_is_withdrawn_or_has_no_result_is_no_weight(desk, status):
    desk.take(observed("29463-7", "70", "kg", status))

    [entry] = desk.book.steps()
    assert entry.weight_kg == ("" if status in tuple("WXDION") else "70")


def test_a_cancellation_without_a_step_takes_all_steps_and_one_with_a_step_takes_that(desk):
    steps = [("ACC1", "RP1", "1.2.3", f"STEP{n}", "US", "") for n in (1, 2, 3)]
    desk.take(omi(steps=steps))

    desk.take(omi("CA", steps=steps[1:2], at="20260301120100"))
    assert [entry.step_id for entry in desk.book.steps()] == ["STEP1", "STEP3"]

    desk.take(omi("CA", at="20260301120200"))
    assert desk.book.steps() == []


PAIR = {
    "by filler": ("OBR|1|P1|F1|BUS^left^L", "OBR|2|P1|F2|BUS^right^L"),
    "by code": ("OBR|1|P1||BUL^left^L", "OBR|2|P1||BUR^right^L"),
    "by position": ("OBR|1|P1||BUS^left^L", "OBR|2|P1||BUS^right^L"),
}


@pytest.mark.parametrize("pair", PAIR.values(), ids=PAIR.keys())
def test_several_procedures_of_one_order_are_all_kept(desk, pair):
    head = orm().split("ORC|")[0]
    order = head + "\r".join(("ORC|{}|P1", *pair)) + "\r"

    assert desk.take(order.format("NW")).outcome == "AA"
    assert desk.take(order.format("NW")).outcome == "AA"
    assert [entry.order.procedure for entry in desk.book.steps()] == ["left", "right"]
    assert len({entry.step_id for entry in desk.book.steps()}) == 2
    ids = [entry.procedure_id for entry in desk.book.steps()]
    assert ids[0] == "P1" != ids[1], "a Requested Procedure ID is unique within the accession"
    assert len(ids[1]) <= 16

    desk.take(head + "ORC|CA|P1\r")
    assert desk.book.steps() == []


def test_the_steps_of_one_procedure_share_its_id_also_where_one_comes_later(desk):
    head = orm().split("ORC|")[0]
    left, right, third = ("OBR|1|P1||BUL^left^L", "OBR|2|P1||BUR^right^L", "OBR|3|P1||BUX^third^L")
    ipcs = [f"IPC|A1||1.2.3|S{number}|US" for number in range(5)]

    desk.take(head + "\r".join(("ORC|NW|P1", left, *ipcs[:2], right, *ipcs[2:4])) + "\r")
    desk.take(head + "\r".join(("ORC|XO|P1", third, ipcs[4])) + "\r")

    ids = [entry.procedure_id for entry in sorted(desk.book.steps(), key=lambda entry: entry.step_id)]
    assert ids[0] == ids[1] == "P1"
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3


def test_filler_numbers_that_come_later_make_no_new_procedures(desk):
    head = orm().split("ORC|")[0]
    desk.take(head + "\r".join(("ORC|NW|P1", *PAIR["by position"])) + "\r")

    desk.take(head.replace("20260301120000", "20260301120100") + "\r".join(("ORC|SN|P1", *PAIR["by filler"])) + "\r")

    assert [(entry.order.procedure, entry.filler_id) for entry in desk.book.steps()] == [
        ("left", "F1"),
        ("right", "F2"),
    ]


@pytest.mark.parametrize("name", ["by filler", "by code"])
def test_one_of_several_procedures_is_cancelled_by_itself(desk, name):
    head = orm().split("ORC|")[0]
    desk.take(head + "\r".join(("ORC|NW|P1", *PAIR[name])) + "\r")

    desk.take(head.replace("20260301120000", "20260301120100") + "ORC|CA|P1\r" + PAIR[name][1] + "\r")

    assert [entry.order.procedure for entry in desk.book.steps()] == ["left"]


@pytest.mark.parametrize("control", ["XO", "SC", "CA"])
def test_a_filler_number_does_not_replace_an_accession_number(desk, control):
    desk.take(orm(accession="ACC7"))

    desk.take(orm(control, accession="", at="20260301120500").replace("|P1||BUS", "|P1|FILL7|BUS"))

    (order,) = desk.book.query(OrdersQuery()).orders
    assert order.accession_number == "ACC7"


def test_a_filler_number_that_is_too_long_for_an_accession_number_refuses_no_order(desk):
    text = orm(accession="").replace("|P1||BUS", "|P1|" + "F" * 30 + "|BUS")

    answer, _ = desk.take(text), desk.one()

    assert answer == ACCEPTED
    assert desk.one().accession_number == "P1"
    assert [entry.filler_id for entry in desk.book.steps()] == ["F" * 30]


def test_an_accession_number_that_is_too_long_is_refused_and_never_cut(desk):
    assert desk.take(orm(accession="A" * 17)).where == "OBR-18"
    assert not desk.all()


def test_the_same_order_twice_is_one_order_with_the_same_study(desk):
    desk.take(orm())
    before = desk.one()

    desk.take(orm())
    desk.take(orm(at="20260301120500"))

    assert desk.one().study_instance_uid == before.study_instance_uid
    assert before.study_instance_uid.startswith("2.25.")
    assert len(before.study_instance_uid) <= 64


def test_without_an_order_number_the_accession_number_tells_it(desk):
    desk.take(orm(number=""))
    desk.take(orm(number="", at="20260301130000", scheduled="20260305100000"))

    assert desk.one().order_id == "A1"
    assert desk.one().scheduled == "20260305100000"


def test_without_any_accession_number_one_is_made_that_fits(desk):
    desk.take(orm(number="A-VERY-LONG-PLACER-ORDER-NUMBER", accession=""))
    desk.take(orm(number="SHORT", accession=""))

    long, short = sorted(desk.all(), key=lambda order: order.order_id)
    assert short.accession_number == "SHORT"
    assert 1 <= len(long.accession_number) <= 16


def test_an_update_replaces_what_it_tells_and_keeps_the_rest(desk):
    desk.take(orm())
    desk.take(orm("XO", at="20260301130000", scheduled="", modality="MG"))

    order = desk.one()
    assert (order.modality, order.scheduled) == ("MG", "20260302083000")


def test_a_late_older_update_changes_nothing_that_is_known(desk):
    desk.take(orm(at="20260301120500", scheduled="20260309100000"))
    desk.take(orm("XO", at="20260301120000", scheduled="20260301080000", name="Other^Name"))

    order = desk.one()
    assert (order.scheduled, order.patient_name) == ("20260309100000", "Muster^Erika")


def test_a_clock_that_is_ahead_does_not_silence_the_others(desk):
    now = time.time_ns()
    desk.orders.take(er7.parse(orm(at="20991231000000")), "ahead", now)
    desk.orders.take(
        er7.parse(orm("CA", at=time.strftime("%Y%m%d%H%M%S", time.localtime(now / 1e9 + 5)))), "his", now + 5 * 10**9
    )

    assert desk.one().status == "cancelled"


def test_a_cancellation_that_overtakes_its_order_holds(desk):
    desk.take(orm("CA", at="20260301120500"))
    assert desk.take(orm("NW", at="20260301120000")).outcome == "AA"

    assert desk.one().status == "cancelled"
    assert desk.book.steps() == []


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([("NW", "")], "scheduled"),
        ([("NW", ""), ("CA", "")], "cancelled"),
        ([("NW", ""), ("OC", "")], "cancelled"),
        ([("NW", ""), ("DC", "")], "discontinued"),
        ([("NW", ""), ("HD", "")], "cancelled"),
        ([("NW", ""), ("HD", ""), ("RL", "")], "scheduled"),
        ([("NW", ""), ("CA", ""), ("NW", "")], "scheduled"),
        ([("NW", ""), ("SC", "IP")], "started"),
        ([("NW", ""), ("SC", "CM")], "completed"),
        ([("NW", ""), ("SC", "IP"), ("CA", "")], "started"),
        ([("NW", ""), ("SC", "CM"), ("CA", "")], "completed"),
        ([("NW", ""), ("SC", "CM"), ("NW", "")], "completed"),
        ([("NW", ""), ("SC", "CM"), ("SC", "IP")], "completed"),
        ([("SC", "CM")], "completed"),
        ([("XO", "")], "scheduled"),
    ],
)
def test_order_control_and_status_lead_to_one_status(desk, messages, status):
    for minute, (control, told) in enumerate(messages):
        assert desk.take(orm(control, status=told, at=f"2026030112{minute:02d}00")).outcome == "AA"

    assert desk.one().status == status
    assert status in STATUSES


@pytest.mark.parametrize("told", ["IP", "CM"])
def test_a_cancellation_that_comes_too_late_is_answered_with_a_warning(desk, told):
    desk.take(orm())
    desk.take(orm("SC", status=told, at="20260301130000"))

    answer = desk.take(orm("CA", at="20260301140000"))

    assert (answer.outcome, answer.code, answer.where) == ("AA", Code.INTERNAL, "ORC-1")
    assert "not cancelled" in answer.text
    assert desk.take(orm("DC", at="20260301150000")) == ACCEPTED


def test_a_cancelled_order_is_not_updated_silently(desk):
    desk.take(orm())
    desk.take(orm("CA", at="20260301130000"))

    answer = desk.take(orm("XO", at="20260301140000"))

    assert (answer.outcome, answer.where) == ("AE", "ORC-1")
    assert desk.one().status == "cancelled"


OLDER = (Code.INTERNAL, "MSH-7")


def warned(answer):
    """What an acceptance warns of: the condition and its place."""
    assert answer.outcome == "AA"
    return answer.code, answer.where


@pytest.mark.parametrize("control", ["CA", "OC", "DC"])
def test_a_cancellation_that_an_update_overtook_is_carried_out(desk, control):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("XO", at="20260301121000", scheduled="20260309100000"))

    assert desk.take(orm(control, at="20260301120500", scheduled="")) == ACCEPTED

    assert desk.book.steps() == []
    assert desk.one().scheduled == "20260309100000", "what is newer stays"


@pytest.mark.parametrize("control", ["CA", "OC", "DC"])
def test_a_cancellation_by_a_clock_that_is_behind_is_carried_out(desk, control):
    desk.take(orm(at="20260301120000"))
    assert desk.take(orm(at="20260301120000")) == ACCEPTED

    assert desk.take(orm(control, at="20260301040000")) == ACCEPTED
    assert desk.book.steps() == []

    desk.reopen()
    assert warned(desk.take(orm(at="20260301120000"))) == OLDER, "the same order does not bring it back"
    assert desk.book.steps() == []
    assert desk.take(orm(at="20260301120001")) == ACCEPTED
    assert [entry.order.status for entry in desk.book.steps()] == ["scheduled"]


def test_a_cancellation_from_before_the_order_was_placed_again_is_told_as_outdated(desk):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("CA", at="20260301120500"))
    desk.take(orm(at="20260301121000"))

    for control in ("CA", "OC", "DC"):
        assert warned(desk.take(orm(control, at="20260301120700"))) == OLDER
    assert [entry.order.status for entry in desk.book.steps()] == ["scheduled"]
    assert desk.take(orm("CA", at="20260301121500")) == ACCEPTED
    assert desk.book.steps() == []


def test_a_cancellation_that_is_days_older_than_its_order_is_of_another_time(desk):
    desk.take(orm(at="20260301120000"))

    assert warned(desk.take(orm("CA", at="20260227110000"))) == OLDER
    assert desk.one().status == "scheduled"


def test_an_older_order_does_not_bring_back_what_was_cancelled(desk):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("CA", at="20260301121000"))

    assert warned(desk.take(orm("NW", at="20260301120500"))) == OLDER
    assert desk.one().status == "cancelled"


def test_an_order_placed_again_holds_although_an_update_overtook_it(desk):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("XO", at="20260301122000", scheduled="20260309100000"))
    desk.take(orm("CA", at="20260301120500"))

    assert desk.take(orm("NW", at="20260301121000")) == ACCEPTED

    assert (desk.one().status, desk.one().scheduled) == ("scheduled", "20260309100000")


def test_that_a_step_is_done_holds_although_an_update_overtook_it(desk):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("XO", at="20260301121000"))

    assert desk.take(orm("SC", status="CM", at="20260301120500")) == ACCEPTED
    assert desk.one().status == "completed"


@pytest.mark.parametrize(("control", "time"), [("NW", ""), ("RL", ""), ("XO", "20260309100000")])
def test_a_discontinued_order_that_is_scheduled_again_is_back_on_the_worklist(desk, control, time):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("DC", at="20260301121000"))
    assert desk.take(orm("XO", scheduled="", at="20260301121500")) == ACCEPTED
    assert desk.book.steps() == [], "an update without another time schedules nothing"

    assert desk.take(orm(control, scheduled=time, at="20260301122000")) == ACCEPTED

    [entry] = desk.book.steps()
    assert entry.order.scheduled == time or not time
    assert warned(desk.take(orm("DC", at="20260301121500"))) == OLDER


@pytest.mark.parametrize(("control", "time"), [("NW", ""), ("RL", ""), ("XO", "20260309100000")])
def test_what_is_done_is_not_scheduled_again_and_the_answer_says_so(desk, control, time):
    desk.take(orm(at="20260301120000"))
    desk.take(orm("SC", status="CM", at="20260301121000"))

    assert warned(desk.take(orm(control, scheduled=time, at="20260301122000"))) == (Code.INTERNAL, "ORC-1")
    assert (desk.one().status, desk.one().scheduled) == ("completed", "20260302083000")
    assert desk.take(orm("XO", scheduled="", at="20260301122500")) == ACCEPTED


ZDS = ("ZDS|1.2.3.4^HIS^Application^DICOM",)


def test_a_study_of_another_patient_is_refused(desk):
    desk.take(orm(more=ZDS))
    other = {"number": "P2", "accession": "A2", "pid": "815", "name": "Other^Otto"}

    answer = desk.take(orm(**other, more=ZDS))

    assert (answer.outcome, answer.code, answer.where) == ("AE", Code.DUPLICATE_KEY, "ZDS-1")
    assert "study" in answer.text
    desk.take(orm(**other))
    assert desk.take(orm("XO", **other, more=ZDS, at="20260301120500")).where == "ZDS-1", "nor by an update"
    assert desk.take(orm(number="P3", accession="A3", more=ZDS)) == ACCEPTED, (
        "the same patient may have two orders of it"
    )
    assert desk.take(orm("XO", more=ZDS, at="20260301120500", modality="MG")) == ACCEPTED


def test_an_accession_number_of_another_patient_is_refused(desk):
    desk.take(orm())
    other = {"number": "P2", "pid": "815", "name": "Other^Otto"}

    answer = desk.take(orm(**other))

    assert (answer.outcome, answer.code, answer.where) == ("AE", Code.DUPLICATE_KEY, "OBR-18")
    assert "accession" in answer.text
    assert [order.order_id for order in desk.all()] == ["P1"]
    assert desk.take(orm(number="P3")) == ACCEPTED, "the same patient may have two orders of it"
    assert desk.orders.take(er7.parse(orm(**other)), "another-his", LATER) == ACCEPTED, "whose numbers are its own"


def test_a_cancelled_order_of_the_wrong_patient_leaves_its_numbers_to_the_right_one(desk):
    desk.take(orm(more=ZDS))
    assert desk.take(orm("CA", at="20260301120500")) == ACCEPTED

    assert desk.take(orm(number="P2", pid="815", name="Other^Otto", more=ZDS, at="20260301120600")) == ACCEPTED


def test_accession_numbers_of_two_authorities_are_two(desk):
    steps = [("ACC1", "RP1", "1.2.3", "STEP1", "US", "")]
    desk.take(omi(steps=steps))
    others = omi(number="P2", steps=[("ACC1", "RP1", "1.2.4", "STEP1", "US", "")]).replace("815^^^REG", "99^^^REG")
    others = others.replace("4711^^^HOSP", "98^^^HOSP")

    assert desk.take(others).where == "IPC-1"
    assert desk.take(others.replace("ACC1^HIS", "ACC1^RIS")) == ACCEPTED


def test_an_accession_number_that_is_made_is_nobody_elses(desk):
    desk.take(orm(accession="P2"))

    assert desk.take(orm(number="P2", accession="", pid="815", name="Other^Otto")) == ACCEPTED

    assert len({order.accession_number for order in desk.all()}) == 2


def test_merged_patients_share_study_and_accession_number(desk):
    desk.take(orm(more=ZDS))
    desk.take(orm("SC", status="CM", at="20260301120500"))
    changed = desk.one().changed_ns
    desk.now += 10**9
    desk.take(adt("A40", pid="9000", prior="4711"))
    desk.take(adt("A40", pid="9500", prior="9000", at="20260301130100"))
    assert (desk.one().patient_id, desk.one().changed_ns) == ("4711", changed), "what is done stays as it was done"

    assert desk.take(orm(number="P2", pid="9500", more=ZDS, at="20260301140000")) == ACCEPTED
    assert desk.take(orm(number="P3", pid="815", more=ZDS, at="20260301140000")).outcome == "AE"


def test_an_order_number_does_not_change_its_patient(desk):
    desk.take(orm())

    answer = desk.take(orm("XO", pid="666", at="20260301130000"))

    assert (answer.outcome, str(answer.code), answer.where) == ("AE", "205", "PID-3")
    assert desk.one().patient_id == "4711"


def test_of_several_orders_in_one_message_all_are_kept_or_none(desk):
    second = "ORC|NW|P2\rOBR|1|P2||CT^Chest^L||||||||||||||A2||||||CT\r"
    bad = "ORC|QQ|P3\rOBR|1|P3||CT^Chest^L\r"

    assert desk.take(orm() + second + bad).outcome == "AE"
    assert desk.all() == []
    assert desk.take(orm() + second).outcome == "AA"
    assert sorted(order.modality for order in desk.all()) == ["CT", "US"]


# ---------------------------------------- patients


def adt(event, pid="4711", name="Muster^Erika", prior="", at="20260301130000"):
    lines = [
        f"MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|{at}||ADT^{event}|M1|P|2.5",
        f"EVN|{event}|{at}",
        f"PID|1||{pid}^^^HOSP^MR||{name}||19650101|F",
    ]
    return "\r".join(lines + ([f"MRG|{prior}^^^HOSP^MR"] if prior else [])) + "\r"


def test_patient_updates_reach_the_orders_that_are_not_done(desk):
    desk.take(orm())
    desk.take(orm(number="P2", accession="A2"))
    desk.take(orm("SC", number="P2", status="CM", at="20260301121000"))

    assert desk.take(adt("A08", name="Muster-Neu^Erika")).outcome == "AA"

    by_number = {order.order_id: order for order in desk.all()}
    assert by_number["P1"].patient_name == "Muster-Neu^Erika"
    assert by_number["P1"].birth_date == "19650101"
    assert by_number["P1"].scheduled == "20260302083000"
    assert by_number["P2"].patient_name == "Muster^Erika", "what is done stays as it was done"


def test_merged_patients_give_their_orders_to_the_one_that_remains(desk):
    desk.take(orm())

    assert desk.take(adt("A40", pid="9000", name="Muster^Erika", prior="4711")).outcome == "AA"

    assert desk.one().patient_id == "9000"
    assert desk.take(orm("XO", pid="9000", at="20260301140000", modality="CT")).outcome == "AA"
    assert desk.take(adt("A40", pid="9000")).where == "MRG-1"
    assert desk.take(adt("A08", pid="unknown")).outcome == "AA"


def test_a_new_order_under_a_number_that_was_merged_is_filed_under_the_one_that_remains(desk):
    desk.take(adt("A40", pid="9000", prior="4711"))
    desk.take(adt("A40", pid="9500", prior="9000", at="20260301130100"))
    desk.reopen()

    assert desk.take(orm(at="20260301140000", more=ZDS)) == ACCEPTED
    assert desk.one().patient_id == "9500"
    assert desk.take(orm("XO", at="20260301140100", modality="MG")) == ACCEPTED
    assert (desk.one().patient_id, desk.one().modality) == ("9500", "MG")
    assert desk.take(orm(number="P2", accession="A2", pid="9500", at="20260301140000", more=ZDS)) == ACCEPTED
    other = orm(number="P3", accession="A3").replace("4711^^^HOSP", "4711^^^CLINIC")
    assert desk.take(other) == ACCEPTED
    assert {order.order_id: order.patient_id for order in desk.all()} == {"P1": "9500", "P2": "9500", "P3": "4711"}
    raw = b"".join(path.read_bytes() for path in desk.home.data.glob("orders.db*"))
    assert b"9500" not in raw


def test_a_number_that_was_merged_is_in_use_again_when_somebody_is_registered_under_it(desk):
    desk.take(adt("A40", pid="9000", prior="4711"))
    desk.take(adt("A08", pid="4711", at="20260301130100"))
    desk.take(orm(at="20260301140000"))
    assert desk.one().patient_id == "9000"

    desk.take(adt("A28", pid="4711", name="New^Nora", at="20260301150000"))
    desk.take(orm(number="P2", accession="A2", name="New^Nora", at="20260301150100"))
    desk.take(adt("A40", pid="4711", prior="9000", at="20260301160000"))
    desk.take(orm(number="P3", accession="A3", at="20260301160100"))

    assert {order.order_id: order.patient_id for order in desk.all()} == dict.fromkeys(("P1", "P2", "P3"), "4711")


def test_a_merge_is_forgotten_when_orders_of_that_time_are(desk):
    desk.take(adt("A40", pid="9000", prior="4711"))
    desk.now += 31 * 86_400 * 10**9
    desk.book.sweep()

    desk.take(orm(at="20260301140000"))

    assert desk.one().patient_id == "4711"


def test_an_older_patient_update_changes_nothing(desk):
    desk.take(orm())
    desk.take(adt("A08", name="New^Name", at="20260301140000"))
    assert warned(desk.take(adt("A08", name="Old^Name", at="20260301130000"))) == OLDER
    assert warned(desk.take(adt("A40", pid="9000", prior="4711", at="20260301130000"))) == OLDER

    assert (desk.one().patient_id, desk.one().patient_name) == ("4711", "New^Name")


# ---------------------------------------- keeping


def test_everything_is_there_after_a_restart_and_nothing_can_be_read_without_the_key(desk, tmp_path):
    desk.take(orm(name="Geheim^Gisela", pid="SECRET-77", accession="SECRETACC"))
    before = desk.all()

    desk.reopen()

    assert desk.all() == before
    raw = b"".join(path.read_bytes() for path in desk.home.data.glob("orders.db*"))
    for secret in (b"Geheim", b"SECRET-77", b"SECRETACC", b"19640812", b"Muster"):
        assert secret not in raw


def test_the_book_of_another_site_does_not_open(desk, tmp_path):
    desk.take(orm())
    other, _ = new_home(tmp_path / "other")

    with pytest.raises(DatabaseError, match="another site key"):
        OrderBook(desk.home.db("orders"), SiteKey.load(other))


def test_old_orders_go_and_orders_due_later_stay(desk):
    day = 86_400 * 10**9
    desk.now = time.time_ns() - 100 * day
    desk.take(orm(scheduled=time.strftime("%Y%m%d%H%M%S", time.localtime(desk.now / 1e9))))
    desk.take(orm(number="P2", accession="A2", scheduled=time.strftime("%Y%m%d%H%M%S", time.localtime())))
    desk.now = time.time_ns()

    assert desk.book.sweep() == 1
    desk.reopen()

    assert [order.order_id for order in desk.all()] == ["P2"]


def test_people_find_orders_by_text_and_status_the_next_due_first(desk):
    for number, hour in ((1, 12), (2, 9), (3, 10)):
        desk.take(
            orm(
                number=f"P{number}",
                accession=f"A{number}",
                pid=f"ID{number}",
                scheduled=f"202603020{hour % 10}0000" if hour < 10 else f"20260302{hour}0000",
            )
        )
    desk.take(orm("CA", number="P3", pid="ID3", accession="A3", at="20260301130000"))

    assert [order.order_id for order in desk.all()] == ["P2", "P1", "P3"]
    assert [order.order_id for order in desk.book.query(OrdersQuery(status="cancelled")).orders] == ["P3"]
    assert [order.order_id for order in desk.book.query(OrdersQuery(text="id1")).orders] == ["P1"]
    assert len(desk.book.query(OrdersQuery(text="ERIKA", limit=2)).orders) == 2
    for text in (
        "Muster, Erika",
        "muster erika",
        "Muster^Erika",
        "erika id1",
    ):  # as the page shows it, or as HL7 says it
        assert "P1" in [order.order_id for order in desk.book.query(OrdersQuery(text=text)).orders], text
    assert desk.book.query(OrdersQuery(text="muster otto")).orders == []
    assert desk.book.counts() == {"scheduled": 2, "cancelled": 1}


WRITER = """
import sys
from pathlib import Path
from tests.gateway.hl7_door import orm
from edgeward.gateway.hl7_orders import Hl7Orders
from edgeward.gateway.orders import OrderBook
from edgeward.hl7 import er7
from edgeward.hl7.acknowledgement import ACCEPTED, Answer, Code, write
from edgeward.home import Home
from edgeward.privacy.keys import SiteKey
home = Home(Path(sys.argv[1]))
orders = Hl7Orders(OrderBook(home.db("orders"), SiteKey.load(home)))
for number in range(10**9):
    assert orders.take(er7.parse(orm(number=f"P{number}", accession=f"A{number}")), "his", 1).outcome == "AA"
    print(number, flush=True)
"""


def test_what_was_acknowledged_is_there_after_a_kill(desk, tmp_path):
    desk.book.close()
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(desk.home.root)], stdout=subprocess.PIPE)
        seen = -1
        for _ in range(60):
            seen = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().split()
        writer.wait()
        seen = int(rest[-1]) if rest else seen

        desk.open()
        numbers = {int(order.order_id[1:]) for order in desk.all()}
        desk.book.close()

        assert set(range(seen + 1)) <= numbers
    desk.open()


def test_a_damaged_file_is_told_and_left_alone(tmp_path):
    home, _ = new_home(tmp_path / "home")
    home.db("orders").write_bytes(b"not a database at all" * 100)
    with pytest.raises(DatabaseError):
        OrderBook(home.db("orders"), SiteKey.load(home))
    assert home.db("orders").read_bytes().startswith(b"not a database")
    home.db("orders").unlink()
    with sqlite3.connect(home.db("orders")) as db:
        db.execute("CREATE TABLE other (x)")
    with pytest.raises(DatabaseError, match="another program"):
        OrderBook(home.db("orders"), SiteKey.load(home))
