"""ORU^R01 as monitors send it: what is measured, where and when, and what is no value."""

from __future__ import annotations

import datetime as dt
import random

import hl7apy.parser
import pytest
from tests.gateway.pcd01 import AT, MDC, msh, obr, obx, oru, pid, pv1

from edgeward.bedside import Numerics
from edgeward.gateway.handover import source_id
from edgeward.gateway.pcd01 import Misread, read
from edgeward.hl7 import charset, er7
from edgeward.measurement import complaints
from edgeward.parameters import PARAMETERS

S = 10**9
NOW = 1_772_366_400 * S  # 2026-03-01 12:00:00 UTC


def numerics(text: str | bytes, device: str = "gw") -> list[Numerics]:
    message, codec = charset.decode(text.encode() if isinstance(text, str) else text)
    return read(er7.parse(message, codec), device, NOW, lambda number: f"<{len(number)}>").numerics


def values(text: str | bytes) -> dict[str, float | None]:
    found = numerics(text)
    assert len(found) <= 1
    return {vital.parameter: vital.value for one in found for vital in one.vitals}


def vital(text: str):
    (one,) = numerics(text)
    (found,) = one.vitals
    return found


def test_a_monitor_s_message_is_read():
    text = oru(
        obx("spo2", 97), obx("pulse", "94"), obx("hr", 93), obx("rr", 14.5), obx("temp", 36.6),
        obx("sys", 147, at="20260301110000+0000", method="^APERIODIC"), obx("dia", 90, at="20260301110000+0000"),
    )  # fmt: skip
    hl7apy.parser.parse_message(text, find_groups=True, force_validation=False)  # another reader can, too
    (one,) = numerics(text)
    assert (one.source_id, one.device_id, one.protocol, one.label) == ("gw-ICU-1-2", "gw", "pcd01", "ICU 1 2")
    assert (one.sent_ns, one.received_ns) == (NOW, NOW)
    found = {vital.parameter: (vital.value, (vital.at_ns - NOW) // S) for vital in one.vitals}
    assert found == {
        "spo2": (97, 0), "pulse_rate": (94, 0), "heart_rate": (93, 0), "respiratory_rate": (14.5, 0),
        "temperature": (36.6, 0), "nibp_systolic": (147, -3600), "nibp_diastolic": (90, -3600),
    }  # fmt: skip


def test_a_message_that_hl7apy_wrote_is_read():
    from hl7apy.core import Message

    message = Message("ORU_R01", version="2.5")
    message.msh.msh_9 = "ORU^R01^ORU_R01"
    message.msh.msh_10 = "77"
    message.msh.msh_7 = "20260301120000+0000"
    message.pid.pid_3 = "4711^^^HOSP^MR"
    text = message.to_er7().rstrip("\r") + "\r" + "\r".join([pv1(), obr(), obx("spo2", 95)]) + "\r"
    assert values(text) == {"spo2": 95}


# ---------------------------------------- what is no value


@pytest.mark.parametrize("value", ["-999", "-99.9", "8388607", "32767", "2147483647", "+INF", "-INF", "NaN", "---", "", '""', "Other", "-?-", "1e400", "١٠٠"])  # fmt: skip
@pytest.mark.parametrize("what", list(MDC))
@pytest.mark.parametrize("kind", ["NM", "ST"])
def test_what_only_looks_like_a_value_is_none(value, what, kind):
    found = vital(oru(obx(what, value, kind=kind)))
    assert found.value is None
    assert found.why


@pytest.mark.parametrize(
    ("status", "why"), [("X", "not_obtained"), ("D", "deleted"), ("W", "wrong"), ("N", "not_asked"), ("I", "pending")]
)
def test_a_result_that_there_is_not_has_no_value(status, why):
    assert (vital(oru(obx("spo2", 97, status=status))).value, vital(oru(obx("spo2", 97, status=status))).why) == (
        None,
        why,
    )


@pytest.mark.parametrize("status", ["F", "R", "P", "C", "U", "S", ""])
def test_any_other_status_is_a_measurement(status):
    assert vital(oru(obx("spo2", 97, status=status))).value == 97


@pytest.mark.parametrize(
    ("flags", "value", "validity"),
    [
        ("DEMO", 97, "demo"),
        ("TEST", 97, "test"),
        ("QUES", 97, "questionable"),
        ("H~PM~SP", 97, "valid"),
        ("INV", None, "invalid"),
        ("L~INV", None, "invalid"),
        ("NAV", None, "invalid"),
        ("CAL", None, "invalid"),
        ("A~PM~SA", 97, "valid"),
        (">", 97, "questionable"),
    ],
)
def test_flags_of_the_measurement(flags, value, validity):
    found = vital(oru(obx("spo2", 97, flags=flags)))
    assert (found.value, found.validity) == (value, validity)


@pytest.mark.parametrize(("processing", "validity"), [("P", "valid"), ("T", "test"), ("D", "test"), ("", "valid")])
def test_a_training_message_is_no_patient(processing, validity):
    found = vital(oru(obx("spo2", 97)).replace("|P|2.6", f"|{processing}|2.6"))
    assert found.validity == validity


@pytest.mark.parametrize(
    ("value", "expected", "why"),
    [
        ("^97", 97, ""),
        ("=^97", 97, ""),
        (">^97", None, "comparator"),
        ("<^97", None, "comparator"),
        ("^1^:^2", None, "not_a_number"),
    ],
)
def test_structured_numbers(value, expected, why):
    found = vital(oru(obx("spo2", value, kind="SN")))
    assert (found.value, found.why) == (expected, why)


@pytest.mark.parametrize(
    ("segment", "value", "bound"),
    [
        ({"value": "<^20", "kind": "SN"}, 20, "below"),
        ({"value": ">^600", "kind": "SN"}, 600, "above"),
        ({"value": "LO", "kind": "ST"}, 20, "below"),
        ({"value": "HI", "kind": "ST"}, 600, "above"),
        ({"value": "<20", "kind": "ST"}, 20, "below"),
        ({"value": "", "kind": "NM", "flags": "<"}, 20, "below"),
        ({"value": "20", "kind": "NM", "flags": "<"}, 20, "below"),
        ({"value": "93", "kind": "NM"}, 93, ""),
    ],
)
def test_a_glucose_off_the_meters_scale_is_told(segment, value, bound):
    found = vital(oru(obx("glucose", segment.pop("value"), **segment)))
    assert (found.value, found.bound) == (value, bound)


# ---------------------------------------- codes and units


@pytest.mark.parametrize(
    ("code", "parameter"),
    [
        ("150456^MDC_PULS_OXIM_SAT_O2^MDC", "spo2"),
        ("150456^^MDC", "spo2"),
        ("^MDC_PULS_OXIM_SAT_O2^MDC", "spo2"),
        ("MDC_PULS_OXIM_SAT_O2", "spo2"),
        ("MDC_PULS_OXIM_SAT_O2^^MDC", "spo2"),
        ("0002-4bb8^SpO2^MDIL", "spo2"),  # Philips: the same number in hexadecimal
        ("150456", "spo2"),
        ("59408-5^SpO2^LN", "spo2"),
        ("59408-5", "spo2"),
        ("SPO2^Saturation^L^150456^MDC_PULS_OXIM_SAT_O2^MDC", "spo2"),
        ("SPO2^Saturation^99VENDOR^59408-5^SpO2^LN", "spo2"),
        ("8867-4^Heart rate^LN^149530^MDC_PULS_OXIM_PULS_RATE^MDC", "pulse_rate"),  # the more special one
        ("tt-0005-07^MDC_PULS_OXIM_SAT_O2^99VENDOR", "spo2"),
        ("150020^MDC_PRESS_CUFF_SYS^MDC", "nibp_systolic"),  # the number of a neighbour; the name is the vendor's word
    ],
)
def test_codes_by_number_name_loinc_and_alternate(code, parameter):
    (one,) = numerics(oru(obx(parameter, 97, code=code, unit="")))
    assert one.vitals[0].parameter == parameter


@pytest.mark.parametrize(
    "code",
    [
        "150456^SPO2^99VENDOR",
        "108^VENDOR_PAUSES^99VENDOR",
        "150388^MDC_TEMP_SKIN^MDC",
        "8480^x^LN",
        "8867-4^Heart rate^LN^151562^MDC_RESP_RATE^MDC",  # two parameters: neither
        "^^",
        "\\X00\\^\\E\\",
    ],
)
def test_a_code_that_is_not_ours_is_counted_and_not_guessed(code):
    message = er7.parse(oru(obx("x", 97, code=code), obx("hr", 70)))
    reading = read(message, "gw", NOW, str)
    assert [vital.parameter for vital in reading.numerics[0].vitals] == ["heart_rate"]
    assert reading.counts["hl7_codes_unknown"] == 1


@pytest.mark.parametrize(
    ("what", "value", "unit", "expected"),
    [
        ("sys", 16, "265987^MDC_DIM_KILO_PASCAL^MDC", 120.01),
        ("sys", 16, "kPa^kilopascal^UCUM", 120.01),
        ("sys", 120, "mm[Hg]^millimetre of mercury^UCUM", 120),
        ("temp", 98.6, "266560^MDC_DIM_FAHR^MDC", 37.0),
        ("temp", 98.6, "[degF]^degree Fahrenheit^UCUM", 37.0),
        ("temp", 36.6, "Cel", 36.6),
        ("glucose", 5.5, "266866^MDC_DIM_MILLI_MOLE_PER_L^MDC", 99.09),
        ("glucose", 5.5, "mmol/L", 99.09),
        ("spo2", 97, "%", 97),
        ("spo2", 97, "^MDC_DIM_PERCENT^MDC", 97),
        ("spo2", 97, "prozent^Prozent^L^%^percent^UCUM", 97),
        ("hr", 70, "", 70),
        ("hr", 70, "MDC_DIM_BEAT_PER_MIN", 70),
        ("hr", 70, "265987^MDC_DIM_KILO_PASCAL^MDC", None),
        ("spo2", 97, "furlong", None),
        ("sys", 16, "266016^kPa^MDC", None),  # two units: neither
        ("temp", 98.6, "268192^MDC_DIM_DEGC^MDC^[degF]^degree Fahrenheit^UCUM", None),
    ],
)
def test_units_by_mdc_and_ucum_are_converted_and_a_foreign_one_is_no_value(what, value, unit, expected):
    found = vital(oru(obx(what, value, unit=unit)))
    assert found.value == (None if expected is None else pytest.approx(expected, abs=0.01))
    assert found.why == ("unit" if expected is None else "")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("CWE", "LA17108-4^Voice^LN"), ("ST", "Voice"), ("CWE", "V"), ("NM", "2"), ("CWE", "300202002^^SCT")],
)
def test_consciousness_is_read(kind, value):
    assert vital(oru(obx("c", value, kind=kind, code="67775-7^Responsiveness^LN"))).value == 2


def test_waveforms_that_nobody_reads_are_counted_and_no_error():
    gas = obx("wave", "^".join(["12"] * 500), kind="NA", code="152464^MDC_CONC_AWAY_O2^MDC")
    multiplexed = obx("wave", "1^2^3", kind="MA", code="131329^MDC_ECG_ELEC_POTL_I^MDC")
    reading = read(er7.parse(oru(gas, multiplexed, obx("hr", 70))), "gw", NOW, str)
    assert (reading.counts["hl7_waveforms_unknown"], reading.counts["hl7_waveforms_passed_over"]) == (1, 1)
    assert (reading.waves, reading.unusable) == ({}, None)
    assert len(reading.numerics[0].vitals) == 1


def test_devices_and_channels_of_the_containment_tree_are_no_measurements():
    tree = [
        obx("x", "", kind="", code=code, status="X")
        for code in ("69965^MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS^MDC", "70666^MDC_DEV_ECG_RESP_VMD^MDC")
    ]
    reading = read(er7.parse(oru(*tree, obx("hr", 70))), "gw", NOW, str)
    assert reading.counts["hl7_codes_unknown"] == 0
    assert len(reading.numerics[0].vitals) == 1


def test_of_several_channels_the_best_one_counts():
    skin_first = oru(
        obx("temp", 18.3, sub="1.2.1.1"), obx("temp", 36.4, code="188424^MDC_TEMP_ORAL^MDC", sub="1.2.5.1"),
        obx("temp", -999, code="150368^MDC_TEMP_CORE^MDC", sub="1.2.6.1"),
    )  # fmt: skip
    assert values(skin_first) == {"temperature": 36.4}
    assert values(oru(obx("spo2", 97, sub="1.3.1.1"), obx("spo2", 91, sub="1.3.2.1"))) == {"spo2": 97}


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ([obx("hr", 55, status="C")], 55),
        ([obx("hr", 55, status="C", sub="")], 55),
        ([obx("hr", 55, status="C"), obx("hr", 57, status="C")], 57),
        ([obx("hr", 55, status="C"), obx("hr", 72, status="F")], 55),
        ([obx("hr", 55, status="F")], 72),  # nobody says that it corrects anything
        ([obx("hr", 55, status="C", sub="1.8.1.1")], 72),  # another channel's
        ([obx("hr", 55, status="C", flags="INV")], None),
        ([obx("hr", 72, status="D")], None),
        ([obx("hr", "", status="W")], None),
    ],
)
def test_a_correction_within_a_message_stands_for_what_it_corrects(then, expected):
    assert values(oru(obx("hr", 72, status="F"), *then)) == {"heart_rate": expected}


def test_what_is_corrected_and_was_not_the_best_leaves_the_best():
    core, oral = obx("temp", 36.4, code="150368^MDC_TEMP_CORE^MDC"), "188424^MDC_TEMP_ORAL^MDC"
    text = oru(obx("temp", 37.9, code=oral, status="F"), core, obx("temp", 38.2, code=oral, status="C"))
    assert values(text) == values(oru(core, obx("temp", 38.2, code=oral)))


@pytest.mark.parametrize("kind", ["FT", "TS", "ED", "RP", "DT"])
def test_a_type_that_carries_no_number_is_told_as_no_value(kind):
    reading = read(er7.parse(oru(obx("hr", 72, kind=kind), obx("spo2", 97))), "gw", NOW, str)
    found = {vital.parameter: (vital.value, vital.why) for vital in reading.numerics[0].vitals}
    assert found == {"heart_rate": (None, "not_a_number"), "spo2": (97, "")}
    assert complaints(reading.numerics[0].vitals) == ["heart_rate came as something that is no number"]
    assert (reading.counts["hl7_types_unknown"], reading.counts["hl7_no_value"]) == (1, 1)
    assert values(oru(obx("hr", 72, kind=kind), obx("hr", 70))) == {"heart_rate": 70}


# ---------------------------------------- times


@pytest.mark.parametrize(
    ("at", "expected_s"),
    [
        ("20260301115930+0000", -30),
        ("20260301125930.500+0100", -30 + 0.5),
        ("20260301172930.0000+0530", -30),
        ("202603011159+0000", -60),
        ("20260301115930", -30),  # no zone: the header's
        ("20260301", 0),  # a day is no time of a measurement: the request's
        ("2026030111", -1e-9),  # that hour is over: at its end at the latest
        ("20260228", -12 * 3600 - 1e-9),  # as is yesterday,
        ("202602", -12 * 3600 - 1e-9),  # last month
        ("2025", -(31 + 28) * 86400 - 12 * 3600 - 1e-9),  # and last year
        ("2026-03-01T11:59:30Z", -30),  # not HL7, and can mean nothing else
        ("2026-03-01T12:59+01:00", -60),
        ("yesterday", 0),
        ("20261399999999", 0),
        ("99991231235959", 0),
        ("", 0),
    ],
)
def test_times_of_measurements(at, expected_s):
    assert (vital(oru(obx("spo2", 97, at=at))).at_ns - NOW) / S == expected_s


def test_without_any_zone_the_site_s_own_is_meant():
    text = oru(pid(), pv1(), "OBR|1", obx("spo2", 97, at="20260301120000"), at="20260301120000")
    local = dt.datetime(2026, 3, 1, 12).astimezone()
    assert vital(text).at_ns == int(local.timestamp()) * S


def test_without_any_time_there_is_none():
    text = oru(pid(), pv1(), "OBR|1", obx("spo2", 97), at="")
    (one,) = numerics(text)
    assert (one.sent_ns, one.vitals[0].at_ns) == (0, 0)


def test_without_a_time_of_sending_nothing_is_learnt_of_a_clock():
    (one,) = numerics(oru(pid(), pv1(), "OBR|1", obx("spo2", 97, at="20250301120000+0000"), at=""))
    assert (one.clock, one.sent_ns, one.vitals[0].at_ns) == ("site", 0, NOW - 365 * 86400 * S)


# ---------------------------------------- places and patients


def test_many_beds_in_one_message_are_many_sources():
    text = oru(
        pid("1"), pv1("ICU^1^1"), obr(), obx("hr", 61), obr("20260301115900+0000"), obx("spo2", 91),
        pid("2"), pv1("ICU^1^2"), obr(), obx("hr", 62),
        pid(""), pv1("ICU^1^3"), obr(), obx("hr", 63),
    )  # fmt: skip
    found = numerics(text)
    assert [(one.source_id, one.vitals[0].value, one.patient != "") for one in found] == [
        ("gw-ICU-1-1", 61, True), ("gw-ICU-1-2", 62, True), ("gw-ICU-1-3", 63, False),
    ]  # fmt: skip
    assert [(vital.at_ns - NOW) // S for vital in found[0].vitals] == [0, -60]
    assert len({one.patient for one in found}) == 2 or found[0].patient == found[1].patient  # digests of this test


def test_without_a_place_the_device_is_the_source():
    assert numerics(oru(pid(), "PV1||I|^^^", obr(), obx("hr", 70)))[0].source_id == "gw"
    assert numerics("\r".join([msh(), obr(), obx("hr", 70)]))[0].source_id == "gw"


def test_a_place_that_stands_before_its_patient_is_his():
    (found,) = numerics("\r".join([msh(), pv1(), pid(), obr(), obx("hr", 70)]))
    assert (found.source_id, bool(found.patient)) == ("gw-ICU-1-2", True)
    two = [pv1("ICU^1^2"), pid("1"), obr(), obx("hr", 61), pv1("ICU^1^3"), pid("2"), obr(), obx("hr", 62)]
    found = numerics("\r".join([msh(), *two]))
    assert [(one.source_id, one.vitals[0].value) for one in found] == [("gw-ICU-1-2", 61), ("gw-ICU-1-3", 62)]


def test_a_patient_s_place_is_not_the_next_one_s():
    with pytest.raises(Misread, match="several patients"):
        numerics("\r".join([msh(), pid("1"), pv1(), pid("2"), obr(), obx("hr", 61)]))


def test_a_place_that_comes_after_its_observations_is_not_guessed_at():
    with pytest.raises(Misread) as refused:
        numerics("\r".join([msh(), pid(), obr(), obx("hr", 70), pv1()]))
    assert refused.value.where == "PV1"


@pytest.mark.parametrize(
    "segments",
    [
        (pid("1"), obr(), obx("hr", 61), pid("2"), obr(), obx("hr", 62)),
        (pid("1"), pv1(), obr(), obx("hr", 61), pid("22"), pv1(), obr(), obx("hr", 62)),
    ],
)
def test_patients_that_cannot_be_told_apart_by_place_are_refused(segments):
    with pytest.raises(Misread) as refused:
        numerics(oru(*segments))
    assert refused.value.where == "PV1-3"


def test_the_identifier_that_goes_further_is_a_digest_of_the_record_number():
    seen: list[str] = []

    def pseudonym(number: str) -> str:
        seen.append(number)
        return "digest"

    text = oru("PID|||V9^^^HOSP^VN~4711^^^HOSP^MR||Muster^Erika", pv1(), obr(), obx("hr", 70))
    (one,) = read(er7.parse(text), "gw", NOW, pseudonym).numerics
    assert (one.patient, seen) == ("digest", ["HOSP\x004711"])
    assert "4711" not in repr(one)
    assert "Muster" not in repr(one)


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("ICU^1^2", "gw-ICU-1-2"),
        ("ICU^^5", "gw-ICU-_-5"),
        ("^^&24", "gw-_-_-24"),
        ("ICU^1^2^^^^7^3", "gw-ICU-1-2-_-7-3"),
    ],
)
def test_the_id_of_a_place_is_readable_where_it_can_be(place, expected):
    assert numerics(oru(pid(), pv1(place), obr(), obx("hr", 70)))[0].source_id == expected


def test_no_two_places_of_a_device_share_an_id():
    rng = random.Random(3)
    words = [
        "",
        "ICU",
        "icu",
        "I-C-U",
        "I C U",
        "I_C_U",
        "内科",
        "内 科",
        "Ä",
        "A",
        "1",
        "_",
        "-",
        "x" * 70,
        "x" * 71,
        "a.b",
        "a*b",
        ">",
    ]
    places = {tuple(rng.choice(words) for _ in range(rng.randrange(1, 5))) for _ in range(3000)}
    stripped = {tuple(place[: max((i + 1 for i, part in enumerate(place) if part), default=0)]) for place in places}
    ids = {source_id("gw", *place) for place in stripped}
    assert len(ids) == len(stripped)
    assert all(
        len(one) <= 64 and set(one) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
        for one in ids
    )


@pytest.mark.parametrize(
    ("declared", "codec"),
    [("UNICODE UTF-8", "utf-8"), ("GB 18030-2000", "gb18030"), ("8859/1", "latin-1"), ("", "utf-8")],
)
def test_places_in_any_character_set(declared, codec):
    place = "Zürich" if codec == "latin-1" else "内科病房"
    text = oru(pid(), pv1(f"{place}^1^2"), obr(), obx("hr", 70), charset=declared)
    (one,) = numerics(text.encode(codec))
    assert one.label == f"{place} 1 2"
    assert one.source_id.isascii()


# ---------------------------------------- wrong, hostile, large


@pytest.mark.parametrize("segments", [(), (pid(), pv1()), (pid(), pv1(), obr())])
def test_a_message_without_observations_is_refused(segments):
    with pytest.raises(Misread, match="OBX"):
        numerics("\r".join([msh(), *segments]))


@pytest.mark.parametrize("version", ["2.3", "2.4", "2.5.1", "2.6", ""])
def test_versions_are_no_matter(version):
    assert values(oru(obx("hr", 70), version=version)) == {"heart_rate": 70}


def test_other_delimiters_are_read():
    text = oru(obx("spo2", 97, flags="H~PM")).replace("^", "$").replace("~", "!").replace("MSH|$!", "MSH|$!", 1)
    assert values(text) == {"spo2": 97}


def test_damaged_messages_give_plausible_values_or_a_clear_error():
    original = oru(obx("spo2", 97), obx("sys", 120, at=AT), obx("temp", 98.6, unit="[degF]")).encode()
    rng = random.Random(5)
    for _ in range(1500):
        data = bytearray(original)
        for _ in range(rng.randrange(1, 8)):
            place = rng.randrange(len(data))
            if rng.random() < 0.5:
                data[place] = rng.choice(b"|^~\\&\r\n\x00\xff0-9A")
            else:
                del data[place : place + rng.randrange(1, 9)]
        try:
            found = numerics(bytes(data))
        except (Misread, er7.NotHl7):
            continue
        for one in found:
            for vital in one.vitals:
                low, high = PARAMETERS[vital.parameter].plausible
                assert vital.value is None or low <= vital.value <= high


def test_a_large_hostile_message_is_read_in_bounded_steps():
    wide = obx("spo2", "^" * 100_000) + "|" * 50_000
    text = oru(*[obx("spo2", 97, at=AT)] * 5000, wide, obx("hr", "9" * 100_000), obx("hr", 70, unit="^" * 50_000))
    (one,) = numerics(text)
    assert {vital.parameter for vital in one.vitals} == {"spo2", "heart_rate"}


def test_more_places_than_a_hospital_has_are_refused():
    segments = [part for bed in range(501) for part in (pid(str(bed)), pv1(f"ICU^1^{bed}"), obr(), obx("hr", 60))]
    with pytest.raises(Misread, match="500 places"):
        numerics(oru(*segments))
