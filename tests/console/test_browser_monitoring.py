"""Monitoring in a real browser: the wall of 64 beds, sound, keys, calipers, and the alarm system's failure.

One browser and one console for the whole file: each step leaves the hospital as the next one needs it.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from playwright.async_api import Route, async_playwright, expect
from playwright.async_api import TimeoutError as NotYet

from edgeward.console.render import LANGUAGE_COOKIE
from edgeward.console.sessions import Sessions
from edgeward.messages import AlarmPriority
from tests.peers.test_browser import CHROMIUM, FLAGS, Visit, fresh_page
from tests.support.synthetic import make_alarm, synthetic_console

pytestmark = pytest.mark.peer

PAYLOAD = "<img src=x onerror=alert(1)>"
COLOURS_OF = """(strip, off) => {
  document.documentElement.toggleAttribute('data-high-off', off);
  const style = getComputedStyle(strip);
  return [style.backgroundColor, style.color];
}"""
LISTEN = """async (kind) => {
  const base = [...document.scripts].find((s) => s.src.includes('/js/main.js')).src.replace('main.js', 'sound/');
  const { scheduleBurst } = await import(base + 'player.js');
  const { burst, period } = await import(base + 'burst.js');
  const rate = 24000, context = new OfflineAudioContext(1, rate * 5, rate);
  scheduleBurst(context, context.destination, kind, 0.2);
  const data = (await context.startRendering()).getChannelData(0);
  const level = [];  // envelope, every millisecond, over 6 ms: more than a period of the lowest pulse
  for (let i = 0; i + 144 < data.length; i += 24) { let most = 0; for (let k = i; k < i + 144; k += 1) most = Math.max(most, Math.abs(data[k])); level.push(most); }
  const peak = Math.max(...level), pulses = [];
  let on = -1;
  level.forEach((v, i) => { if (v > peak / 2 && on < 0) on = i; else if (v <= peak / 2 && on >= 0) { pulses.push([on, i]); on = -1; } });
  const first = burst(kind)[0], from = Math.round(rate * (0.2 + first.duration * 0.2)), count = Math.round(rate * first.duration * 0.6);
  const power = (f) => { let re = 0, im = 0; for (let i = 0; i < count; i += 1) { const w = 0.5 - 0.5 * Math.cos(2 * Math.PI * i / count); re += w * data[from + i] * Math.cos(2 * Math.PI * f * i / rate); im += w * data[from + i] * Math.sin(2 * Math.PI * f * i / rate); } return 10 * Math.log10(re * re + im * im); };
  const fundamental = power(first.frequency);
  const harmonics = [2, 3, 4, 5, 6, 7, 8].map((n) => n * first.frequency).filter((f) => f >= 300 && f <= 4000).map((f) => power(f) - fundamental);
  return { pulses, frequency: first.frequency, harmonics, gap: (period(kind) - (burst(kind).at(-1).at + burst(kind).at(-1).duration)) };
}"""

# Puts the widest texts into the row of slow values of some tiles, and tells of each whether it is seen whole ("in"), left
# out as a whole ("out"), or cut.
SLOW_VALUES = """() => {
  const texts = { rr: ['35', '▲'], bp: ['118/76', '▼'], temp: ['39.6', '▲'], news2: ['≥14', ''], 'news2-age': ['8 min', ''] };
  const found = {};
  for (const tile of [...document.querySelectorAll('[data-tile]:not(.bed-site)')].slice(0, 8)) {
    const parts = Object.entries(texts).map(([name, [text, sign]]) => {
      const part = tile.querySelector(`[data-${name}]`);
      part.textContent = text;
      if (sign) part.dataset.sign = sign;
      return [name, part];
    });
    for (const [name, part] of [...parts, ...parts.slice(0, 4).map(([name, part]) => [`${name} label`, part.closest('[data-value]').querySelector('.bed-small-label')])]) {
      const cell = part.closest('[data-value]').getBoundingClientRect(), box = part.getBoundingClientRect();
      const whole = box.left >= cell.left - 0.5 && box.right <= cell.right + 0.5 && part.scrollWidth <= Math.ceil(box.width);
      (found[name] ??= new Set()).add(box.top >= cell.bottom - 1.5 ? 'out' : whole && box.bottom <= cell.bottom + 1.5 ? 'in' : 'cut');
    }
  }
  return Object.fromEntries(Object.entries(found).map(([name, seen]) => [name, [...seen].sort().join(' ')]));
}"""
# Lists to choose from whose text is higher than they are.
LOW_LISTS = """() => [...document.querySelectorAll('.pick select')].filter((list) => list.offsetParent && list.clientHeight < 1.3 * parseFloat(getComputedStyle(list).fontSize))
  .map((list) => `${list.clientHeight} px`)"""
SIZES = ((390, 844), (1920, 1080), (3840, 2160))


@contextlib.asynccontextmanager
async def opened(home: Path) -> AsyncIterator[Visit]:
    expect.set_options(timeout=15_000)  # 64 beds, a browser without a graphics card and a busy machine
    async with synthetic_console(home, beds=64) as (hospital, url), async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = await browser.new_context(locale="en-GB", viewport={"width": 1920, "height": 1080})
        context.set_default_timeout(30_000)
        page = await context.new_page()
        visit = Visit(hospital, url, context, page)
        visit.watch(page)
        await visit.log_in()
        yield visit
        await browser.close()


async def a_wall_of_64_beds_fits_one_screen_and_is_live(visit: Visit) -> None:
    page, hospital = visit.page, visit.hospital
    hospital.patients[63].label = PAYLOAD
    await page.goto(visit.url + "/beds")
    await visit.live()
    await expect(page.locator("[data-tile]")).to_have_count(64)
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert await page.evaluate("[...document.querySelectorAll('[data-tile]')].every(e => e.getBoundingClientRect().bottom <= innerHeight)")  # fmt: skip
    await expect(page.locator("[data-device=bed-64] [data-label]")).to_have_text(PAYLOAD)

    hospital.patients[0].rate = 77.0

    await expect(page.locator("[data-device=bed-01] [data-hr]")).to_have_text("77")


async def an_alarm_is_paused_and_acknowledged_by_keys(visit: Visit) -> None:
    page, hospital = visit.page, visit.hospital
    await hospital.raise_alarm("bed-01", make_alarm("bed-01", "asystole", AlarmPriority.HIGH, args={"seconds": 4.0}))
    tile = page.locator("[data-device=bed-01]")
    await expect(tile.locator("[data-alarm-marks]")).to_have_text("!!!")
    await tile.focus()
    await page.keyboard.press("ArrowRight")
    await expect(page.locator("[data-device=bed-02]")).to_be_focused()
    await page.keyboard.press("ArrowLeft")

    await page.keyboard.press("p")
    await expect(tile.locator("[data-paused]")).to_be_visible()
    await expect(page.locator("#sound-state")).to_contain_text("paused")
    await page.keyboard.press("a")

    await expect(tile.locator("[data-alarm-more]")).to_contain_text("admin")
    assert hospital.bedside.pauses[-1].seconds == 120
    assert hospital.acknowledged[-1].by == "admin"


async def alarms_of_one_priority_flash_together_and_stay_legible(visit: Visit) -> None:
    """By a change of phase on the page's root: no animation is worked out anew for every picture of 64 tiles."""
    page, hospital = visit.page, visit.hospital
    await hospital.raise_alarm("bed-02", make_alarm("bed-02", "asystole", AlarmPriority.HIGH, args={"seconds": 4.0}))
    strip = page.locator("[data-device=bed-02] [data-alarm]")
    await expect(strip).to_be_visible()
    root = page.locator("html")
    seen = []
    for off in (True, False):
        if off:
            await expect(root).to_have_attribute("data-high-off", "")
        else:
            await expect(root).not_to_have_attribute("data-high-off", "")
        seen.append(await strip.evaluate(COLOURS_OF, off))
    (off_ground, off_ink), (on_ground, on_ink) = seen
    assert off_ground != on_ground
    assert off_ground != off_ink
    assert on_ground != on_ink
    assert await page.evaluate("document.getAnimations().length") == 0


async def bursts_are_as_the_standard_says(visit: Visit) -> None:
    """IEC 60601-1-8:2020, tables 3 and 4, measured on what would be played."""
    for kind, count, (shortest, longest), (least, most) in (
        ("high", 10, (75, 200), (2.5, 15)),
        ("medium", 3, (125, 250), (2.5, 30)),
        ("low", 2, (125, 250), (15, 600)),
        ("failure", 3, (125, 250), (2.5, 30)),
    ):
        heard = await visit.page.evaluate(LISTEN, kind)
        pulses = heard["pulses"]
        gaps = [b[0] - a[1] for a, b in itertools.pairwise(pulses)]

        assert len(pulses) == count, kind
        assert all(shortest <= end - begin <= longest + 60 for begin, end in pulses), kind  # here at half height
        assert 150 <= heard["frequency"] <= 1000
        assert sum(abs(level) <= 15 for level in heard["harmonics"]) >= 4, heard["harmonics"]
        assert all(abs(level) <= 15 or level < -40 for level in heard["harmonics"]), "there, or not there at all"
        assert least <= heard["gap"] <= most
        if kind == "high":
            assert max(gaps) == gaps[4], "five and five"
            assert gaps[2] > 2 * gaps[0]


async def a_sound_that_stands_still_does_not_pass_for_sounding(visit: Visit) -> None:
    """An unplugged loudspeaker: the browser says that it runs, and its clock stands still."""
    states = await visit.page.evaluate(
        """async () => { const base = [...document.scripts].find((s) => s.src.includes('/js/main.js')).src.replace('main.js', 'sound/');
        const { Player } = await import(base + 'player.js'); const player = new Player(); const states = [player.state];
        player.context = { state: 'running', currentTime: 1 };
        for (const step of [0, 0, 0.2]) { player.look(); player.moved -= step ? 0 : 2000; player.context.currentTime += step; states.push(player.state); }
        player.look(); states.push(player.state); return states; }"""
    )
    assert states == ["blocked", "running", "stalled", "stalled", "running"]


async def calipers_measure_time_rate_and_amplitude(visit: Visit) -> None:
    page, hospital = visit.page, visit.hospital
    at = time.time_ns() - 40_000_000_000
    alarm = msgspec.structs.replace(
        make_alarm("bed-01", "pause", AlarmPriority.MEDIUM), alarm_id="bed-01-7", raised_ns=at, at_ns=at, onset_ns=at
    )
    hospital.bedside.log = [alarm]
    await page.goto(f"{visit.url}/alarms/bed-01-7?bed=bed-01&at={at // 1_000_000}")
    await expect(page.locator("[data-paper] canvas")).to_have_count(3)
    await page.keyboard.press("c")
    said = page.locator("[data-said]")
    await expect(said).to_contain_text(re.compile(r"\d+ ms .*/min .*II: -?\d+\.\d\d mV"))
    before = int((await said.text_content() or "").split(" ms")[0])

    await page.keyboard.press("b")
    await page.keyboard.press("Shift+ArrowRight")

    await expect(said).to_contain_text(f"{before + 104} ms")  # a tenth of a second: 13 samples of 8 ms
    numbers = await page.evaluate(
        """async () => { const base = [...document.scripts].find((s) => s.src.includes('/js/main.js')).src.replace('main.js', 'review/');
        const c = await import(base + 'calipers.js'); const ch = { start: 1000, rate: 500, values: Float32Array.of(0, 1, NaN, 4) };
        return [c.interval(2000, 1000), c.interval(5, 5), c.valueAt(ch, 1001), c.valueAt(ch, 1004), c.valueAt(ch, 999), c.snap(ch, 1002.9), c.snap(ch, 9e9)]; }"""
    )
    assert numbers == [{"ms": 1000, "perMinute": 60}, {"ms": 0, "perMinute": 0}, 0.5, None, None, 1002, 1006]


async def a_printed_strip_is_true_to_scale_and_says_whose_it_is(visit: Visit) -> None:
    """On the page of the step before. Chromium cuts the scale of a printed canvas down to 64ths: it must meet one."""
    page = visit.page
    await page.evaluate("dispatchEvent(new Event('beforeprint'))")
    rows = await page.evaluate(
        "[...document.querySelectorAll('[data-print-area] canvas')].map(c => [c.width, c.height, parseFloat(c.style.width), parseFloat(c.style.height)])"
    )
    assert rows
    for wide, high, wide_mm, high_mm in rows:
        assert wide_mm == 250
        for pixels, mm in ((wide, wide_mm), (high, high_mm)):
            printed = int(mm / 25.4 * 96 / pixels * 64) / 64 * pixels / 96 * 25.4
            assert abs(printed / mm - 1) < 0.01
            assert int(mm / 25.4 * 96 / pixels * 64) == 32
    paper = page.locator("[data-print-area]")
    for text in ("Bed 1", "UTC", "25 mm/s", "Patient ____", "by admin"):
        await expect(paper).to_contain_text(text)


async def what_tells_of_alarms_never_scrolls_away(visit: Visit) -> None:
    """Not on a phone, not under the keys of the viewer, not in full screen."""
    page = visit.page
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(visit.url + "/alarms")
    await visit.live()
    visit.hospital.bedside.problems = ["the alarm log cannot be written"]
    await expect(page.locator("#alarm-failure")).to_be_visible()
    await page.evaluate("scrollTo(0, document.body.scrollHeight)")
    await expect(page.locator("#alarm-failure")).to_be_in_viewport()
    await expect(page.locator("#alarm-summary")).to_be_in_viewport()
    await expect(page.locator("#alarm-summary .alarm-high .tag-marks")).to_have_text("!!!")
    visit.hospital.bedside.problems = []
    await page.set_viewport_size({"width": 1920, "height": 1080})


async def long_names_that_differ_at_their_end_look_different(visit: Visit) -> None:
    page, hospital = visit.page, visit.hospital
    hospital.patients[4].label = "Kardiologische Überwachungseinheit Fensterplatz 12 A"
    hospital.patients[5].label = "Kardiologische Überwachungseinheit Fensterplatz 12 B"
    await page.goto(visit.url + "/beds")
    await visit.live()
    await expect(page.locator("[data-device=bed-05] [data-label]")).to_have_text(re.compile("…"))
    shown = [await page.locator(f"[data-device={bed}] [data-label]").text_content() for bed in ("bed-05", "bed-06")]

    assert (shown[0] or "").endswith("A")
    assert (shown[1] or "").endswith("B")


async def no_number_of_the_wall_is_cut(visit: Visit) -> None:
    """Cut, it would read as another: "≥14" as "≥1". Where there is no room the age of a score goes as a whole."""
    page = visit.page
    for language, (width, height) in itertools.product(("en", "zh"), SIZES):
        await visit.context.add_cookies([{"name": LANGUAGE_COOKIE, "value": language, "url": visit.url}])
        await page.set_viewport_size({"width": width, "height": height})
        await page.goto(visit.url + "/beds")
        await visit.live()
        await expect(page.locator("[data-tile]")).to_have_count(24 if width < 700 else 64)

        # The page arranges its tiles once it knows how many there are: not all of them are there at once.
        ages = ["in", "out"] if width == 1920 else ["in"]
        whole = f"([ages]) => {{ const seen = ({SLOW_VALUES})(); return Object.entries(seen).every(([name, one]) => (name === 'news2-age' ? ages : ['in']).includes(one)); }}"  # fmt: skip
        try:
            await page.wait_for_function(whole, arg=[ages])
        except NotYet:
            pytest.fail(f"{language}, {width}: {await page.evaluate(SLOW_VALUES)}")
        assert await page.evaluate(LOW_LISTS) == [], (language, width)
    await visit.context.clear_cookies(name=LANGUAGE_COOKIE)
    await page.set_viewport_size({"width": 1920, "height": 1080})


async def a_word_fits_the_column_of_a_trend_on_a_phone(visit: Visit) -> None:
    page = visit.page

    async def unresponsive(route: Route) -> None:
        trend = await (await route.fetch()).json()
        first = trend["series"][0]
        first |= {"p": "consciousness", "unit": "1", **dict.fromkeys(("low", "mean", "high"), [4] * len(first["at"]))}
        await route.fulfill(json=trend)

    await page.route("**/api/beds/*/trend?*", unresponsive)
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.goto(visit.url + "/beds/bed-01")
    word = page.locator(".trend-value b", has_text="Unresponsive")
    await expect(word).to_be_visible()
    assert await word.evaluate("(word) => word.scrollWidth <= word.clientWidth")
    assert await word.evaluate("(word) => word.clientHeight < 2 * parseFloat(getComputedStyle(word).fontSize)")
    await page.unroute("**/api/beds/*/trend?*")
    await page.set_viewport_size({"width": 1920, "height": 1080})


async def a_failing_alarm_system_is_shown_and_would_be_heard(visit: Visit) -> None:
    page, hospital = visit.page, visit.hospital
    failure = page.locator("#alarm-failure")
    await expect(failure).to_be_hidden()
    hospital.bedside.problems = ["the alarm log cannot be written"]
    await expect(failure).to_contain_text("the alarm log cannot be written")
    await expect(page.locator("[data-now]")).to_contain_text(re.compile("failure|high"))
    hospital.bedside.problems = []
    await expect(failure).to_be_hidden()

    hospital.bedside.well = False  # the monitor says nothing of the alarm path any more, though its numbers go on
    await expect(failure).to_contain_text("has not said for", timeout=20_000)
    hospital.bedside.well = True
    await expect(failure).to_be_hidden()


async def a_login_that_runs_out_leaves_a_watching_screen_neither_silent_nor_fresh(visit: Visit) -> None:
    page = visit.page
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sessions, "alive", lambda *_: False)
        await expect(page.locator("html")).to_have_attribute("data-link", "ended")
    await expect(page.locator("#banner")).to_contain_text("Alarms are not shown here any more")
    await expect(page.locator("#banner-login")).to_be_visible()
    await expect(page.locator("#alarm-failure")).to_be_visible(timeout=12_000)
    assert page.url == visit.url + "/beds"


async def a_login_that_runs_out_while_the_console_is_away_does_not_silence_a_screen(visit: Visit) -> None:
    async with fresh_page(visit) as another:
        page = another.page
        await page.add_init_script(
            "const Real = WebSocket;"
            "window.WebSocket = class extends Real { constructor(...of) { super(...of); window.theSocket = this; } };"
        )
        await page.goto(visit.url + "/beds")
        await another.live()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Sessions, "find", lambda *_: None)
            await page.evaluate("theSocket.close()")
            await expect(page.locator("html")).to_have_attribute("data-link", "ended")
        await expect(page.locator("#banner-login")).to_be_visible()
        assert page.url == visit.url + "/beds"


async def test_monitoring_in_a_browser(tmp_path: Path) -> None:
    async with opened(tmp_path / "home") as visit:
        await a_wall_of_64_beds_fits_one_screen_and_is_live(visit)
        await an_alarm_is_paused_and_acknowledged_by_keys(visit)
        await alarms_of_one_priority_flash_together_and_stay_legible(visit)
        await bursts_are_as_the_standard_says(visit)
        await a_sound_that_stands_still_does_not_pass_for_sounding(visit)
        await calipers_measure_time_rate_and_amplitude(visit)
        await a_printed_strip_is_true_to_scale_and_says_whose_it_is(visit)
        await a_failing_alarm_system_is_shown_and_would_be_heard(visit)
        await what_tells_of_alarms_never_scrolls_away(visit)
        await no_number_of_the_wall_is_cut(visit)
        await a_word_fits_the_column_of_a_trend_on_a_phone(visit)
        await long_names_that_differ_at_their_end_look_different(visit)
        await a_login_that_runs_out_while_the_console_is_away_does_not_silence_a_screen(visit)
        await a_login_that_runs_out_leaves_a_watching_screen_neither_silent_nor_fresh(visit)
        assert visit.problems == []
