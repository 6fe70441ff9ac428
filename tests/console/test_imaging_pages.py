"""Frames, search, deliveries, refusals and orders over HTTP: who may see and do what, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging

import msgspec
import pytest

from edgeward.messages import Quarantined
from edgeward.privacy.items import CONFLICT, CONFLICT_TO_DO
from tests.console.conftest import Served, csrf
from tests.support.synthetic import make_item

PAGES = ["/orders", "/system/delivery", "/system/quarantine"]


def analysed(served: Served) -> str:
    return next(i.item_id for i in served.hospital.items if i.finding and i.finding.status == "analysed")


async def test_without_a_login_there_are_neither_frames_nor_pages(served: Served) -> None:
    item = analysed(served)
    async with served.client() as client:
        for path in [*PAGES, f"/api/items/{item}/frames/0", f"/api/items/{item}/viewer"]:
            answer = await client.get(path)
            assert answer.status_code in (303, 401), path
            assert "image" not in answer.headers.get("content-type", "")
        for path in ("/images/search", "/orders/search", "/system/delivery/resend"):
            assert (await client.post(path, data={})).status_code == 401, path
    assert served.hospital.frame_queries == []


async def test_an_image_says_when_it_was_made_and_when_it_came(served: Served) -> None:
    admin = await served.logged_in()
    prior, jpeg = make_item(3, "benign")
    prior = msgspec.structs.replace(
        prior, item_id="d" * 32, patient_id="S-3", study_date="20190315", study_time="083005"
    )
    undated, other_jpeg = make_item(3, "benign")
    undated = msgspec.structs.replace(undated, item_id="c" * 32, patient_id="S-3")
    await served.hospital.add(prior, jpeg)
    await served.hospital.add(undated, other_jpeg)

    page = (await admin.get(f"/images/{prior.item_id}")).text
    beside = (await admin.get(f"/images/{undated.item_id}")).text
    tech = await served.person(admin, "tech", "engineer")
    hidden = (await tech.get(f"/images/{prior.item_id}")).text

    assert "Examined 2019-03-15 08:30" in page
    assert "<b>2019-03-15 08:30</b>" in beside
    assert "<b>Received <time" in page, "the one that does not say when it was made"
    assert "Examined" not in beside
    for text in (page, beside, hidden):
        assert "<span>Received <time" in text
    assert "2019" not in hidden
    assert (await admin.get(f"/api/items/{prior.item_id}/viewer")).json()["examined"] == "2019-03-15 08:30"
    assert (await admin.get(f"/api/items/{undated.item_id}/viewer")).json()["examined"] == ""
    for client in (admin, tech):
        await client.aclose()


async def test_another_patients_image_is_not_opened_beside_one(served: Served) -> None:
    admin = await served.logged_in()
    mine, jpeg = make_item(3, "benign", name="Muster^Erika")
    mine = msgspec.structs.replace(mine, item_id="d" * 32, patient_id="UNKNOWN")
    for letter, changes in (("a", {}), ("b", {"patient_sex": "M"}), ("c", {"patient_id": "S-9"})):
        other = msgspec.structs.replace(mine, item_id=letter * 32, **changes)  # type: ignore[arg-type]
        await served.hospital.add(other, jpeg)
    await served.hospital.add(mine, jpeg)

    answers = {
        letter: await admin.get(f"/api/items/{letter * 32}/viewer?beside={beside}")
        for letter, beside in (("a", mine.item_id), ("b", mine.item_id), ("c", mine.item_id), ("d", "e" * 32))
    }

    assert {letter: answer.status_code for letter, answer in answers.items()} == {
        "a": 200,
        "b": 404,
        "c": 404,
        "d": 404,
    }
    told = answers["a"].json()
    assert (told["title"], told["patientId"]) == ("Muster, Erika", "UNKNOWN")
    await admin.aclose()


async def test_a_frame_comes_with_its_facts_and_is_not_stored(served: Served) -> None:
    admin = await served.logged_in()
    item = analysed(served)

    answer = await admin.get(f"/api/items/{item}/frames/0?max=100&form=png")
    windowed = await admin.get(f"/api/items/{item}/frames/0?center=40.5&width=80")

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "private, no-store"
    facts = json.loads(answer.headers["x-picture"])
    assert (facts["width"], facts["frame"]) == (100, 0)
    assert facts["scale"] == pytest.approx(100 / facts["columns"])
    assert windowed.headers["content-type"] == "image/jpeg"
    first, second = served.hospital.frame_queries
    assert (first.max_width, first.media_type, first.window_center) == (100, "image/png", None)
    assert (second.window_center, second.window_width) == (40.5, 80)
    await admin.aclose()


async def test_an_engineer_gets_no_frame_no_facts_and_no_search(served: Served) -> None:
    admin = await served.logged_in()
    tech = await served.person(admin, "tech", "engineer")
    item = analysed(served)
    token = await csrf(tech)

    assert (await tech.get(f"/api/items/{item}/frames/0")).status_code == 403
    assert (await tech.get(f"/api/items/{item}/viewer")).status_code == 403
    assert (await tech.post("/images/search", data={"csrf": token, "text": "Lindqvist"})).status_code == 403
    assert (await tech.post("/orders/search", data={"csrf": token, "text": "Lindqvist"})).status_code == 403
    decided = next(i for i in served.hospital.items if i.verdicts)
    assert decided.verdicts[0].comment not in (await tech.get(f"/images/{decided.item_id}")).text, "free text"
    assert decided.verdicts[0].comment in (await admin.get(f"/images/{decided.item_id}")).text
    image = await tech.get(f"/images/{item}")
    orders = await tech.get("/orders")

    assert served.hospital.frame_queries == []
    assert "data-view" not in image.text
    assert "other images" not in image.text.lower()
    for order in served.hospital.orders:
        for secret in (order.patient_name.split("^")[0], order.patient_id, order.accession_number, order.birth_date):
            assert not secret or secret not in orders.text
    plain = (await tech.get("/api/items")).json()["items"][0]
    assert not {"patient_name", "patient_id", "patient_birth_date", "accession_number", "study_date"} & set(plain)
    for client in (admin, tech):
        await client.aclose()


async def test_odd_frames_are_refused(served: Served) -> None:
    admin = await served.logged_in()
    item = analysed(served)

    for path in (
        "frames/-1", "frames/99999999999", "frames/x", "frames/0?center=5", "frames/0?center=nan&width=1", "frames/0?center=0&width=0",
        "frames/0?center=1e300&width=1", "frames/0?max=-5", "frames/0?max=99999999", "frames/0?form=svg",
    ):  # fmt: skip
        assert (await admin.get(f"/api/items/{item}/{path}")).status_code in (400, 404, 422), path
    assert (await admin.get("/api/items/..%2f..%2fx/frames/0")).status_code == 404
    assert served.hospital.frame_queries == []
    served.hospital.unrendered[item] = "no engine can decode this"
    refused = await admin.get(f"/api/items/{item}/frames/0")

    assert refused.status_code == 404
    assert refused.json() == {"error": "no engine can decode this"}
    await admin.aclose()


async def test_a_gateway_that_is_away_is_told_as_such(served: Served) -> None:
    admin = await served.logged_in()
    item = analysed(served)
    await served.hospital.buses["gateway"].close()

    assert (await admin.get(f"/api/items/{item}/frames/0")).status_code == 503
    assert "gateway does not answer" in (await admin.get("/system/quarantine")).text
    assert "gateway does not answer" in (await admin.get("/orders")).text
    await admin.aclose()


async def test_what_is_searched_for_stands_in_no_address_and_no_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="edgeward")
    admin = await served.logged_in()

    answer = await admin.post("/images/search", data={"csrf": await csrf(admin), "text": "O'Connor", "decided": "no"})
    address = answer.headers["location"]
    page = await admin.get(address)

    assert answer.status_code == 303
    assert "connor" not in address.lower()
    assert "decided=no" in address
    assert "O&#39;Connor" in page.text
    assert page.text.count("<tr data-key") == 1
    assert served.hospital.queries[-1].text == "O'Connor"
    assert "connor" not in " ".join(f"{r.message} {getattr(r, 'fields', '')}" for r in caplog.records).lower()
    cleared = await admin.post("/images/search", data={"csrf": await csrf(admin), "text": "", "decided": "no"})
    assert cleared.headers["location"] == "/images?decided=no"
    await admin.aclose()


async def test_a_forgotten_search_shows_nobody_rather_than_everybody(served: Served) -> None:
    admin = await served.logged_in()
    nurse = await served.person(admin, "nurse", "clinician")
    answer = await admin.post("/images/search", data={"csrf": await csrf(admin), "text": "Wang"})
    address = answer.headers["location"]

    for other, path in ((nurse, address), (admin, "/images?find=" + "0" * 16), (admin, "/orders?find=" + "0" * 16)):
        page = await other.get(path)
        assert "no longer known" in page.text
        assert "data-key" not in page.text
    assert (await nurse.get("/api/items?" + address.partition("?")[2])).status_code == 404
    for client in (admin, nurse):
        await client.aclose()


async def test_filters_reach_the_gateway_and_its_choices_the_page(served: Served) -> None:
    admin = await served.logged_in()

    page = await admin.get("/images?device=us-room-2&modality=US&late=yes&order=priority&since=2020-01-01&zone=UTC")

    query = served.hospital.queries[-1]
    assert (query.device, query.modality, query.late, query.order) == ("us-room-2", "US", True, "priority")
    assert query.since_ns == 1_577_836_800_000_000_000
    assert page.text.count("<tr data-key") == sum(i.late for i in served.hospital.items)
    assert '<option value="us-room-2" selected>' in page.text
    await admin.aclose()


async def test_a_study_is_shown_by_one_of_its_images(served: Served) -> None:
    admin = await served.logged_in()
    item = served.hospital.items[0]

    page = await admin.get(f"/images?study_of={item.item_id}")

    same = [i for i in served.hospital.items if i.study_instance_uid == item.study_instance_uid]
    assert page.text.count("<tr data-key") == len(same)
    assert (await admin.get("/images?study_of=" + "0" * 32)).status_code == 404
    await admin.aclose()


async def test_only_images_of_the_same_patient_are_offered_even_if_the_gateway_errs(served: Served) -> None:
    hospital = served.hospital
    admin = await served.logged_in()
    first = next(i for i in hospital.items if i.finding)
    prior, jpeg = make_item(40, "benign")
    prior = msgspec.structs.replace(prior, patient_id=first.patient_id)
    await hospital.add(prior, jpeg)
    hospital._matches = lambda row, query: not query.item_id or row.item_id == query.item_id  # type: ignore[method-assign] # it ignores the patient

    page = await admin.get(f"/images/{first.item_id}")

    assert f'data-compare="{prior.item_id}"' in page.text
    assert page.text.count("data-compare=") == 1
    await admin.aclose()


async def test_a_verdict_can_lead_to_the_next_case_of_the_list_it_came_from(served: Served) -> None:
    hospital = served.hospital
    admin = await served.logged_in()
    item = next(i for i in hospital.items if i.finding and i.finding.suspicious)
    assert item.finding is not None
    form = {"csrf": await csrf(admin), "finding": item.finding.finding_id, "list": "show=open&device=us-room-2"}

    answer = await admin.post(f"/images/{item.item_id}/verdict", data={**form, "action": "confirm+next"})

    location = answer.headers["location"]
    assert answer.status_code == 303
    assert not location.startswith(f"/images/{item.item_id}")
    assert f"of={item.item_id}" in location
    assert hospital.queries[-1].device == "us-room-2"
    assert hospital.queries[-1].decided is False
    assert [v.action for v in hospital.verdicts] == ["confirm"]
    for action in ("confirm+delete", "confirm+next+next", "+next"):
        again = await admin.post(f"/images/{item.item_id}/verdict", data={**form, "action": action})
        assert again.status_code == 400, action
    await admin.aclose()


async def test_dead_letters_are_resent_by_engineers_only(served: Served) -> None:
    admin = await served.logged_in()
    nurse = await served.person(admin, "nurse", "clinician")
    letter = served.hospital.dead[0]

    page = await nurse.get("/system/delivery")
    refused = await nurse.post("/system/delivery/resend", data={"csrf": await csrf(nurse)})
    without = await admin.post("/system/delivery/resend", data={"item": letter.item_id})
    odd = await admin.post("/system/delivery/resend", data={"csrf": await csrf(admin), "item": "../../x"})

    assert letter.reason in page.text
    assert "/system/delivery/resend" not in page.text
    assert (refused.status_code, without.status_code, odd.status_code) == (403, 403, 403)
    assert served.hospital.resends == []
    done = await admin.post(
        "/system/delivery/resend",
        data={"csrf": await csrf(admin), "item": letter.item_id, "destination": letter.destination},
    )
    assert done.headers["location"] == "/system/delivery?resent=1"
    assert [r.by for r in served.hospital.resends] == ["admin"]
    for client in (admin, nurse):
        await client.aclose()


async def test_a_resend_that_is_not_done_says_why(served: Served) -> None:
    admin = await served.logged_in()
    token = await csrf(admin)
    await served.hospital.buses["deliver"].close()

    answer = await admin.post("/system/delivery/resend", data={"csrf": token})

    assert answer.status_code == 503
    assert "Not sent again" in answer.text
    await admin.aclose()


async def test_a_conflict_leads_to_both_objects_and_says_what_to_do(served: Served) -> None:
    admin = await served.logged_in()
    first, jpeg = make_item(3, "benign")
    first = msgspec.structs.replace(first, item_id="d" * 32, same_uid=["c" * 32])
    conflict = msgspec.structs.replace(
        first, item_id="c" * 32, state="failed", reason=CONFLICT, finding=None, same_uid=["d" * 32]
    )
    for item in (first, conflict):
        await served.hospital.add(item, jpeg)
    entry = Quarantined(at_ns=1, where="dicom", peer="us-1", reason=CONFLICT, what_to_do=CONFLICT_TO_DO)
    served.hospital.quarantine = [msgspec.structs.replace(entry, item_id=conflict.item_id, other_item_id=first.item_id)]

    listed = (await admin.get("/system/quarantine")).text
    pages = {item.item_id: (await admin.get(f"/images/{item.item_id}")).text for item in (first, conflict)}

    for item in (first, conflict):
        assert f'href="/images/{item.item_id}"' in listed
    assert "under a new SOP Instance UID" in listed
    assert f'href="/images/{conflict.item_id}"' in pages[first.item_id]
    assert f'href="/images/{first.item_id}"' in pages[conflict.item_id]
    assert "kept, not analysed" in pages[conflict.item_id]
    assert "kept, not analysed" not in pages[first.item_id]
    assert all("under a new SOP Instance UID" in page for page in pages.values())
    await admin.aclose()


@pytest.mark.parametrize(("missing", "told"), [(0, "complete"), (1, "2 of 3 arrived")])
async def test_a_complete_study_says_what_did_not_arrive(served: Served, missing: int, told: str) -> None:
    admin = await served.logged_in()
    item, jpeg = make_item(3, "benign")
    item = msgspec.structs.replace(item, item_id="d" * 32, study_complete=True, study_listed=3, study_missing=missing)
    await served.hospital.add(item, jpeg)

    page = (await admin.get(f"/images/{item.item_id}")).text

    assert [text for text in ("· complete", "· 2 of 3 arrived") if text in page] == [f"· {told}"]
    await admin.aclose()


async def test_an_empty_quarantine_says_so(served: Served) -> None:
    admin = await served.logged_in()
    assert "us-room-2" in (await admin.get("/system/quarantine?place=dicom")).text
    everything = await admin.get("/system/quarantine?place=nowhere")
    assert everything.text.count("<tr>") == 1 + 3, "a place that is none is all places"
    served.hospital.quarantine = []

    assert "Nothing has been refused" in (await admin.get("/system/quarantine")).text
    await admin.aclose()


async def test_hostile_text_from_devices_stays_text(served: Served) -> None:
    admin = await served.logged_in()
    evil = "<script>alert(1)</script>"
    served.hospital.quarantine = [Quarantined(at_ns=1, where=evil, peer=evil, reason=evil, what_to_do=evil)]
    served.hospital.orders = [
        msgspec.structs.replace(
            served.hospital.orders[0], patient_name=evil, procedure=evil, scheduled=evil, source=evil
        )
    ]
    served.hospital.dead = [msgspec.structs.replace(served.hospital.dead[0], reason=evil, destination=evil)]

    for path in PAGES:
        page = await admin.get(path)
        assert page.status_code == 200
        assert "&lt;script&gt;" in page.text
        assert "<script>" not in page.text
    await admin.aclose()


async def test_many_frames_at_once_are_asked_for_a_few_at_a_time(served: Served) -> None:
    admin = await served.logged_in()
    item = analysed(served)
    running = most = 0
    real = served.hospital._frame

    async def slow(query):  # type: ignore[no-untyped-def]
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return await real(query)

    gateway = served.hospital.buses["gateway"]
    from edgeward.bus import subjects
    from edgeward.messages import FrameQuery

    served.hospital.unrendered = {}
    await gateway.serve(subjects.GATEWAY_FRAME, FrameQuery, slow, subjects.GATEWAYS)
    answers = await asyncio.gather(*(admin.get(f"/api/items/{item}/frames/0") for _ in range(30)))

    assert {a.status_code for a in answers} == {200}
    assert 0 < most <= 8
    await admin.aclose()
