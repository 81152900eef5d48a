"""The README's code runs as it stands, one snippet after the other."""

import pathlib
import re

import pytest
import torchvision_operators  # noqa: F401 - before torchvision

pytest.importorskip("torchvision")
README = pathlib.Path(__file__).parents[1] / "README.md"


def test_every_python_snippet_runs():
    snippets = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(snippets) == 4
    namespace: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, namespace)
