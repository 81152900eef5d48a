"""``python -m benchmarks figures``: pictures and the tables of the pages follow the results."""

import re

import pytest

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from sample_results import sample, stand_in  # noqa: E402

pytestmark = pytest.mark.usefixtures(stand_in.__name__)

BLOCK = "<!-- result: {} -->\n{}<!-- end of result -->\n"


@pytest.fixture
def project(tmp_path):
    """A README with one block, a page in docs/ with another, one result."""
    (tmp_path / "docs" / "deep").mkdir(parents=True)
    (tmp_path / "README.md").write_text(f"# Title\n\n{BLOCK.format('one', '')}\nBehind it.\n")
    (tmp_path / "docs" / "deep" / "page.md").write_text("Ahead.\n\n" + BLOCK.format("one", "old\n"))
    (tmp_path / "docs" / "plain.md").write_text("No block.\n")
    sample().write(tmp_path / "results" / "one.json")
    return tmp_path


def figures(project, *more):
    return main(["figures", "--results", f"{project}/results", "--readme", f"{project}/README.md", *more])


def test_block_becomes_table_picture_and_provenance(project):
    assert figures(project) == 0
    assert (project / "README.md").read_text().splitlines() == [
        "# Title",
        "",
        "<!-- result: one -->",
        "| tail | bytes (counted) |",
        "|---|---:|",
        "| layer1.0 \\| forward | 1,000 |",
        "| layer1.0 \\| backward | 2,000 |",
        "| layer2.0 \\| forward | 4,000 |",
        "",
        '![Bytes of 3 "tails" \\[counted\\] on Model <T> & Sons.](results/one.svg)',
        "",
        "Model <T> & Sons, 2 CPU cores, 2 threads, PyTorch 2.13.0, fused_resnet 0.1.0 (0123456789ab, reference"
        " backend), 2026-01-02 ([all numbers](results/one.json))",
        "<!-- end of result -->",
        "",
        "Behind it.",
    ]
    assert (project / "docs" / "plain.md").read_text() == "No block.\n"


def test_links_are_relative_to_each_page(project):
    figures(project)
    page = project / "docs" / "deep" / "page.md"
    links = re.findall(r"\]\(([^)]+)\)", page.read_text())
    assert links == ["../../results/one.svg", "../../results/one.json"]
    assert all((page.parent / link).is_file() for link in links)


def test_a_second_run_changes_nothing(project):
    figures(project)
    first = {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()}
    figures(project)
    assert {path: path.read_bytes() for path in first} == first
    assert figures(project, "--check") == 0


def test_check_names_what_is_stale_and_writes_nothing(project, capsys):
    before = {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()}
    assert figures(project, "--check") == 1
    said = capsys.readouterr().out
    for stale in ("results/one.svg", "README.md", "docs/deep/page.md"):
        assert f"{project / stale} is stale" in said
    assert "plain.md" not in said
    assert {path: path.read_bytes() for path in project.rglob("*.*") if path.is_file()} == before


def test_a_changed_result_makes_its_picture_and_its_table_stale(project, capsys):
    figures(project)
    changed = sample()
    changed.rows[0]["bytes"] = 1001
    changed.write(project / "results" / "one.json")
    capsys.readouterr()
    assert figures(project, "--check") == 1
    said = capsys.readouterr().out
    assert "one.svg is stale" in said
    assert "README.md is stale" in said


def test_other_files_of_the_folder_are_left_alone(project):
    (project / "results" / "gpu-time.json").write_text('{"stage": "time"}')
    assert figures(project) == 0
    assert not (project / "results" / "gpu-time.svg").exists()


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (BLOCK.format("two", ""), "README.md: names the result 'two', but there is no "),
        ("<!-- result: one -->\n", "README.md:1: found <!-- result: one --> alone, expected <!-- result: NAME --> and"),
        ("\n<!-- end of result -->\n", "README.md:2: found <!-- end of result --> alone, expected"),
        ("<!-- result: one -->\n" * 2, "README.md:1: found <!-- result: one --> alone"),
    ],
)
def test_mistakes_in_pages_are_one_line(project, capsys, page, message):
    (project / "README.md").write_text(page)
    assert figures(project) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_result_of_another_kind_is_named(project, capsys):
    (project / "results" / "one.json").write_text("{}")
    assert figures(project) == 2
    assert "one.json: not a result" in capsys.readouterr().err


def test_missing_folder_is_one_line(tmp_path, capsys):
    assert figures(tmp_path) == 2
    assert "results: no such folder" in capsys.readouterr().err


def test_pages_of_the_repository_are_up_to_date(capsys):
    assert main(["figures", "--check"]) == 0, capsys.readouterr().out
