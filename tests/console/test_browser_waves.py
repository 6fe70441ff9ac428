"""The traces of a bed in a real browser: which there are, on one time base, chosen by keys, never alive when they are not.

One browser and one console for the whole file: each step leaves the page as the next one needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from tests.peers.test_browser import CHROMIUM, FLAGS, Visit
from tests.support.synthetic import synthetic_console

pytestmark = pytest.mark.peer

SENSORS = (("Pleth", "pleth", "1"), ("ART", "abp", "mm[Hg]"), ("CVP", "cvp", "mm[Hg]"), ("Resp", "respiration", "Ohm"))
EIGHT = ("II", "I", "V1", "V2", "V3", "V4", "V5", "V6")
LANES = "[...document.querySelectorAll('.lane')].map(e => e.dataset.name)"
# Where the ink of each lane ends before the erase bar: columns of the canvas that are empty, the widest run of them.
BARS = """() => [...document.querySelectorAll('.lane canvas')].map((c) => {
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, n = new Array(c.width).fill(0);
  for (let i = 3; i < d.length; i += 4) if (d[i] > 40) n[((i - 3) / 4) % c.width] += 1;
  let best = [0, 0], from = -1;
  for (let x = 90; x < c.width; x += 1) { if (!n[x]) { if (from < 0) from = x; } else if (from >= 0) { if (x - from > best[1] - best[0]) best = [from, x]; from = -1; } }
  return best;
})"""
MODULES = """async () => {
  const base = [...document.scripts].find((s) => s.src.includes('/js/main.js')).src.replace('main.js', 'waves/');
  const load = (name) => import(base + name);
  const { Track, Derived, RULES } = await load('track.js');
  const { Axis, Fitted, axisFor } = await load('scale.js');
  const { Source } = await load('source.js');
  const { Pen } = await load('pen.js');
  const wave = (name, start, samples, more = {}) => ({ name, kind: 'ecg', unit: 'uV', rate: 100, start, gain: 1, offset: 0, state: '', quality: 1, samples: Int16Array.from(samples), ...more });
  const track = new Track(wave('I', 0, [1000, 2000, -32768, 4000]), 30);
  track.take(wave('I', 0, [1000, 2000, -32768, 4000]));
  track.take(wave('I', 100, [5000], { state: 'flat' }));
  const two = new Track(wave('II', 0, []), 30); two.take(wave('II', 0, [3000, 3000, 3000, 3000]));
  const fitted = new Fitted('pleth'); fitted.look([0, 100, 9], 0);
  let now = 0; for (let i = 0; i < 40; i += 1) fitted.look([49, 51, 9], (now += 500));
  let told = 0; const source = new Source({ onTracks: () => { told += 1; } });
  const frame = (start, n) => ({ source: 's', lead: 'I', offers: [['I', 'ecg']], beats: [start + 100], waves: [wave('I', start, new Array(n).fill(1))] });
  source.take(frame(50000, 100), 1000); source.take(frame(51000, 100), 2000);
  const before = source.turn, toldBefore = told, old = source.tracks.get('I'); source.take(frame(0, 100), 3000);
  const canvas = document.createElement('canvas'); const pen = new Pen(canvas);
  pen.width = canvas.width = 400; pen.height = canvas.height = 50; pen.ratio = 1; pen.set({ mm: 4, speed: 25, left: 40 }); pen.y = () => 25; pen.ink = '#fff';
  pen.tracks = [track]; pen.advance(0); pen.advance(30);
  return {
    values: [track.valueAt(0), track.valueAt(5), track.valueAt(20), track.valueAt(100), track.valueAt(60)].map((v) => Number.isNaN(v) ? null : v),
    states: [track.stateAt(50), track.stateAt(100)].map((s) => s[0]), last: track.lastBefore(90),
    derived: Object.entries(RULES).map(([n, rule]) => [n, new Derived(n, track, two, rule).at(0)]),
    axes: [axisFor('abp', 71, 118), axisFor('abp', 20, 118), axisFor('cvp', -3, 8), axisFor('co2', 2, 38)],
    fitted: fitted.range[1] - fitted.range[0], began: source.turn - before, anew: [toldBefore, told, source.tracks.get("I") !== old], period: Math.round(pen.period), x: [pen.x(0), pen.x(1000), pen.x(3600)],
    axis: (() => { const a = new Axis('abp'); return [a.look([60, 120, 9], 0), a.look([60, 190, 9], 500), a.look([80, 120, 9], 1000), a.look([80, 120, 9], 14000)]; })(),
  };
}"""


@contextlib.asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Visit]:
    expect.set_options(timeout=15_000)
    async with synthetic_console(home, beds=3) as (hospital, url), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(locale="en-GB", viewport={"width": 1366, "height": 768})
        context.set_default_timeout(30_000)
        for patient in hospital.patients[:2]:
            patient.scene, patient.leads, patient.sensors = "normal", EIGHT, SENSORS
        page = await context.new_page()
        visit = Visit(hospital, url, context, page)
        visit.watch(page)
        await visit.log_in()
        await page.goto(url + "/beds/bed-01")
        await visit.live()
        yield visit
        await browser.close()


async def every_trace_has_its_lane_with_its_number_beside_it(visit: Visit) -> None:
    page = visit.page
    await expect(page.locator(".lane")).to_have_count(5)
    assert await page.evaluate(LANES) == ["II", "Pleth", "ART", "CVP", "Resp"]
    assert visit.hospital.wishes == {"bed-01": ["*"]}
    for name, number in (("II", "hr"), ("Pleth", "spo2"), ("Resp", "rr")):
        await expect(page.locator(f".lane[data-name='{name}'] [data-{number}]")).to_have_text(re.compile(r"^\d+$"))
    colours = await page.evaluate(
        "[...document.querySelectorAll('.lane')].map(e => [getComputedStyle(e.querySelector('[data-lane-name]')).color, getComputedStyle(e.querySelector('[data-lane-numbers]')).color])"
    )
    assert all(label == number for label, number in colours)
    assert len({label for label, _ in colours}) == 5
    await expect(page.locator(".lane[data-kind='abp'] [data-lane-ticks] span")).to_have_text(["60", "100", "140"])
    await expect(page.locator(".lane[data-kind='ecg'] [data-lane-scale]")).to_have_text("10 mm/mV")
    await expect(page.locator(".lane[data-kind='abp'] canvas")).to_have_attribute("aria-label", "ART, mmHg: shown")


async def all_pens_stand_at_the_same_moment(visit: Visit) -> None:
    await visit.page.locator("[data-speed]").select_option("50")
    await visit.page.locator("[data-speed]").evaluate("e => e.blur()")
    # Of one moment: at the next look the bars may be at the edge of the paper.
    found = await visit.page.wait_for_function(
        f"() => {{ const bars = ({BARS})(); return bars.every(([a, b]) => b - a > 8 && b - a < 60) && bars; }}",
        timeout=25_000,
    )
    bars = await found.json_value()
    assert max(a for a, _ in bars) - min(a for a, _ in bars) <= 4


async def leads_speed_and_gain_are_chosen_by_keys_and_remembered(visit: Visit) -> None:
    page = visit.page
    await page.keyboard.press("l")
    await expect(page.locator(".lane[data-kind='ecg']")).to_have_attribute("data-name", "V1")
    button = page.locator("[data-lead='II']")
    await button.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator(".lane[data-kind='ecg']")).to_have_count(2)
    await expect(page.locator("[data-lead='II']")).to_be_focused()
    await expect(page.locator("[data-lead='II']")).to_have_attribute("aria-pressed", "true")
    await page.keyboard.press("s")
    await page.keyboard.press("g")
    await expect(page.locator(".lane[data-kind='ecg'] [data-lane-scale]").first).to_have_text("20 mm/mV")

    await page.reload()
    await visit.live()

    await expect(page.locator(".lane[data-kind='ecg']")).to_have_count(2)
    assert (await page.evaluate(LANES))[:2] == ["II", "V1"]
    assert await page.locator("[data-speed]").input_value() == "6.25"
    assert await page.locator("[data-gain]").input_value() == "20"
    await page.evaluate("localStorage.clear()")
    await page.reload()
    await visit.live()
    await expect(page.locator(".lane")).to_have_count(5)


async def twelve_leads_stand_in_rows_as_on_paper(visit: Visit) -> None:
    page = visit.page
    await page.keyboard.press("t")
    await expect(page.locator(".lane")).to_have_count(4)
    assert await page.evaluate(LANES) == ["I aVR V1 V4", "II aVL V2 V5", "III aVF V3 V6", "II"]
    await expect(page.locator(".lane").first.locator(".lane-column")).to_have_text(["I", "aVR", "V1", "V4"])
    for number in ("hr", "spo2"):
        await expect(page.locator(f"[data-more] [data-{number}]")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await page.keyboard.press("t")
    await expect(page.locator(".lane")).to_have_count(5)


async def what_is_not_there_is_said_and_does_not_look_alive(visit: Visit) -> None:
    page, patient = visit.page, visit.hospital.patients[0]
    patient.states = {"Pleth": "off", "ART": "disconnected"}
    await expect(page.locator(".lane[data-name='Pleth'] .lane-veil")).to_have_text("Sensor off")
    await expect(page.locator(".lane[data-name='ART'] .lane-veil")).to_have_text("Line open: no pressure")
    await expect(page.locator(".lane[data-name='II'] .lane-veil")).to_be_hidden()
    label = page.locator(".lane[data-name='Pleth'] canvas")
    await expect(label).to_have_attribute("aria-label", re.compile("Sensor off$"))
    patient.states = {}
    await expect(page.locator(".lane[data-name='Pleth'] .lane-veil")).to_be_hidden()

    patient.mute = True
    for name in ("II", "Resp"):
        await expect(page.locator(f".lane[data-name='{name}'] .lane-veil")).to_have_text(re.compile("Nothing sent for"))
    await expect(page.locator(".lane.faded")).to_have_count(5)
    patient.mute = False
    await expect(page.locator(".lane.faded")).to_have_count(0)


async def a_bed_without_other_sensors_has_one_lane_and_its_numbers_below(visit: Visit) -> None:
    page = visit.page
    await page.goto(visit.url + "/beds/bed-03")
    await visit.live()
    await expect(page.locator(".lane")).to_have_count(1)
    await expect(page.locator("[data-lead-box]")).to_be_hidden()
    await expect(page.locator("[data-more] [data-spo2]")).to_have_text(re.compile(r"\d+"))


async def it_fits_a_phone_and_a_wall(visit: Visit) -> None:
    page = visit.page
    await page.goto(visit.url + "/beds/bed-02")
    await visit.live()
    for width, height in ((390, 844), (3840, 2160)):
        await page.set_viewport_size({"width": width, "height": height})
        await expect(page.locator(".lane")).to_have_count(5)
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        crowded = "[...document.querySelectorAll('.lane-numbers .num-value')].filter(e => e.offsetParent && e.scrollWidth > e.closest('.lane-numbers').clientWidth + 1).length"
        assert await page.evaluate(crowded) == 0
    await page.set_viewport_size({"width": 1366, "height": 768})


async def without_motion_the_picture_changes_once_a_second(visit: Visit) -> None:
    page = visit.page
    await page.emulate_media(reduced_motion="reduce")
    count = """() => new Promise((done) => { const c = document.querySelector('.lane canvas'); const look = () => { const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let h = 0; for (let i = 3; i < d.length; i += 16) h = (h * 31 + d[i]) | 0; return h; };
      let last = look(), changes = 0; const until = performance.now() + 2400; (function again() { const now = look(); if (now !== last) { changes += 1; last = now; } if (performance.now() < until) requestAnimationFrame(again); else done(changes); })(); })"""
    assert await page.evaluate(count) <= 4
    await page.emulate_media(reduced_motion="no-preference")


async def the_wall_shows_a_second_trace_where_somebody_wants_one(visit: Visit) -> None:
    page = visit.page
    await page.goto(visit.url + "/beds")
    await visit.live()
    await expect(page.locator("[data-device=bed-01] [data-lead]")).to_have_text("Lead II")
    async with asyncio.timeout(15):  # the page before may be told of once more
        while visit.hospital.wishes:  # a wall costs no more than its ECG
            await asyncio.sleep(0.05)
    await page.locator("[data-second-wave]").select_option("pleth")
    await expect(page.locator("[data-device=bed-01] [data-second]")).to_be_visible()
    await expect(page.locator("[data-device=bed-03] [data-second]")).to_be_hidden()
    assert set(visit.hospital.wishes["bed-01"]) == {"pleth"}


async def the_arithmetic_of_traces_is_right(visit: Visit) -> None:
    found = await visit.page.evaluate(MODULES)
    assert found["values"] == [1, 1.5, None, 5, None]
    assert (found["states"], found["last"]) == (["", "flat"], 30)
    assert dict(found["derived"]) == {"III": 2, "aVR": -2, "aVL": -0.5, "aVF": 2.5}
    assert found["axes"] == [[60, 140], [0, 140], [-5, 15], [0, 40]]
    assert 28 < found["fitted"] < 80, "a pulse that fails looks small, not fitted at once"
    assert found["began"] > 0, "a stream that began anew: the past is void"
    assert found["anew"] == [1, 2, True], "whoever draws is told of the new track"
    assert found["period"] == 3600
    assert found["x"] == pytest.approx([40, 140, 40])
    assert found["axis"] == [True, True, False, True]


async def test_the_traces_of_a_bed(tmp_path: Path) -> None:
    async with opened(tmp_path) as visit:
        for step in (
            every_trace_has_its_lane_with_its_number_beside_it,
            all_pens_stand_at_the_same_moment,
            leads_speed_and_gain_are_chosen_by_keys_and_remembered,
            twelve_leads_stand_in_rows_as_on_paper,
            what_is_not_there_is_said_and_does_not_look_alive,
            a_bed_without_other_sensors_has_one_lane_and_its_numbers_below,
            it_fits_a_phone_and_a_wall,
            without_motion_the_picture_changes_once_a_second,
            the_wall_shows_a_second_trace_where_somebody_wants_one,
            the_arithmetic_of_traces_is_right,
        ):
            await step(visit)
        assert visit.problems == []
