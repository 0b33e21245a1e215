"""The public names: all exist, are documented, and are imported only when used."""

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import canfar_batch
from canfar_batch import errors, failures

REFERENCE = Path(__file__).parents[2] / "docs/reference"
EXAMPLE = re.compile(r"```python\n.+?\n *```", re.DOTALL)

STABLE = {
    "batches",
    "BatchPaused",
    "JobFailed",
    "Batch",
    "Job",
    "JobSpec",
    "JobState",
    "LocalPlatform",
    "Session",
    "errors",
    "failures",
    "open",
}
STABLE |= {"AtOnce", "Window", "Chunks", "Throttle", "Adaptive", "Listing", "OneByOne", "Retry", "never"}
STABLE |= {"Logs", "Files", "Json", "Report", "__version__"}

HANDLES = {
    "Session": "batch batches close connect connect_for images job jobs launch limits stats usage",
    "Job": "attempt attempts cancel cpu_seconds events exit_code explain failure fields finished_at follow id key logs"
    " done log name ok outputs peak_ram raise_if_failed refresh renew result run_seconds spec started_at state"
    " support_report wait",
    "Batch": "add as_completed cancel collect counts delete done driven_by drop explain failed get grid jobs keys"
    " launch map observe preflight preview renew replicas report rerun results retry_failed rows run start step stop"
    " succeeded timeline to_csv to_dataframe to_rows to_table wait",
    "Report": "raise_if_failed",
    "LocalPlatform": "start stop url",
}


def documented(value):
    """What bears the docstring: the value, or its class."""
    return value if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value) else type(value)


def members(module):
    return {name: value for name, value in vars(module).items() if inspect.isclass(value) and not name.startswith("_")}


def test_the_package_lists_its_names_and_no_others():
    assert set(canfar_batch.__all__) >= STABLE
    assert dir(canfar_batch) == sorted(canfar_batch.__all__)
    for name in canfar_batch.__all__:
        assert getattr(canfar_batch, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="canfar_batch"):
        _ = canfar_batch.Sesion


def test_a_star_import_imports_every_name():
    names = {}
    exec("from canfar_batch import *", names)
    assert set(canfar_batch.__all__) <= set(names)


@pytest.mark.parametrize("name", sorted(set(canfar_batch.__all__) - {"__version__"}))
def test_every_name_and_every_public_member_has_a_docstring(name):
    value = documented(getattr(canfar_batch, name))
    assert inspect.getdoc(value)
    if inspect.isclass(value) and value.__module__.startswith("canfar_batch"):
        owners = [owner for owner in value.__mro__ if owner.__module__.startswith("canfar_batch")]
        for member, thing in ((member, thing) for owner in owners for member, thing in vars(owner).items()):
            if not member.startswith("_") and (inspect.isroutine(thing) or isinstance(thing, property)):
                assert inspect.getdoc(thing), f"{name}.{member}"


@pytest.mark.parametrize("name", sorted(set(canfar_batch.__all__) - {"__version__"}))
def test_every_name_has_an_example(name):
    """That examples run is in test_docs.py."""
    value = getattr(canfar_batch, name)
    if value in members(errors).values():
        assert re.search(rf"\bcb\.{name}\b", (REFERENCE / "errors.md").read_text())
    else:
        assert EXAMPLE.search(inspect.getdoc(documented(value)))


def parameters(function):
    return set(inspect.signature(function).parameters)


METHODS = {
    f"{name}.{member}": function
    for name, value in ((name, getattr(canfar_batch, name)) for name in canfar_batch.__all__)
    if inspect.isclass(value) and value.__module__.startswith("canfar_batch")
    for owner in value.__mro__
    if owner.__module__.startswith("canfar_batch")
    for member, function in vars(owner).items()
    if inspect.isfunction(function) and not member.startswith("_")
}
CLASSES = {
    name: value
    for name, value in ((name, getattr(canfar_batch, name)) for name in canfar_batch.__all__)
    if inspect.isclass(value) and not issubclass(value, BaseException)
}


def measured():
    """Yield each argument that is a time or an amount of memory, with what takes it."""
    for name, value in {**METHODS, **CLASSES}.items():
        for argument, parameter in inspect.signature(value).parameters.items():
            has_unit = "float" in str(parameter.annotation) or argument in ("ram", "max_ram")
            if has_unit and argument not in UNITLESS and not argument.endswith(("second", "hours")):
                yield name, argument


UNITLESS = ("cores", "gpus", "grow_ram", "ram_scale")
UNIT = re.compile(r"\b(?:seconds?|minutes?|GiB)\b", re.IGNORECASE)


@pytest.mark.parametrize("name", METHODS)
def test_documented_arguments_exist(name):
    function = METHODS[name]
    documented = set(re.findall(r"^    \*?(\w+): ", args_section(inspect.getdoc(function)), re.MULTILINE))
    assert documented - parameters(function) == set()


@pytest.mark.parametrize(("name", "argument"), sorted(measured()))
def test_lengths_of_time_and_amounts_of_memory_have_their_unit(name, argument):
    value = METHODS.get(name) or CLASSES[name]
    assert UNIT.search(explanation(value, argument)), "its own explanation has no unit"


def explanation(value, argument):
    """Return what the docstrings, or the comments on fields, say of one argument."""
    found = []
    for owner in value.__mro__ if inspect.isclass(value) else [value]:
        sections = re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)*)", inspect.getdoc(owner) or "", re.MULTILINE)
        entry = rf"^    {argument}: (.*(?:\n      .*)*)"
        found += [text for section in sections for text in re.findall(entry, section, re.MULTILINE)]
        found += re.findall(rf"[^.;]*\*{argument}\*[^.;]*", inspect.getdoc(owner) or "")
        if inspect.isclass(owner) and owner.__module__.startswith("canfar_batch"):
            found += comments(owner).get(argument, [])
    return " ".join(found)


def comments(owner):
    """Return the comments on each field of a class, which the reference shows."""
    lines = inspect.getsource(owner).splitlines()
    fields = [node for node in ast.parse("\n".join(lines)).body[0].body if isinstance(node, ast.AnnAssign)]
    return {node.target.id: re.findall("#: *(.*)", "\n".join(comment_lines(lines, node))) for node in fields}


def comment_lines(lines, node):
    """Return the lines of a field, and those before it that are comments."""
    first = node.lineno - 1
    while lines[first - 1].lstrip().startswith("#:"):
        first -= 1
    return lines[first : node.end_lineno]


def args_section(doc):
    found = re.search(r"^Args:\n((?:    .*\n?|\n)*)", doc, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize(("name", "promised"), HANDLES.items())
def test_handles_have_the_promised_methods(name, promised):
    handle = getattr(canfar_batch, name)
    assert [member for member in promised.split() if not hasattr(handle, member)] == []


@pytest.mark.parametrize("error", members(errors).values())
def test_every_error_has_one_root_a_builtin_and_a_docstring(error):
    assert error.__doc__
    if error is errors.Detached:
        assert issubclass(error, KeyboardInterrupt)
    else:
        assert issubclass(error, errors.CanfarBatchError)
    if error not in (errors.CanfarBatchError, errors.PlatformError):
        builtins = [base for base in error.__mro__ if base.__module__ == "builtins"]
        assert set(builtins) - {Exception, BaseException, object}, "it resembles no builtin"


@pytest.mark.parametrize("kind", failures.KINDS.values())
def test_every_failure_has_a_label(kind):
    assert kind.__doc__
    assert kind.label != failures.Failure.label or kind is failures.ExitCode


def test_importing_the_package_imports_little():
    code = (
        "import sys, canfar_batch; print(*[m for m in ('requests', 'attrs', 'sqlite3', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_importing_the_session_leaves_batches_views_and_the_ledger_for_later():
    later = [
        f"canfar_batch.{name}" for name in ("batch", "engine", "job", "setup", "strategies", "views", "store", "spec")
    ]
    code = (
        f"import sys; from canfar_batch import Session; print(*[m for m in {[*later, 'sqlite3']} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
