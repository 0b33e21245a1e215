"""What makes two functions the same, and what makes them different."""

import functools
import subprocess
import sys
import textwrap

import pytest

from canfar_batch.functions.digest import digest_of, identify


def made(source, **variables):
    """Return the function `f` that *source* defines in a namespace of its own, as a notebook's cell would."""
    space = {"__name__": "__main__", **variables}
    exec(compile(textwrap.dedent(source), "<cell>", "exec"), space)
    return space["f"]


def digest(source, **variables):
    return identify(made(source, **variables)).digest


BASE = "def f(x):\n    return x + 1"


@pytest.mark.parametrize(
    "same",
    [
        "\n\n\ndef f(x):\n    return x + 1",
        "def f(x):\n    # a remark\n    return x + 1   # another",
        "unused = 3\ndef f(x):\n    return x + 1",
        "def f(x: int) -> int:\n    return x + 1",
    ],
)
def test_comments_lines_annotations_and_unused_names_make_no_difference(same):
    assert digest(same) == digest(BASE)


@pytest.mark.parametrize(
    "other",
    [
        "def f(x):\n    return x + 2",
        "def f(x):\n    return x - 1",
        "def f(y):\n    return y + 1",
        "def f(x, *, n=1):\n    return x + 1",
        "def f(x=3):\n    return x + 1",
    ],
)
def test_another_line_or_parameter_makes_another_function(other):
    assert digest(other) != digest(BASE)


def test_what_the_function_refers_to_counts():
    uses = "def f(x):\n    return x * scale"
    assert digest(uses, scale=2) == digest(uses, scale=2)
    assert digest(uses, scale=2) != digest(uses, scale=3)
    assert digest(uses, scale=2) != digest(uses, scale=2.0)
    helper = "def help(x):\n    return x + {}\ndef f(x):\n    return help(x)"
    assert digest(helper.format(1)) != digest(helper.format(2))
    deep = "class Model:\n    def value(self):\n        return {}\ndef f(x):\n    return Model().value()"
    assert digest(deep.format(1)) == digest(deep.format(1))
    assert digest(deep.format(1)) != digest(deep.format(2))


def test_an_attribute_of_the_name_of_a_variable_is_not_that_variable():
    uses = "def f(x):\n    return x.scale"
    assert digest(uses, scale=2) == digest(uses, scale=3)


def test_closures_partials_methods_and_recursion():
    outer = "def outer(n):\n    def f(x):\n        return f(x - n) if x else 0\n    return f\nf = outer({})"
    assert digest(outer.format(1)) == digest(outer.format(1))
    assert digest(outer.format(1)) != digest(outer.format(2))
    assert identify(functools.partial(made(BASE), x=1)).digest != identify(functools.partial(made(BASE), x=2)).digest
    assert identify("a".join).digest  # a method of a built-in type


def test_a_class_does_not_change_by_being_used():
    source = "class P:\n    def __init__(self, x):\n        self.x = x\ndef f(x):\n    return P(x)"
    function = made(source)
    before = identify(function).digest
    cloudpickle = pytest.importorskip("cloudpickle")
    cloudpickle.loads(cloudpickle.dumps(function(1)))
    assert identify(function).digest == before


PROGRAM = """
from canfar_batch.functions.digest import digest_of, identify
table = {"b": 1, "a": {"x", "y", "z"}}
names = {"vega", "deneb", "altair"}
def f(x, kinds=frozenset({"a", "b", "c"})):
    return [x for name in names if name in {"vega", "deneb"}], table
print(identify(f).digest, digest_of({"stars": names, "n": 1}))
"""


def test_the_digest_is_the_same_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, check=True,
            text=True, cwd="/",
        ).stdout
        for seed in ("1", "2", "3")
    }  # fmt: skip
    assert len(found) == 1
    assert found != {""}


def test_equal_values_have_equal_digests():
    numpy = pytest.importorskip("numpy")
    assert digest_of(numpy.arange(1000.0)) == digest_of(numpy.arange(1000.0))
    assert digest_of(numpy.arange(1000.0)) != digest_of(numpy.arange(1000))
    assert digest_of((1, "a")) == digest_of((1, "".join(["a"])))
    assert digest_of(made(BASE)) == digest_of(made(BASE))
