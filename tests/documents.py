"""The project's Markdown files as the tests of the documentation read them."""

import pathlib
import re
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[1]

_FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Fence:
    """A block of code: its language, the number of the line that it starts on, its text."""

    language: str
    line: int
    text: str


class Document:
    """One Markdown file."""

    def __init__(self, path):
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.text = path.read_text()
        self.fences = [
            Fence(found[1], self.text.count("\n", 0, found.start()) + 2, found[2])
            for found in _FENCE.finditer(self.text)
        ]
        self._prose = _FENCE.sub("", self.text)

    def snippets(self, language):
        return [fence for fence in self.fences if fence.language == language]

    def links(self):
        """Targets of links and images."""
        return _LINK.findall(_INLINE_CODE.sub("", self._prose))

    def anchors(self):
        """What a link within the file may name: its headings, as GitHub turns them to anchors."""
        slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in self._headings()]
        return {slug if n == 0 else f"{slug}-{n}" for i, slug in enumerate(slugs) for n in [slugs[:i].count(slug)]}

    def _headings(self):
        return [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()) for heading in _HEADING.findall(self._prose)]


def documents():
    """The README, how to contribute, and everything in docs/ and in folders of tests."""
    paths = [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted((ROOT / "tests").rglob("*.md")),
    ]
    return [Document(path) for path in paths]
