"""Objects that come as files, in pieces of any size."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom import dcmread
from tests.gateway.door import Door, frame, open_door

from edgeward.gateway.dataset import NotUnderstood
from edgeward.gateway.part10 import FileArrival
from edgeward.gateway.reception import Reception
from edgeward.privacy.keys import SiteKey


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with open_door(tmp_path / "home") as door:
        yield door


@pytest.fixture
def reception(door: Door) -> Reception:
    return Reception(door.vault, door.journal, SiteKey.load(door.site.home), door.site.settings.budgets)


def content(**options: object) -> bytes:
    buffer = io.BytesIO()
    frame(**options).save_as(buffer, enforce_file_format=True)  # type: ignore[arg-type]
    return buffer.getvalue()


def take(reception: Reception, data: bytes, step: int) -> tuple[object, bool]:
    arrival = FileArrival(reception, device="web1")
    for at in range(0, len(data), step):
        arrival.write(data[at : at + step])
    return arrival.finish(1)


@pytest.mark.parametrize("step", [1, 100, 131, 4096, 1 << 20])
def test_a_file_in_pieces_is_the_object_in_it(door: Door, reception: Reception, step: int) -> None:
    data = content(rows=20, columns=20)

    item, is_new = take(reception, data, step)

    assert is_new
    assert item.device == "web1"  # type: ignore[attr-defined]
    assert dcmread(io.BytesIO(door.stored(item))) == dcmread(io.BytesIO(data))  # type: ignore[arg-type]


def test_a_file_and_a_c_store_of_the_same_object_are_one_item(door: Door, reception: Reception) -> None:
    from tests.gateway.door import AE_TITLE, ask

    image = frame(uid="1.2.3.4")
    association = ask(door, door.site.enrol("us1", "ultrasound", AE_TITLE))
    assert association.send_c_store(image).Status == 0x0000
    association.release()
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)

    _, is_new = take(reception, buffer.getvalue(), 1000)

    assert not is_new
    assert door.vault_files() == 1


@pytest.mark.parametrize("damage", ["no prefix", "empty", "preamble only", "no uid", "endless", "truncated"])
@pytest.mark.parametrize("step", [50, 1 << 20])
def test_a_file_that_is_none_is_refused_and_leaves_nothing(
    door: Door, reception: Reception, damage: str, step: int
) -> None:
    data = content(rows=20, columns=20)
    broken = {
        "no prefix": data[132:],
        "empty": b"",
        "preamble only": data[:132],
        "no uid": data[:132] + data[132:].replace(b"\x02\0\x03\0", b"\x02\0\x04\0", 1),
        "endless": data[:132] + b"\x02\0\x01\0OB\0\0\xff\xff\xff\x7f" + bytes(200_000),
        "truncated": data[:-100],
    }[damage]

    with pytest.raises(NotUnderstood):
        take(reception, broken, step)

    assert door.vault_files() == 0
    assert sum(door.journal.counts().values()) == 0
