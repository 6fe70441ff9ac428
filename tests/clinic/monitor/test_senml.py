"""SenML packs: resolved as RFC 8428 says, or refused as a whole."""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from fractions import Fraction

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.clinic.monitor import cbor
from edgeward.clinic.monitor.senml import MAX_BYTES, MAX_RECORDS, SenmlError, decode

S = 10**9
NOW = 1_760_000_000 * S
LABELS = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "s": 5, "t": 6, "ut": 7, "vd": 8}  # fmt: skip


def as_json(pack: object) -> bytes:
    return json.dumps(pack).encode()


def as_cbor(pack: list[dict[str, object]]) -> bytes:
    return cbor2.dumps([{LABELS.get(label, label): value for label, value in record.items()} for record in pack])


def read(data: bytes) -> dict[str, tuple[float | None, int]]:
    numerics = decode(data, "bed-1", NOW).numerics
    return {} if numerics is None else {vital.parameter: (vital.value, vital.at_ns) for vital in numerics.vitals}


PACK = [
    {"bn": "urn:dev:mac:0024befffe804ff1:", "bt": 1.76e9, "bu": "/min", "n": "heart_rate", "v": 71},
    {"n": "spo2", "u": "%", "v": 97.5},
    {"n": "spo2/quality", "u": "/", "v": 0.9},
    {"n": "temperature", "u": "K", "t": -60, "v": 310.15},
    {"n": "MDC_PRESS_CUFF_SYS", "u": "kPa", "v": 16, "t": -120.5},
    {"n": "9279-1", "v": 14},
    {"n": "battery", "u": "%EL", "v": 80},
    {"n": "sequence", "v": 17},
    {"n": "consciousness", "u": "", "vs": "A"},
    {"n": "supplemental_oxygen", "u": "1", "vb": True},
]


@pytest.mark.parametrize("encode", [as_json, as_cbor])
def test_a_pack_is_resolved(encode):
    pack = decode(encode(PACK), "bed-1", NOW)
    numerics = pack.numerics
    assert (numerics.source_id, numerics.device_id, numerics.protocol) == ("bed-1", "bed-1", "senml")
    assert (numerics.sequence, numerics.clock, pack.unknown) == (17, "device", 1)
    found = {vital.parameter: vital for vital in numerics.vitals}
    assert {name: vital.value for name, vital in found.items()} == {
        "heart_rate": 71, "spo2": 97.5, "temperature": 37.0, "nibp_systolic": pytest.approx(120.0102, abs=1e-4),
        "respiratory_rate": 14, "consciousness": 0, "supplemental_oxygen": 1,
    }  # fmt: skip
    assert found["spo2"].quality == 0.9
    assert found["heart_rate"].quality is None
    assert found["nibp_systolic"].at_ns == NOW - round(120.5 * S)
    assert found["nibp_systolic"].code == "MDC_PRESS_CUFF_SYS"


def test_base_values_hold_from_their_record_on():
    pack = [
        {"n": "spo2", "u": "%", "v": 90, "t": -3},
        {"bv": 30, "bt": -10, "bu": "/min"},
        {"n": "heart_rate", "v": 40.5},
        {"bv": 0, "bt": -1, "n": "respiratory_rate", "v": 15},
    ]
    assert read(as_json(pack)) == {
        "spo2": (90, NOW - 3 * S), "heart_rate": (70.5, NOW - 10 * S), "respiratory_rate": (15, NOW - S),
    }  # fmt: skip


def test_without_a_time_it_is_now_and_by_our_clock():
    numerics = decode(as_json([{"n": "spo2", "u": "%", "v": 97}]), "bed-1", NOW).numerics
    assert (numerics.vitals[0].at_ns, numerics.clock) == (NOW, "site")


@pytest.mark.parametrize("value", [-999, 8388607, 32767, 0, 101])
def test_a_sentinel_is_no_value(value):
    assert read(as_json([{"n": "spo2", "u": "%", "v": value}])) == {"spo2": (None, NOW)}


@pytest.mark.parametrize(
    "record", [{"v": math.nan}, {"v": math.inf}, {"v": None}, {"vs": "---"}, {"vs": ""}, {"vd": b"x"}]
)
def test_no_value_may_be_said_in_other_ways(record):
    assert read(as_cbor([{"n": "spo2", "u": "%", **record}])) == {"spo2": (None, NOW)}


@pytest.mark.parametrize(("name", "yes"), [("spo2", None), ("heart_rate", None), ("supplemental_oxygen", 1.0)])
def test_yes_is_a_value_only_of_what_can_be_answered_so(name, yes):
    assert read(as_json([{"n": name, "vb": True}])) == {name: (yes, NOW)}


def test_a_code_without_a_unit_does_not_say_by_what_glucose_is_measured():
    assert read(as_json([{"n": "15074-8", "v": 12}])) == {"glucose": (None, NOW)}
    assert read(as_json([{"n": "glucose", "v": 120}])) == {"glucose": (120.0, NOW)}


def test_decimal_fractions_are_numbers():
    assert read(as_cbor([{"n": "temperature", "u": "Cel", "v": Decimal("36.6")}])) == {"temperature": (36.6, NOW)}


def test_of_two_measurements_of_a_time_the_better_is_taken():
    pack = [{"n": "MDC_TEMP_AXILLA", "v": 35.9}, {"n": "MDC_TEMP_CORE", "v": 37.4}, {"n": "MDC_TEMP_TYMP", "v": -999}]
    assert read(as_json(pack)) == {"temperature": (37.4, NOW)}
    assert read(as_json(pack[:1] + pack[2:])) == {"temperature": (35.9, NOW)}


def test_a_history_keeps_each_of_its_times():
    pack = [{"n": "glucose", "u": "mmol/L", "v": 5 + index / 10, "t": -300 * index} for index in range(12)]
    vitals = decode(as_json(pack), "bed-1", NOW).numerics.vitals
    assert [vital.at_ns for vital in vitals] == [NOW - 300 * index * S for index in range(12)]


@pytest.mark.parametrize("name", ["spo2", "MDC_PULS_OXIM_SAT_O2", "59408-5"])
def test_a_name_after_a_devices_urn_may_follow_an_underscore(name):  # RFC 9039
    assert read(as_json([{"bn": "urn:dev:mac:0024befffe804ff1_", "n": name, "v": 97}]))["spo2"] == (97, NOW)


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + as_json(PACK), b"\xd9\xd9\xf7" + as_cbor(PACK)])
def test_what_says_of_itself_what_it_is_is_read(data):
    assert read(data) == read(as_json(PACK))


def test_a_pack_about_something_else_is_no_numerics():
    pack = decode(as_json([{"n": "battery", "u": "%EL", "v": 80}]), "bed-1", NOW)
    assert (pack.numerics, pack.unknown) == (None, 1)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "neither"),
        (b"{}", "neither"),
        (b"EWW1....", "neither"),
        (b"[", "not JSON"),
        (b"[]", "no array of records"),
        (b"[1]", "no map"),
        (b"[" * 10_000, "not JSON"),
        (b'[{"n":"spo2","v":97}', "not JSON"),
        (b'[{"n":"spo2","v":NaN}]', "not JSON"),
        (b'[{"n":"\xff","v":97}]', "not JSON"),
        (as_json([{"n": "spo2", "v": "97"}]), "v is not a number"),
        (as_json([{"n": "spo2", "v": True}]), "v is not a number"),
        (as_json([{"n": "supplemental_oxygen", "vb": "no"}]), "vb is not true or false"),
        (as_json([{"n": 3, "v": 97}]), "n is not text"),
        (as_json([{"v": 97}]), "name"),
        (as_json([{"n": "spo2 left", "v": 97}]), "name"),
        (as_json([{"n": "-spo2", "v": 97}]), "name"),
        (as_json([{"n": "x" * 300, "v": 97}]), "name"),
        (as_json([{"n": "spo2", "v": 97, "vs": "97"}]), "two values"),
        (as_json([{"n": "spo2"}]), "no value"),
        (as_json([{"n": "spo2", "v": 97, "magic_": 1}]), "must be understood"),
        (as_json([{"bver": 11, "n": "spo2", "v": 97}]), "version"),
        (as_json([{"bver": 5, "n": "spo2", "v": 97}, {"bver": 6, "n": "spo2", "v": 97}]), "two versions"),
        (as_json([{"n": "spo2", "v": 97, "t": 1e300}]), "time"),
        (as_json([{"n": "spo2", "v": 97, "t": 7200}]), "future"),
        (as_json([{"n": "spo2", "v": 97, "t": 1.76e9}, {"n": "spo2", "v": 97}]), "mixed"),
        (as_json([{"n": "spo2", "v": 97}] * (MAX_RECORDS + 1)), "more than"),
        (b"[" + b" " * MAX_BYTES + b"]", "larger"),
        (cbor2.dumps([{0: "spo2", "n": "spo2", 2: 97}]), "twice"),
        (cbor2.dumps([{0: "spo2", 2: cbor2.CBORTag(35, "(a+)+$")}]), "tag"),
        (cbor2.dumps([{0: "spo2", 2: Fraction(1, 3)}]), "tag"),
        (cbor2.dumps([{0: "spo2", 2: cbor2.CBORTag(4, [999_999_999, 1])}]), "out of range"),
        (cbor2.dumps([{0: "spo2", 2: cbor2.CBORTag(4, [1, 2, 3])}]), "decimal fraction"),
        (cbor2.dumps([{0: "spo2", 2: 2**70}]), "tag"),
        (cbor2.dumps([{0: "spo2", 2: [[[[[[1]]]]]]}]), "deeply"),
        (cbor2.dumps([{0: "spo2", 2: 97}]) + b"x", "follows"),
        (bytes.fromhex("9bffffffffffffffff"), "truncated"),
        (bytes.fromhex("81a1017fffff"), "follows"),
        (bytes.fromhex("81a1ff"), "break"),
        (bytes.fromhex("81a2000100"), "truncated"),
        (bytes.fromhex("81a100f8ff"), "simple value"),
        (bytes.fromhex("81a1f401"), "neither text nor a number"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_says_why(data, why):
    with pytest.raises(SenmlError, match=why) as refused:
        decode(data, "bed-1", NOW)
    assert "spo2" not in str(refused.value), "the text quotes nothing"


@pytest.mark.parametrize("encode", [as_json, as_cbor])
def test_no_truncation_of_a_pack_is_taken(encode):
    data = encode(PACK)
    for length in range(len(data)):
        with pytest.raises(SenmlError):
            decode(data[:length], "bed-1", NOW)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_packs_are_refused_or_hold_plausible_values(seed):
    rng = random.Random(seed)
    originals = [as_json(PACK), as_cbor(PACK)]
    for _ in range(1500):
        data = bytearray(rng.choice(originals))
        for _ in range(rng.randrange(1, 6)):
            place = rng.randrange(len(data))
            change = rng.randrange(3)
            if change == 0:
                data[place] = rng.randrange(256)
            elif change == 1:
                del data[place]
            else:
                data[place:place] = rng.randbytes(rng.randrange(1, 4))
        try:
            pack = decode(bytes(data), "bed-1", NOW)
        except SenmlError:
            continue
        for vital in pack.numerics.vitals if pack.numerics else ():
            assert vital.value is None or math.isfinite(vital.value)


items = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(-9, 99), inner, max_size=4),
    max_leaves=12,
)


def depth(item: object) -> int:
    inner = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
    return max((1 + depth(one) for one in inner), default=0)


@given(items)
def test_cbor_is_read_as_another_reader_reads_it(item):
    data = cbor2.dumps(item)
    if depth(item) <= 4:
        assert cbor.decode(data) == item
    else:
        with pytest.raises(cbor.CborError, match="deeply"):
            cbor.decode(data)


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reader(data):
    try:
        found = cbor.decode(data)
    except cbor.CborError:
        return
    try:
        other = cbor2.loads(data)
    except (cbor2.CBORDecodeError, RecursionError):
        return
    if other is not cbor2.undefined and not isinstance(other, (Decimal, float)):  # to us undefined is none
        assert type(found) is type(other)


def test_strings_in_chunks_and_open_arrays_are_read():
    data = bytes.fromhex("9f 7f61616162ff 5f41014102ff bf616101ff ff")
    assert cbor.decode(data) == cbor2.loads(data) == ["ab", b"\x01\x02", {"a": 1}]
