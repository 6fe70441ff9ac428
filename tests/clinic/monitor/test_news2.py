"""NEWS2 against the chart of the Royal College of Physicians, 2017: every boundary, every rule."""

from __future__ import annotations

import itertools

import pytest

from edgeward.clinic.monitor.news2 import INPUTS, calls_still, due, news2, score

NORMAL = {"respiratory_rate": 16.0, "spo2": 97.0, "supplemental_oxygen": 0.0, "systolic": 120.0, "pulse": 70.0,
          "consciousness": 0.0, "temperature": 37.0}  # fmt: skip

#: Chart 1, row by row: (from, to, score), written down from the chart rather than from the code.
CHART = {
    "respiratory_rate": [(0, 8, 3), (9, 11, 1), (12, 20, 0), (21, 24, 2), (25, 100, 3)],
    "systolic": [(20, 90, 3), (91, 100, 2), (101, 110, 1), (111, 219, 0), (220, 350, 3)],
    "pulse": [(0, 40, 3), (41, 50, 1), (51, 90, 0), (91, 110, 1), (111, 130, 2), (131, 300, 3)],
}
SPO2_1 = [(1, 91, 3), (92, 93, 2), (94, 95, 1), (96, 100, 0)]
SPO2_2_AIR = [(1, 83, 3), (84, 85, 2), (86, 87, 1), (88, 100, 0)]
SPO2_2_OXYGEN = [(1, 83, 3), (84, 85, 2), (86, 87, 1), (88, 92, 0), (93, 94, 1), (95, 96, 2), (97, 100, 3)]
TEMPERATURE = [(30.0, 35.0, 3), (35.1, 36.0, 1), (36.1, 38.0, 0), (38.1, 39.0, 1), (39.1, 43.0, 2)]


@pytest.mark.parametrize("name", sorted(CHART))
def test_every_whole_number_scores_as_charted(name):
    for low, high, points in CHART[name]:
        for value in range(low, high + 1):
            assert score(name, float(value)) == points, value


@pytest.mark.parametrize(
    ("chart", "scale2", "oxygen"),
    [(SPO2_1, False, False), (SPO2_1, False, True), (SPO2_1, False, None), (SPO2_2_AIR, True, False),
     (SPO2_2_OXYGEN, True, True)],
)  # fmt: skip
def test_every_saturation_scores_as_charted(chart, scale2, oxygen):
    for low, high, points in chart:
        for value in range(low, high + 1):
            assert score("spo2", float(value), scale2=scale2, oxygen=oxygen) == points, value


def test_every_tenth_of_a_degree_scores_as_charted():
    for low, high, points in TEMPERATURE:
        for tenth in range(round(low * 10), round(high * 10) + 1):
            assert score("temperature", tenth / 10) == points, tenth


def test_oxygen_and_consciousness():
    assert [score("supplemental_oxygen", value) for value in (0.0, 1.0)] == [0, 2]
    assert [score("consciousness", value) for value in (0.0, 1.0, 2.0, 3.0, 4.0)] == [0, 3, 3, 3, 3]


def test_values_are_rounded_as_they_are_charted():
    assert score("respiratory_rate", 24.4) == 2
    assert score("respiratory_rate", 24.5) == 3
    assert score("temperature", 35.04) == 3
    assert score("temperature", 35.05) == 1


def test_nobody_ill_scores_nothing():
    result = news2(NORMAL)
    assert (result.total, result.response, result.missing, result.stale) == (0, "routine", [], [])


@pytest.mark.parametrize("name", INPUTS)
def test_without_an_input_there_is_no_total_and_it_is_named(name):
    rest = {key: value for key, value in NORMAL.items() if key != name}
    result = news2(rest)
    assert (result.total, result.response, result.missing) == (None, "", [name])
    old = news2(rest, stale=[name])
    assert (old.total, old.missing, old.stale) == (None, [], [name])


def test_every_set_of_missing_inputs_is_named_and_never_totalled():
    for count in range(1, len(INPUTS) + 1):
        for gone in itertools.combinations(INPUTS, count):
            result = news2({key: value for key, value in NORMAL.items() if key not in gone})
            assert result.total is None
            assert result.missing == [name for name in INPUTS if name in gone]


def test_scale_2_is_not_scored_above_92_without_knowing_about_oxygen():
    inputs = {**NORMAL, "spo2": 95.0}
    del inputs["supplemental_oxygen"]
    result = news2(inputs, scale2=True)
    assert "spo2" not in result.scores
    assert result.total is None
    with pytest.raises(ValueError, match="oxygen"):
        score("spo2", 95.0, scale2=True)


@pytest.mark.parametrize(
    ("change", "total", "response", "code"),
    [
        ({}, 0, "routine", ""),
        ({"pulse": 95.0}, 1, "ward", ""),
        ({"respiratory_rate": 22.0, "spo2": 93.0}, 4, "ward", ""),
        ({"consciousness": 1.0}, 3, "urgent", "news2_urgent"),  # a single 3
        ({"respiratory_rate": 22.0, "spo2": 93.0, "pulse": 95.0}, 5, "urgent", "news2_urgent"),
        ({"respiratory_rate": 22.0, "spo2": 93.0, "pulse": 115.0}, 6, "urgent", "news2_urgent"),
        ({"respiratory_rate": 25.0, "spo2": 93.0, "pulse": 115.0}, 7, "emergency", "news2_emergency"),
    ],
)
def test_the_response_follows_the_score(change, total, response, code):
    result = news2({**NORMAL, **change})
    assert (result.total, result.response, due(result)) == (total, response, code)


def test_what_is_known_of_an_incomplete_score_already_calls_for_help():
    result = news2({"respiratory_rate": 30.0, "spo2": 85.0, "systolic": 85.0})
    assert (result.total, result.at_least, result.response) == (None, 9, "")
    assert due(result) == "news2_emergency"
    assert due(news2({"pulse": 135.0})) == "", "a single 3 counts in a complete score only"


def test_a_score_that_lost_an_input_calls_still_for_what_it_called_for():
    ill = {**NORMAL, "spo2": 91.0, "pulse": 135.0, "respiratory_rate": 22.0}  # 3 + 3 + 2
    before = news2(ill)
    assert due(before) == "news2_emergency"
    without = news2({name: value for name, value in ill.items() if name != "pulse"}, stale=["pulse"])
    assert due(without) == "news2_urgent"
    assert calls_still("news2_emergency", before.scores, without), "the pulse is not better, it is unknown"
    better = news2({**ill, "pulse": 80.0})
    assert not calls_still("news2_emergency", before.scores, better)
    mild = news2({name: value for name, value in NORMAL.items() if name != "pulse"}, stale=["pulse"])
    assert not calls_still("news2_emergency", before.scores, mild), "the others are: with the pulse of then it is 3"
