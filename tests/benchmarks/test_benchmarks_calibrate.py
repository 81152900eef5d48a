"""Rates are fitted to what was measured, by one command."""

import json

import pytest

from benchmarks import calibrate, crossings
from benchmarks.__main__ import main
from fused_resnet.cost import cost_model


def test_the_command_writes_rates_and_prints_what_would_be_chosen(tmp_path, capsys):
    out = tmp_path / "rates.json"
    assert main(["calibrate", "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == json.loads(cost_model.CALIBRATION.read_text())
    printed = capsys.readouterr().out
    assert "resnet50 layer4.1" in printed
    assert "library" in printed


def test_the_picture_says_where_another_strategy_becomes_the_fastest(tmp_path, capsys):
    picture = tmp_path / "choice.svg"
    assert main(["calibrate", "--out", str(tmp_path / "rates.json"), "--plot", str(picture)]) == 0
    drawn = picture.read_text()
    for inner in crossings.STAGES.values():
        first, *others = crossings.crossings(inner, cost_model.calibrated())
        assert first[0] == 1000
        for rows, way in others:
            assert f"{way} from {rows:,} rows" in drawn
            tails = crossings.tail(inner, rows), crossings.tail(inner, round(rows / 1.13))  # of the picture's grid
            now, before = (cost_model.fastest(tail, cost_model.calibrated(), plain_too=False) for tail in tails)
            assert now == (way, None) != before


def test_times_that_are_sums_of_amounts_give_their_rates_back():
    observed = [
        calibrate.Observed({"bytes": b, "launch": 1.0, "unused": u}, 2e-6 * b + 5e-6)
        for b, u in ((1.0, 3.0), (10.0, 1.0), (100.0, 2.0), (7.0, 9.0))
    ]
    assert calibrate.fit(observed) == pytest.approx({"bytes": 2e-6, "launch": 5e-6, "unused": 0.0})


def test_no_rate_is_negative():
    """More of the second takes less time, which no machine does."""
    observed = [calibrate.Observed({"a": a, "b": b}, a - 0.1 * b) for a, b in ((10.0, 1.0), (10.0, 20.0), (30.0, 5.0))]
    assert all(rate >= 0 for rate in calibrate.fit(observed).values())


@pytest.mark.parametrize("name", ["memory-cpu.json", "nothing.json"])
def test_a_result_of_another_benchmark_is_refused(name, capsys):
    assert main(["calibrate", str(calibrate.RESULT.with_name(name))]) == 2
    assert "benchmarks:" in capsys.readouterr().err
