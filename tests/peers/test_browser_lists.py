"""Worklist, deliveries, refusals and orders in a real browser: filters, search, keys, who looks at what."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from tests.peers.test_browser import Visit, fresh_page, item_where, opened
from tests.support.synthetic import make_item

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Visit]:
    async with opened(tmp_path_factory.mktemp("lists") / "home") as visit:
        await visit.log_in()
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Visit) -> AsyncIterator[Visit]:
    async with fresh_page(browser) as visit:
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def page(visit: Visit) -> AsyncIterator[Page]:
    yield visit.page
    assert visit.problems == []


async def test_a_search_finds_and_its_words_stand_in_no_address(visit: Visit, page: Page) -> None:
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(f"{request.method} {request.url}"))
    await page.goto(visit.url + "/images")
    await visit.live()

    await page.keyboard.press("/")
    await page.keyboard.type("lindqvist")
    await page.keyboard.press("Enter")

    await expect(page.locator("tbody tr[data-key]")).to_have_count(2)
    await expect(page.locator("[data-search]")).to_have_value("lindqvist")
    assert re.search(r"/images\?find=[0-9a-f]{16}$", page.url)
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1")).to_contain_text("Lindqvist")
    await visit.live()
    await page.keyboard.press("u")
    await expect(page.locator("tbody tr[data-key]")).to_have_count(2)
    assert not any("lindqvist" in address.lower() for address in addresses)
    assert "lindqvist" not in str(await page.evaluate("history.state")).lower()


async def test_filters_stand_in_the_address_and_survive_a_reload(visit: Visit, page: Page) -> None:
    await page.goto(visit.url + "/images")
    await visit.live()
    await page.locator(".filters summary").click()

    await page.locator("select[name=decided]").select_option("no")
    await page.wait_for_url("**/images?decided=no")
    await page.locator("select[name=order]").select_option("priority")
    await page.wait_for_url("**decided=no**")
    await expect(page).to_have_url(re.compile("order=priority"))
    assert "zone" not in page.url
    assert "device" not in page.url
    first = page.locator("tbody tr[data-key]").first
    await expect(first).to_contain_text("Malignant")
    await page.reload()
    await expect(page.locator("select[name=decided]")).to_have_value("no")
    await expect(first).to_contain_text("Malignant")
    await page.fill("[name=since]", "2001-01-01")
    await page.fill("[name=until]", "2001-01-02")
    await page.locator(".filter-form button").click()
    await expect(page.locator(".empty")).to_contain_text("Nothing matches")
    assert "zone=" in page.url


async def test_a_row_keeps_the_focus_when_a_new_one_comes(visit: Visit, page: Page) -> None:
    await page.goto(visit.url + "/images")
    await visit.live()
    for _ in range(3):
        await page.keyboard.press("j")
    key = "document.activeElement.closest('[data-key]').dataset.key"
    before = await page.evaluate(key)
    item, jpeg = make_item(0, "malignant", name="Newcomer^Nora")
    fresh = msgspec.structs.replace(item, item_id="d" * 32, received_ns=item.received_ns + 2_000_000_000)

    await visit.hospital.add(fresh, jpeg)

    await expect(page.locator("tbody tr[data-key]").first).to_contain_text("Newcomer")
    assert await page.evaluate(key) == before
    await page.keyboard.press("k")
    assert await page.evaluate(key) == visit.hospital.items[2].item_id


async def test_who_looks_at_an_item_is_shown_until_the_tab_is_closed(visit: Visit, page: Page) -> None:
    item_id = item_where(visit.hospital, lambda f: f.suspicious)
    nurse = await visit.context.browser.new_context(locale="en-GB")  # type: ignore[union-attr]
    other = await nurse.new_page()
    await page.goto(visit.url + "/system/people")
    await page.fill("[name=name]", "dr.lin")
    await page.locator(".stack button").click()
    password = (await page.locator(".secret").text_content() or "").strip()
    await other.goto(visit.url)
    await other.fill("[name=user]", "dr.lin")
    await other.fill("[name=password]", password)
    await other.click("button.button-primary")
    await other.fill("[name=current]", password)
    await other.fill("[name=new]", "the words of lin")
    await other.fill("[name=again]", "the words of lin")
    await other.click("button.button-primary")
    await other.wait_for_url(visit.url + "/")
    await page.goto(visit.url + "/images")
    await visit.live()
    mark = page.locator(f"[data-looking='{item_id}']")
    await expect(mark).to_be_hidden()

    await other.goto(f"{visit.url}/images/{item_id}")

    await expect(mark).to_have_text("Open at: dr.lin")
    await page.goto(f"{visit.url}/images/{item_id}")
    await expect(mark).to_have_text("Open at: dr.lin")
    await expect(other.locator("[data-looking]").first).to_have_text("Open at: admin")
    await other.close()
    await expect(mark).to_be_hidden()
    await nurse.close()


async def test_a_dead_letter_is_sent_again_with_one_click(visit: Visit, page: Page) -> None:
    hospital = visit.hospital
    letter = hospital.dead[0]
    await page.goto(visit.url + "/system/delivery")
    await visit.live()
    await expect(page.locator(".letter")).to_have_count(2)

    await page.locator(".letter", has_text=letter.reason).locator("button").click()

    await expect(page.locator(".message-ok")).to_contain_text("Put into their queues again: 1")
    await expect(page.locator(".letter")).to_have_count(1)
    sent = hospital.resends[-1]
    assert (sent.by, sent.item_id, sent.destination) == ("admin", letter.item_id, "archive")
    await page.get_by_role("button", name="Send all of them again").click()
    await expect(page.locator(".empty")).to_contain_text("Nothing was given up")
    assert (hospital.resends[-1].item_id, hospital.resends[-1].destination) == ("", "")


async def test_refusals_are_grouped_and_filtered_by_place(visit: Visit, page: Page) -> None:
    await page.goto(visit.url + "/system/quarantine")
    await visit.live()
    rows = page.locator(".groups tbody tr")
    await expect(rows).to_have_count(3)
    await expect(rows.first).to_contain_text("unknown AE title")
    await expect(rows.first).to_contain_text("17")

    await page.locator("#part-places a", has_text="MQTT").click()
    await expect(rows).to_have_count(1)
    await page.locator("#part-places a", has_text="DICOM").click()
    await page.locator(".groups a.mono").click()

    await expect(page).to_have_url(re.compile("/images/[0-9a-f]{32}$"))


async def test_orders_are_searched_and_an_empty_list_says_how_to_fill_it(visit: Visit, page: Page) -> None:
    await page.goto(visit.url + "/orders")
    await visit.live()
    rows = page.locator(".orders tbody tr")
    await expect(rows).to_have_count(3)
    await expect(rows.first).to_contain_text("Stat")

    await page.keyboard.press("/")
    await page.keyboard.type("A9002")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)
    assert "9002" not in page.url
    visit.hospital.orders = []
    await page.goto(visit.url + "/orders")

    await expect(page.locator(".empty")).to_contain_text("No order system has sent anything yet")
    await expect(page.locator(".empty")).to_contain_text(str(visit.hospital.site.settings.mllp.port))
