"""Lesions keep their number over the frames of a loop."""

from __future__ import annotations

import math
import random

import pytest
from tests.clinic.imaging.test_segmentation import LOOP, lesion, loop_finding
from tests.support.imaging import breast_image, finding_for, not_analysed

from edgeward.clinic.imaging.lesions import sightings, tracking_uid
from edgeward.messages import FrameFinding, Lesion


def numbers(said: dict[int, list[Lesion]], best: int) -> dict[int, list[int]]:
    image = breast_image(SOPClassUID=LOOP, NumberOfFrames=100)
    found = sightings(loop_finding(image, said, best))
    return {
        frame: [next(s.number for s in found if s.frame == frame and s.lesion is one) for one in lesions]
        for frame, lesions in said.items()
    }


def test_a_single_image_counts_its_lesions_in_their_order():
    image = breast_image()
    finding = finding_for(image, lesions=[lesion(10, 10), lesion(90, 90)])

    assert [(s.number, s.frame) for s in sightings(finding)] == [(1, 0), (2, 0)]


def test_a_lesion_that_moves_slowly_keeps_its_number_in_both_directions():
    said = {k: [lesion(50 + k, 80)] for k in range(0, 60, 6)}

    assert set(map(tuple, numbers(said, best=30).values())) == {(1,)}


def test_two_lesions_listed_in_another_order_are_not_mixed_up():
    left, right = lesion(60, 60), lesion(200, 60)
    said = {0: [left, right], 5: [lesion(202, 61), lesion(61, 59)]}

    assert numbers(said, best=0) == {0: [1, 2], 5: [2, 1]}


def test_one_that_appears_elsewhere_is_a_new_one():
    said = {0: [lesion(60, 60)], 5: [lesion(200, 60)], 10: [lesion(200, 61)]}

    assert numbers(said, best=5) == {0: [2], 5: [1], 10: [1]}


def test_one_that_is_missed_for_two_frames_is_found_again():
    said = {0: [lesion(60, 60)], 5: [], 10: [], 15: [lesion(62, 60)]}

    assert numbers(said, best=0)[15] == [1]


def test_one_that_was_gone_for_longer_is_a_new_one():
    said = {0: [lesion(60, 60)], 5: [], 10: [], 15: [], 20: [lesion(60, 60)]}

    assert numbers(said, best=0)[20] == [2]


def test_new_ones_before_and_after_the_best_frame_are_different_ones():
    said = {0: [lesion(300, 200)], 5: [lesion(60, 60)], 10: [lesion(300, 200)]}

    found = numbers(said, best=5)

    assert found[5] == [1]
    assert {found[0][0], found[10][0]} == {2, 3}


def test_two_claims_to_one_lesion_are_settled_by_the_better_overlap():
    said = {0: [lesion(60, 60)], 5: [lesion(66, 60), lesion(61, 60)]}

    assert numbers(said, best=0) == {0: [1], 5: [2, 1]}


def test_what_was_not_analysed_has_none():
    image = breast_image(NumberOfFrames=3)
    unseen = [FrameFinding(frame=1, status="not_analysed", lesions=[lesion(5, 5)])]

    assert sightings(not_analysed(image)) == []
    assert len(sightings(finding_for(image, frame=0, frame_findings=unseen))) == 1


@pytest.mark.parametrize("box", [(math.nan, 0.0, 1.0, 1.0), (0.0, 0.0, math.inf, math.inf), (5.0, 5.0, 5.0, 5.0)])
def test_a_box_that_is_none_is_no_reason_to_fail(box):
    good = lesion(60, 60)
    bad = Lesion(**{f: getattr(good, f) for f in good.__struct_fields__} | {"box": box})

    assert numbers({0: [good], 5: [bad]}, best=0)[0] == [1]


def test_the_order_in_which_frames_are_told_does_not_matter():
    image = breast_image(SOPClassUID=LOOP, NumberOfFrames=100)
    finding = loop_finding(image, {k: [lesion(50 + 3 * k, 80), lesion(300 - 2 * k, 30)] for k in range(20)}, best=7)
    shuffled = list(finding.frame_findings)
    random.Random(1).shuffle(shuffled)
    other = finding_for(image, frame=7, lesions=finding.lesions, frame_findings=shuffled)

    assert sightings(other) == sightings(finding)


def test_tracking_uids_differ_by_item_and_part_and_not_by_revision():
    image = breast_image()
    one, other = finding_for(image, "item-1"), finding_for(image, "item-2")

    assert tracking_uid(one, "lesion-1") == tracking_uid(finding_for(image, "item-1"), "lesion-1")
    assert len({tracking_uid(f, p) for f in (one, other) for p in ("lesion-1", "lesion-2", "frame-1")}) == 6
