"""In a real browser: old never looks live, and hostile text stays text."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from playwright.async_api import expect
from tests.peers.test_browser import Visit, visit
from tests.support.synthetic import make_alarm, make_item

from edgeward.messages import AlarmPriority, Verdict

__all__ = ["visit"]
pytestmark = pytest.mark.peer

PAYLOADS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "'-alert(1)-'",
    "{{ 7 * 7 }}{% raw %}",
    "</textarea></pre><iframe src=javascript:alert(1)>",
)


# Somebody presses, for this page just now for the next minutes (a busy browser would else outlast the banners' patience);
# and what is to be seen of the banners at the moment when there is something to tell.
PRESS = """() => {
  const root = document.documentElement, hidden = (id) => document.getElementById(id).hidden;
  window.hidden = {};
  const now = performance.now.bind(performance);
  performance.now = () => now() + 600_000;
  document.dispatchEvent(new PointerEvent("pointerdown"));
  performance.now = now;
  const watch = (part, what, id, due) => new MutationObserver(() => { if (due()) window.hidden[id] ??= hidden(id); }).observe(part, what);
  watch(root, { attributeFilter: ["data-link"] }, "banner", () => root.dataset.link === "lost");
  watch(root, { attributeFilter: ["data-failing"] }, "alarm-failure", () => root.hasAttribute("data-failing"));
  watch(document.querySelector("[data-missed-text]"), { childList: true }, "missed", () => true);
}"""
# When the page told that the link is lost, and for how long it had been held up by then: a browser that gets no turn on a
# busy machine tells nothing.
TOLD = """() => {
  const root = document.documentElement;
  let [due, late] = [performance.now() + 100, 0];
  const look = () => { const now = performance.now(); late += Math.max(0, now - due - 10); due = now + 100; };
  setInterval(look, 100);
  window.told = new Promise((done) => new MutationObserver(() => {
    if (root.dataset.link !== "lost") return;
    look();
    done([performance.now(), late]);
  }).observe(root, { attributeFilter: ["data-link"] }));
}"""
RELEASE = """() => {
  document.dispatchEvent(new PointerEvent("pointerup"));
  return window.hidden;
}"""


async def greyed(visit: Visit) -> bool:
    return bool(
        await visit.page.evaluate(
            "getComputedStyle(document.querySelector('.bed-numbers')).filter.includes('grayscale(1)')"
        )
    )


async def open_wall(visit: Visit) -> None:
    await visit.log_in()
    await visit.page.goto(visit.url + "/beds")
    await visit.live()
    await expect(visit.page.locator("[data-device=bed-01] [data-hr]")).to_have_text("62")
    await expect(visit.page.locator("#banner")).to_be_hidden()
    assert not await greyed(visit)


async def test_a_silent_monitor_is_told_and_the_numbers_turn_grey(visit: Visit) -> None:
    await open_wall(visit)

    visit.hospital.beds_running = False

    await expect(visit.page.locator("html")).to_have_attribute("data-link", "monitor", timeout=6_000)
    await expect(visit.page.locator("#banner")).to_be_visible()
    await expect(visit.page.locator("#banner")).to_contain_text("Patients are not watched here")
    assert await greyed(visit)
    visit.hospital.beds_running = True
    await visit.live()
    await expect(visit.page.locator("#banner")).to_be_hidden()
    assert not await greyed(visit)


async def test_a_lost_bus_is_told_on_every_page(visit: Visit) -> None:
    await visit.log_in()
    await visit.page.goto(visit.url + "/system")
    await visit.live()

    await visit.hospital.site.kill_bus()

    await expect(visit.page.locator("html")).to_have_attribute("data-link", "bus", timeout=8_000)
    await expect(visit.page.locator("#banner")).to_contain_text("NOT LIVE")
    await visit.hospital.site.start_bus()
    await expect(visit.page.locator("html")).to_have_attribute("data-link", "live", timeout=15_000)


async def test_a_console_that_stands_still_is_noticed_by_the_browser_alone(visit: Visit) -> None:
    """The socket stays open and nothing comes: the page must find out from the silence within 3 s."""
    await open_wall(visit)
    await visit.page.evaluate(TOLD)
    # Playwright and the console share this event loop, so the loop itself is held still, as a stopped process would be.
    before = await visit.page.evaluate("performance.now()")
    time.sleep(5)
    after, held_up = await visit.page.evaluate("window.told")

    assert after - before - held_up < 3_400, "3 s, and what starting to stand still may take"
    await visit.live()


async def test_no_banner_comes_under_a_finger_that_is_down(visit: Visit) -> None:
    """Each of them would move what is below it, and the release would fall beside what was meant."""
    await open_wall(visit)
    page = visit.page
    await page.evaluate(PRESS)
    visit.hospital.bedside.problems = ["the alarm log cannot be written"]
    await expect(page.locator("html")).to_have_attribute("data-failing", "")
    await page.evaluate("() => { const now = Date.now; Date.now = () => now() + 60_000; }")  # this screen was asleep
    await expect(page.locator("[data-missed-text]")).not_to_be_empty()
    time.sleep(5.5)  # the console stands still with its loop: the link is lost
    await visit.live()

    told = await page.evaluate(RELEASE)

    assert told == {"banner": True, "alarm-failure": True, "missed": True}
    await expect(page.locator("#alarm-failure")).to_be_visible()
    await expect(page.locator("#missed")).to_be_visible()


async def test_the_wall_comes_back_by_itself_after_the_connection_was_cut(visit: Visit) -> None:
    await open_wall(visit)

    await visit.context.set_offline(True)
    for connection in tuple(visit.hospital.site.buses):
        assert connection is not None
    await visit.page.evaluate("() => 1")
    await visit.context.set_offline(False)

    await visit.live()
    await expect(visit.page.locator("[data-device=bed-02] [data-hr]")).to_have_text("69")


async def test_a_stale_bed_shows_its_age_and_no_number(visit: Visit) -> None:
    await open_wall(visit)
    silent = visit.page.locator("[data-device=bed-08]")

    await expect(silent.locator("[data-veil]")).to_contain_text("No signal for")
    await expect(silent.locator("[data-hr]")).to_have_text("– –")
    assert "old" in (await silent.get_attribute("class") or "")


async def test_logging_out_in_one_tab_closes_the_other(visit: Visit) -> None:
    await open_wall(visit)
    other = await visit.context.new_page()
    await other.goto(visit.url + "/images")

    await other.locator("summary[aria-label]").click()
    await other.locator(".menu-button").click()

    await other.wait_for_url("**/login**", timeout=10_000)
    await visit.page.wait_for_url("**/login**", timeout=10_000)


@pytest.mark.parametrize("payload", PAYLOADS)
async def test_hostile_text_is_shown_as_text_everywhere(visit: Visit, payload: str) -> None:
    hospital = visit.hospital
    item, jpeg = make_item(0, "malignant", name=payload)
    assert item.finding is not None
    verdict = Verdict(
        verdict_id="v",
        item_id=item.item_id,
        finding_id=item.finding.finding_id,
        action="reject",
        by=payload,
        at_ns=item.received_ns,
        comment=payload,
    )
    finding = msgspec.structs.replace(item.finding, model=payload, label=payload, spacing_source=payload)
    hostile = msgspec.structs.replace(
        item, patient_id=payload, study_description=payload, device=payload, modality=payload, finding=finding, verdicts=[verdict],
        received_ns=time.time_ns(),
    )  # fmt: skip
    hospital.items = [hostile, *(i for i in hospital.items if i.item_id != hostile.item_id)]
    hospital.previews[hostile.item_id] = jpeg
    hospital.patients[0].label = payload
    hospital.patients[0].alarms.append(make_alarm("bed-01", payload, AlarmPriority.HIGH, args={payload: payload}))
    hospital.devices = [msgspec.structs.replace(hospital.devices[0], label=payload, ae_title=payload, kind=payload)]
    hospital.quarantine = [
        msgspec.structs.replace(hospital.quarantine[0], peer=payload, reason=payload, what_to_do=payload, where=payload)
    ]
    await visit.log_in()

    for path in ("/", "/beds", "/beds/bed-01", "/images", f"/images/{hostile.item_id}", "/system"):
        await visit.page.goto(visit.url + path)
        await visit.live()
        await expect(visit.page.get_by_text(payload, exact=False).first).to_be_attached(timeout=10_000)
        assert (
            await visit.page.evaluate(
                "document.querySelectorAll('main script, main iframe, main img[src=x], [onload], [onerror]').length"
            )
            == 0
        )
    await hospital.add(msgspec.structs.replace(hostile, state="analysed"))  # through the refreshing script, too
    await asyncio.sleep(0)
    await visit.page.goto(visit.url + "/images")
    await visit.live()
    assert visit.problems == []
