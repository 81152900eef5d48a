"""``python -m benchmarks compare``: which numbers of two results differ, and what that means."""

import pytest

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA, UserError

for dependency in EXTRA:
    pytest.importorskip(dependency)

from dataclasses import replace  # noqa: E402

from sample_results import COLUMNS, PROVENANCE, row, sample  # noqa: E402

from benchmarks.compare.comparison import compare, needed, ratio, verdict  # noqa: E402
from benchmarks.compare.shown import caption, draw, headline  # noqa: E402
from benchmarks.result import (  # noqa: E402
    Column,
    Spread,
    read,
)

LOWER, HIGHER = Column("time", "measured", "us", "lower"), Column("speed", "measured", "", "higher")
NEITHER, COUNTED = Column("blocks", "counted"), Column("bytes", "counted", "B", "lower")


@pytest.mark.parametrize(
    ("column", "a", "b", "expected", "said"),
    [
        (LOWER, Spread(10, 9, 11), Spread(5, 4, 6), 0.5, "better"),
        (LOWER, Spread(10, 9, 11), Spread(15, 12, 16), 1.5, "worse"),
        (LOWER, Spread(10, 9, 11), Spread(12, 11, 13), 1.2, "within the spread"),
        (LOWER, Spread(10, 9, 11), Spread(10, 9, 11), 1, "same"),
        (LOWER, Spread(10, 9, 11), 10.5, 1.05, "within the spread"),
        (HIGHER, 10.0, 20.0, 2, "better"),
        (HIGHER, 20.0, 10.0, 0.5, "worse"),
        (NEITHER, 4, 5, 1.25, "changed"),
        (COUNTED, 1000, 1001, 1.001, "worse"),
        (COUNTED, 1000, 1000, 1, "same"),
        (COUNTED, 0, 8, None, "worse"),
        (COUNTED, 0, 0, None, "same"),
        (NEITHER, True, False, None, "changed"),
        (LOWER, None, 1.0, None, "only in B"),
        (LOWER, 1.0, None, None, "only in A"),
    ],
)
def test_ratio_and_verdict(column, a, b, expected, said):
    assert ratio(a, b) == (None if expected is None else pytest.approx(expected))
    assert verdict(column, a, b) == said


def test_rows_are_joined_by_their_keys():
    a = sample()
    b = sample(rows=[*a.rows[:0:-1], row("layer9.0", "forward", 1.0, 1.0, 1)])
    compared = compare(a, b)
    assert {row["verdict"] for row in compared.rows} == {"same"}
    assert {(row["tail"], row["direction"]) for row in compared.rows} == {
        ("layer1.0", "backward"),
        ("layer2.0", "forward"),
    }
    assert compared.notes == ["Only A has 1 row: layer1.0 forward.", "Only B has 1 row: layer9.0 forward."]


def test_columns_that_mean_something_else_are_left_out():
    columns = [replace(c, unit="ms") if c.name == "time" else c for c in COLUMNS if c.name != "bytes"]
    compared = compare(sample(), sample(columns=columns))
    assert compared.notes == [
        "Not compared: bytes (only in A).",
        "Not compared: time (time [us], measured, in A, but time [ms], measured, in B).",
    ]
    assert list(compared.details["columns"]) == ["speed [images/s]", "kernels", "fits"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"benchmark": "other"}, "A is of the benchmark 'stand_in', B of 'other', expected two of one benchmark"),
        ({"columns": COLUMNS[1:]}, "rows are told apart by tail, direction in A, by direction in B"),
        ({"rows": sample().rows * 2}, "B has several rows 'layer1.0 forward', expected rows that differ in their"),
    ],
    ids=["benchmark", "keys", "rows"],
)
def test_what_cannot_be_compared_is_named(change, message):
    with pytest.raises(UserError, match=message):
        compare(sample(), sample(**change))


def test_keys_that_are_not_needed_to_tell_rows_apart_are_not_shown():
    rows = [
        {"tail": tail, "way": way, "kind": f"of {tail}", "batch": 8} for tail in ("1.0", "1.1") for way in ("a", "b")
    ]
    assert needed(["tail", "way", "kind", "batch"], rows) == ["tail", "way"]
    assert needed(["batch", "tail"], rows[:1]) == ["batch"]
    assert needed([], []) == []


@pytest.fixture
def files(tmp_path):
    """A and B: a time better, one within the spread; a number of bytes changed; from different machines."""
    rows = [
        row("layer1.0", "forward", Spread(50.0, 45.0, 55.0), 60.0, 1000),
        row("layer1.0", "backward", Spread(205.0, 195.0, 215.0), 40.0, 1999),
    ]
    other = replace(PROVENANCE, device="Other", dirty=True, arguments={"quick": True, "json": "b.json"})
    sample().write(tmp_path / "a.json")
    sample(rows=rows, provenance=other, settings={"pairs": 4}).write(tmp_path / "b.json")
    return [str(tmp_path / name) for name in ("a.json", "b.json")]


def said(capsys, *arguments):
    assert main(["compare", *arguments]) == 0
    return capsys.readouterr().out


def words(text):
    return [" ".join(line.split()) for line in text.splitlines()]


def test_report_shows_both_values_and_the_ratio(files, capsys):
    lines = words(said(capsys, *files))
    assert "time [us] (measured, lower is better): B / A 0.716 (geometric mean), 1 better, 1 within the spread" in lines
    assert "layer1.0 forward 100 (90.0 to 110) 50.0 (45.0 to 55.0) 0.500 better" in lines
    assert "layer1.0 backward 200 (190 to 210) 205 (195 to 215) 1.025 within the spread" in lines
    assert "- Only A has 1 row: layer2.0 forward." in lines


def test_report_begins_with_what_else_differs(files, capsys):
    text = said(capsys, *files)
    lines = words(text[: text.index("time [us]")])
    assert lines[0].startswith("A: Model <T> & Sons, 2 CPU cores")
    assert lines[1].startswith("B: Other, 2 CPU cores")
    for line in ("device Model <T> & Sons Other", "argument quick no yes", "setting pairs 3 4", "dirty no yes"):
        assert line in lines
    assert not any("b.json" in line for line in lines)
    assert "- The machines differ (device): measured ratios compare them, too; counted numbers do not." in lines
    assert "- B is a smoke run: its numbers say nothing of real sizes." in lines
    assert any(line.startswith("- B is of a checkout with changes") for line in lines)


def test_counted_numbers_that_differ_have_lines_and_others_have_none(files, capsys):
    text = said(capsys, *files)
    counted = words(text[text.index("bytes [B] (counted") :])
    assert counted[0].endswith("1 better, 1 same")
    assert "layer1.0 backward 2,000 1,999 1.000 better" in counted
    assert not any(line.startswith("layer1.0 forward") for line in counted)


def test_numbers_without_a_spread_are_said_to_prove_little(files, capsys):
    lines = words(said(capsys, *files, "--columns", "speed"))
    assert any(line.endswith("1 same, without a spread, so that a difference need not be a change") for line in lines)


def test_unchanged_rows_are_left_out_on_request(files, capsys):
    lines = words(said(capsys, *files, "--only-changed", "--columns", "time"))
    assert any(line.startswith("layer1.0 forward") for line in lines)
    assert not any(line.startswith("layer1.0 backward") for line in lines)
    assert not any(line.startswith("speed") for line in lines)


def test_of_many_rows_that_one_alone_has_a_few_are_named(files, tmp_path, capsys):
    sample(rows=[row(f"tail {i}", "forward", 1.0, 1.0, 1) for i in range(5)]).write(tmp_path / "more.json")
    lines = words(said(capsys, files[0], str(tmp_path / "more.json")))
    assert "- Only A has 3 rows: layer1.0 forward; layer1.0 backward; layer2.0 forward." in lines
    assert "- Only B has 5 rows: tail 0 forward; tail 1 forward; tail 2 forward; and 2 more." in lines
    assert "time [us] (measured, lower is better): no values" in lines


def test_result_beside_itself_is_the_same(files, capsys):
    text = said(capsys, files[0], files[0])
    assert "Machine, versions, commit and settings are the same." in text
    assert "worse" not in text
    assert "better" not in text.replace("is better", "")


def test_comparison_is_a_result_that_can_be_drawn(files, tmp_path, capsys):
    said(capsys, *files, "--json", str(tmp_path / "c.json"), "--plot", str(tmp_path / "c.svg"))
    result = read(tmp_path / "c.json")
    first = result.rows[0]
    assert [first[name] for name in ("tail", "direction", "compared", "B / A", "verdict")] == [
        *("layer1.0", "forward", "time [us]", 0.5, "better"),
    ]
    assert (first["A"], first["B"]) == (Spread(100, 90, 110), Spread(50, 45, 55))
    assert "stand_in" in caption(result)
    header, rows = headline(result)
    assert rows[0][:4] == ["time [us] (measured, lower is better)", "0.716", "1", "0"]
    assert {len(cells) for cells in rows} == {len(header)}
    titles = [axes.get_title(loc="left") for axes in draw(result).axes]
    assert [title.splitlines()[0] for title in titles] == ["time [us]", "speed [images/s]", "bytes [B]"]
    assert (tmp_path / "c.svg").read_text().startswith("<?xml")


def test_of_many_rows_those_that_differ_most_are_drawn():
    rows = [row(f"tail {i}", "forward", 100.0, 1.0, 1) for i in range(60)]
    later = [{**r, "time": 100.0 + i} for i, r in enumerate(rows)]
    axes = draw(compare(sample(rows=rows), sample(rows=later))).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"tail {i}" for i in range(20, 60)]


def test_nothing_that_differs_can_be_drawn_too(files, tmp_path, capsys):
    said(capsys, files[0], files[0], "--plot", str(tmp_path / "c.png"))
    assert (tmp_path / "c.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--columns", "time,no"], "--columns is no, expected some of time, speed, bytes, kernels, fits"),
        (["--plot", "c.gif"], "--plot is 'c.gif', expected a name that ends in .svg or .png or .pdf"),
    ],
)
def test_mistakes_are_one_line(files, capsys, arguments, message):
    assert main(["compare", *files, *arguments]) == 2
    assert capsys.readouterr().err == f"benchmarks: {message}\n"


def test_missing_file_is_one_line(files, capsys):
    assert main(["compare", files[0], "none.json"]) == 2
    assert "none.json: no such file, expected a JSON file that a benchmark has written" in capsys.readouterr().err
