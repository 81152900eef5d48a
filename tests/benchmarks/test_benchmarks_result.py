"""What a benchmark finds out survives its file, and is shown with the digits that it deserves."""

import json
from dataclasses import asdict

import pytest

from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)

from sample_results import row, sample  # noqa: E402

from benchmarks.result import (  # noqa: E402
    Column,
    Spread,
    number,
    provenance_line,
    read,
    text,
)


def test_result_is_read_as_it_was_written(tmp_path):
    sample().write(tmp_path / "new" / "result.json")
    assert read(tmp_path / "new" / "result.json") == sample()


def test_file_replaces_an_earlier_one_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("earlier")
    sample().write(path)
    assert list(tmp_path.iterdir()) == [path]
    assert read(path) == sample()


def test_an_earlier_file_stays_whole_when_writing_fails(tmp_path):
    path = tmp_path / "result.json"
    sample().write(path)
    with pytest.raises(TypeError):
        sample(details={"not of JSON": object()}).write(path)
    assert read(path) == sample()


def test_file_describes_itself(tmp_path):
    sample().write(tmp_path / "result.json")
    found = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert found["columns"][2] == {
        "name": "time",
        "origin": "measured",
        "unit": "us",
        "better": "lower",
        "shown": True,
    }
    assert found["rows"][0]["time"] == {"median": 100.0, "lower": 90.0, "upper": 110.0}
    assert found["provenance"]["torch"] == "2.13.0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"not JSON \(Expecting property name"),
        ("[]", r"not a result \(TypeError: "),
        ("{}", r"not a result \(KeyError: 'provenance'\)"),
        ('{"provenance": {}}', r"not a result \(TypeError: .*missing 16 required"),
        (b"\xff\xfe", r"not JSON \('utf-8' codec can't decode"),
    ],
    ids=["text", "list", "nothing", "no provenance", "bytes"],
)
def test_files_that_are_no_results_are_named(tmp_path, content, message):
    path = tmp_path / "result.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"result.json: {message}.*, expected a JSON file that a benchmark has written"):
        read(path)


def test_a_file_of_an_unknown_form_is_named(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({**asdict(sample()), "later": 1}))
    with pytest.raises(UserError, match=r"not a result \(TypeError: .*'later'"):
        read(tmp_path / "result.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: no such file, expected a JSON file"):
        read(tmp_path / "none.json")


def test_rows_are_told_apart_by_all_keys():
    result = sample()
    assert result.keys == ["tail", "direction"]
    assert result.key(result.rows[1]) == ("layer1.0", "backward")
    assert len(set(map(result.key, result.rows))) == len(result.rows)


def test_table_has_the_shown_columns_with_units():
    header, _, first, *_ = sample().table().splitlines()
    assert header.split("  ")[0] == "tail"
    assert "time [us]" in header
    assert "kernels" not in header
    assert first.split() == ["layer1.0", "forward", "100", "(90.0", "to", "110)", "50.0", "1,000", "yes"]


def test_table_leaves_out_columns_that_are_empty_throughout():
    rows = [{**row("layer1.0", "forward", 1.0, None, 8), "fits": None}, {"tail": "layer2.0", "direction": "forward"}]
    header, _, _, second = sample(rows=rows).table().splitlines()
    assert header.split() == ["tail", "direction", "time", "[us]", "bytes", "[B]"]
    assert second.split() == ["layer2.0", "forward"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        (1234567, "1,234,567"),
        ("name", "name"),
        (0.0, "0.000"),
        (1234.56, "1,235"),
        (123.456, "123"),
        (12.3456, "12.3"),
        (1.23456, "1.23"),
        (0.123456, "0.123"),
        (0.000123456, "1.2e-04"),
        (-12.3456, "-12.3"),
        (Spread(12.34, 9.876, 2000.0), "12.3 (9.88 to 2,000)"),
    ],
)
def test_text_has_all_digits_of_counts_and_few_of_measured_numbers(value, shown):
    assert text(value) == shown


@pytest.mark.parametrize(
    ("value", "found"), [(3, 3.0), (2.5, 2.5), (Spread(4.0, 1.0, 9.0), 4.0), (True, None), ("3", None), (None, None)]
)
def test_number_is_the_median_of_a_spread(value, found):
    assert number(value) == found


def test_heading_has_the_unit():
    assert Column("time", "measured", "us").heading == "time [us]"
    assert Column("ratio", "measured").heading == "ratio"


def test_provenance_line_tells_of_changes_and_of_no_checkout():
    result = sample()
    assert "(0123456789ab, reference backend), 2026-01-02" in provenance_line(result)
    for change, said in (({"dirty": True}, "(0123456789ab with changes, "), ({"commit": None}, "(no git checkout, ")):
        changed = type(result.provenance)(**{**vars(result.provenance), **change})
        assert said in provenance_line(sample(provenance=changed))
