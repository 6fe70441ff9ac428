"""Limits, observations, pauses and events through the console: who may, what is refused, what arrives at the monitor."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import os
import time

import httpx
import msgspec

from edgeward.bedside import Trend, TrendSeries
from edgeward.console.pages.signals import trend_csv
from edgeward.messages import AlarmPriority
from tests.console.conftest import Served, csrf
from tests.support.synthetic import make_alarm

PAYLOAD = "<script>alert(1)</script>"


async def form(client: httpx.AsyncClient, bed: str, **fields: str) -> dict[str, str]:
    page = (await client.get(f"/beds/{bed}/settings")).text
    seen = page.split('name="seen" value="')[1].split('"')[0]
    return {"csrf": await csrf(client), "seen": seen, **fields}


def seen_of(page: str, bed: str) -> str:
    """Return what the form of a bed's place says that it has shown."""
    return page.split(f'action="/beds/{bed}/place"')[1].split('name="seen" value="')[1].split('"')[0]


async def place_form(client: httpx.AsyncClient, bed: str, **fields: str) -> dict[str, str]:
    page = (await client.get(f"/beds/{bed}/settings")).text
    return {"csrf": await csrf(client, "/beds"), "seen": seen_of(page, bed), **fields}


async def test_limits_are_changed_marked_and_recorded_and_wrong_ones_are_not(served: Served) -> None:
    admin = await served.logged_in()
    hospital = served.hospital.bedside
    # One form of the page stays open while somebody else changes the bed.
    stale = await form(admin, "bed-01", **{"heart_rate.low": "46"})

    wrong = await admin.post("/beds/bed-01/limits", data=await form(admin, "bed-01", **{"heart_rate.low": "fast"}))
    assert wrong.status_code == 400
    assert 'aria-invalid="true"' in wrong.text
    assert 'value="fast"' in wrong.text, "what was typed stays"
    assert hospital.wishes == []

    good = await admin.post(
        "/beds/bed-01/limits",
        data=await form(admin, "bed-01", **{"spo2.low": "92", "spo2.extreme_low": "85", "spo2.delay_s": "10"}),
    )
    assert good.status_code == 303
    wish = hospital.wishes[-1]
    assert (wish.by, wish.limits["spo2"].low) == ("admin", 92.0)  # type: ignore[index,union-attr]
    page = (await admin.get("/beds/bed-01/settings")).text
    assert 'class="own"' in page
    assert "limits.spo2" in page

    assert (await admin.post("/beds/bed-01/limits", data=stale)).status_code == 409
    assert len(hospital.wishes) == 1
    hospital.refuses = PAYLOAD
    refused = await admin.post("/beds/bed-01/limits", data=await form(admin, "bed-01", **{"spo2.low": "93"}))
    assert refused.status_code == 400
    assert PAYLOAD not in refused.text
    assert "&lt;script&gt;" in refused.text
    await admin.aclose()


async def test_whether_a_patient_is_paced_is_set_beside_the_limits_and_only_when_it_changes(served: Served) -> None:
    admin = await served.logged_in()
    hospital = served.hospital.bedside

    page = (await admin.get("/beds/bed-01/settings")).text
    assert '<select name="paced">' in page
    answer = await admin.post("/beds/bed-01/limits", data=await form(admin, "bed-01", paced="yes"))
    assert answer.status_code == 303
    assert (hospital.wishes[-1].paced, hospital.wishes[-1].by) == ("yes", "admin")
    await admin.post("/beds/bed-01/limits", data=await form(admin, "bed-01", paced="unknown", **{"spo2.low": "91"}))
    assert hospital.wishes[-1].paced is None
    assert (await admin.post("/beds/bed-01/limits", data=await form(admin, "bed-01", paced="maybe"))).status_code == 400
    await admin.aclose()


async def test_who_only_looks_changes_nothing(served: Served) -> None:
    admin = await served.logged_in()
    viewer = await served.person(admin, "wall", "viewer")
    engineer = await served.person(admin, "tech", "engineer")
    token = await csrf(viewer, "/beds")
    bedside = served.hospital.bedside

    assert (await viewer.get("/beds/bed-01/settings")).status_code == 200
    for path in ("limits", "standby", "discharge", "remove", "observations", "pause", "acknowledge", "place"):
        ticked = {"sure": "1", "remove": "1"}
        answer = await viewer.post(f"/beds/bed-01/{path}", data={"csrf": token, "alarm": "x", **ticked})
        assert answer.status_code == 403, path
    token = await csrf(engineer, "/beds")
    for path in ("limits", "standby", "discharge", "remove", "observations", "pause"):
        assert (await engineer.post(f"/beds/bed-01/{path}", data={"csrf": token, **ticked})).status_code == 403
    assert bedside.wishes == bedside.pauses == bedside.entered == []

    answer = await engineer.post(
        "/beds/bed-01/place",
        data=await place_form(
            engineer, "bed-01", label="Bay 1", source="bed-01", add="mon-7", profile="child", ward="ICU"
        ),
    )
    assert answer.status_code == 303
    assert (bedside.wishes[-1].label, bedside.wishes[-1].sources) == ("Bay 1", ["bed-01", "mon-7"])
    assert bedside.wishes[-1].profile is None, "a profile decides on alarms: a clinician's"
    for client in (admin, viewer, engineer):
        await client.aclose()


async def test_standby_discharge_pause_and_observations_reach_the_monitor(served: Served) -> None:
    admin = await served.logged_in()
    token = await csrf(admin)
    bedside = served.hospital.bedside

    async def post(path: str, **fields: str) -> int:
        return (await admin.post(f"/beds/bed-01/{path}", data={"csrf": token, **fields})).status_code

    assert await post("standby", standby="1") == 303
    assert bedside.wishes[-1].standby is True
    assert await post("discharge") == 400
    assert await post("discharge", sure="1") == 303
    assert bedside.wishes[-1].discharged is True
    assert await post("remove") == 400, "it asks once"
    assert not bedside.wishes[-1].removed
    assert await post("remove", remove="1") == 303
    assert bedside.wishes[-1].removed is True
    assert await post("pause", seconds="120") == 303
    assert (bedside.pauses[-1].seconds, bedside.pauses[-1].by) == (120.0, "admin")
    for seconds in ("-1", "nan", "soon", "1e9"):
        assert await post("pause", seconds=seconds) == 400
    async with asyncio.timeout(10):  # until the console has heard of the bed
        while (await admin.get("/beds/bed-01/observations")).status_code == 404:
            await asyncio.sleep(0.05)
    assert await post("observations", temperature="36,8", consciousness="0") == 303
    numerics = bedside.entered[-1]
    assert (numerics.protocol, numerics.by, len(numerics.vitals)) == ("manual", "admin", 2)
    assert await post("observations", temperature="99") == 400
    assert len(bedside.entered) == 1
    await admin.aclose()


async def test_alarms_are_listed_filtered_and_reviewed_with_their_strip(served: Served) -> None:
    admin = await served.logged_in()
    hospital = served.hospital
    onset = time.time_ns() - 60_000_000_000
    first = msgspec.structs.replace(
        make_alarm("bed-01", PAYLOAD, AlarmPriority.HIGH, args={"x": PAYLOAD}),
        alarm_id="bed-01-1", raised_ns=onset, at_ns=onset, onset_ns=onset, label=PAYLOAD,
    )  # fmt: skip
    second = msgspec.structs.replace(
        first, alarm_id="bed-01-2", raised_ns=onset + 9_000_000_000, at_ns=onset + 9_000_000_000
    )
    flood = msgspec.structs.replace(
        make_alarm("site", "signal_flood", AlarmPriority.HIGH, args={"beds": 2.0}),
        bed_id="site.alarms", members=["bed-01", "bed-02"],
    )  # fmt: skip
    hospital.bedside.log = [first, second]
    hospital.patients[0].alarms.append(flood)

    page = await admin.get("/alarms?bed=bed-01&priority=high&hours=8")
    assert PAYLOAD not in page.text
    assert "2 beds fell silent together" in page.text
    assert hospital.bedside.queries[-1].bed_id == "bed-01"
    assert hospital.bedside.queries[-1].priority == "high"
    assert (await admin.get("/alarms?bed=%3Cx&hours=x&priority=y")).status_code == 200

    review = await admin.get(f"/alarms/bed-01-1?bed=bed-01&at={onset // 1_000_000}")
    assert review.status_code == 200
    assert PAYLOAD not in review.text
    assert "/alarms/bed-01-2?" in review.text, "the newer one is a key away"
    assert 'data-sources="bed-01"' in review.text, "strips of all sources that the bed consists of"
    assert (await admin.get("/alarms/bed-01-9?bed=bed-01&at=1")).status_code == 404
    assert (await admin.get("/alarms/bed-01-1")).status_code == 404

    strip = (await admin.get(f"/api/strip?source=bed-01&start={onset / 1e6}&seconds=30")).json()
    assert [c["name"] for c in strip["channels"]] == ["II", "V1", "pleth"]
    assert (await admin.get("/api/strip?source=nobody&start=1&seconds=30")).status_code == 404
    for query in ("source=a%20b&start=1&seconds=1", "source=a&start=nan&seconds=1", "source=a&start=1&seconds=301"):
        assert (await admin.get(f"/api/strip?{query}")).status_code == 400
    trend = (await admin.get("/api/beds/bed-01/trend?hours=4")).json()
    assert trend["limits"]["spo2"]["low"] == 90
    assert (await admin.get("/api/beds/bed-01/trend?hours=25")).status_code == 400

    file = await admin.get("/beds/bed-01/trend.csv?hours=4&zone=Asia/Shanghai")
    assert file.headers["content-disposition"].startswith('attachment; filename="bed-01-')
    rows = list(csv.DictReader(io.StringIO(file.text.removeprefix("\ufeff"))))
    assert len(rows) == sum(len(series["at"]) for series in trend["series"])
    assert {row["parameter"] for row in rows} == {series["p"] for series in trend["series"]}
    assert all(row["time"].endswith("+08:00") for row in rows)
    assert (await admin.get("/beds/bed-01/trend.csv?hours=25")).status_code == 400
    await admin.aclose()


async def test_of_two_who_save_limits_in_the_same_moment_one_looks_again(served: Served) -> None:
    nurse = doctor = await served.logged_in()  # the same person at two screens
    for round_ in range(3):
        forms = [
            await form(nurse, "bed-01", **{"heart_rate.high": str(130 + 2 * round_)}),
            await form(doctor, "bed-01", **{"heart_rate.high": str(131 + 2 * round_)}),
        ]
        answers = await asyncio.gather(
            *(who.post("/beds/bed-01/limits", data=typed) for who, typed in zip((nurse, doctor), forms, strict=True))
        )
        assert sorted(answer.status_code for answer in answers) == [303, 409]
        assert len(served.hospital.bedside.wishes) == round_ + 1
    await nurse.aclose()


async def test_an_older_page_sets_nothing_of_a_bed_s_place_back(served: Served) -> None:
    nurse = await served.logged_in()
    wishes = served.hospital.bedside.wishes
    ward = (await nurse.get("/beds/bed-01/settings")).text.split('name="ward"')[1].split(" selected")[0]
    fields = {"label": "Bay 1", "ward": ward.rsplit('value="', 1)[1].rstrip('"'), "source": "bed-01"}
    older = await place_form(nurse, "bed-01", **fields, profile="adult")
    newer = await place_form(nurse, "bed-01", **fields, profile="child", spo2_scale2="1", add="mon-7")

    assert (await nurse.post("/beds/bed-01/place", data=newer)).status_code == 303
    wish = wishes[-1]
    assert (wish.profile, wish.spo2_scale2, wish.sources) == ("child", True, ["bed-01", "mon-7"])
    late = await nurse.post("/beds/bed-01/place", data=older | {"label": "Mine"})
    assert late.status_code == 409
    assert "Somebody changed this bed while you looked at it" in late.text
    assert 'value="Mine"' not in late.text, "what is there now is shown, not what an older page had"
    assert len(wishes) == 1

    again = {"csrf": newer["csrf"], "seen": seen_of(late.text, "bed-01")}
    again |= fields | {"label": "Bay 2", "profile": "child", "spo2_scale2": "1"}
    sources = {"source": ["bed-01", "mon-7"]}
    assert (await nurse.post("/beds/bed-01/place", data=again | sources)).status_code == 303
    wish = wishes[-1]
    assert wish.label == "Bay 2"
    assert (wish.ward, wish.profile, wish.spo2_scale2, wish.sources) == (None, None, None, None), (
        "only what was changed"
    )
    await nurse.aclose()


async def test_of_two_who_save_a_place_in_the_same_moment_one_looks_again(served: Served) -> None:
    nurse = await served.logged_in()
    forms = [await place_form(nurse, "bed-01", label=label, source="bed-01") for label in ("Bay 1", "Bay 2")]
    answers = await asyncio.gather(*(nurse.post("/beds/bed-01/place", data=typed) for typed in forms))
    assert sorted(answer.status_code for answer in answers) == [303, 409]
    await nurse.aclose()


async def test_trends_and_alarms_of_the_patient_before_are_told_apart(served: Served) -> None:
    admin = await served.logged_in()
    bedside = served.hospital.bedside
    patient = bedside.patient("bed-01")
    assert patient is not None
    patient.alarms.append(make_alarm("bed-01", "asystole", AlarmPriority.HIGH))
    async with asyncio.timeout(30):
        while (answer := await admin.get("/beds/bed-01")).status_code == 404:  # the console has heard of no bed yet
            await asyncio.sleep(0.05)
    assert answer.status_code == 200
    assert "of the patient before" not in answer.text
    assert (await admin.get("/api/beds/bed-01/trend?hours=4")).json()["discharged"] == []
    left = await admin.post("/beds/bed-01/discharge", data={"csrf": await csrf(admin), "sure": "1"})
    assert left.status_code == 303

    assert "of the patient before" in (await admin.get("/beds/bed-01")).text
    trend = (await admin.get("/api/beds/bed-01/trend?hours=4")).json()
    (discharged,) = trend["discharged"]
    assert discharged == bedside.wishes[-1].at_ns // 1_000_000
    file = await admin.get("/beds/bed-01/trend.csv?hours=4")
    rows = [row for row in csv.DictReader(io.StringIO(file.text.removeprefix("\ufeff"))) if not row["unit"]]
    assert [row["parameter"] for row in rows if not row["mean"]] == ["discharged"]
    await admin.aclose()


def test_a_file_of_trends_has_no_row_for_a_gap_and_no_formula() -> None:
    """A spreadsheet must not run what a device calls a unit."""
    series = TrendSeries(parameter="spo2", unit="=cmd|' /C calc'!A0", at_ns=[0, 7_200_000_000_000], low=[95, 97], mean=[96.25, 98], high=[97, 99])  # fmt: skip

    rows = list(csv.reader(io.StringIO(trend_csv(Trend(bed_id="b", interval_ms=60_000, series=[series]), dt.UTC))))

    assert rows == [
        ["time", "parameter", "unit", "mean", "lowest", "highest"],
        ["1970-01-01T00:00:00+00:00", "spo2", "'=cmd|' /C calc'!A0", "96.25", "95", "97"],
        ["1970-01-01T02:00:00+00:00", "spo2", "'=cmd|' /C calc'!A0", "98", "97", "99"],
    ]


async def test_a_form_sent_after_the_login_ended_is_answered_by_a_page(served: Served) -> None:
    """And not by a line of JSON; a script that asked is told by status."""
    async with served.client() as client:
        page = await client.post("/beds/bed-01/limits", data={"heart_rate.low": "55"}, headers={"accept": "text/html"})
        script = await client.post("/beds/bed-01/acknowledge", data={"alarm": "x"}, headers={"accept": "application/json"})  # fmt: skip

    assert page.status_code == 401
    assert "was not saved" in page.text
    assert 'href="/login"' in page.text
    assert "main.js" not in page.text, "it would lead away before anybody has read this"
    assert (script.status_code, script.json()) == (401, {"error": "log in first"})


async def test_the_console_answers_that_it_hears(served: Served) -> None:
    hearings = served.hospital.bedside.hearings
    async with asyncio.timeout(10):
        while not hearings:
            await asyncio.sleep(0.02)

    assert hearings[-1].receiver == f"console-{os.getpid()}"
    assert hearings[-1].number >= 1
    assert hearings[-1].screens == 0
