"""A multipart body is taken apart the same way however it is cut, and a hostile one costs nothing."""

from __future__ import annotations

import email.parser
import email.policy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeward.gateway.multipart import (
    MultipartError,
    PartBegin,
    PartData,
    PartEnd,
    Splitter,
    body_end,
    media_type,
    part_head,
)

B = "b0undary"


def split(body: bytes, cuts: list[int] | None = None, boundary: str = B) -> list[tuple[dict[str, str], bytes]]:
    splitter, parts, open_part = Splitter(boundary), list[tuple[dict[str, str], bytearray]](), False
    at = 0
    for cut in [*sorted(cuts or []), len(body)]:
        for event in splitter.feed(body[at:cut]):
            if isinstance(event, PartBegin):
                assert not open_part
                parts.append((event.headers, bytearray()))
                open_part = True
            elif isinstance(event, PartData):
                assert open_part
                parts[-1][1].extend(event.data)
            else:
                assert isinstance(event, PartEnd)
                open_part = False
        at = max(at, cut)
    splitter.finish()
    assert not open_part
    return [(headers, bytes(data)) for headers, data in parts]


CONTENTS = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from([b"", b"\r\n", b"--", b"\r\n--b0undar", b"\r\n--B0undary", b"\r\n\r\n", b"--b0undary"]),
    ),
    max_size=4,
)


@given(
    contents=CONTENTS, cuts=st.lists(st.integers(0, 1500), max_size=30), preamble=st.sampled_from([b"", b"hello\r\n"])
)
@settings(deadline=None, max_examples=300)
def test_what_is_written_is_read_back_however_it_is_cut(
    contents: list[bytes], cuts: list[int], preamble: bytes
) -> None:
    body = preamble + b"".join(part_head(B, {"Content-Type": "application/dicom"}) + c for c in contents) + body_end(B)

    cuts = [min(cut, len(body)) for cut in cuts]

    assert split(body, cuts) == [({"content-type": "application/dicom"}, c) for c in contents]


def test_a_body_of_the_standard_library_is_understood() -> None:
    body = f"--{B}\r\nContent-Type: application/dicom\r\nX-More: 1\r\n\r\nabc\r\n--{B}\r\n\r\nno headers\r\n--{B}--"

    assert split(body.encode()) == [({"content-type": "application/dicom", "x-more": "1"}, b"abc"), ({}, b"no headers")]


def test_a_folded_header_is_one_header() -> None:
    body = f"--{B}\r\nContent-Type: application/dicom;\r\n\ttransfer-syntax=*\r\nA: b\r\n\r\nabc\r\n--{B}--"

    assert split(body.encode()) == [({"content-type": "application/dicom; transfer-syntax=*", "a": "b"}, b"abc")]


@given(
    contents=st.lists(
        st.binary(max_size=100).filter(lambda b: b"\n" not in b and b"\r" not in b), min_size=1, max_size=3
    )
)
@settings(deadline=None, max_examples=100)
def test_an_independent_parser_reads_what_we_write(contents: list[bytes]) -> None:
    body = b"".join(part_head(B, {"Content-Type": "application/dicom"}) + c for c in contents) + body_end(B)
    head = f'Content-Type: multipart/related; boundary="{B}"\r\n\r\n'.encode()

    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)

    assert [part.get_payload(decode=True) for part in message.iter_parts()] == contents


@given(body=st.binary(max_size=2000), cuts=st.lists(st.integers(0, 2000), max_size=10))
@settings(deadline=None, max_examples=300)
def test_garbage_is_refused_and_never_crashes(body: bytes, cuts: list[int]) -> None:
    with pytest.raises(MultipartError):
        split(body, [min(cut, len(body)) for cut in cuts])


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_truncated_body_is_told_as_such(cut: int) -> None:
    body = part_head(B, {"A": "b"}) + b"content" + body_end(B).rstrip(b"\r\n")

    with pytest.raises(MultipartError):
        split(body[: len(body) - cut] if cut < len(body) else b"")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"x" * 100_000, "first boundary"),
        (f"--{B}\r\nX: ".encode() + b"y" * 100_000, "too long"),
        (f"--{B}\r\n".encode() + b"X: y\r\n" * 10_000, "too long"),
        (f"--{B} and more\r\n\r\n".encode(), "follows a boundary"),
        (f"--{B}".encode() + b" " * 100_000, "follows a boundary"),
        (f"--{B}\r\nno colon\r\n\r\n".encode(), "cannot be read"),
        (f"--{B}\r\n: no name\r\n\r\n".encode(), "cannot be read"),
    ],
)
def test_hostile_bodies_are_refused_early(body: bytes, reason: str) -> None:
    splitter = Splitter(B)

    with pytest.raises(MultipartError, match=reason):
        for at in range(0, len(body), 1000):
            list(splitter.feed(body[at : at + 1000]))


def test_a_part_of_any_size_is_never_held() -> None:
    splitter = Splitter(B)
    list(splitter.feed(part_head(B, {})))
    most = 0
    for _ in range(200):
        for event in splitter.feed(b"\r\n--b0undar" * 1000):
            assert isinstance(event, PartData)
        most = max(most, len(splitter._held))

    assert most < 64


@pytest.mark.parametrize("boundary", ["", " ", "x" * 201, "a\r\nb", 'a"b', "ends with space "])
def test_a_boundary_that_is_none_is_refused(boundary: str) -> None:
    with pytest.raises(MultipartError):
        Splitter(boundary)


def test_media_types_are_read_with_their_parameters() -> None:
    kind = media_type('Multipart/Related; TYPE="application/dicom";boundary="a; b"; transfer-syntax=*;q=0.5')

    assert kind.name == "multipart/related"
    assert kind.parameters == {"type": "application/dicom", "boundary": "a; b", "transfer-syntax": "*", "q": "0.5"}
    assert media_type("application/dicom;").parameters == {}
    # Some clients do not quote the type.
    assert media_type("multipart/related; type=application/dicom; boundary=x").parameters["type"] == "application/dicom"


@pytest.mark.parametrize("text", ["", "nonsense", "a/b; =", "a/b; x", "a b/c", 'a/b; x="open', "; a=b"])
def test_what_is_no_media_type_is_refused(text: str) -> None:
    with pytest.raises(MultipartError):
        media_type(text)
