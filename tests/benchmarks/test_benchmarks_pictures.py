"""Pictures are the same from run to run, at home on light and dark pages, and white where they cannot know the page."""

import re
from xml.etree import ElementTree

import pytest

from benchmarks.errors import EXTRA

for dependency in EXTRA:
    pytest.importorskip(dependency)

import matplotlib.image  # noqa: E402
from contrast import contrast  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from benchmarks import pictures  # noqa: E402


def figure():
    with pictures.style():
        drawn = Figure(figsize=(4, 3))
        axes = drawn.subplots()
        axes.plot([0, 1], [0, 1], color=pictures.COLOURS["blue"])
        axes.axhline(0.5, color=pictures.FAINT)
        axes.set_title("Title")
        axes.set_xlabel("label")
    return drawn


def colours(document):
    """The colours of elements' fills and strokes."""
    return {c.lower() for c in re.findall(r"(?:fill|stroke): (#[0-9a-fA-F]{6}|var\(--\w+\))", document)}


def test_ink_and_faint_lines_follow_the_page():
    document = pictures.svg(figure())
    assert colours(document) == {"var(--ink)", "var(--faint)", pictures.COLOURS["blue"].lower()}
    sheet = re.search(r"<style>(.*?)</style>", document)[1]
    light, dark = sheet.split("@media(prefers-color-scheme:dark)")
    assert f"--ink:{pictures.INK}" in light
    assert f"--faint:{pictures.FAINT}" in light
    values = dict(re.findall(r"--(\w+):(#\w{6})", dark))
    assert values.keys() == {"ink", "faint"}
    assert int(values["ink"][1:3], 16) > 200
    assert int(values["faint"][1:3], 16) < 100


def test_svg_is_transparent_and_well_formed():
    document = pictures.svg(figure())
    root = ElementTree.fromstring(document)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "fill: #ffffff" not in document.lower()


def test_the_same_picture_is_the_same_file():
    assert pictures.svg(figure()) == pictures.svg(figure())


def test_png_is_white(tmp_path):
    pictures.save(figure(), tmp_path / "picture.png")
    pixels = matplotlib.image.imread(tmp_path / "picture.png")
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert pixels.min() < 0.5


@pytest.mark.parametrize(("suffix", "begin"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")])
def test_format_is_that_of_the_name(tmp_path, suffix, begin):
    assert suffix in pictures.SUFFIXES
    pictures.save(figure(), tmp_path / f"picture{suffix}")
    assert (tmp_path / f"picture{suffix}").read_bytes().startswith(begin)


@pytest.mark.parametrize("name", pictures.COLOURS)
def test_colours_show_on_white_and_on_near_black(name):
    colour = f"rgb{tuple(bytes.fromhex(pictures.COLOURS[name][1:]))}"
    assert contrast(colour, "rgb(255, 255, 255)") > 2
    assert contrast(colour, "rgb(20, 23, 26)") > 3
