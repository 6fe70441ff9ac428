"""The workshop: each object once, in the order of sending, the report before and beside the pixels."""

from __future__ import annotations

import asyncio
import io
import threading
from pathlib import Path

import pydicom
import pytest
from tests.support.imaging import as_file, breast_image, finding_for, not_analysed, request_for, verdict

from edgeward.clinic.imaging import results
from edgeward.clinic.imaging.results import CannotBuild, Prepared, Workshop
from edgeward.clinic.imaging.sink import DICOM_KINDS, Result
from edgeward.messages import DeliverRequest
from edgeward.privacy.keys import SiteKey


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = SiteKey(bytes(32))

    def request(self, item_id: str = "item-1", *, analysed: bool = True, **attributes) -> DeliverRequest:
        image = breast_image(rows=60, columns=80, **attributes)
        finding = finding_for(image, item_id) if analysed else not_analysed(image, item_id)
        return request_for(self.folder / "vault", self.key, as_file(image), finding)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


@pytest.fixture
def workshop():
    shop = Workshop()
    yield shop
    shop.close()


async def everything(prepared: Prepared) -> dict[str, Result | None]:
    return {kind: await prepared.part(kind) for kind in DICOM_KINDS}


async def test_all_kinds_are_made_and_encoded(bench, workshop):
    made = await everything(workshop.prepare(bench.request()))

    assert {kind for kind, result in made.items() if result is not None} == set(DICOM_KINDS)
    for kind, result in made.items():
        assert result is not None
        assert result.kind == kind
        read = pydicom.dcmread(io.BytesIO(result.data), force=True)
        assert read.SOPInstanceUID == result.uid == result.dataset.file_meta.MediaStorageSOPInstanceUID


async def test_an_item_is_made_once_however_often_it_is_asked_for(bench, workshop):
    request = bench.request()

    first = workshop.prepare(request)

    assert workshop.prepare(request) is first
    assert (await everything(first))["sr"] is (await everything(workshop.prepare(request)))["sr"]


async def test_a_later_revision_is_a_report_and_nothing_else(bench, workshop):
    request = bench.request()
    revised = DeliverRequest(
        **{f: getattr(request, f) for f in request.__struct_fields__}
        | {"revision": 1, "verdicts": [verdict("confirm")]}
    )

    first, second = await everything(workshop.prepare(request)), await everything(workshop.prepare(revised))

    assert [kind for kind, result in second.items() if result is not None] == ["sr"]
    assert second["sr"].uid != first["sr"].uid
    assert second["sr"].dataset.VerificationFlag == "VERIFIED"
    workshop.forget(request.item_id)
    assert workshop.prepare(revised) is not second


async def test_what_was_not_analysed_is_a_report_and_nothing_else(bench, workshop):
    made = await everything(workshop.prepare(bench.request(analysed=False)))

    assert [kind for kind, result in made.items() if result is not None] == ["sr"]


async def test_only_what_some_destination_takes_is_made(bench):
    workshop = Workshop(("sr", "gsps"))

    prepared = workshop.prepare(bench.request())
    made = await everything(prepared)
    workshop.close()

    assert [kind for kind, result in made.items() if result is not None] == ["sr", "gsps"]
    assert [stage.name for stage in prepared.stages] == ["read_header", "make_sr", "make_gsps"]


async def test_a_report_waits_for_no_pixels_not_even_those_of_the_item_before(bench, workshop, monkeypatch):
    decoding, release = threading.Event(), threading.Event()
    decode = results.decode_frame

    def stuck(*arguments):
        decoding.set()
        assert release.wait(30)
        return decode(*arguments)

    monkeypatch.setattr(results, "decode_frame", stuck)
    first = workshop.prepare(bench.request("item-1"))
    await asyncio.to_thread(decoding.wait, 30)

    second = workshop.prepare(bench.request("item-2"))
    made = [await second.part(kind) for kind in ("sr", "seg", "gsps")]

    assert all(made)
    assert not first.parts["capture"].done()
    release.set()
    assert await first.part("capture") is not None
    assert await second.part("capture") is not None


async def test_an_undecodable_frame_costs_the_capture_and_nothing_else(bench, workshop):
    request = bench.request(PixelData=b"\0" * 100)

    prepared = workshop.prepare(request)
    made = await everything(prepared)

    assert [kind for kind, result in made.items() if result is None] == ["capture"]
    assert prepared.notes == ["no capture: the frame cannot be decoded"]


async def test_look_up_tables_that_cannot_be_repeated_cost_the_presentation_state_alone(bench, workshop):
    broken = pydicom.Dataset()
    broken.add_new("LUTDescriptor", "US", [256, 0, 16])
    broken.add_new("LUTData", "US", [1, 2, 3])

    prepared = workshop.prepare(bench.request(VOILUTSequence=[broken]))

    assert await prepared.part("gsps") is None
    assert await prepared.part("sr") is not None
    assert "no presentation state: the image does not allow it" in prepared.notes


async def test_an_object_that_is_gone_can_be_asked_for_again(bench, workshop):
    request = bench.request()
    path = Path(request.object.path)
    kept = path.read_bytes()
    path.unlink()

    prepared = workshop.prepare(request)
    for kind in DICOM_KINDS:
        with pytest.raises(CannotBuild, match="image is not to be had"):
            await prepared.part(kind)
    path.write_bytes(kept)

    assert await workshop.prepare(request).part("capture") is not None


async def test_an_unforeseen_error_quotes_nothing_of_the_image(bench, workshop, monkeypatch, caplog):
    def burst(*_):
        raise KeyError("Muster^Erika")

    monkeypatch.setattr(results, "build_report", burst)

    with pytest.raises(CannotBuild) as caught:
        await workshop.prepare(bench.request()).part("sr")

    assert "Muster" not in str(caught.value) + caplog.text
    assert "KeyError" in str(caught.value)


async def test_only_a_few_items_are_kept(bench, workshop):
    for n in range(10):
        await everything(workshop.prepare(bench.request(f"item-{n}")))

    assert not workshop.has_room()
    workshop.forget("item-9")
    assert workshop.has_room()


async def test_warm_up_makes_every_kind(workshop):
    await workshop.warm_up()


async def test_the_report_can_be_read_as_text(bench, workshop):
    text = await workshop.text(bench.request())

    assert "Probability of cancer: 85.0 %" in text
    assert "Muster" not in text
