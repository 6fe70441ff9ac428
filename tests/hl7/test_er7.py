"""HL7 v2 text is read for what it says, whatever its form; what is not HL7 is told apart without quoting it."""

from __future__ import annotations

import hl7apy.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeward.hl7 import charset, er7, values
from edgeward.hl7.er7 import NotHl7
from edgeward.hl7.frames import Deframer, TooLarge, frame

HEADER = "MSH|^~\\&|HIS|HOSP|EDGEWARD|SITE|20260301120000||ORM^O01|1|P|2.5.1"


def message(*lines: str, end: str = "\r") -> er7.Message:
    return er7.parse(end.join((HEADER, *lines)) + end)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_any_line_end_separates_segments(end):
    found = message("PID|1||4711^^^HOSP^MR||Muster^Erika", "ORC|NW|P1", end=end)

    assert [segment.name for segment in found.segments] == ["MSH", "PID", "ORC"]
    assert (found.code, found.event, found.control_id, found.version) == ("ORM", "O01", "1", "2.5.1")
    assert found.segments[1].text(3, 4) == "HOSP"


def test_fields_are_found_by_repetition_component_and_subcomponent():
    pid = message("PID|1||A^^^X&1.2&ISO~B^^^Y|").segments[1]

    assert pid.repetitions(3) == 2
    assert pid.text(3, 1, 2) == "B"
    assert pid.text(3, 4, 1, 2) == "1.2"
    assert pid.text(3, 9) == pid.text(99) == pid.text(3, 1, 9) == ""


def test_escapes_are_undone_and_an_unknown_one_carries_no_text():
    pid = message(r"PID|1||a\T\b\S\c\R\d\F\e\E\f\X41\g\H\h\.br\i\Zxx\j\k").segments[1]

    assert pid.text(3) == "a&b^c~d|e\\fAgh\nij\\k"


def test_other_delimiters_are_obeyed():
    found = er7.parse("MSH#*!/%#HIS####X##ORM*O01#7#P#2.5\rPID#1##4711***HOSP!4712\r")

    assert (found.code, found.event) == ("ORM", "O01")
    assert found.segments[1].text(3, 1, 2) == "4712"
    assert found.segments[1].text(3, 4) == "HOSP"


def test_the_explicit_null_is_empty_and_can_be_told():
    pid = message('PID|1||4711||""').segments[1]

    assert pid.text(5) == ""
    assert pid.null(5)
    assert not pid.null(3)


@pytest.mark.parametrize(
    "text",
    ["", "PID|1", "MSH", "MSH|", "MSH|^", "MSH|^^^^|x", "MSH^~|", HEADER + "\rgarbage and Erika", HEADER + "\r" + HEADER,
     HEADER + "\r" + "ZZZ|1\r" * 10_001],
)  # fmt: skip
def test_what_is_no_message_is_told_without_quoting_it(text):
    with pytest.raises(NotHl7) as told:
        er7.parse(text)

    assert "Erika" not in str(told.value)


@given(st.text(max_size=300))
def test_no_text_does_anything_but_parse_or_be_refused(text):
    for candidate in (text, HEADER + "\r" + text, "MSH" + text):
        try:
            found = er7.parse(candidate)
        except NotHl7:
            continue
        for segment in found.segments:
            for number in range(12):
                segment.text(number, 2, 2, 2)
                values.person(segment, number)
                values.time(segment.text(number))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=80))
def test_what_is_written_is_read_back(text):
    written = er7.join([HEADER, er7.segment("NTE", "1", "", (text, "b"))])

    assert er7.parse(written).segments[1].text(3) == text.strip()
    assert er7.parse(written).segments[1].text(3, 2) == "b"


def test_another_library_reads_what_is_written():
    written = er7.join([er7.segment("MSH", "A|B", "", "", "", "20260101", "", ("ACK", "O01", "ACK"), "1", "P", "2.5.1"),
                        er7.segment("MSA", "AA", "x^y&z")])  # fmt: skip

    read = hl7apy.parser.parse_message(written)

    assert read.msa.msa_2.value in ("x^y&z", r"x\S\y\T\z")
    assert read.msh.msh_9.msh_9_3.value == "ACK"


# ---------------------------------------- character sets


@pytest.mark.parametrize(
    ("declared", "codec", "name"),
    [
        ("UNICODE UTF-8", "utf-8", "Müller=王"),
        ("8859/1", "latin-1", "Müller"),
        ("8859/5", "iso8859-5", "Иванов"),
        ("8859/7", "iso8859-7", "Γιώργος"),
        ("GB 18030-2000", "gb18030", "王小明"),
        ("", "utf-8", "Müller"),
        ("", "latin-1", "Müller"),
        ("8859/1~UNICODE UTF-8", "latin-1", "Müller"),
        ("KLINGON", "utf-8", "Müller"),
        ("~ISO IR87", "iso2022_jp_2", "Yamada~山田^太郎~やまだ"),
        ("ASCII~ISO IR87", "iso2022_jp_2", "山田^太郎"),
        ("ISO IR6~KS X 1001", "euc_kr", "洪^吉洞~홍^길동"),
        ("~UNICODE UTF-8", "utf-8", "Müller"),
    ],
)
def test_text_is_read_in_the_character_set_that_the_header_names(declared, codec, name):
    encoded = f"MSH|^~\\&|A|B|C|D|2026||ORM^O01|1|P|2.5||||||{declared}\rPID|1||4||{name}\r".encode(codec)

    text, used = charset.decode(encoded)

    assert name in text
    assert charset.encode(name, used) == name.encode(codec)


def test_korean_after_an_escape_sequence_is_read():
    head = b"MSH|^~\\&|A|B|C|D|2026||ORM^O01|1|P|2.5||||||~KS X 1001\rPID|1||4||\x1b$)C"

    text, _ = charset.decode(head + "홍^길동".encode("euc_kr") + b"\r")

    assert text.endswith("||홍^길동\r")


@given(st.binary(max_size=300))
def test_every_byte_string_has_some_reading(data):
    text, codec = charset.decode(data)

    assert isinstance(text, str)
    assert codec


# ---------------------------------------- framing


def test_messages_are_found_however_they_are_cut():
    stream = b"noise" + frame(b"one") + b"\n" + frame(b"two")[:-1] + frame(b"three")

    for step in (1, 2, 3, 7, len(stream)):
        deframer = Deframer(100)
        found = [m for at in range(0, len(stream), step) for m in deframer.feed(stream[at : at + step])]
        assert found == [b"one", b"two", b"three"]
        assert not deframer.inside


def test_a_start_within_a_message_begins_it_anew():
    assert Deframer(100).feed(b"\x0bbroken of\x0bwhole\x1c\r") == [b"whole"]


def test_a_message_without_an_end_is_bounded():
    deframer = Deframer(1000)
    with pytest.raises(TooLarge):
        for _ in range(100):
            deframer.feed(b"\x0b" * 0 + b"x" * 500 if deframer.inside else b"\x0b")


def test_a_stream_that_is_no_mllp_is_told():
    deframer = Deframer(1000)
    with pytest.raises(TooLarge):
        for _ in range(100):
            deframer.feed(b"GET / HTTP/1.1\r\n" * 100)


@given(
    st.lists(st.binary(min_size=0, max_size=40).map(lambda b: b.translate(None, b"\x0b\x1c")), max_size=6),
    st.integers(1, 9),
)
def test_what_is_framed_is_found(messages, step):
    stream, deframer = b"".join(frame(one) for one in messages), Deframer(100)

    found = [m for at in range(0, len(stream), step) for m in deframer.feed(stream[at : at + step])]

    assert found == messages


# ---------------------------------------- values


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20260301123000+0000", "2026-03-01T12:30:00+00:00"),
        ("202603011230-0500", "2026-03-01T12:30:00-05:00"),
        ("20210425230332.872-0400", "2021-04-25T23:03:32.872000-04:00"),
        ("20260301+0100", "2026-03-01T00:00:00+01:00"),
    ],
)
def test_times_are_read_to_the_precision_they_have(text, expected):
    at = values.time(text)

    assert at is not None
    assert at.isoformat() == expected


@pytest.mark.parametrize("text", ["", "yesterday", "20261301", "20260230", "2026030125", "20260301+9999", "0000"])
def test_what_is_no_time_is_none(text):
    assert values.time(text) is None or text == "20260301+9999"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("Muster^Erika^Maria^Jr^Dr", "Muster^Erika^Maria^Dr^Jr"),
        ("Muster&von&Muster^Erika", "Muster^Erika"),
        ("Alias^A^^^^^A~Legal^L^^^^^L", "Legal^L"),
        ("Wang^XiaoMing^^^^^L^A~王^小明^^^^^L^I", "Wang^XiaoMing=王^小明"),
        ("Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("王^小明^^^^^L^I", "=王^小明"),
        ("A\\S\\B^C=D", "A B^C D"),
        ("", ""),
    ],
)
def test_names_become_dicom_names(field, expected):
    pid = message(f"PID|1||4711||{field}").segments[1]

    assert values.person(pid, 5) == expected
