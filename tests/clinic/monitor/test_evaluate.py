"""Recordings of every kind: scores, replayed alarms, and clear words about those that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
from tests.support import ecg

from edgeward.clinic.monitor.evaluate import evaluate_ecg, match
from edgeward.clinic.monitor.records import RecordError, read_recording
from edgeward.clinic.monitor.replay import replay

wfdb = pytest.importorskip("wfdb", reason="needs the 'evaluate' extra")
MITDB = Path(__file__).parents[4] / "shared" / "data" / "mitdb"


def write(folder, name, rate, x, *, fmt="16", gain=200.0, units="mV", beats=(), symbols=None):
    x = np.atleast_2d(x)
    wfdb.wrsamp(name, fs=rate, units=[units] * len(x), sig_name=[f"L{i}" for i in range(len(x))], p_signal=x.T,
                fmt=[fmt] * len(x), adc_gain=[gain] * len(x), baseline=[0] * len(x), write_dir=str(folder))  # fmt: skip
    if len(beats):
        at = np.round(np.asarray(beats) * rate).astype(int)
        wfdb.wrann(name, "atr", at, symbol=list(symbols or ["N"] * len(at)), write_dir=str(folder))


TIMES = np.arange(0.6, 39.6, 0.8)


@pytest.mark.parametrize(("rate", "fmt", "leads"), [(128, "16", 1), (250, "212", 2), (360, "212", 2), (500, "16", 12),
                                                    (1000, "16", 1), (250, "80", 1), (257, "16", 3)])  # fmt: skip
def test_any_rate_format_and_number_of_leads_is_scored(tmp_path, rate, fmt, leads):
    x = ecg.beats_at(TIMES, rate, 40)
    gain = 50.0 if fmt == "80" else 200.0
    write(tmp_path, "r", rate, [x * (1 - 0.05 * i) for i in range(leads)], fmt=fmt, gain=gain, beats=TIMES)
    result = evaluate_ecg(tmp_path)
    assert result["errors"] == {}
    assert result["qrs"]["f1"] == 100.0
    assert result["records"]["r"]["tp"] == len(TIMES)
    assert 0 < result["report_latency_ms"]["p50"] < 400


def test_microvolts_are_understood(tmp_path):
    write(tmp_path, "r", 250, ecg.beats_at(TIMES, 250, 40) * 1e3, gain=0.2, units="uV", beats=TIMES)
    assert evaluate_ecg(tmp_path)["qrs"]["f1"] == 100.0


def test_missing_values_are_a_lead_off_not_a_crash(tmp_path):
    x = ecg.beats_at(TIMES, 250, 40)
    x[15 * 250 : 25 * 250] = np.nan
    write(tmp_path, "r", 250, x, beats=TIMES)
    figures = evaluate_ecg(tmp_path)["records"]["r"]
    assert figures["fp"] == 0
    assert figures["tp"] >= 35
    changes = replay(tmp_path / "r")
    assert "all_leads_off" in {c["code"] for c in changes}
    assert "asystole" not in {c["code"] for c in changes}


def test_one_bad_record_does_not_lose_the_others(tmp_path):
    x = ecg.beats_at(TIMES, 250, 40)
    for name in ("good", "no_atr", "no_dat", "cut", "bad_hea", "slow", "empty"):
        write(tmp_path, name, 250 if name != "slow" else 30, x, beats=() if name == "no_atr" else TIMES)
    (tmp_path / "no_dat.dat").unlink()
    (tmp_path / "no_hea.atr").write_bytes((tmp_path / "good.atr").read_bytes())
    (tmp_path / "cut.dat").write_bytes((tmp_path / "cut.dat").read_bytes()[: 20 * 250 * 2 + 1])
    (tmp_path / "bad_hea.hea").write_text("\x00\x01 not a header\n")
    (tmp_path / "empty.dat").write_bytes(b"")
    result = evaluate_ecg(tmp_path)
    assert set(result["records"]) == {"good", "cut"}
    assert result["records"]["cut"]["truncated"] is True
    assert result["records"]["cut"]["fn"] <= 1
    assert set(result["errors"]) == {"no_atr", "no_hea", "no_dat", "bad_hea", "slow", "empty"}
    assert all(name in why for name, why in result["errors"].items())


def test_a_folder_without_records_is_an_error(tmp_path):
    with pytest.raises(RecordError, match="no WFDB record"):
        evaluate_ecg(tmp_path)
    with pytest.raises(RecordError, match="no such folder"):
        evaluate_ecg(tmp_path / "nowhere")
    with pytest.raises(RecordError, match="no header"):
        read_recording(tmp_path / "nothing")


def test_flutter_is_excluded_and_wrong_beats_count(tmp_path):
    x = ecg.beats_at(TIMES[TIMES < 20], 250, 40)
    x[20 * 250 : 30 * 250] += ecg.fibrillation(250, 10, height=1.0)
    late = TIMES[TIMES > 31]
    x += ecg.beats_at(late, 250, 40)
    beats = np.concatenate((TIMES[TIMES < 20], [20.0, 30.0], late, [39.7]))
    symbols = ["N"] * (TIMES < 20).sum() + ["[", "]"] + ["N"] * len(late) + ["N"]
    write(tmp_path, "r", 250, x, beats=beats, symbols=symbols)
    figures = evaluate_ecg(tmp_path)["records"]["r"]
    assert figures["tp"] + figures["fn"] == (TIMES < 20).sum() + len(late) + 1
    assert 1 <= figures["fn"] <= 2  # the invented last beat, perhaps one after the flutter
    assert figures["fp"] <= 1


def test_ventricular_beats_are_told_apart(tmp_path):
    normal = np.arange(0.6, 118, 0.8)
    early = normal[10::9][:-1]
    keep = np.setdiff1d(normal, early)
    x = ecg.beats_at(keep, 250, 120) + ecg.wide_beats_at(early - 0.25, 250, 120)
    beats = np.sort(np.concatenate((keep, early - 0.25)))
    symbols = ["V" if np.isclose(early - 0.25, b).any() else "N" for b in beats]
    write(tmp_path, "r", 250, x, beats=beats, symbols=symbols)
    figures = evaluate_ecg(tmp_path)["ventricular"]
    assert figures["se"] >= 80
    assert figures["ppv"] >= 80


def test_replay_tells_each_change_with_its_samples(tmp_path):
    x = ecg.beats_at(TIMES, 250, 40)
    x[10 * 250 : 18 * 250] = 0
    write(tmp_path, "r", 250, x + ecg.noise(250, 40, 0.01))
    changes = [c for c in replay(tmp_path / "r.hea") if c["code"] == "asystole"]
    assert [(c["state"], c["present"]) for c in changes] == [("raised", True), ("raised", False)]
    first, second = changes
    assert (first["priority"], first["latching"]) == ("high", True)
    assert 9 < first["onset_s"] < 10.1
    assert 4 <= first["decisive_s"] - first["onset_s"] <= 5
    assert first["time_s"] == first["decisive_s"]
    assert 18 <= second["end_s"] <= 19.5
    assert first["args"]["seconds"] >= 4


def test_pairs_are_one_to_one_within_the_window():
    result = match(np.array([100, 200, 300]), np.array([90.0, 104.0, 330.0, 420.0]), 35)
    assert result.pairs == [(0, 1), (2, 2)]
    assert result.missed == [1]
    assert result.false == [0, 3]


@pytest.mark.data
@pytest.mark.skipif(not MITDB.is_dir(), reason="the MIT-BIH records are not here")
def test_the_target_on_real_records(tmp_path):
    """A third of the records, chosen by number; the whole set is in docs/physiology.md."""
    for path in MITDB.iterdir():
        if path.stem in {"101", "106", "114", "119", "203", "207", "208", "223"}:
            (tmp_path / path.name).symlink_to(path.resolve())
    result = evaluate_ecg(tmp_path)
    assert result["n"] == 8
    assert result["qrs"]["f1"] >= 99.5  # with 203 and 208, the hardest two
    assert result["report_latency_ms"]["p99"] <= 350
    changes = replay(tmp_path / "207")
    assert any(c["code"] == "ventricular_fibrillation" for c in changes)
