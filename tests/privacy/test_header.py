"""What the header of a data set says, whatever it says."""

from __future__ import annotations

import msgspec
import pytest

from edgeward.privacy.header import WANTED, header_of
from edgeward.privacy.keys import SiteKey
from edgeward.privacy.sealing import patient_key

CHARACTER_SET = 0x00080005


@pytest.mark.parametrize(
    ("character_set", "text"),
    [
        (b"unicode_escape", b"\\ud800\xe9"),  # no name of DICOM's, but one of Python's
        (b"raw_unicode_escape", b"\\ud800\xe9"),
        (b"utf-7", b"A\x1b+2AA-"),
        (b"utf_16_le", b"\x00\xd8\xe9\xe9"),
        (b"ISO_IR 192", b"\xed\xa0\x80"),
        (b"punycode", b"-\xff"),
        (b"zlib", b"\xff\xfe"),
        (b"a\x00b", b"\xff"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of character sets that there are not
def test_whatever_a_text_is_encoded_as_it_can_be_written_down(character_set: bytes, text: bytes) -> None:
    header = header_of({**dict.fromkeys(WANTED, text), CHARACTER_SET: character_set}, little=True)

    assert (
        msgspec.msgpack.decode(msgspec.msgpack.encode(header.identity), type=type(header.identity)) == header.identity
    )
    patient_key(SiteKey(bytes(32)), header.identity)
