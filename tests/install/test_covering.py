"""`make test` runs few of the cases of each test, and leaves out no value."""

from itertools import product

from covering import chosen

pytest_plugins = ["pytester"]


def cases(**values):
    return [dict(zip(values, case, strict=True)) for case in product(*values.values())]


def picked(cases):
    return [cases[place] for place in chosen(cases)]


def test_every_value_and_every_pair_of_what_has_two_occurs():
    found = picked(cases(sample=range(20), backend="ab", training=[True, False], dtype=["half", "float", "tf32"]))
    assert {case["sample"] for case in found} == {*range(20)}
    assert {case["dtype"] for case in found} == {"half", "float", "tf32"}
    assert {(case["backend"], case["training"]) for case in found} == {*product("ab", [True, False])}
    assert len(found) <= 22


def test_a_case_that_is_the_only_one_with_a_value_is_taken():
    assert {"sample": 3, "strategy": "library"} in picked(
        [*cases(sample=range(5), strategy="ab"), {"sample": 3, "strategy": "library"}]
    )


def test_one_case_of_a_test_that_need_not_cover_anything():
    assert picked([{}, {}, {}]) == [{}]


def test_all_cases_run_where_it_is_asked_for(pytester):
    pytester.makeconftest('pytest_plugins = ["covering"]')
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.covers("a")
        @pytest.mark.parametrize("a", range(3))
        @pytest.mark.parametrize("b", range(5))
        def test_marked(a, b): pass

        @pytest.mark.parametrize("a", range(3))
        @pytest.mark.parametrize("b", range(5))
        def test_plain(a, b): pass

        def test_without(): pass

        @pytest.mark.slow
        def test_long(): pass
        """
    )
    for options, count in (([], 3 + 5 + 1), (["--all"], 15 + 15 + 2), (["-k", "test_plain and 4"], 3)):
        pytester.runpytest("-p", "no:cacheprovider", *options).assert_outcomes(passed=count)
