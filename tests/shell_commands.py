"""What can be known of a shell command without running it."""

import importlib.util
import re
import shlex

from documents import ROOT

_TARGETS = re.compile(r"^([\w-]+):", re.MULTILINE)
_ASSIGNMENT = re.compile(r"\w+=")


def commands(text):
    """Each command of a snippet, in words, without comments and variables set for it."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = words.index("&&") if "&&" in words else len(words)
            command, words = words[:end], words[end + 1 :]
            while command and _ASSIGNMENT.match(command[0]):
                command.pop(0)
            if command:
                yield command


def mistake(command):
    """What a command names that does not exist, None where nothing is known to be missing."""
    program, *arguments = command
    if program == "make":
        return _first_missing("target", _names(arguments), _TARGETS.findall((ROOT / "Makefile").read_text()))
    if program.endswith("python") and arguments[:1] == ["-m"]:
        return None if importlib.util.find_spec(arguments[1]) else f"no module {arguments[1]}"
    if program.endswith("python") and arguments[:1] == ["-c"]:
        compile(arguments[1], "<python -c>", "exec")
        return None
    files = [a for a in arguments if a == "." or (("/" in a or a.endswith(".py")) and "://" not in a)]
    return _first_missing("file", files, [file for file in files if (ROOT / file).exists()])


def _names(arguments):
    return [argument for argument in arguments if not _ASSIGNMENT.match(argument) and not argument.startswith("-")]


def _first_missing(kind, names, existing):
    return next((f"no {kind} {name}" for name in names if name not in existing), None)
