"""Whatever bytes a parser at a door is given: its declared error or a result, in bounded memory, never anything else.

Real files, mutated where it hurts (lengths, tags, VRs), and free invention by Hypothesis.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import itertools
import random
import struct
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_files
from pydicom.filereader import read_file_meta_info
from tests.gateway.door import open_door
from tests.support import attack_dicom, attack_pdu
from tests.support.site import new_home

from edgeward.config import Budgets
from edgeward.gateway import hl7_orders, mllp, negotiation
from edgeward.gateway.admission import Peer
from edgeward.gateway.association import Association
from edgeward.gateway.command import Command, pdus, response
from edgeward.gateway.dataset import Examination, NotUnderstood
from edgeward.gateway.multipart import MultipartError, PartData, Splitter, media_type
from edgeward.gateway.order_entry import OrderError
from edgeward.gateway.part10 import FileArrival
from edgeward.gateway.reception import Reception
from edgeward.gateway.wire import Gone, TooSlow, Wire
from edgeward.hl7 import charset, er7
from edgeward.hl7.acknowledgement import unreadable
from edgeward.hl7.frames import Deframer, TooLarge, frame
from edgeward.privacy.journal import Journal
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.reading import VaultFile
from edgeward.privacy.vault import FileVault, VaultDamaged, VaultError

pytestmark = [pytest.mark.fault, pytest.mark.timeout(300)]
quick = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
SYNTAXES = [
    attack_pdu.IMPLICIT,
    attack_pdu.EXPLICIT,
    attack_pdu.BIG,
    attack_pdu.DEFLATED,
    attack_pdu.JPEG,
    "1.2.840.113619.5.2",
    "1.2.3.4",
]


@cache
def real() -> list[tuple[str, str, str, bytes]]:
    """Real files: SOP class, SOP instance, transfer syntax, and the first 200 kB of the data set."""
    found = []
    for name in sorted(get_testdata_files("*.dcm")):
        try:
            meta = read_file_meta_info(name)
            one = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID), str(meta.TransferSyntaxUID)
            data = Path(name).read_bytes()[132 + 12 + int(meta.FileMetaInformationGroupLength) :][:200_000]
        except Exception:  # files of pydicom that are broken on purpose, or that hold no meta information
            continue
        if data:
            found.append((*one, data))
    assert len(found) > 50
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Lie about a length, a VR or a tag where one may stand; cut, repeat, flip."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = 2 * rng.randrange(max(1, min(len(changed), 4000) // 2 - 4))
        what = rng.choice(("length", "short", "flip", "cut", "repeat", "vr", "insert"))
        if what == "length" and len(changed) > at + 4:
            struct.pack_into("<L", changed, at, rng.choice(attack_dicom.LENGTHS))
        elif what == "short" and len(changed) > at + 2:
            struct.pack_into("<H", changed, at, rng.choice(attack_dicom.LENGTHS) & 0xFFFF)
        elif what == "flip" and changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        elif what == "cut":
            del changed[rng.randrange(len(changed) + 1) :]
        elif what == "repeat":
            changed[at:at] = changed[at : at + rng.randrange(100)]
        elif what == "vr":
            changed[at : at + 2] = rng.choice((b"SQ", b"UN", b"OB", b"UI", b"PN", b"ZZ", b"\0\0"))
        else:
            changed[at:at] = rng.choice(
                (attack_dicom._nested(rng.choice((3, 200))), b"\xff" * 8, b"\xfe\xff\x0d\xe0\0\0\0\0")
            )
    return bytes(changed)


def examine(data: bytes, sop_class: str, instance: str, syntax: str, pieces: tuple[int, ...]) -> object:
    try:
        examination = Examination(sop_class_uid=sop_class, sop_instance_uid=instance, transfer_syntax_uid=syntax)
        view, lengths = memoryview(data), itertools.cycle(pieces)
        while view:
            length = next(lengths)
            examination.feed(view[:length])
            view = view[length:]
        return examination.finish()
    except NotUnderstood as error:
        return error.status


@given(st.randoms(use_true_random=False), st.booleans())
@settings(quick, max_examples=150)
def test_a_data_set_is_examined_or_refused_however_it_is_cut(rng: random.Random, other_syntax: bool) -> None:
    sop_class, instance, syntax, data = rng.choice(real())
    changed = mutated(data, rng)
    if other_syntax:
        syntax = rng.choice(SYNTAXES)

    whole = examine(changed, sop_class, instance, syntax, (1 << 20,))

    assert examine(changed, sop_class, instance, syntax, (rng.randrange(1, 50), rng.randrange(1, 5000))) == whole


@given(st.binary(max_size=3000), st.sampled_from(SYNTAXES))
@quick
def test_any_bytes_are_no_data_set(data: bytes, syntax: str) -> None:
    examine(data, "1.2.840.10008.5.1.4.1.1.6.1", "1.2.3", syntax, (1000,))


@pytest.mark.parametrize("uid", ["1.2\n", "", "1.2 ", "../x", "1" * 65, "1.2\0", "１.２"])
def test_what_is_no_uid_is_not_taken_for_one(uid: str) -> None:
    assert examine(b"\x08\0\x05\0CS\0\0", "1.2", uid, attack_pdu.EXPLICIT, (8,)) == 0xC000


@pytest.mark.parametrize("syntax", [attack_pdu.EXPLICIT, attack_pdu.IMPLICIT, attack_pdu.BIG])
def test_a_claim_of_gigabytes_costs_no_memory(syntax: str) -> None:
    order = ">" if syntax == attack_pdu.BIG else "<"
    claims = [
        struct.pack(f"{order}HH2sHL", 0x0008, 0x0005, b"UN", 0, 0xFFFFFFFE), struct.pack(f"{order}HHL", 0x0008, 0x0005, 0xFFFFFFFE),
        struct.pack(f"{order}HH2sHL", 0x0010, 0x0010, b"UT", 0, 0x7FFFFFFF), attack_dicom._nested(100_000),
        struct.pack(f"{order}HH2sH", 0x0008, 0x0005, b"CS", 0) * 30_000, attack_dicom._bomb(20),
    ]  # fmt: skip
    bomb = attack_dicom._bomb(64)
    for claim in claims:
        tracemalloc.start()
        examine(claim + bytes(100_000), "1.2", "1.2.3", syntax, (65_536,))
        examine(bomb, "1.2", "1.2.3", attack_pdu.DEFLATED, (65_536,))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 << 20, claim[:12]


# ---------------------------------------------------------------- DIMSE and PDUs


@given(st.binary(max_size=400), st.randoms(use_true_random=False))
@settings(quick, max_examples=300)
def test_a_command_is_read_or_refused_and_can_be_answered(data: bytes, rng: random.Random) -> None:
    good = attack_pdu.command(1, sop_class=attack_pdu.US, instance="1.2.3", data=True).encode()
    for encoded in (data, mutated(good, rng)):
        try:
            command = Command(encoded)
        except ValueError:
            continue
        answer = response(command, 0x0110, comment="x" * 100)
        assert Command(answer).status == 0x0110
        for most in (0, 1, 6, 7, 8, 20, 0xFFFFFFFF):
            answers = attack_pdu.Answers()
            for pdu in pdus(1, answer, b"", most):
                answers.take(pdu)
            assert answers.statuses


@given(st.randoms(use_true_random=False), st.binary(max_size=300))
@settings(quick, max_examples=300)
def test_an_association_request_is_read_and_answered_or_refused(rng: random.Random, data: bytes) -> None:
    author = attack_dicom.Author(1, 1, {"certificates": ["a"], "titles": {"a": "A"}, "legacy": [["A", "x"]]})
    author.rng = rng
    good = rng.choice(
        (
            author.request,
            lambda: next(s[1] for s in author.contexts().steps if s[0] == "send"),
            lambda: next(s[1] for s in author.user_items().steps if s[0] == "send"),
        )
    )()
    for pdu in (good, mutated(good, rng), good[:74] + data):
        try:
            request = negotiation.Request(pdu)
        except negotiation.Unacceptable:
            continue
        answer, accepted = request.accept([attack_pdu.WORKLIST], 131_072)
        attack_pdu.Answers().take(answer)
        assert set(accepted) <= set(range(1, 256, 2))


class Script(Wire):
    """A connection on which given bytes arrive, and then nothing any more."""

    def __init__(self, data: bytes) -> None:
        self._stream, self.sent, self.interrupted, self.closed = io.BytesIO(data), bytearray(), False, False

    def read(self, into: memoryview, timeout_s: float) -> None:
        got = self._stream.readinto(into)
        if got < len(into):
            raise Gone if timeout_s < 50 else TooSlow(got)

    def send(self, data: bytes | bytearray | memoryview, timeout_s: float) -> None:
        self.sent += data

    def readable(self) -> bool:
        return False

    def interrupt(self) -> None:
        self.interrupted = True

    def linger(self, seconds: float) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def test_whatever_arrives_an_association_ends_in_order(tmp_path: Path, campaign: bool) -> None:
    """Framing, negotiation and messages without a network: every byte of the dialogues of the campaign."""
    legacy = [{"name": "old", "ae_title": "OLD1", "address": "127.0.0.1", "transport": "plain"}]
    told = {"certificates": ["a"], "titles": {"a": "OLD1"}, "legacy": [["OLD1", "x"]]}
    with open_door(tmp_path / "home", dicom={"legacy": legacy, "max_object_mb": 1}) as door:
        stored = 0
        for number in range(5000 if campaign else 300):
            case = attack_dicom.case(77, number, told)
            if case.kind.startswith(("TLS", "slow", "flood")):
                continue
            wire, grown = Script(b"".join(step[1] for step in case.steps if step[0] == "send")), []
            association = Association(
                wire, Peer(door="plain", address="127.0.0.1"), door.dicom, lambda grown=grown: grown.append(1)
            )

            association.run()  # raises nothing

            answers = attack_pdu.Answers()
            answers.take(bytes(wire.sent))
            answers.ended()
            stored += len(answers.stored)
            assert wire.closed
            assert association.over.is_set()
            assert grown
        assert stored > 20
        assert door.dicom.associations == 0
        assert not list(door.site.home.vault.rglob("*.part"))
        assert not [entry for entry in door.reasons() if "could not be processed" in entry]


# ---------------------------------------------------------------- files and bodies


@pytest.fixture(scope="module")
def reception(tmp_path_factory: pytest.TempPathFactory) -> Reception:
    home, _ = new_home(tmp_path_factory.mktemp("reception") / "home")
    key = SiteKey.load(home)
    return Reception(FileVault(home.vault, key), Journal(home.db("journal"), key), key, Budgets())


def unfinished(reception: Reception) -> list[Path]:
    """Files of the vault that are not a whole object."""
    stored = reception.vault.put(b"x")
    reception.vault.erase(stored.object_id)
    return [path for path in stored.path.parent.parent.rglob("*") if path.is_file() and path.suffix != ".ew"]


def taken(reception: Reception, data: bytes, size: int) -> object:
    arrival = FileArrival(reception, device="d")
    try:
        for at in range(0, len(data), size):
            arrival.write(data[at : at + size])
        return arrival.finish(1)[0].sop_instance_uid
    except NotUnderstood as error:
        return error.status
    finally:
        arrival.abort()


def file_of(data: bytes, *uids: bytes) -> bytes:
    values = zip((2, 3, 0x10), uids, strict=True)
    group = b"".join(struct.pack("<HH2sH", 2, number, b"UI", len(uid)) + uid for number, uid in values)
    return bytes(128) + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(group)) + group + data


@given(st.randoms(use_true_random=False))
@settings(quick, max_examples=200)
def test_a_file_is_taken_or_refused_and_leaves_nothing(reception: Reception, rng: random.Random) -> None:
    sop_class, instance, syntax, data = rng.choice(real())
    uids = [uid.encode() for uid in (sop_class, instance, syntax)]
    if rng.random() < 0.5:
        uids[rng.randrange(3)] = rng.choice(attack_dicom.UIDS)
    whole = file_of(data[:20_000], *uids)

    taken(
        reception,
        mutated(whole[128:], rng).join((bytes(128), b"")) if rng.random() < 0.7 else whole,
        rng.choice((1 << 20, 1000, 77)),
    )

    assert not unfinished(reception)


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize("uid", [b"1.2.\xff", b"1.2\n", b"../../x", b"1" * 66, b"\0"])
def test_a_file_whose_uids_are_none_is_refused(reception: Reception, place: int, uid: bytes) -> None:
    uids = [attack_pdu.US.encode(), attack_pdu.PLACE.encode(), attack_pdu.EXPLICIT.encode()]
    uids[place] = uid

    assert taken(reception, file_of(attack_pdu.data_set(3, attack_pdu.PLACE, 8), *uids), 1 << 20) in (0xC000, 0xA900)
    assert not unfinished(reception)


def parts(body: bytes, size: int) -> list[object]:
    splitter, events = Splitter("b"), list[object]()
    try:
        for at in range(0, len(body), size):
            for event in splitter.feed(body[at : at + size]):
                last = events[-1] if events else None
                if isinstance(event, PartData) and isinstance(last, PartData):
                    events[-1] = PartData(last.data + event.data)
                else:
                    events.append(event)
        splitter.finish()
    except MultipartError:
        events.append("refused")
    return events


fragments = st.lists(st.sampled_from([b"--b", b"\r\n", b"--", b"x", b"\r\n--b\r\n", b"\r\n--b--", b"a: 1\r\n", b":\r\n", b"-", b"\r", b"\n"]) | st.binary(max_size=20), max_size=40).map(b"".join)  # fmt: skip


@given(fragments, st.integers(1, 9))
@settings(quick, max_examples=300)
def test_a_body_comes_apart_the_same_however_it_is_cut(body: bytes, size: int) -> None:
    assert parts(body, size) == parts(body, 1 << 20)


@given(st.text(max_size=100) | fragments.map(lambda data: data.decode("latin-1")))
@quick
def test_any_media_type_is_read_or_refused(text: str) -> None:
    for one in (text, "multipart/related;" + text, 'a/b; c="' + text):
        try:
            media_type(one)
        except MultipartError:
            continue


@given(st.integers(0, 10**6), st.integers(1, 255), st.binary(min_size=1, max_size=300))
@quick
def test_an_altered_vault_object_never_opens_as_something_else(
    reception: Reception, at: int, flip: int, data: bytes
) -> None:
    stored = reception.vault.put(data)
    key = reception.vault.reference(stored.object_id, stored.wrapped_key, stored.size).data_key
    changed = bytearray(stored.path.read_bytes())
    changed[at % len(changed)] ^= flip
    for content in (bytes(changed), bytes(changed[: at % len(changed)]), bytes(changed) + data):
        stored.path.write_bytes(content)
        try:
            with VaultFile(stored.path, key) as file:
                file.read()
        except (VaultDamaged, VaultError):
            continue
        pytest.fail("it opened")
    reception.vault.erase(stored.object_id)


# ---------------------------------------------------------------- HL7

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HEAD = "MSH|^~\\&|A|B|C|D|20260101||ORM^O01|M1|P|2.5\rPID|1||4711^^^H^MR||X^Y\r"
ORDER = HEAD + "ORC|NW|P1|||||^^^20260101||20260101\rOBR|1|P1||A^B|||||||||||||||A1||||||US\r"


@given(
    st.lists(st.sampled_from([b"\x0b", b"\x1c\r", b"\x1c", b"\r", b"x" * 30]) | st.binary(max_size=60), max_size=30),
    st.integers(1, 7),
)
@settings(quick, max_examples=300)
def test_frames_are_found_the_same_however_the_stream_is_cut(pieces: list[bytes], size: int) -> None:
    def found(step: int) -> list[object]:
        deframer, messages = Deframer(200), list[object]()
        try:
            for at in range(0, len(stream), step):
                messages += deframer.feed(stream[at : at + step])
        except TooLarge:
            messages.append("too large")
        return messages

    stream = b"".join(pieces)
    # What is larger than allowed may be noticed sooner or later: compare what came before.
    one, all_ = found(size), found(1 << 20)
    short = min(len(one), len(all_))
    assert [m for m in one[:short] if m != "too large"] == [m for m in all_[:short] if m != "too large"]
    assert Deframer(200).feed(frame(b"abc")) == [b"abc"]


@given(st.randoms(use_true_random=False), st.text(max_size=60), st.binary(max_size=60))
@settings(quick, max_examples=400)
def test_an_order_message_is_understood_or_refused(rng: random.Random, text: str, data: bytes) -> None:
    message = list(ORDER)
    for _ in range(rng.randrange(6)):
        at = rng.randrange(len(message))
        message[at : at + rng.randrange(3)] = rng.choice(
            (text, "|", "^", "~", "\\", "\r", "&", "\\X41\\", '""', "\0", "9" * 30, "\ufeff")
        )
    encoded = "".join(message).encode(rng.choice(("utf-8", "latin-1", "utf-16")), "replace")
    at = rng.randrange(len(encoded))
    for one in (encoded, encoded[:at] + data + encoded[at:], data):
        mllp._control_id(one)
        try:
            parsed = er7.parse(*charset.decode(one))
            changes = hl7_orders.changes(parsed, "s", 1)
        except (er7.NotHl7, hl7_orders.Misread, OrderError) as error:
            unreadable(str(error), "", NOW).encode()
            continue
        assert changes


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "message",
    [
        "MSH|^~\\&" + ("|" + "a" * 250) * 100 + "\rbad line",
        HEAD.replace("4711^^^H^MR", "~" * 900_000) + "ORC|NW|1\rOBR|1|1||A^B\r",
        HEAD + "ORC|NW|1\r" + "NTE|1||x\r" * 4500 + "OBR|1|1||A^B\r" * 4500,
        HEAD + "ORC|NW|1\rOBR|1|1||A^B\r" + "IPC|1|1\r" * 4500 + "OBX|1|NM|3141-9||1\r" * 4500,
        HEAD.replace("X^Y", "\\X41\\" * 150_000) + "ORC|NW|1\rOBR|1|1||A^B\r",
        HEAD.replace("X^Y", "^" * 500_000) + "ORC|NW|1\rOBR|1|1||A^B\r" * 2000,
        "MSH|^~\\&|" + "\\" * 500_000,
    ],
    ids=["fields apart", "repetitions", "notes and procedures", "steps", "escapes", "orders", "escape characters"],
)  # fmt: skip
def test_no_message_of_a_megabyte_takes_long(message: str) -> None:
    """Each of these once took seconds to years, with all other work of the process waiting; the limit is pytest's."""
    encoded = message.encode()
    assert len(encoded) < 1_100_000
    mllp._control_id(encoded)
    with contextlib.suppress(er7.NotHl7, hl7_orders.Misread):
        hl7_orders.changes(er7.parse(*charset.decode(encoded)), "s", 1)
