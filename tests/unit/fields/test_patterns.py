"""Patterns of file names: which may match one name."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canfar_batch.fields.patterns import literal, literal_path, literal_prefix, may_match_one_name


@pytest.mark.parametrize(
    ("first", "second", "may"),
    [
        *(("a", "a", True), ("a", "b", False), ("a*", "ab", True), ("a*", "b*", False), ("*", "", True)),
        *(("a*c", "ab*", True), ("a*c", "a*d", False), ("?", "", False), ("?", "??", False), ("*?", "a", True)),
        *(("k1_*", "k11_*", False), ("k1*", "k11*", True), ("[[]a", "[[]a", True), ("[[]", "x", False)),
        *(("[ab]", "c", True), ("[!a]*", "a", True), ("**", "*", True)),
    ],
)
def test_two_patterns_that_may_match_one_name(first, second, may):
    assert may_match_one_name(first, second) is may
    assert may_match_one_name(second, first) is may


PIECES = st.lists(st.sampled_from(["a", "b", "*", "?"]), max_size=6).map("".join)


@given(PIECES, PIECES, st.text("ab", max_size=8))
def test_a_name_that_both_match_is_never_overlooked(first, second, name):
    if fnmatch.fnmatchcase(name, first) and fnmatch.fnmatchcase(name, second):
        assert may_match_one_name(first, second)
        assert name.startswith(literal_prefix(first))


@given(PIECES, st.text("ab*?[]", min_size=1, max_size=5))
def test_a_name_without_wildcards_is_compared_exactly(pattern, name):
    assert may_match_one_name(pattern, literal(name)) == fnmatch.fnmatchcase(name, pattern)
    assert literal_path(literal(name)) == name
