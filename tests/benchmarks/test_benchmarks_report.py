"""``python -m benchmarks report``: one page with all results, as a browser shows it."""

import re
import shutil
from html.parser import HTMLParser

import pytest

from benchmarks.__main__ import main
from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

from browser import DESK, PHONE, browser  # noqa: E402
from contrast import contrast  # noqa: E402
from documents import ROOT  # noqa: E402
from sample_results import PROVENANCE, caption, row, sample, stand_in  # noqa: E402

from benchmarks.result import Spread  # noqa: E402

TITLES = ["one", "three", "two"]
VOID = {"meta", "link", "img", "br"}


def many_rows():
    return [row(f"resnet50 layer{i}.0 projection+identity", "forward", Spread(i, i, i), 1.0, i) for i in range(30)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of two results, the demo's and a file that is none."""
    folder = tmp_path_factory.mktemp("report")
    results = folder / "results"
    sample().write(results / "one.json")
    quick = PROVENANCE.__class__(**{**vars(PROVENANCE), "arguments": {"quick": True, "json": "secret.json"}})
    sample(rows=many_rows(), provenance=quick).write(results / "two.json")
    (results / "gpu-time.json").write_text('{"stage": "time"}')
    shutil.copy(ROOT / "benchmarks" / "results" / "demo-cpu.json", results / "three.json")
    with pytest.MonkeyPatch.context() as patched:
        stand_in.__wrapped__(patched)
        assert main(["report", "--results", str(results), "--output", str(folder / "made" / "page.html")]) == 0
    return folder / "made" / "page.html"


@pytest.fixture(scope="module")
def html(page):
    return page.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return browser(tmp_path_factory.mktemp("browser"))


class Outline(HTMLParser):
    """Checks that elements nest; collects headings, links, ids and images."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.ids, self.links, self.images = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.seen.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        self.images += [values["alt"]] if tag == "img" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(html):
    outline = Outline(html)
    assert len(outline.ids) == len(set(outline.ids))
    assert "script" not in outline.seen
    assert "@import" not in html
    assert "url(" not in html
    for link in outline.links:
        assert link.startswith("data:") or link.removeprefix("#") in outline.ids


def test_every_result_has_heading_link_and_picture(html):
    outline = Outline(html)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == [*TITLES, "Not shown"]
    assert outline.links[1:4] == [f"#result-{title}" for title in TITLES]
    assert outline.images[::2] == [caption(sample()), caption(sample(rows=many_rows()))]
    assert outline.images[1].startswith("Saved activations (counted) and time (measured) of each block of ResNet-50")


def test_tables_have_all_rows_and_say_what_is_measured(html):
    one = html[html.index('<h2 id="result-one"') : html.index('<h2 id="result-three"')]
    assert "layer2.0 | forward</th>" in one
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", one)
    assert heads == [
        *("tail", "bytes (counted)"),
        *("tail", "direction", "time [us] (measured)", "speed [images/s] (measured)"),
        *("bytes [B] (counted)", "kernels (counted)", "fits (counted)"),
    ]
    assert '<td class="value">100 (90.0 to 110)</td>' in one
    assert one.count("<tr>") == 2 * (1 + 3)
    assert "<dt>measured</dt><dd>time, speed</dd>" in one
    assert "<dt>settings</dt><dd>pairs 3</dd>" in one


def test_texts_are_escaped(html):
    assert "Model &lt;T&gt; &amp; Sons" in html
    assert "<li>Nothing was &lt;measured&gt;.</li>" in html
    assert "<measured>" not in html
    assert "<T>" not in html


def test_a_smoke_run_says_so(html):
    assert html.count("A smoke run: its numbers say nothing of real sizes.") == 1


def test_what_is_not_shown_is_named_with_the_reason(html):
    assert "<li>gpu-time.json: not a result (KeyError: &#39;provenance&#39;), expected a JSON file that" in html


def test_names_of_files_that_the_reader_lacks_are_left_out(html):
    assert "secret.json" not in html


def test_unusable_files_do_not_prevent_the_page(tmp_path, capsys):
    for name, text in {"demo-cpu": '{"provenance": 1}', "broken": "{", "of-nothing": "[]"}.items():
        (tmp_path / f"{name}.json").write_text(text)
    sample(benchmark="no_such").write(tmp_path / "foreign.json")
    sample(benchmark="..os").write(tmp_path / "elsewhere.json")
    sample(benchmark="table").write(tmp_path / "undrawn.json")
    assert main(["report", "--results", str(tmp_path), "--output", str(tmp_path / "page.html")]) == 0
    said = capsys.readouterr().out
    assert said.count("- not shown: ") == 6
    assert "foreign.json: of the benchmark 'no_such', which draws no results here" in said
    assert "elsewhere.json: of the benchmark '..os', which draws no results here" in said
    assert "undrawn.json: of the benchmark 'table', which draws no results here" in said
    assert "There are no results." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK], ids=["phone", "desk"])
def test_page_in_a_browser(reader, page, width, dark):
    seen = reader.look(page, width=width, dark=dark)
    assert seen.complaints == []
    probe = seen.probe
    assert (probe["window"], probe["dark"]) == (width, dark)
    assert probe["width"] <= width, "the page scrolls sideways"
    assert len(probe["images"]) == 3
    for image in probe["images"]:
        assert image["complete"]
        assert image["width"] >= 600
        assert image["at"][2] >= 600, "text in the picture is too small to read"
    assert len(probe["colours"]) > 100
    assert {tag: contrast(text, behind) for tag, text, behind in probe["colours"] if contrast(text, behind) < 4.5} == {}
    page_colour = next(behind for tag, _, behind in probe["colours"] if tag == "h1")
    assert (contrast(page_colour, "rgb(0, 0, 0)") < 2) == dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_pictures_are_drawn_in_the_pages_colours(reader, page, dark):
    x, y, width, height = (round(n) for n in reader.look(page, dark=dark).probe["images"][0]["at"])
    picture = reader.screenshot(page, dark=dark)[y : y + height, x : x + width]
    light, ink = (picture > 200).all(axis=2).mean(), (picture < 60).all(axis=2).mean()
    bars = ((picture.max(axis=2) - picture.min(axis=2)) > 80).mean()
    assert 0.05 < bars < 0.9
    background, drawn = (ink, light) if dark else (light, ink)
    assert background > 0.1
    assert 0.001 < drawn < 0.1


def test_the_browser_sees_what_is_wrong_with_a_page(reader, tmp_path):
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!doctype html><html><body><p style='width: 2000px; color: #ccc; background: #fff'>wide and pale</p>"
        "<img src='missing.png' alt='missing'><script>console.error('a problem')</script></body></html>"
    )
    seen = reader.look(broken, width=PHONE)
    assert any("a problem" in complaint for complaint in seen.complaints)
    assert seen.probe["width"] > PHONE
    assert seen.probe["images"][0]["width"] == 0
    assert contrast(*seen.probe["colours"][0][1:]) < 4.5
