"""Pages and API over HTTP: who may do what, and what is refused."""

from __future__ import annotations

import asyncio
import logging

import httpx
import pytest

from tests.console.conftest import OWN, Served, csrf

PAGES = ["/", "/beds", "/beds/bed-01", "/images", "/system", "/system/people", "/api/items", "/api/beds", "/api/system"]


async def test_without_a_login_nothing_is_shown(served: Served) -> None:
    item = served.hospital.items[0].item_id
    async with served.client() as client:
        for path in [*PAGES, f"/images/{item}"]:
            answer = await client.get(path)
            assert answer.status_code in (303, 401), path
            assert not answer.is_success
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/login")
        for path in (f"/images/{item}/frame.jpg", f"/images/{item}/thumb.jpg"):
            answer = await client.get(path)
            assert answer.status_code in (303, 401)
            assert "image" not in answer.headers.get("content-type", "")
        for path in ("/beds/bed-01/acknowledge", f"/images/{item}/verdict", "/system/people", "/password"):
            assert (await client.post(path, data={})).status_code == 401, path


async def test_health_is_public_and_says_no_more_than_ok(served: Served) -> None:
    async with served.client() as client:
        answer = await client.get("/healthz")

    assert answer.status_code == 200
    assert answer.json() == {"ok": True}


async def test_a_one_time_password_opens_only_the_password_page(served: Served) -> None:
    async with served.client() as client:
        one_time = served.one_time
        answer = await client.post("/login", data={"user": "admin", "password": one_time})
        assert answer.headers["location"] == "/password"
        assert (await client.get("/")).headers["location"] == "/password"
        assert (await client.get("/api/items")).status_code == 403
        token = await csrf(client, "/password")
        refused = await client.post(
            "/password", data={"csrf": token, "current": one_time, "new": one_time, "again": one_time}
        )
        assert refused.status_code == 400
        before = client.cookies["edgeward"]
        done = await client.post("/password", data={"csrf": token, "current": one_time, "new": OWN, "again": OWN})
        assert done.status_code == 303
        assert client.cookies["edgeward"] != before, "a new session"
        assert (await client.get("/")).status_code == 200
    async with served.client() as client:
        assert (await client.post("/login", data={"user": "admin", "password": one_time})).status_code == 401
        assert (await client.post("/login", data={"user": "admin", "password": OWN})).status_code == 303
    assert not (served.hospital.site.home.run / "first-login.json").exists()


async def test_the_session_cookie_is_hidden_from_scripts_and_other_sites(served: Served) -> None:
    async with served.client() as client:
        answer = await client.post("/login", data={"user": "admin", "password": served.one_time})

    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie


async def test_every_answer_carries_the_security_headers(served: Served) -> None:
    async with served.client() as client:
        answers = [
            await client.get(path) for path in ("/login", "/healthz", "/nowhere", "/texts/x/en.json", "/static/x")
        ]

    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http:" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "same-origin"


async def test_patient_pages_are_not_stored_and_static_files_are(served: Served) -> None:
    admin = await served.logged_in()
    page = await admin.get("/images")
    sheet = page.text.split('rel="stylesheet" href="')[1].split('"')[0]

    assert page.headers["cache-control"] == "no-store"
    assert "immutable" in (await admin.get(sheet)).headers["cache-control"]
    assert (await admin.get("/static/" + sheet.split("/")[2] + "/../../accounts.py")).status_code in (303, 404)
    await admin.aclose()


async def test_guessing_is_slowed_and_the_answer_is_the_same_for_unknown_names(served: Served) -> None:
    async with served.client() as client:
        wrong = await client.post("/login", data={"user": "admin", "password": "nope"})
        unknown = await client.post("/login", data={"user": "nobody", "password": "nope"})
        assert (wrong.status_code, unknown.status_code) == (401, 401)
        assert wrong.text.replace("admin", "nobody") == unknown.text
        for _ in range(5):
            await client.post("/login", data={"user": "admin", "password": "nope"})
        slowed = await client.post("/login", data={"user": "admin", "password": served.one_time})
    assert slowed.status_code == 429
    assert int(slowed.headers["retry-after"]) >= 1


async def test_requests_from_another_origin_are_refused(served: Served) -> None:
    admin = await served.logged_in()
    token = await csrf(admin)
    alarm = next(a for p in served.hospital.patients for a in p.alarms)
    fields = {"csrf": token, "alarm": alarm.alarm_id}
    path = f"/beds/{alarm.device_id}/acknowledge"

    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": served.url, "sec-fetch-site": "cross-site"},
    ):
        assert (await admin.post(path, data=fields, headers=headers)).status_code == 403
    login = await admin.post(
        "/login", data={"user": "admin", "password": OWN}, headers={"origin": "http://evil.example"}
    )

    assert login.status_code == 403
    assert served.hospital.acknowledged == []
    await admin.aclose()


async def test_a_post_without_the_sessions_token_changes_nothing(served: Served) -> None:
    admin = await served.logged_in()
    alarm = next(a for p in served.hospital.patients for a in p.alarms)
    item = next(i for i in served.hospital.items if i.finding and i.finding.status == "analysed")
    assert item.finding is not None

    for token in ({}, {"csrf": ""}, {"csrf": "0" * 40}):
        for path, fields in (
            (f"/beds/{alarm.device_id}/acknowledge", {"alarm": alarm.alarm_id}),
            (f"/images/{item.item_id}/verdict", {"action": "confirm", "finding": item.finding.finding_id}),
            ("/system/people", {"name": "mallory", "role": "engineer"}),
            ("/logout", {}),
        ):
            assert (await admin.post(path, data={**fields, **token})).status_code == 403, path

    assert served.hospital.acknowledged == []
    assert served.hospital.verdicts == []
    assert (await admin.get("/")).status_code == 200, "still logged in"
    await admin.aclose()


async def test_roles_are_enforced(served: Served) -> None:
    admin = await served.logged_in()
    nurse = await served.person(admin, "nurse", "clinician")
    tech = await served.person(admin, "tech", "engineer")
    alarm = next(a for p in served.hospital.patients for a in p.alarms)
    item = next(i for i in served.hospital.items if i.finding and i.finding.status == "analysed")
    assert item.finding is not None
    verdict = {"action": "confirm", "finding": item.finding.finding_id}

    assert (await nurse.get("/system/people")).status_code == 403
    assert (
        await nurse.post("/system/people", data={"csrf": await csrf(nurse), "name": "x", "role": "engineer"})
    ).status_code == 403
    assert (await nurse.post("/system/people/tech/reset", data={"csrf": await csrf(nurse)})).status_code == 403
    assert (
        await tech.post(f"/images/{item.item_id}/verdict", data={"csrf": await csrf(tech), **verdict})
    ).status_code == 403
    assert (
        await tech.post(
            f"/beds/{alarm.device_id}/acknowledge", data={"csrf": await csrf(tech), "alarm": alarm.alarm_id}
        )
    ).status_code == 403
    assert (await tech.get(f"/images/{item.item_id}/frame.jpg")).status_code == 403
    assert served.hospital.verdicts == []

    assert (
        await nurse.post(f"/images/{item.item_id}/verdict", data={"csrf": await csrf(nurse), **verdict})
    ).status_code == 303
    assert served.hospital.verdicts[0].by == "nurse"
    for client in (admin, nurse, tech):
        await client.aclose()


async def test_an_engineer_sees_no_identity_anywhere(served: Served) -> None:
    admin = await served.logged_in()
    tech = await served.person(admin, "tech", "engineer")
    item = served.hospital.items[0]

    pages = [await tech.get(p) for p in ("/", "/images", f"/images/{item.item_id}", "/api/items")]
    seen = await admin.get("/images")

    family, number = item.patient_name.split("^")[0], item.patient_id
    assert family in seen.text
    for page in pages:
        assert page.status_code == 200
        assert family not in page.text
        assert number not in page.text
    for client in (admin, tech):
        await client.aclose()


async def test_a_closed_account_is_out_at_once(served: Served) -> None:
    admin = await served.logged_in()
    nurse = await served.person(admin, "nurse", "clinician")
    assert (await nurse.get("/")).status_code == 200

    await admin.post("/system/people/nurse/close", data={"csrf": await csrf(admin)})

    assert (await nurse.get("/")).status_code == 303
    async with served.client() as client:
        assert (
            await client.post("/login", data={"user": "nurse", "password": "the words of nurse"})
        ).status_code == 401
    for client in (admin, nurse):
        await client.aclose()


VERDICTS: list[tuple[dict[str, str], int]] = [
    ({"action": "correct", "label": "malignant"}, 403),  # the AI's own label
    ({"action": "correct", "label": "cyst"}, 403),
    ({"action": "correct"}, 403),
    ({"action": "delete"}, 400),
    ({}, 400),
    ({"action": "confirm", "finding": "another"}, 403),
    ({"action": "confirm", "comment": "x" * 2001}, 400),
    ({"action": "correct", "label": "normal"}, 303),
]


async def test_only_a_sensible_verdict_is_kept(served: Served) -> None:
    admin = await served.logged_in()
    item = next(i for i in served.hospital.items if i.finding and i.finding.label == "malignant")
    assert item.finding is not None
    token = await csrf(admin)

    for fields, status in VERDICTS:
        form = {"csrf": token, "finding": item.finding.finding_id, **fields}
        assert (await admin.post(f"/images/{item.item_id}/verdict", data=form)).status_code == status, fields

    assert [(v.action, v.label, v.by) for v in served.hospital.verdicts] == [("correct", "normal", "admin")]
    await admin.aclose()


async def test_what_was_not_analysed_takes_no_verdict(served: Served) -> None:
    admin = await served.logged_in()
    item = next(i for i in served.hospital.items if i.finding and i.finding.status == "not_analysed")
    assert item.finding is not None

    answer = await admin.post(
        f"/images/{item.item_id}/verdict",
        data={"csrf": await csrf(admin), "finding": item.finding.finding_id, "action": "confirm"},
    )

    assert answer.status_code == 400
    await admin.aclose()


async def test_only_the_alarms_that_were_seen_are_acknowledged(served: Served) -> None:
    admin = await served.logged_in()
    alarm = next(a for p in served.hospital.patients for a in p.alarms)

    answer = await admin.post(
        f"/beds/{alarm.device_id}/acknowledge",
        data={"alarm": alarm.alarm_id},
        headers={"x-csrf": await csrf(admin), "accept": "application/json"},
    )
    again = await admin.post(
        f"/beds/{alarm.device_id}/acknowledge",
        data={"alarm": alarm.alarm_id},
        headers={"x-csrf": await csrf(admin), "accept": "application/json"},
    )

    assert answer.json() == {"acknowledged": 1, "by": "admin"}
    assert again.status_code == 503
    assert [a.alarm_id for a in served.hospital.acknowledged] == [alarm.alarm_id]
    await admin.aclose()


async def test_hostile_requests_are_refused_in_an_orderly_way(served: Served) -> None:
    admin = await served.logged_in()
    token = await csrf(admin)

    assert (await admin.get("/images/..%2f..%2fetc")).status_code in (400, 404)
    assert (await admin.get("/images/" + "a" * 5000)).status_code == 404
    assert (await admin.get("/images/x%00y")).status_code == 404
    assert (await admin.get("/images?before=abc")).status_code in (200, 400, 422)
    assert (await admin.get("/images?before=-9223372036854775809&show=%3Cscript%3E")).status_code == 200
    assert (await admin.get("/beds/nobody")).status_code == 404
    assert (await admin.post("/preferences", data={"csrf": token, "language": "x" * 70_000})).status_code == 413
    assert (
        await admin.post(
            "/preferences", content=b"\xff\xfe", headers={"content-type": "multipart/form-data", "x-csrf": token}
        )
    ).status_code == 400

    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield b"a" * 4096

    try:
        answer = await admin.post(
            "/preferences", content=endless(), headers={"content-type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the connection was closed while we were still sending: refused as well
    assert (await admin.get("/healthz")).json() == {"ok": True}
    await admin.aclose()


async def test_a_login_leads_nowhere_else(served: Served) -> None:
    await (await served.logged_in()).aclose()

    for wish in (
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        "/x\r\nset-cookie: a=b",
    ):
        async with served.client() as client:
            answer = await client.post("/login", data={"user": "admin", "password": OWN, "next": wish})
        assert answer.headers["location"] == "/", wish


async def test_a_role_that_does_not_answer_breaks_only_its_own_part(served: Served) -> None:
    admin = await served.logged_in()
    await served.hospital.buses["deliver"].close()

    system = await admin.get("/system")
    item = next(i for i in served.hospital.items if i.finding)
    image = await admin.get(f"/images/{item.item_id}")

    assert system.status_code == 200
    assert "deliver does not answer" in system.text
    assert image.status_code == 200
    await admin.aclose()


async def test_language_follows_the_browser_and_then_the_account(served: Served) -> None:
    async with httpx.AsyncClient(base_url=served.url, headers={"accept-language": "zh-CN"}) as client:
        assert "登录" in (await client.get("/login")).text
    admin = await served.logged_in()
    assert "Worklist" in (await admin.get("/images")).text
    await admin.post("/preferences", data={"csrf": await csrf(admin), "language": "zh", "next": "/images"})
    assert "工作列表" in (await admin.get("/images")).text

    other = await served.logged_in("admin", OWN)

    assert "工作列表" in (await other.get("/images")).text, "kept with the account"
    await other.aclose()
    await admin.aclose()


async def test_the_log_says_who_did_what_and_no_patient(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="edgeward")
    admin = await served.logged_in()
    item = next(i for i in served.hospital.items if i.finding and i.finding.label)
    assert item.finding is not None
    await admin.get(f"/images/{item.item_id}")
    await admin.post(
        f"/images/{item.item_id}/verdict",
        data={
            "csrf": await csrf(admin),
            "finding": item.finding.finding_id,
            "action": "confirm",
            "comment": "secret words",
        },
    )
    await asyncio.sleep(0)

    verdicts = [r for r in caplog.records if r.message == "verdict confirm"]
    assert verdicts[0].fields["user"] == "admin"  # type: ignore[attr-defined]
    everything = " ".join(f"{r.message} {getattr(r, 'fields', '')}" for r in caplog.records)
    assert "secret words" not in everything
    for row in served.hospital.items:
        assert row.patient_id not in everything
    await admin.aclose()
