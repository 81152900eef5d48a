"""The README and docs/ are true: their code runs and prints what they say, and what they name exists.

Fences are ``python`` (run, in order, in one namespace a file), ``output`` (what the snippet ahead of it prints, with
``...`` for what is left out), ``sh`` (looked at, not run) and ``text`` (anything else).
"""

import contextlib
import doctest
import importlib.util
import io
import re

import pytest
from documents import ROOT, Document, documents
from shell_commands import commands, mistake

import fused_resnet
from fused_resnet import strategy

if importlib.util.find_spec("torchvision"):
    import benchmarks.torchvision_operators  # noqa: F401 - before torchvision

DOCUMENTS = documents()
WITH_CODE = ["README.md", *(f"docs/{name}.md" for name in ("quickstart", "fuse", "shortcut-options", "faq", "moving"))]


def each(found):
    return pytest.mark.parametrize("document", found, ids=lambda document: document.name)


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    """A folder that snippets may write to; what they choose for the process is undone."""
    monkeypatch.chdir(tmp_path)
    with fused_resnet.use_backend("auto"), strategy.use_strategy("auto"):
        yield


@each([document for document in DOCUMENTS if document.snippets("python")])
def test_python_snippets_run_and_print_what_is_said(document, somewhere):
    for package in ("timm", "torchvision"):
        if any(f"import {package}" in snippet.text for snippet in document.snippets("python")):
            pytest.importorskip(package)
    namespace = {"__name__": "__main__"}
    printed = ""
    for fence in document.fences:
        if fence.language == "python":
            printed = run(fence, document, namespace)
        elif fence.language == "output":
            assert prints(fence.text, printed), f"{document.name}:{fence.line}: it prints\n{printed}"


def run(snippet, document, namespace):
    """Runs a snippet and returns what it prints; tracebacks show the document's lines."""
    code = compile("\n" * (snippet.line - 1) + snippet.text, document.path, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def prints(expected, printed):
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected, printed, options)


@pytest.mark.parametrize(("said", "same"), [("a  1\nb", True), ("a...", True), ("a 1\n", False), ("", False)])
def test_prints_compares_all_but_spaces_and_what_is_left_out(said, same):
    assert prints(said, "a 1\nb\n") == same


def test_all_snippets_are_found():
    found = {document.name: len(document.snippets("python")) for document in DOCUMENTS}
    assert found == {document.name: document.text.count("```python") for document in DOCUMENTS}
    assert all(found[name] for name in WITH_CODE)
    assert sum(found.values()) >= 4


@each(DOCUMENTS)
def test_fences_are_of_a_kind_that_is_checked(document):
    assert document.text.count("```") == 2 * len(document.fences)
    assert {fence.language for fence in document.fences} <= {"python", "output", "sh", "text", ""}


@each([document for document in DOCUMENTS if document.snippets("sh")])
def test_commands_name_what_exists(document):
    found = [command for snippet in document.snippets("sh") for command in commands(snippet.text)]
    assert found
    for command in found:
        assert mistake(command) is None, f"{' '.join(command)}: {mistake(command)}"


@pytest.mark.parametrize("command", ["make tset", "python -m benchmark", "pip install ./here", "python setpu.py"])
def test_mistakes_in_commands_are_seen(command):
    assert mistake(command.split())


@each(DOCUMENTS)
def test_links_and_images_lead_somewhere(document):
    for link in document.links():
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = document.path.parent / file if file else document.path
        assert target.exists(), link
        assert not anchor or anchor in Document(target.resolve()).anchors(), link


def test_anchors_are_those_of_github():
    anchors = Document(ROOT / "docs" / "faq.md").anchors()
    assert {"questions", "why-is-resnet-18-hardly-leaner", "channels_last-or-contiguous"} <= anchors
    assert "cannot-be-differentiated-twice" in anchors  # quotes are left out


def test_links_are_found():
    assert sum(len(document.links()) for document in DOCUMENTS) >= 10


def test_every_page_is_listed():
    listed = Document(ROOT / "docs" / "README.md").links()
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(listed)


def test_readme_gets_to_a_fused_model_on_its_first_screen():
    install, use = Document(ROOT / "README.md").fences[:2]
    assert [install.language, use.language] == ["sh", "python"]
    assert use.line + use.text.count("\n") <= 25
    assert len(install.text.splitlines()) == 2
    assert sum(map(bool, use.text.splitlines())) <= 4
    assert re.search(r"^fused_resnet\.fuse\(model\)$", use.text, re.MULTILINE)
