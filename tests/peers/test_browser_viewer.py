"""The viewer in a real browser: what the keys, the pointer and the fingers do to the pixels and the outlines."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Error, Page, Route, expect
from tests.peers.test_browser import Visit, fresh_page, item_where, opened
from tests.support.synthetic import SyntheticHospital, make_item

from edgeward.console import render
from edgeward.console.viewer import KEYS
from edgeward.messages import ItemSummary, RegionScale

pytestmark = [pytest.mark.peer, pytest.mark.asyncio(loop_scope="module")]

# The mean grey level of the middle of the stage, and where the pane says it is.
GREY = """() => { const c = document.querySelector('.pane [data-canvas]'); const x = c.width / 2 - 40, y = c.height / 2 - 40;
    const d = c.getContext('2d').getImageData(x, y, 80, 80).data; let sum = 0; for (let i = 0; i < d.length; i += 4) sum += d[i]; return sum / (d.length / 4); }"""
OUTLINE = "() => { const b = document.querySelector('.layer-box rect').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]; }"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Visit]:
    """One site, one browser, one login for all tests here."""
    async with opened(tmp_path_factory.mktemp("viewer") / "home") as visit:
        await visit.log_in()
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Visit) -> AsyncIterator[Visit]:
    """A page of its own, and the hospital as it was."""
    async with fresh_page(browser) as visit:
        yield visit


@pytest_asyncio.fixture(loop_scope="module")
async def page(visit: Visit) -> AsyncIterator[Page]:
    yield visit.page
    assert visit.problems == []


def item(hospital: SyntheticHospital, item_id: str) -> ItemSummary:
    return next(i for i in hospital.items if i.item_id == item_id)


async def shown(visit: Visit, item_id: str, query: str = "") -> None:
    await visit.page.goto(f"{visit.url}/images/{item_id}{query}")
    await visit.live()
    await expect(visit.page.locator(".pane[data-frame]").first).to_be_visible()


async def drawn(page: Page) -> None:
    """Wait until what the last key or movement did is on the screen."""
    await page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


async def grey(page: Page, than: float, *, brighter: bool) -> float:
    """Wait until the middle is brighter or darker than it was; return how bright it is now."""
    await page.wait_for_function(
        f"before => {{ const now = ({GREY})(); return {'now > before + 2' if brighter else 'now < before - 2'}; }}",
        arg=than,
    )
    return float(await page.evaluate(GREY))


async def ink(page: Page) -> float:
    await page.wait_for_function(f"() => ({GREY})() > 5")
    return float(await page.evaluate(GREY))


async def test_the_outline_lies_exactly_on_the_picture_at_every_zoom(visit: Visit, page: Page) -> None:
    item_id = item_where(visit.hospital, lambda f: f.suspicious)
    finding = item(visit.hospital, item_id).finding
    assert finding is not None
    await shown(visit, item_id)
    await page.keyboard.press("g")
    await expect(page.locator(".layer-box")).to_have_count(1)
    stage = await page.locator("[data-stage]").bounding_box()
    assert stage is not None
    x0, y0, x1, y1 = finding.lesions[0].box
    fit = min(stage["width"] / finding.columns, stage["height"] / finding.rows)

    box = await page.evaluate(OUTLINE)

    left = stage["x"] + stage["width"] / 2 + (x0 - (finding.columns - 1) / 2) * fit
    top = stage["y"] + stage["height"] / 2 + (y0 - (finding.rows - 1) / 2) * fit
    assert box == pytest.approx([left, top, (x1 - x0) * fit, (y1 - y0) * fit], abs=2.5)
    for key, scale in (("1", 1.0), ("+", 1.25), ("0", fit)):
        await page.keyboard.press(key)
        await page.wait_for_function(f"want => Math.abs(({OUTLINE})()[2] - want) < 2.5", arg=(x1 - x0) * scale)


async def test_layers_and_single_lesions_switch_on_and_off(visit: Visit, page: Page) -> None:
    await shown(visit, item_where(visit.hospital, lambda f: f.suspicious))
    contour = page.locator(".layer-contour")
    await expect(contour).to_have_count(1)

    await page.keyboard.press("c")
    await expect(contour).to_have_count(0)
    await expect(page.locator("[data-do=contour]")).to_have_attribute("aria-pressed", "false")
    await page.keyboard.press("c")
    await page.keyboard.press("x")
    await expect(page.locator(".layer-axes")).to_have_count(1)
    await expect(page.locator(".lesion-label")).to_contain_text("×")
    await page.keyboard.press("Shift+Digit1")
    await expect(contour).to_have_count(0)
    chip = page.locator(".chip")
    await expect(chip).to_have_attribute("aria-pressed", "false")
    await chip.click()
    await expect(contour).to_have_count(1)
    await expect(page.locator("[data-badge]")).to_have_text("AI, preliminary")


async def test_window_level_and_inversion_change_the_pixels_and_reset_restores_them(visit: Visit, page: Page) -> None:
    await shown(visit, item_where(visit.hospital, lambda f: f.frames == 1 and f.status == "analysed"))
    asked = len(visit.hospital.frame_queries)
    before = await ink(page)

    for _ in range(6):
        await page.keyboard.press("ArrowUp")
    brighter = await grey(page, before, brighter=True)
    for _ in range(12):
        await page.keyboard.press("ArrowDown")
    await grey(page, brighter, brighter=False)
    await page.keyboard.press("r")
    await page.wait_for_function(f"want => Math.abs(({GREY})() - want) < 0.5", arg=before)
    await page.keyboard.press("i")
    await page.wait_for_function(f"want => Math.abs(({GREY})() - want) < 1.5", arg=255 - before)
    await page.keyboard.press("r")
    stage = await page.locator("[data-stage]").bounding_box()
    assert stage is not None
    await page.mouse.move(stage["x"] + 200, stage["y"] + 200)
    await page.mouse.down()
    await page.mouse.move(stage["x"] + 200, stage["y"] + 140, steps=4)
    await page.mouse.up()
    await grey(page, before, brighter=True)

    assert len(visit.hospital.frame_queries) == asked, "eight bits are windowed here, without asking anybody"


async def test_deeper_pixels_are_rendered_anew_by_the_server_once_the_window_rests(visit: Visit, page: Page) -> None:
    item_id = item_where(visit.hospital, lambda f: f.frames == 1 and f.status == "analysed")
    visit.hospital.deep.add(item_id)
    await shown(visit, item_id)
    before = await ink(page)
    asked = len(visit.hospital.frame_queries)

    # Eight at once: pressed one by one on a busy machine, the window may rest between them.
    await page.evaluate(
        """() => { const stage = document.querySelector('[data-stage]');
        for (let i = 0; i < 8; i += 1) stage.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowUp', code: 'ArrowUp', bubbles: true })); }"""
    )

    await grey(page, before, brighter=True)
    await page.wait_for_function("() => !document.querySelector('.pane[data-loading]')")
    await page.wait_for_function("() => performance.getEntriesByType('resource').some(e => e.name.includes('center='))")
    queries = visit.hospital.frame_queries[asked:]
    assert len(queries) <= 2, "one request for many key presses"
    assert queries[-1].window_center == pytest.approx(2048 - 8 * 8 * 4095 / 256, abs=1)
    assert queries[-1].window_width == pytest.approx(4096)


async def test_a_loop_begins_at_the_best_frame_and_plays_steps_and_says_what_was_looked_at(
    visit: Visit, page: Page
) -> None:
    item_id = item_where(visit.hospital, lambda f: f.frames > 1)
    await shown(visit, item_id)
    pane, counter, said = page.locator(".pane"), page.locator("[data-counter]"), page.locator("[data-said]")
    await expect(counter).to_have_text("4 / 24")
    await expect(page.locator(".mark")).to_have_count(5)
    await expect(page.locator(".mark-refused")).to_have_attribute("title", "Frame 22: Not analysed")

    await page.keyboard.press("ArrowRight")
    await expect(counter).to_have_text("5 / 24")
    await expect(said).to_contain_text("The AI has not looked at this frame")
    await page.keyboard.press(".")
    await expect(counter).to_have_text("10 / 24")
    await expect(said).to_contain_text("Normal")
    await page.keyboard.press("End")
    await page.keyboard.press(",")
    await expect(said).to_contain_text("Outside the model's domain")
    await page.keyboard.press("b")
    await expect(pane).to_have_attribute("data-frame", "3")

    seen = "() => { window.seen = new Set(); new MutationObserver(() => seen.add(document.querySelector('.pane').dataset.frame)).observe(document.querySelector('.pane'), { attributeFilter: ['data-frame'] }); }"
    await page.evaluate(seen)
    await page.keyboard.press("Space")
    await page.wait_for_function("() => window.seen.size === 24", timeout=30_000)
    await page.keyboard.press("Space")
    await expect(page.locator("[data-do=play]")).to_have_attribute("aria-pressed", "false")
    rest = await counter.text_content()
    asked = len(visit.hospital.frame_queries)
    assert asked <= 24 + 2, "each frame is fetched once, then kept in memory"
    await page.keyboard.press("Home")
    await expect(counter).to_have_text("1 / 24")
    assert rest is not None
    assert len(visit.hospital.frame_queries) == asked


async def test_a_distance_is_measured_in_millimetres_with_the_pointer_and_with_the_keys(
    visit: Visit, page: Page
) -> None:
    item_id = item_where(
        visit.hospital, lambda f: f.spacing_mm is not None and f.frames == 1 and f.status == "analysed"
    )
    finding = item(visit.hospital, item_id).finding
    assert finding is not None
    assert finding.spacing_mm is not None
    await shown(visit, item_id)
    stage = await page.locator("[data-stage]").bounding_box()
    assert stage is not None
    fit = min(stage["width"] / finding.columns, stage["height"] / finding.rows)
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2

    await page.keyboard.press("m")
    await page.mouse.move(x, y)
    await page.mouse.down()
    await page.mouse.move(x + 120, y + 90, steps=3)
    await page.mouse.up()

    label = page.locator(".measure-label")
    expected = math.hypot(120 / fit * finding.spacing_mm[1], 90 / fit * finding.spacing_mm[0])
    await expect(label).to_have_count(1)
    await drawn(page)
    assert float((await label.text_content() or "").split()[0]) == pytest.approx(expected, abs=0.1)

    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    for _ in range(3):
        await page.keyboard.press("Shift+ArrowRight")
    await page.keyboard.press("Enter")
    await expect(label).to_have_count(2)
    await drawn(page)
    assert float((await label.last.text_content() or "").split()[0]) == pytest.approx(
        30 * finding.spacing_mm[1], abs=0.06
    )
    await page.keyboard.press("Escape")
    await page.keyboard.press("Delete")
    await expect(label).to_have_count(1)
    await page.keyboard.press("o")
    await page.mouse.move(x - 60, y - 60)
    await page.mouse.down()
    await page.mouse.move(x - 160, y - 140, steps=3)
    await page.mouse.up()
    await expect(label).to_have_count(2)
    await drawn(page)
    wide, high = 100 / fit * finding.spacing_mm[1], 80 / fit * finding.spacing_mm[0]
    text = (await label.last.text_content() or "").split()
    assert [float(text[0]), float(text[2])] == pytest.approx([wide, high], abs=0.1)
    assert float(text[4]) == pytest.approx(math.pi / 4 * wide * high, abs=1)


async def test_without_a_spacing_nothing_is_given_in_millimetres(visit: Visit, page: Page) -> None:
    await shown(visit, item_where(visit.hospital, lambda f: f.spacing_mm is None and f.status == "analysed"))
    stage = await page.locator("[data-stage]").bounding_box()
    assert stage is not None

    await page.keyboard.press("m")
    await page.mouse.move(stage["x"] + 150, stage["y"] + 100)
    await page.mouse.down()
    await page.mouse.move(stage["x"] + 250, stage["y"] + 100, steps=3)
    await page.mouse.up()

    await expect(page.locator(".measure-label")).to_contain_text("px")
    await expect(page.locator("[data-scale]")).to_have_text("No pixel spacing: measured in pixels")


async def test_each_region_is_measured_in_its_own_scale_and_a_spectrum_in_pixels(visit: Visit, page: Page) -> None:
    item_id = item_where(
        visit.hospital, lambda f: f.spacing_mm is not None and f.frames == 1 and f.status == "analysed"
    )
    finding = item(visit.hospital, item_id).finding
    assert finding is not None
    wide, high = finding.columns, finding.rows
    visit.hospital.scales[item_id] = (
        RegionScale(box=(0, 0, wide // 2, high // 2), spacing_mm=(0.1, 0.1)),
        RegionScale(box=(wide // 2, 0, wide, high // 2), spacing_mm=(0.2, 0.2)),
        RegionScale(box=(0, high // 2, wide, high)),
    )
    await shown(visit, item_id)
    stage = await page.locator("[data-stage]").bounding_box()
    assert stage is not None
    fit = min(stage["width"] / wide, stage["height"] / high)
    middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
    label = page.locator(".measure-label")

    async def measured(begin: tuple[float, float], end: tuple[float, float]) -> str:
        before = await label.count()
        await page.mouse.move(middle[0] + begin[0], middle[1] + begin[1])
        await page.mouse.down()
        await page.mouse.move(middle[0] + end[0], middle[1] + end[1], steps=3)
        await page.mouse.up()
        await expect(label).to_have_count(before + 1)
        await drawn(page)
        return await label.last.text_content() or ""

    await page.keyboard.press("m")
    left, right = await measured((-80, -60), (-20, -60)), await measured((30, -60), (90, -60))
    across, trace = await measured((-50, -90), (60, -90)), await measured((-80, 60), (-20, 60))

    assert float(left.split()[0]) == pytest.approx(60 / fit * 0.1, abs=0.1)
    assert float(right.split()[0]) == pytest.approx(60 / fit * 0.2, abs=0.1)
    assert "px" in across
    assert "px" in trace
    await expect(page.locator("[data-scale]")).to_have_text("Several scales: each region is measured in its own")


async def test_an_image_without_a_spacing_has_not_that_of_the_one_before_it_in_the_series(
    visit: Visit, page: Page
) -> None:
    for number, spacing in enumerate(((0.1, 0.1), None)):
        one, jpeg = make_item(3, "benign")
        assert one.finding is not None
        one = msgspec.structs.replace(
            one, item_id=f"{number + 50:032x}", series_instance_uid="1.9.50", study_instance_uid="1.50", patient_id="S-50", instance_number=str(number),
            finding=msgspec.structs.replace(one.finding, spacing_mm=spacing, spacing_source="PixelSpacing" if spacing else ""),
        )  # fmt: skip
        await visit.hospital.add(one, jpeg)
    await page.goto(f"{visit.url}/images/{50:032x}")
    await expect(page.locator(".pane")).to_have_attribute("data-stack", "")
    scale = page.locator("[data-scale]")
    await expect(scale).to_contain_text("0.100 mm")

    await page.keyboard.press("]")
    await expect(scale).to_have_text("No pixel spacing: measured in pixels")

    await page.keyboard.press("[")
    await expect(scale).to_contain_text("0.100 mm")


async def test_wheel_zooms_at_the_pointer_and_two_fingers_pinch(visit: Visit, page: Page) -> None:
    await shown(visit, item_where(visit.hospital, lambda f: f.suspicious))
    await page.keyboard.press("g")
    await expect(page.locator(".layer-box")).to_have_count(1)
    before = await page.evaluate(OUTLINE)
    await page.mouse.move(before[0], before[1])
    await page.mouse.wheel(0, -200)
    await page.wait_for_function(f"before => ({OUTLINE})()[2] > before * 1.2", arg=before[2])
    await drawn(page)
    after = await page.evaluate(OUTLINE)
    assert after[:2] == pytest.approx(before[:2], abs=2), "what lies under the pointer stays there"

    await page.keyboard.press("0")
    await page.wait_for_function(f"before => Math.abs(({OUTLINE})()[2] - before) < 1", arg=before[2])
    await page.evaluate(
        """() => { const stage = document.querySelector('[data-stage]'); const box = stage.getBoundingClientRect(); stage.setPointerCapture = () => {};
        const say = (type, id, x) => stage.dispatchEvent(new PointerEvent(type, { pointerId: id, pointerType: 'touch', clientX: box.left + x, clientY: box.top + 100, bubbles: true }));
        say('pointerdown', 1, 200); say('pointerdown', 2, 300); say('pointermove', 1, 150); say('pointermove', 2, 350); say('pointerup', 1, 150); say('pointerup', 2, 350); }"""
    )
    await page.wait_for_function(f"before => Math.abs(({OUTLINE})()[2] / before - 2) < 0.05", arg=before[2])


async def test_a_series_is_one_stack_that_the_wheel_goes_through(visit: Visit, page: Page) -> None:
    hospital = visit.hospital
    slices = []
    for number in range(40):
        one, jpeg = make_item(3, "outside")
        one = msgspec.structs.replace(
            one, item_id=f"{number:032x}", modality="CT", series_instance_uid="1.9.7", study_instance_uid="1.9", patient_id="S-1",
            instance_number=str(number + 1), received_ns=one.received_ns + number,
        )  # fmt: skip
        await hospital.add(one, jpeg)
        slices.append(one)
        hospital.deep.add(one.item_id)

    await page.goto(visit.url + "/images?modality=CT")
    await expect(page.locator("tr[data-key]")).to_have_count(1)
    await expect(page.locator("tr[data-key]")).to_contain_text("40 images of a series")

    async def slow(route: Route) -> None:  # the series is known before its picture has come
        await page.wait_for_selector("[data-stack]")
        with contextlib.suppress(Error):  # the page may have given it up meanwhile, or the route has
            await route.continue_()

    await page.route("**/frames/*", slow)
    await page.locator(".row-link").click()

    pane = page.locator(".pane")
    await expect(page.locator("[data-corner]")).to_contain_text("C 2048")
    await page.unroute("**/frames/*")
    await expect(pane).to_have_attribute("data-frame", "39")
    await expect(page.locator("[data-said]")).to_contain_text("image 40 of 40")
    await expect(page.locator("[data-another]")).to_be_hidden()
    await page.locator("[data-stage]").hover()
    await page.mouse.wheel(0, -120)
    await expect(pane).to_have_attribute("data-frame", "36")
    await page.keyboard.press("PageUp")
    await expect(pane).to_have_attribute("data-frame", "26")
    await expect(page.locator("[data-said]")).to_contain_text("image 27 of 40")
    assert hospital.frame_queries[-1].item_id != slices[-1].item_id
    await expect(page.locator("[data-another]")).to_be_visible()
    await page.locator("[data-open]").click()
    await page.wait_for_url(f"**/images/{slices[26].item_id}*")
    await expect(pane).to_have_attribute("data-frame", "26")


async def test_no_verdict_is_given_while_another_image_of_the_series_is_shown(visit: Visit, page: Page) -> None:
    hospital = visit.hospital
    for number in range(3):
        one, jpeg = make_item(3, "benign")
        one = msgspec.structs.replace(
            one, item_id=f"{number:032x}", series_instance_uid="1.9.8", study_instance_uid="1.8", patient_id="S-2", instance_number=str(number)
        )  # fmt: skip
        await hospital.add(one, jpeg)
    await page.goto(f"{visit.url}/images/{1:032x}")
    pane = page.locator(".pane")
    await expect(pane).to_have_attribute("data-stack", "")
    await page.keyboard.press("]")
    await expect(page.locator("[data-another]")).to_be_visible()

    await page.locator("button[value=confirm]").click()

    await expect(page.locator("#toast")).to_contain_text("Nothing was decided")
    await expect(pane).to_have_attribute("data-frame", "1")
    assert hospital.verdicts == []
    await page.locator("button[value=confirm]").click()
    await page.wait_for_url("**done=confirm*")
    assert [verdict.item_id for verdict in hospital.verdicts] == [f"{1:032x}"]


async def test_two_images_of_one_patient_stand_side_by_side_and_zoom_together(visit: Visit, page: Page) -> None:
    hospital = visit.hospital
    first = item(hospital, item_where(hospital, lambda f: f.suspicious))
    other, jpeg = make_item(3, "benign")
    other = msgspec.structs.replace(other, item_id="e" * 32, patient_id=first.patient_id)
    stranger, stranger_jpeg = make_item(4, "benign", name="Somebody^Else")
    await hospital.add(other, jpeg)
    await hospital.add(stranger, stranger_jpeg)
    await shown(visit, first.item_id)
    offered = page.locator("[data-compare]")
    ids = [await offered.nth(i).get_attribute("data-compare") for i in range(await offered.count())]
    assert other.item_id in ids
    assert stranger.item_id not in ids

    await page.keyboard.press("s")

    await expect(page.locator(".pane[data-frame]")).to_have_count(2)
    await expect(page).to_have_url(f"{visit.url}/images/{first.item_id}?with={other.item_id}")
    corners = page.locator("[data-corner]")
    await page.keyboard.press("+")
    await page.wait_for_function(
        "() => [...document.querySelectorAll('[data-corner]')].every(c => c.textContent.includes('*'))"
    )
    await page.keyboard.press("y")
    await page.keyboard.press("0")
    await expect(corners.first).not_to_contain_text("*")
    await expect(corners.last).to_contain_text("*")
    await page.locator(f"[data-compare='{other.item_id}']").click()
    await expect(page.locator(".pane")).to_have_count(1)
    await expect(page).to_have_url(f"{visit.url}/images/{first.item_id}")


@pytest.mark.parametrize(
    ("language", "examined", "received"), [("en", "Examined", "received"), ("zh", "检查时间", "接收时间")]
)
async def test_side_by_side_each_image_says_whose_it_is_and_when_it_was_made(
    visit: Visit, page: Page, language: str, examined: str, received: str
) -> None:
    mine, jpeg = make_item(3, "benign", name="Muster^Erika")
    mine = msgspec.structs.replace(
        mine, item_id="d" * 32, patient_id="UNKNOWN", study_date="20260105", study_time="101500"
    )
    prior = msgspec.structs.replace(
        mine, item_id="e" * 32, patient_name="Mustermann^E", study_date="20190315", study_time="", study_instance_uid="1.8",
        received_ns=mine.received_ns + 10**9,
    )  # fmt: skip
    undated = msgspec.structs.replace(prior, item_id="f" * 32, study_date="")
    stranger = msgspec.structs.replace(prior, item_id="c" * 32, patient_sex="M")
    for one in (mine, prior, undated, stranger):
        await visit.hospital.add(one, jpeg)
    await visit.context.add_cookies([{"name": "edgeward_language", "value": language, "url": visit.url}])
    await page.set_viewport_size({"width": 390, "height": 844})
    await shown(visit, mine.item_id, f"?with={prior.item_id}")

    here, beside = page.locator(".pane").first, page.locator(".pane").last
    await expect(page.locator(".bar-note")).to_contain_text(f"{examined} 2026-01-05 10:15")
    await expect(here.locator("[data-who]")).to_have_text("Muster, Erika · UNKNOWN")
    await expect(here.locator("[data-title]")).to_contain_text("2026-01-05 10:15")
    await expect(beside.locator("[data-who]")).to_have_text("Mustermann, E · UNKNOWN")
    await expect(beside.locator("[data-title]")).to_contain_text("2019-03-15")
    for head in (here, beside):
        for part in ("who", "title"):
            box = await head.locator(f"[data-{part}]").bounding_box()
            assert box is not None
            assert 0 <= box["x"] < box["x"] + box["width"] <= 390, part
    times = page.locator(".strip-text > b")
    await expect(times).to_have_count(2)
    await expect(times.last).to_have_text("2019-03-15")  # sent last, made first
    await page.locator(f"[data-compare='{undated.item_id}']").click()
    await expect(beside.locator("[data-title]")).to_contain_text(received)
    await page.locator(f"[data-compare='{undated.item_id}']").click()
    await expect(page.locator(".pane")).to_have_count(1)
    await expect(here.locator("[data-who]")).to_be_hidden()
    await visit.context.clear_cookies(name="edgeward_language")


async def test_another_patients_image_is_not_put_beside_one(visit: Visit) -> None:
    mine, jpeg = make_item(3, "benign", name="Muster^Erika")
    mine = msgspec.structs.replace(mine, item_id="d" * 32, patient_id="0")
    other = msgspec.structs.replace(mine, item_id="e" * 32, patient_birth_date="19990101")
    await visit.hospital.add(mine, jpeg)
    await visit.hospital.add(other, jpeg)

    await shown(visit, mine.item_id, f"?with={other.item_id}")

    await expect(visit.page.locator("#toast")).to_contain_text("could not be opened")
    await expect(visit.page.locator(".pane")).to_have_count(1)
    await expect(visit.page.locator(".strip")).to_have_count(0)


async def test_pixels_that_are_not_square_are_told_with_both_distances(visit: Visit, page: Page) -> None:
    flat, jpeg = make_item(3, "benign")
    assert flat.finding is not None
    for name, spacing, text in (
        ("d", (0.2, 0.1), "0.200 × 0.100 mm per pixel"),
        ("e", (0.1, 0.1), "0.100 mm per pixel"),
    ):
        finding = msgspec.structs.replace(flat.finding, spacing_mm=spacing)
        one = msgspec.structs.replace(flat, item_id=name * 32, finding=finding)
        await visit.hospital.add(one, jpeg)
        await shown(visit, one.item_id)
        await expect(page.locator("[data-scale]")).to_contain_text(text)


@pytest.mark.parametrize(("reference", "expected"), [("1.5", "2"), ("1.6", "9")])
async def test_two_series_are_gone_through_by_millimetres(
    visit: Visit, page: Page, reference: str, expected: str
) -> None:
    """Slices of 2 mm beside slices of 5 mm that begin 10 mm lower: by place in one frame of reference, else by way."""
    hospital, first = visit.hospital, {}
    for series, count, step, start, frame_of in (("1.9.1", 30, 2.0, 0.0, "1.5"), ("1.9.2", 15, 5.0, 10.0, reference)):
        for number in range(count):
            one, jpeg = make_item(3, "outside")
            one = msgspec.structs.replace(
                one, item_id=f"{series[-1]}{number:031x}", modality="CT", series_instance_uid=series, patient_id="S-2",
                study_instance_uid=series, instance_number=str(number + 1), received_ns=one.received_ns + number,
            )  # fmt: skip
            await hospital.add(one, jpeg)
            hospital.depths[one.item_id] = (start + number * step, frame_of)
            first.setdefault(series, one.item_id)
    away = f"2{5:031x}"
    await page.goto(f"{visit.url}/images/{first['1.9.1']}?with={away}")
    await visit.live()
    here, beside = page.locator(".pane").first, page.locator(".pane").last
    await expect(page.locator(".pane[data-stack]")).to_have_count(2)
    await expect(beside).to_have_attribute("data-frame", "5")
    await page.wait_for_function(
        "() => window.performance.getEntriesByType('resource').filter(e => e.name.includes('/frames/')).length >= 6"
    )
    await here.locator("[data-stage]").click()
    await page.keyboard.press("PageDown")

    await expect(here).to_have_attribute("data-frame", "10")  # 20 mm
    await expect(beside).to_have_attribute("data-frame", expected)


async def test_what_cannot_be_rendered_is_said_and_the_kept_preview_is_shown(visit: Visit) -> None:
    item_id = item_where(visit.hospital, lambda f: f.suspicious)
    visit.hospital.unrendered[item_id] = "no engine can decode this"

    await shown(visit, item_id)

    note = visit.page.locator("[data-note]")
    await expect(note).to_contain_text("Only the analysed frame")
    await expect(note).to_contain_text("no engine can decode this")
    assert await ink(visit.page) > 5
    await expect(visit.page.locator(".layer-contour")).to_have_count(1)
    assert all("404" in problem for problem in visit.problems), visit.problems


async def test_a_frame_that_cannot_be_had_is_an_empty_stage_not_the_frame_before(visit: Visit) -> None:
    item_id = item_where(visit.hospital, lambda f: f.frames > 1)
    page = visit.page
    visit.hospital.missing[item_id] = {5}
    await shown(visit, item_id)
    await ink(page)

    await page.keyboard.press("ArrowRight")
    await page.wait_for_function(f"() => ({GREY})() > 5")
    await page.keyboard.press("ArrowRight")

    await expect(page.locator("[data-note]")).to_contain_text("Frame 6 could not be fetched")
    await page.wait_for_function(f"() => ({GREY})() === 0")
    await page.keyboard.press("ArrowRight")
    await page.wait_for_function(f"() => ({GREY})() > 5")
    await expect(page.locator("[data-note]")).to_be_hidden()
    await page.keyboard.press("Home")
    await page.keyboard.press("Space")
    await expect(page.locator("[data-note]")).to_contain_text("Frame 6 could not be fetched")
    await expect(page.locator("[data-counter]")).to_have_text("6 / 24")
    assert all("404" in problem for problem in visit.problems), visit.problems


async def test_a_busy_engine_is_asked_again(visit: Visit) -> None:
    item_id = item_where(visit.hospital, lambda f: f.suspicious)
    visit.hospital.unrendered[item_id] = "busy"
    async with visit.page.expect_response(lambda r: "/frames/" in r.url and r.status == 503):
        await visit.page.goto(f"{visit.url}/images/{item_id}")

    del visit.hospital.unrendered[item_id]

    assert await ink(visit.page) > 5
    await expect(visit.page.locator("[data-note]")).to_be_hidden()
    assert all("503" in problem for problem in visit.problems), visit.problems


async def test_where_higher_values_are_darker_brighter_is_still_brighter(visit: Visit, page: Page) -> None:
    item_id = item_where(visit.hospital, lambda f: f.frames == 1 and f.status == "analysed")
    visit.hospital.deep.add(item_id)
    visit.hospital.inverse.add(item_id)
    await shown(visit, item_id)
    before = await ink(page)

    for _ in range(6):
        await page.keyboard.press("ArrowUp")
    await expect(page.locator("[data-corner]")).to_contain_text("C 2816", ignore_case=False)
    moved = await ink(page)
    assert moved > before + 2
    await page.wait_for_function("() => performance.getEntriesByType('resource').some(e => e.name.includes('center='))")
    await page.wait_for_function("() => !document.querySelector('.pane[data-loading]')")

    assert await ink(page) == pytest.approx(moved, abs=3), "the browser guessed what the server then rendered"


async def test_help_lists_the_keys_and_typing_is_never_taken_for_a_key(visit: Visit, page: Page) -> None:
    await shown(visit, item_where(visit.hospital, lambda f: f.suspicious))

    await page.keyboard.press("?")
    await expect(page.locator("#viewer-help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#viewer-help")).to_be_hidden()
    await page.fill("[name=comment]", "")
    await page.locator("[name=comment]").press_sequentially("c x i n r")
    await expect(page.locator("[name=comment]")).to_have_value("c x i n r")
    await expect(page.locator(".layer-contour")).to_have_count(1)
    await expect(page.locator("[data-do=invert]")).to_have_attribute("aria-pressed", "false")


async def test_the_help_names_no_key_that_the_viewer_does_not_know() -> None:
    source = (render.STATIC / "js" / "viewer" / "viewer.js").read_text()
    table = source[source.index("const KEYS = {") :].split("};")[0]
    known = {(quoted or plain).lower() for quoted, plain in re.findall(r'(?:"([^"]{1,9})"|\b(\w+)): "', table)}
    named = {"space": " ", "del": "delete"}
    words = {
        "v",
        "n",
        "u",
        "drag",
        "wheel",
        "ctrl+wheel",
        "pinch",
        "enter",
        "esc",
        "shift+enter",
        "shift+1…9",
        "shift+←↑→↓",
        "←↑→↓",
        "↑",
        "↓",
        "←",
        "→",
    }
    told = {key.lower() for _, rows in KEYS for keys, _ in rows for key in keys.split()} - words

    assert {key for key in told if named.get(key, key) not in known} == set()


async def test_confirm_and_next_goes_through_the_cases_that_wait(visit: Visit, page: Page) -> None:
    waiting = [i for i in visit.hospital.items if i.finding and i.finding.status == "analysed" and not i.verdicts]
    first = item_where(visit.hospital, lambda f: f.suspicious)
    await shown(visit, first, "?list=show%3Dopen")

    for _ in waiting[:-1]:
        before = page.url
        await page.keyboard.press("Shift+Enter")
        await page.wait_for_function("before => location.href !== before", arg=before)
        await visit.live()
        await expect(page.locator(".message-ok")).to_contain_text("This is the next one")
        assert "list=show%3Dopen" in page.url
    await page.locator("button[value=confirm]").click()
    await expect(page.locator(".message-ok")).to_be_visible()

    decided = {v.item_id for v in visit.hospital.verdicts}
    assert decided == {i.item_id for i in waiting}
    assert len(visit.hospital.verdicts) == len(waiting), "each once"


async def test_correcting_and_rejecting_work_from_the_keyboard_alone(visit: Visit, page: Page) -> None:
    item_id = item_where(visit.hospital, lambda f: f.label == "malignant")
    await shown(visit, item_id)

    await page.keyboard.press("v")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#correction")).to_be_visible()
    await page.keyboard.press("Space")
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-badge]")).to_contain_text("Corrected to Benign: admin")
    await page.keyboard.press("v")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("[data-badge]")).to_contain_text("Rejected: admin")

    assert [(v.action, v.label) for v in visit.hospital.verdicts] == [("correct", "benign"), ("reject", "")]
    await expect(page.locator(".layer-contour")).to_have_count(0)
    await expect(page.locator(".revisions li h3").first).to_contain_text("Revision 2")
