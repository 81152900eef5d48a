"""The cases of ``make test``: few of each test, chosen so that every value of every parameter occurs.

Of parameters with two values (two backends, two strategies, training or not), every pair of values occurs as well. A
test marked ``covers("name", ...)`` has that for these parameters alone. What is marked ``slow`` takes long, and shows
what something quicker shows as well. ``make test-all`` runs every case: ``pytest --all``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from itertools import combinations
from typing import Any

import pytest

Parameters = dict[str, Hashable]


def chosen(cases: Sequence[Parameters]) -> list[int]:
    """Places of the cases that cover all; of those that cover as much of what is left, the first."""
    values = defaultdict(set)
    for case in cases:
        for name, value in case.items():
            values[name].add(value)
    paired = [name for name, found in values.items() if len(found) == 2]
    covered = [{*case.items(), *_pairs(case, paired)} for case in cases]
    left, places = set[Any]().union(*covered), []
    while left:
        best = max(range(len(cases)), key=lambda place: len(covered[place] & left))
        left -= covered[best]
        places.append(best)
    return sorted(places) or [0]


def _pairs(case: Parameters, names: list[str]) -> set[tuple[Any, ...]]:
    return {(pair, case[pair[0]], case[pair[1]]) for pair in combinations(names, 2) if case.keys() >= {*pair}}


def _parameters(item: pytest.Function) -> Parameters:
    marker = item.get_closest_marker("covers")
    parameters = item.callspec.params.items() if hasattr(item, "callspec") else ()
    return {name: _value(value) for name, value in parameters if marker is None or name in marker.args}


def _value(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:  # as of a tuple with a dict in it
        return id(value)
    return type(value), value


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="every case of every test, not only some of each")


@pytest.hookimpl(trylast=True)  # behind -k and -m
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    tests = defaultdict(list)
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("slow") is None:
            tests[item.nodeid.partition("[")[0]].append(item)
    kept = {cases[place] for cases in tests.values() for place in chosen([*map(_parameters, cases)])}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]
