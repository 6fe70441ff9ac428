"""What a notice looks like on its way out: HL7, FHIR, webhook, mail."""

from __future__ import annotations

import json
import re

import msgspec
import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message
from tests.support.fhir import validate

from edgeward.bedside import MOST_PLACES, Notice
from edgeward.clinic.imaging.fhir_bundle import Addresses
from edgeward.clinic.monitor.rules import RULES
from edgeward.clinic.notices.alarm_bundle import build_alarm_bundle
from edgeward.clinic.notices.alarm_message import Parties, build_alarm_message, control_id
from edgeward.clinic.notices.receivers import describe, sign, write_mail
from edgeward.clinic.notices.sentences import PARAMETERS, SENTENCES
from edgeward.clinic.notices.wording import beds, event, headline, reading, words
from edgeward.config import Contact
from edgeward.console import languages
from edgeward.messages import Alarm, AlarmPriority, VitalState

SECOND = 10**9
RAISED = 1_790_000_000 * SECOND
PARTIES = Parties("hospital", "AM", "HOSPITAL")


def alarm(code: str = "asystole", **changes) -> Alarm:
    values = {
        "alarm_id": "bed-7-3",
        "device_id": "patch-7",
        "code": code,
        "priority": AlarmPriority.HIGH,
        "technical": False,
        "latching": True,
        "state": "raised",
        "present": True,
        "args": {"seconds": 4.0},
        "raised_ns": RAISED,
        "at_ns": RAISED,
        "bed_id": "bed-7",
        "ward": "icu",
        "label": "Bed 7 | O'Neill & Søn",
    }
    return Alarm(**{**values, **changes})


def notice(phase: str = "start", number: int = 1, contacts: tuple[str, ...] = (), **changes) -> Notice:
    vitals = [
        VitalState(parameter="heart_rate", value=0.0, unit="/min"),
        VitalState(parameter="spo2", value=84.0, unit="%"),
        VitalState(parameter="temperature", value=None, unit="Cel"),
        VitalState(parameter="respiratory_rate", value=12.0, unit="/min", stale=True),
    ]
    return Notice(
        notice_id=f"bed-7-3/{number}",
        phase=phase,
        alarm=alarm(**changes),
        contacts=list(contacts),
        vitals=vitals,
        at_ns=RAISED + number * SECOND,
    )


def low_spo2() -> Notice:
    args = {"parameter": "spo2", "value": 84.0, "limit": 90.0, "unit": "%"}
    return notice(code="parameter_low", priority=AlarmPriority.MEDIUM, args=args)


# ---------------------------------------- HL7


def fields(data: bytes, name: str) -> list[list[str]]:
    return [line.split("|") for line in data.decode().split("\r") if line.startswith(name)]


def test_the_message_is_read_by_another_parser_and_names_its_profile():
    data = build_alarm_message(notice(), PARTIES)
    read = parse_message(data.decode(), validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
    assert read.msh.msh_9.to_er7() == "ORU^R40^ORU_R40"
    assert read.msh.msh_12.to_er7() == "2.6"
    assert read.msh.msh_21.to_er7().startswith("IHE_PCD_ACM_001^IHE PCD^")
    assert read.pv1.pv1_3.to_er7() == "icu^^Bed 7 \\F\\ O'Neill \\T\\ Søn^hospital"
    assert [segment.name for segment in read.children] == ["MSH", "PID", "PV1", "OBR", *["OBX"] * 5]


def test_the_facets_say_what_which_phase_and_which_state():
    obx = fields(build_alarm_message(notice(), PARTIES), "OBX")
    assert [one[4] for one in obx] == [f"1.0.0.0.{n}" for n in range(1, 6)]
    assert obx[0][5].startswith("199684^MDC_EVT_ECG_ASYSTOLE^MDC")
    assert obx[0][8] == "PH~SP"
    assert [one[5] for one in obx[2:]] == ["start", "active", "enabled"]


def test_a_limit_alarm_carries_value_unit_and_limit():
    obx = fields(build_alarm_message(low_spo2(), PARTIES), "OBX")
    assert obx[0][8] == "PM~SP~L"
    assert obx[1][2:8] == ["NM", "150456^MDC_PULS_OXIM_SAT_O2^MDC", "1.0.0.0.2", "84", "%^^UCUM", ">90"]


@pytest.mark.parametrize(
    ("phase", "changes", "said"),
    [
        ("start", {}, ["start", "active", "enabled"]),
        ("update", {"present": False}, ["continue", "latched", "enabled"]),
        ("acknowledge", {"acknowledged": True, "by": "weber"}, ["continue", "active", "alert-acknowledged"]),
        ("update", {"audio_paused_until_ns": RAISED + 99 * SECOND}, ["continue", "active", "audio-paused"]),
        ("end", {"state": "ended", "present": False}, ["end", "inactive", "enabled"]),
    ],
)
def test_every_transition_has_its_words(phase, changes, said):
    obx = fields(build_alarm_message(notice(phase, **changes), PARTIES), "OBX")
    assert [one[5] for one in obx[2:]] == said


@pytest.mark.parametrize(
    ("code", "source"),
    [
        ("asystole", "MDC_ECG_HEART_RATE"),
        ("apnea", "MDC_RESP_RATE"),
        ("no_pulse", "MDC_PULS_OXIM_PULS_RATE"),
        ("news2_emergency", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS"),
    ],
)
def test_an_alarm_without_a_value_names_what_it_is_about(code, source):
    facet = fields(build_alarm_message(notice(code=code), PARTIES), "OBX")[1]
    assert facet[3].split("^")[1] == "MDC_ATTR_ALERT_SOURCE"
    assert facet[5].split("^")[1] == source


def test_all_messages_of_one_alarm_share_its_number_and_differ_in_theirs():
    first, second = (build_alarm_message(notice(number=n), PARTIES) for n in (1, 2))
    assert fields(first, "OBR")[0][3] == fields(second, "OBR")[0][3]
    assert control_id(notice(number=1)) != control_id(notice(number=2))
    assert build_alarm_message(notice(), PARTIES) == first, "a repeat says the same"


def test_a_technical_alarm_without_a_known_code_has_ours():
    told = notice(code="signal_lost", technical=True, priority=AlarmPriority.MEDIUM, args={"seconds": 4.0})
    obx = fields(build_alarm_message(told, PARTIES), "OBX")
    assert obx[0][5].startswith("signal_lost^Signal lost: no data for 4 s^99EDGEWARD")
    assert obx[0][8] == "PM~ST"


# ---------------------------------------- FHIR


@pytest.mark.parametrize("ids", ["ours", "server"])
@pytest.mark.parametrize("phase", ["start", "acknowledge", "end"])
def test_the_observation_is_valid_and_is_replaced(ids, phase):
    changes = {"state": "ended", "present": False, "ended_ns": RAISED + SECOND} if phase == "end" else {}
    addresses = Addresses("https://emr.example/fhir", ids)
    bundle = json.loads(build_alarm_bundle(notice(phase, **changes), "hospital", addresses))
    validate(bundle)
    resource = bundle["entry"][0]["resource"]
    assert resource["status"] == ("final" if phase == "end" else "preliminary")
    assert ("end" in resource["effectivePeriod"]) == (phase == "end")
    again = json.loads(build_alarm_bundle(notice("update", 2), "hospital", addresses))
    assert again["entry"][0]["request"] == bundle["entry"][0]["request"]


def test_stale_and_missing_values_are_not_told_as_values():
    bundle = json.loads(build_alarm_bundle(notice(), "hospital", Addresses("https://emr.example/fhir")))
    named = [one["code"].get("text") for one in bundle["entry"][0]["resource"]["component"]]
    assert "spo2" in named
    assert "temperature" not in named
    assert "respiratory_rate" not in named


# ---------------------------------------- people


def test_without_leave_nothing_that_names_a_bed_goes_out():
    said = msgspec.json.encode(describe(notice(), "hospital", identity=False)).decode()
    assert "bed-7" not in said
    assert "patch-7" not in said
    assert "Søn" not in said
    mail = write_mail(notice(), Contact(name="a", email="a@b.example"), "edgeward@b.example", "hospital")
    assert "Bed 7" not in mail.as_string()
    assert mail["Subject"] == "[Edgeward] HIGH alarm in icu"


def test_with_leave_the_notice_says_where_what_and_the_values():
    said = describe(notice(), "hospital", identity=True)
    assert said["bed"] == "bed-7"
    assert said["values"] == {"heart_rate": {"value": 0.0, "unit": "/min"}, "spo2": {"value": 84.0, "unit": "%"}}
    contact = Contact(name="a", email="a@b.example", identity=True)
    text = write_mail(notice("escalate"), contact, "edgeward@b.example", "hospital").get_content()
    assert "Asystole: no beat for 4 s" in text
    assert "Heart rate 0 /min" in text
    assert "Respiratory rate --" in text
    assert "Nobody has acknowledged it yet" in text


@pytest.mark.parametrize("end", ["\n", "\r", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_name_of_a_bed_keeps_a_mail_from_being_written(end):
    contact = Contact(name="c", email="a@b.example", identity=True)
    mail = write_mail(notice(label=f"Bed{end}7"), contact, "site@b.example", "site")
    assert "Bed 7" in mail["Subject"]
    assert mail.as_bytes()


def test_a_label_with_line_ends_cannot_add_mail_headers():
    contact = Contact(name="a", email="a@b.example", identity=True)
    mail = write_mail(notice(label="x\r\nBcc: all@b.example"), contact, "edgeward@b.example", "hospital")
    assert mail["Bcc"] is None


def test_a_signature_depends_on_body_secret_and_time():
    one = sign(b"body", "secret", 1)
    assert one.startswith("t=1,v1=")
    assert len({one, sign(b"body!", "secret", 1), sign(b"body", "other", 1), sign(b"body", "secret", 2)}) == 4


def test_words_are_short_and_late_is_said():
    assert words(low_spo2().alarm) == "SpO₂ 84 %: below 90"
    assert event(low_spo2().alarm).meaning == "MDC_EVT_LO"
    years = alarm("clock_offset", args={"offset_s": -219789045.0})
    assert words(years) == "Device clock is wrong by -219789045 s", "no powers of ten in what people read"
    assert headline(alarm(late=True), "Bed 7").startswith("HIGH LATE Bed 7: Asystole: no beat")


def test_the_sentences_are_the_console_s():
    catalogue = languages.catalogue("en")
    for section, table in (("alarm.", SENTENCES), ("parameter.", PARAMETERS)):
        assert table == {key.removeprefix(section): text for key, text in catalogue.items() if key.startswith(section)}


@pytest.mark.parametrize("code", [*RULES, "a_code_of_tomorrow"])
def test_no_alarm_is_said_in_raw_keys(code):
    particulars = {"seconds": 10.2, "offset_s": 7200.0, "channels": "CVP", "leads": "V1", "rate": 131.6, "count": 3.0}
    limit = {"parameter": "nibp_mean", "value": 51.0, "unit": "mm[Hg]", "limit": 60.0, "beds": 27.0}
    told = alarm(code, args=particulars | limit)
    if code in RULES:
        assert words(told) == languages.alarm_text("en", code, told.args)
    assert "_" not in words(told)


def test_why_nobody_watches_is_said_where_the_console_cannot_be_seen():
    told = alarm("alarm_system_failure", args={"reason": "monitoring does not answer: no alarm can come"})
    assert words(told) == "Alarm system failure: monitoring does not answer: no alarm can come"
    assert words(alarm("alarm_system_failure", args={})) == "Alarm system failure"


# ---------------------------------------- floods


def flood(beds: int, **changes) -> Notice:
    members = [f"w{number}" for number in range(1, beds + 1)]
    about = {"bed_id": "site.alarms", "device_id": "site", "label": "hospital", "ward": "", "technical": True}
    told = notice("escalate", code="signal_flood", args={"beds": float(beds)}, members=members, **about)
    return msgspec.structs.replace(told, **{"places": [f"Bed | {name}" for name in members[:MOST_PLACES]], **changes})


def test_a_flood_says_which_beds_to_who_may_know_and_how_many_to_others():
    contact = Contact(name="a", email="a@b.example", identity=True)

    said = describe(flood(3), "hospital", identity=True)
    assert said["text"] == "3 beds fell silent together: Bed | w1, Bed | w2, Bed | w3"
    assert said["beds"] == {"count": 3, "labels": ["Bed | w1", "Bed | w2", "Bed | w3"]}
    mail = write_mail(flood(3), contact, "edgeward@b.example", "hospital").get_content()
    assert "Beds: Bed | w1, Bed | w2, Bed | w3." in mail

    quiet = describe(flood(3), "hospital", identity=False)
    assert quiet["beds"] == {"count": 3}
    assert "w1" not in json.dumps(quiet)
    mail = write_mail(flood(3), contact.model_copy(update={"identity": False}), "edgeward@b.example", "hospital")
    assert "Beds: 3." in mail.get_content()
    assert "w1" not in mail.as_string()


def test_a_flood_s_beds_reach_alarm_managers_and_records():
    data = build_alarm_message(flood(3), PARTIES)
    assert fields(data, "NTE") == [["NTE", "1", "", r"Beds: Bed \F\ w1, Bed \F\ w2, Bed \F\ w3"]]
    assert fields(data, "OBX")[0][5].endswith(r"together: Bed \F\ w1, Bed \F\ w2, Bed \F\ w3")
    read = parse_message(data.decode(), validation_level=VALIDATION_LEVEL.TOLERANT, find_groups=False)
    assert [segment.name for segment in read.children][4:7] == ["OBX", "NTE", "OBX"]
    bundle = json.loads(build_alarm_bundle(flood(3), "hospital", Addresses("https://emr.example/fhir")))
    validate(bundle)
    assert bundle["entry"][0]["resource"]["valueString"].endswith("; beds: Bed | w1, Bed | w2, Bed | w3")
    assert fields(build_alarm_message(notice(), PARTIES), "NTE") == []


def test_the_list_of_a_great_flood_is_bounded():
    listed = beds(flood(5000))
    assert listed.startswith("Bed | w1, Bed | w2, ")
    assert listed.endswith("Bed | w32 and 4968 more")
    original = fields(build_alarm_message(flood(5000), PARTIES), "OBX")[0][5].split("^")[8]
    assert len(original.replace("\\F\\", "|")) <= 199
    assert re.search(r" and \d+ more$", original)
    assert beds(flood(3, places=[])) == "w1, w2, w3", "a notice of the version before names no places"


def off_the_scale() -> Notice:
    args = {"parameter": "glucose", "value": 600.0, "limit": 250.0, "unit": "mg/dL", "bound": "above"}
    told = notice(code="parameter_high", priority=AlarmPriority.MEDIUM, args=args)
    return msgspec.structs.replace(
        told, vitals=[VitalState(parameter="glucose", value=600.0, unit="mg/dL", bound="above")]
    )


def test_a_value_off_the_scale_of_its_device_keeps_its_sign_on_every_way_out():
    told = off_the_scale()

    assert words(told.alarm) == "Glucose > 600 mg/dL: above 250"
    assert reading(told.vitals[0]) == "Glucose >600 mg/dL"
    assert describe(told, "hospital", identity=True)["values"]["glucose"]["bound"] == "above"
    bundle = json.loads(build_alarm_bundle(told, "hospital", Addresses("https://emr.example/fhir", "ours")))
    validate(bundle)
    observation = bundle["entry"][0]["resource"]
    quantities = [one["valueQuantity"] for one in observation["component"] if "valueQuantity" in one]
    assert [(one["comparator"], one["value"]) for one in quantities] == [(">", 600.0)]
    data = build_alarm_message(told, PARTIES)
    source = fields(data, "OBX")[1]
    assert (source[2], source[5], source[6].split("^")[0], source[7]) == ("SN", ">^600", "mg/dL", "<250")
