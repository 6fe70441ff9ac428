"""The whole pure part on the shipped weights: phantoms, real objects of other kinds, and real frames when present."""

import itertools
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless
from tests.support.imaging import test_file
from tests.support.objects import dataset, region, to_bytes

from edgeward.compute.analyser import load_analyser, render_preview
from edgeward.compute.decode import DecodeError, Frame
from edgeward.compute.evaluate import dice_coefficient, evaluate_ultrasound
from edgeward.compute.geometry import polygon_mask
from edgeward.device.phantom import phantom
from edgeward.messages import WorkDone, decode, encode

BUSI = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "busi"
SEEDS = range(900, 906)


@pytest.fixture(scope="module")
def analyser():
    return load_analyser()


@pytest.fixture(scope="module")
def helped():
    made = load_analyser(helpers=2)
    yield made
    made.close()


def clock():
    """Advances by 2 ms at each reading."""
    ticks = itertools.count()
    return lambda: next(ticks) * 0.002


def analyse(analyser, pixels, **attributes):
    return analyser.analyse(to_bytes(dataset(pixels, **attributes)), clock())


def outlined(lesions, shape):
    mask = np.zeros(shape, bool)
    for lesion in lesions:
        mask |= polygon_mask(np.array(lesion.contour), *shape)
    return mask


# ---------------------------------------- the demonstration's phantoms


@pytest.mark.parametrize("kind", ["benign", "malignant"])
def test_the_lesion_of_a_phantom_is_outlined_classified_and_measured(analyser, kind):
    scores, labels, errors = [], [], []
    for seed in SEEDS:
        p = phantom(seed, kind=kind)
        result = analyse(analyser, p.image, PixelSpacing=list(p.spacing_mm))
        finding = result.finding(finding_id="f", item_id="i", created_ns=1)

        assert finding.status == "analysed"
        scores.append(dice_coefficient(outlined(finding.lesions, p.mask.shape), p.mask))
        labels.append(finding.label)
        true_area = p.mask.sum() * p.spacing_mm[0] * p.spacing_mm[1]
        errors.append(abs(sum(lesion.area for lesion in finding.lesions) / true_area - 1))
        assert all(lesion.unit == "mm" for lesion in finding.lesions)

    assert np.mean(scores) > 0.85
    assert np.median(errors) < 0.15
    assert labels.count(kind) >= len(labels) - 1


def test_a_normal_phantom_has_no_finding(analyser):
    labels = [analyse(analyser, phantom(s, kind="normal").image).assessment.label for s in SEEDS]

    assert labels.count("normal") >= len(labels) - 1


@pytest.mark.parametrize(("rows", "columns"), [(240, 320), (960, 1280), (600, 800)])
def test_size_does_not_change_the_finding(analyser, rows, columns):
    p = phantom(900, kind="benign")
    scaled = np.asarray(Image.fromarray(p.image).resize((columns, rows), Image.Resampling.BICUBIC))

    first, second = (analyse(analyser, image).assessment for image in (p.image, scaled))

    assert first.label == second.label
    assert first.malignancy == pytest.approx(second.malignancy, abs=0.15)
    here = outlined(first.lesions, p.mask.shape)
    there = Image.fromarray(outlined(second.lesions, scaled.shape)).resize((640, 480), Image.Resampling.NEAREST)
    assert dice_coefficient(here, np.asarray(there)) > 0.9


@pytest.mark.parametrize("shade", [0, 255])
def test_a_border_does_not_change_the_finding(analyser, shade):
    p = phantom(901, kind="malignant")
    padded = np.pad(p.image, ((70, 30), (20, 110)), constant_values=shade)

    plain, bordered = (analyse(analyser, image).assessment for image in (p.image, padded))

    assert plain.label == bordered.label
    assert plain.malignancy == pytest.approx(bordered.malignancy, abs=1e-6)
    assert bordered.lesions[0].box == pytest.approx(np.add(plain.lesions[0].box, [20, 70, 20, 70]), abs=0.05)


def test_only_the_scanners_image_region_is_analysed(analyser):
    p = phantom(902, kind="benign")
    screen = np.full((700, 1000), 20, np.uint8)
    screen[::9, 700:] = 180  # what a scanner writes beside its image
    screen[100:580, 40:680] = p.image

    plain = analyse(analyser, p.image)
    framed = analyse(analyser, screen, SequenceOfUltrasoundRegions=region((40, 100, 679, 579), (0.01, 0.01)))

    assert framed.assessment.lesions[0].unit == "mm"
    assert framed.assessment.lesions[0].box == pytest.approx(
        np.add(plain.assessment.lesions[0].box, [40, 100, 40, 100]), abs=0.05
    )


def test_calipers_and_coloured_marks_on_normal_tissue_are_no_lesion(analyser):
    for seed in SEEDS:
        p = phantom(seed, kind="normal")
        rgb = np.repeat(p.image[:, :, None], 3, axis=2)
        for x in (200, 330):
            rgb[240:243, x - 7 : x + 8] = (255, 255, 0)
            rgb[234:249, x - 1 : x + 2] = (255, 255, 0)
        rgb[241, 200:330:6] = (255, 255, 0)
        plain, marked = (analyse(analyser, image).assessment for image in (p.image, rgb))

        assert marked.reason == plain.reason == ""
        assert len(marked.lesions) <= len(plain.lesions)


# ---------------------------------------- what is outside the domain


@pytest.mark.parametrize(
    "name",
    [
        "CT_small.dcm",
        "MR_small.dcm",
        "693_UNCI.dcm",
        "RG1_UNCI.dcm",
        "examples_rgb_color.dcm",
        "examples_ybr_color.dcm",
        "examples_palette.dcm",
        "examples_jpeg2k.dcm",
        "JPGLosslessP14SV1_1s_1f_8b.dcm",
        "OBXXXX1A.dcm",
        "gdcm-US-ALOKA-16.dcm",
        "color3d_jpeg_baseline.dcm",
        "US1_UNCI.dcm",
    ],
)
def test_real_objects_of_other_kinds_are_refused(analyser, name):
    result = analyser.analyse(test_file(name).read_bytes(), clock())
    finding = result.finding(finding_id="f", item_id="i", created_ns=1)

    assert finding.status == "not_analysed"
    assert finding.reason.startswith("outside the model's domain: ")
    assert finding.lesions == []
    assert finding.malignancy is None
    assert finding.probabilities == {}
    assert result.preview


def grid():
    """A quality-assurance phantom: wires at regular places in even speckle."""
    rng = np.random.default_rng(0)
    image = np.clip(rng.rayleigh(35, (480, 640)), 0, 255)
    y, x = np.mgrid[0:480, 0:640]
    image[np.hypot(x % 80 - 40, y % 60 - 30) < 4] = 255
    return image


PICTURES = {
    "blank": np.full((480, 640), 90),
    "black": np.zeros((480, 640)),
    "noise": np.random.default_rng(1).integers(0, 256, (480, 640)),
    "ramp": np.tile(np.linspace(0, 255, 640), (480, 1)),
    "wires": grid(),
    "test pattern": np.indices((480, 640)).sum(axis=0) // 40 % 2 * 255,
    "turned": np.rot90(phantom(3).image),
    "inverted": 255 - phantom(3).image,
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_claim_to_be_ultrasound_but_are_not_of_the_breast_are_refused(analyser, name):
    outcome = analyse(analyser, PICTURES[name].astype(np.uint8)).assessment

    assert outcome.reason
    assert outcome.lesions == []


def test_colour_doppler_is_refused(analyser):
    rgb = np.repeat(phantom(7).image[:, :, None], 3, axis=2)
    rgb[150:330, 200:440, 0] = 220
    rgb[150:330, 200:440, 1:] //= 3

    assert "coloured" in analyse(analyser, rgb).assessment.reason


# ---------------------------------------- the result as a whole


def test_stages_are_timed_with_the_callers_clock(analyser):
    result = analyse(analyser, phantom(0).image)

    assert [s.name for s in result.stages] == ["decode", "preprocess", "infer", "postprocess", "preview"]
    assert [s.ms for s in result.stages] == pytest.approx([2.0] * 5)


def test_a_refusal_by_attributes_costs_no_inference(analyser):
    result = analyser.analyse(test_file("CT_small.dcm").read_bytes(), clock())

    assert [s.name for s in result.stages] == ["decode", "preview"]


def test_the_result_survives_the_wire(analyser):
    result = analyse(analyser, phantom(0).image)
    done = WorkDone(
        finding=result.finding(finding_id="f", item_id="i", created_ns=5),
        preview=result.preview,
        preview_scale=result.preview_scale,
    )

    assert decode(WorkDone, encode(done)) == done
    assert done.finding.model == "breast-ultrasound"
    assert done.finding.model_version == analyser.package.version
    assert (done.finding.rows, done.finding.columns) == (480, 640)


def test_the_same_bytes_give_the_same_finding(analyser):
    data = to_bytes(dataset(phantom(11, kind="malignant").image))

    first, second = (
        analyser.analyse(data, clock()).finding(finding_id="f", item_id="i", created_ns=0) for _ in range(2)
    )

    assert first == second


def test_the_preview_is_a_jpeg_no_wider_than_the_console_needs():
    jpeg, scale = render_preview(Frame(np.zeros((900, 2048, 3), np.uint8)))
    small, one = render_preview(Frame(np.zeros((300, 400, 3), np.uint8)))

    assert jpeg.startswith(b"\xff\xd8")
    assert scale == 0.5
    assert one == 1.0
    assert len(small) < len(jpeg) < 200_000


def test_what_cannot_be_decoded_is_said_and_not_analysed(analyser):
    with pytest.raises(DecodeError):
        analyser.analyse(b"no image", clock())


# ---------------------------------------- real frames


@pytest.mark.data
def test_real_frames_are_analysed_as_the_card_says(analyser, tmp_path):
    """A smoke test on frames the model has seen: it guards the path, the card states the accuracy."""
    if not BUSI.is_dir():
        pytest.skip(f"the BUSI frames are not at {BUSI}")
    for label in ("benign", "malignant", "normal"):
        for folder in ("images", "mask"):
            (tmp_path / label / folder).mkdir(parents=True)
        for image in sorted((BUSI / label / "images").iterdir())[:12]:
            (tmp_path / label / "images" / image.name).symlink_to(image)
            for mask in (BUSI / label / "mask").glob(f"{image.stem}_mask*.png"):
                (tmp_path / label / "mask" / mask.name).symlink_to(mask)

    figures = evaluate_ultrasound(tmp_path, analyser=analyser)

    assert figures["n"] == 36
    assert figures["refused"] <= 2
    assert figures["dice_lesion"] > 0.75
    assert figures["auc_malignant"] > 0.9


@pytest.mark.data
def test_real_frames_keep_their_finding_at_another_size(analyser):
    if not BUSI.is_dir():
        pytest.skip(f"the BUSI frames are not at {BUSI}")
    changes = []
    for path in sorted((BUSI / "benign" / "images").iterdir())[:10]:
        picture = Image.open(path).convert("RGB")
        large = picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.BICUBIC)
        a, b = (analyser.assess_frame(Frame(pixels=np.asarray(p)), clock()) for p in (picture, large))
        assert bool(a.reason) == bool(b.reason)
        changes.append(abs((a.malignancy or 0) - (b.malignancy or 0)))

    assert np.median(changes) < 0.05


# ---------------------------------------- loops and split screens


def loop_of(*kinds):
    """A loop of phantoms; "" is a frame of uniform grey, which is refused."""
    frames = []
    for number, kind in enumerate(kinds):
        image = phantom(SEEDS[number % len(SEEDS)], kind=kind).image if kind else None
        frames.append(image)
    size = next(f.shape for f in frames if f is not None)
    return np.stack([np.full(size, 90, np.uint8) if f is None else f for f in frames])


def test_a_loop_has_a_result_per_sampled_frame_and_the_best_one_stands_for_all(analyser):
    data = to_bytes(dataset(loop_of("", "", "malignant", "malignant", "malignant", "", "", "")))

    result = analyser.analyse(data, clock(), cine_frames=8)
    finding = result.finding(finding_id="f", item_id="i", created_ns=1)

    assert [f.frame for f in finding.frame_findings] == list(range(8))
    assert [f.status for f in finding.frame_findings][2:5] == ["analysed"] * 3
    assert finding.frame_findings[0].status == "not_analysed"
    assert finding.frame in {2, 3, 4}
    best = finding.frame_findings[finding.frame]
    assert (finding.lesions, finding.malignancy, finding.label) == (best.lesions, best.malignancy, best.label)
    assert finding.lesions
    assert finding.reason == ""
    assert (result.frame.pixels == result.frame.pixels).all()
    assert result.frame.index == finding.frame


def test_a_loop_is_cut_short_when_time_runs_out_and_says_so(analyser):
    data = to_bytes(dataset(loop_of(*["benign"] * 6)))
    remaining = iter([10.0, 10.0, 0.0, 0.0])

    result = analyser.analyse(data, clock(), cine_frames=6, left_s=lambda: next(remaining))
    finding = result.finding(finding_id="f", item_id="i", created_ns=1)

    assert len(finding.frame_findings) == 3
    assert 3 in {f.frame for f in finding.frame_findings}  # the middle one always
    assert finding.status == "analysed"
    assert "3 of 6" in finding.reason


def test_a_loop_that_is_late_already_has_its_middle_frame_analysed(analyser):
    data = to_bytes(dataset(loop_of(*["benign"] * 5)))

    finding = analyser.analyse(data, clock(), cine_frames=5, left_s=lambda: -1.0).finding(
        finding_id="f", item_id="i", created_ns=1
    )

    assert [f.frame for f in finding.frame_findings] == [2]


def test_helpers_change_nothing_of_what_is_found(analyser, helped):
    kinds = ["", "malignant", "benign", "normal", "malignant", "", "benign", "benign", "malignant", "normal"]
    objects = [to_bytes(dataset(loop_of(*kinds))), to_bytes(dataset(phantom(SEEDS[1], kind="malignant").image))]

    for data in objects:
        alone, together = (
            one.analyse(data, clock(), cine_frames=8).finding(finding_id="f", item_id="i", created_ns=1)
            for one in (analyser, helped)
        )
        assert msgspec.structs.replace(together, stages=[]) == msgspec.structs.replace(alone, stages=[])
        assert together.lesions


def test_a_damaged_frame_ends_a_loop_with_helpers_as_it_does_without(analyser, helped):
    data = dataset(loop_of(*["benign"] * 6))
    data.compress(RLELossless)
    frames = list(generate_frames(data.PixelData, number_of_frames=6))
    data.PixelData = encapsulate([b"\xff" * 70 if n == 4 else frame for n, frame in enumerate(frames)])
    damaged = to_bytes(data)

    for one in (analyser, helped):
        with pytest.raises(DecodeError):
            one.analyse(damaged, clock(), cine_frames=6)
        assert analyse(one, phantom(SEEDS[0], kind="benign").image).assessment.lesions  # and it serves on


def test_a_loop_is_analysed_in_steps_that_say_how_much_is_left_and_a_frame_in_one(analyser, helped):
    loop, frame = to_bytes(dataset(loop_of(*["benign"] * 6))), to_bytes(dataset(loop_of("benign")[0]))

    for one in (analyser, helped):
        needs = list(one.steps(loop, time.perf_counter, cine_frames=6))

        assert len(needs) >= 5
        assert min(needs) > 0
        assert list(one.steps(frame, time.perf_counter, cine_frames=6)) == []


def test_loops_by_turns_share_helpers_and_get_their_own_findings(analyser, helped):
    loops = [to_bytes(dataset(loop_of(*[kind] * 3))) for kind in ("benign", "malignant", "normal")]
    steps = [helped.steps(data, clock(), cine_frames=3) for data in loops]
    results = [None] * len(loops)

    while None in results:  # by turns, as the engine has them
        for n, one in enumerate(steps):
            try:
                next(one)
            except StopIteration as end:
                results[n] = results[n] or end.value

    for data, result in zip(loops, results, strict=True):
        alone = analyser.analyse(data, clock(), cine_frames=3)
        assert result.looked == alone.looked
        assert result.assessment == alone.assessment


def test_a_single_frame_has_no_list_of_frames(analyser):
    p = phantom(SEEDS[0], kind="benign")
    finding = analyse(analyser, p.image).finding(finding_id="f", item_id="i", created_ns=1)

    assert finding.frame_findings == []
    assert finding.in_scope


def test_what_its_attributes_exclude_is_out_of_scope_and_what_its_pixels_exclude_is_not(analyser):
    picture = phantom(SEEDS[0], kind="benign").image
    scan = analyse(analyser, picture, Modality="CT")
    dark = analyse(analyser, np.full((300, 400), 80, np.uint8))

    outside, refused = (r.finding(finding_id="f", item_id="i", created_ns=1) for r in (scan, dark))

    assert (outside.status, outside.in_scope) == ("not_analysed", False)
    assert (refused.status, refused.in_scope) == ("not_analysed", True)


def test_both_halves_of_a_split_screen_are_analysed_each_with_its_own_scale(analyser):
    left, right = (phantom(seed, kind="malignant") for seed in SEEDS[:2])
    rows, columns = left.image.shape
    screen = np.hstack([left.image, right.image])
    regions = region((0, 0, columns - 1, rows - 1), (0.01, 0.01))
    regions.extend(region((columns, 0, 2 * columns - 1, rows - 1), (0.02, 0.02)))

    lesions = analyse(analyser, screen, SequenceOfUltrasoundRegions=regions).assessment.lesions

    halves = {lesion.box[0] >= columns: lesion for lesion in lesions}
    assert set(halves) == {False, True}
    for is_right, lesion in halves.items():
        spacing = 0.2 if is_right else 0.1
        width, height = lesion.box[2] - lesion.box[0], lesion.box[3] - lesion.box[1]
        assert lesion.unit == "mm"
        assert lesion.long_axis < 1.1 * spacing * np.hypot(width, height)
        assert lesion.long_axis > 0.9 * spacing * max(width, height)
        truth = (right if is_right else left).mask
        mine = outlined([lesion], screen.shape)[:, columns * is_right : columns * (1 + is_right)]
        assert dice_coefficient(mine, truth) > 0.6


def test_a_region_in_other_units_than_centimetres_measures_in_pixels(analyser):
    p = phantom(SEEDS[0], kind="malignant")
    rows, columns = p.image.shape
    seconds = region((0, 0, columns - 1, rows - 1), PhysicalUnitsXDirection=4)

    result = analyse(analyser, p.image, SequenceOfUltrasoundRegions=seconds, PixelSpacing=[0.1, 0.1])

    assert {lesion.unit for lesion in result.assessment.lesions} == {"px"}
