"""Every Python block of README and docs runs, and every command names existing files and options."""

import argparse
import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from contextlib import nullcontext

import pytest
import yaml
from pages import ROOT, blocks, commands, files

import canfar_batch as cb
from canfar_batch import cli
from canfar_batch.local import __main__ as local_command

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

PAGES = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/README.md")]
NOTEBOOKS = [ROOT / "docs/tutorial.ipynb", ROOT / "examples/see_it.ipynb"]

#: files in the working directory of the pages' code
FILES = {
    "fit.py": "import sys\nprint('fitted', *sys.argv[1:])\n",
    "calib.py": (
        "import sys, pathlib\n"
        "source, *targets = map(pathlib.Path, sys.argv[1:])\n"
        "words = source.read_text()\n"
        "for target in targets:\n"
        "    target.parent.mkdir(parents=True, exist_ok=True)\n"
        "    target.write_text(words)\n"
    ),
    "raw/night1.fits": "placeholder\n",
    "raw/night2.fits": "placeholder\n",
}

#: pages whose code runs in an empty folder
ALONE = {"quickstart.md", "from-the-guide.md", "templates.md"}


@pytest.fixture
def at_work(away_from_home, monkeypatch):
    """A directory with the files that the pages use, and the local platform."""
    for name, content in FILES.items():
        path = away_from_home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.setenv("CANFAR_URL", "local")
    # tests run in a temporary directory, which a batch would refuse
    monkeypatch.setattr("canfar_batch.store.home.Home.refuse_if_fleeting", lambda self: None)
    return away_from_home


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_runs(page, at_work, monkeypatch):
    if page.name in ALONE:
        (at_work / "alone").mkdir()
        monkeypatch.chdir(at_work / "alone")
    shared = {"__name__": "__main__"}  # later blocks of a page may use names of earlier ones
    for line, block in blocks(page, "python", "py"):
        exec(compile("\n" * line + block, str(page), "exec"), shared)


def test_the_nightly_script_processes_each_file_once(at_work):
    text = dict(files(ROOT / "docs/howto/recipes.md"))["nightly_batch.py"]
    script = at_work / "nightly_batch.py"
    script.write_text(text.replace('"/arc/home/you/batches"', '"batches"').replace("mail -s", "true -s"))
    for night in ("night3", "night4"):
        (at_work / f"raw/{night}.fits").write_text("placeholder\n")
        done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=dict(os.environ))
        assert done.returncode == 0, done.stderr
    with cb.open("nights", "batches") as batch:
        assert [(job.key, job.attempt) for job in batch] == [(f"night{n}", 1) for n in (1, 2, 3, 4)]


COMBINE = """
import glob, pathlib, sys
pattern, master = sys.argv[1:]
pathlib.Path(master).parent.mkdir(exist_ok=True)
pathlib.Path(master).write_text(" ".join(pathlib.Path(name).read_text() for name in sorted(glob.glob(pattern))))
"""
CALIBRATE = """
import pathlib, sys
frame, result = map(pathlib.Path, sys.argv[1:])
parts = [path.read_text() for path in (frame, result.with_name("bias.fits"), result.with_name("flat.fits"))]
result.write_text("; ".join(parts)) if parts[0] != "damaged" else sys.exit("damaged")
"""


def test_the_night_is_reduced_in_two_stages_and_only_new_frames_a_second_time(at_work):
    recipes = dict(files(ROOT / "docs/howto/recipes.md"))
    scripts = {name: recipes[name] for name in ("night.py", "reduce.py")}
    frames = {"bias1": "b1", "bias2": "b2", "flat1": "f1", "sci1": "s1", "sci2": "damaged"}
    night = at_work / "night1"
    night.mkdir()
    for name, text in {**scripts, "combine.py": COMBINE, "calibrate.py": CALIBRATE}.items():
        (at_work / name).write_text(text)
    for name, text in frames.items():
        (night / f"{name}.fits").write_text(text)
    for reduced in (["sci1"], ["sci1", "sci3"]):
        done = subprocess.run(
            [sys.executable, "reduce.py", "night1"], capture_output=True, text=True,
            env={**os.environ, "CANFAR_BATCH_HOME": str(at_work)},
        )  # fmt: skip
        assert f"{len(reduced)} frames reduced" in done.stdout, done.stderr
        assert (night / "reduced/sci1.fits").read_text() == "s1; b1 b2; f1"
        (night / "sci3.fits").write_text("s3")
    for stage, count in (("masters", 2), ("science", 3)):
        with cb.open(f"night1-{stage}", night / "batches") as batch:
            assert [job.attempt for job in batch] == [1] * count


def test_the_page_on_testing_has_tests_that_pass(at_work):
    names = [name for name, _ in files(ROOT / "docs/howto/testing.md")]
    for name, text in files(ROOT / "docs/howto/testing.md"):
        (at_work / name).write_text(text)
    alone = ["-p", "no:cacheprovider", "-p", "canfar_batch.pytest_plugin", "--basetemp", at_work / "temporary"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *alone, *(name for name in names if name.startswith("test_"))],
        capture_output=True, text=True, env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert re.search(r"^4 passed", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(set(cb.__all__) - {"__version__"}))
def test_every_example_of_a_docstring_runs(name, at_work, monkeypatch):
    monkeypatch.setenv("API_KEY", "not-a-real-key")
    value = getattr(cb, name)
    members = vars(value).values() if inspect.isclass(value) else ()
    examples = [
        textwrap.dedent(found)
        for documented in (value, *members)
        for found in re.findall(r"```python\n(.*?)```", getattr(documented, "__doc__", None) or "", re.DOTALL)
    ]
    with cb.Session.connect() if any("session" in example for example in examples) else nullcontext() as session:
        spec = cb.JobSpec("python fit.py {n}", image="skaha/astroml:latest", cores=1, ram=1)
        for number, example in enumerate(examples):  # each example runs alone, with these names
            exec(compile(example, f"{name}, example {number}", "exec"), {"cb": cb, "session": session, "spec": spec})


def test_the_readme_has_python_blocks_and_commands():
    assert len(list(blocks(ROOT / "README.md", "python"))) >= 2
    assert len(list(commands(ROOT / "README.md"))) >= 6


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_names_existing_files_and_extras(page):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for command in commands(page):
        words = shlex.split(command)
        for word in words:
            assert set(",".join(re.findall(r"\[([\w,]+)\]$", word)).split(",")) <= {*extras, ""}, command
        if words[:1] in (["python"], ["bash"]) and len(words) > 1 and "/" in words[1]:
            assert (ROOT / words[1]).is_file(), command
        if words[:3] == ["python", "-m", "canfar_batch.local"]:
            local_command.parser().parse_args(words[3:])


def test_the_readmes_test_command_is_the_one_that_ci_runs():
    (test_line,) = [block for _, block in blocks(ROOT / "README.md", "console") if "pytest" in block]
    ci = (ROOT / ".ci/run").read_text()
    assert 'pip install ".[test]"' in test_line
    assert re.search(r'pip install (--quiet )?"\.\[test\]"', ci)
    assert test_line.rstrip().endswith("&& pytest -n 3 --dist worksteal")
    assert ci.rstrip().endswith("pytest -n 3 --dist worksteal")


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=lambda page: str(page.relative_to(ROOT)))
def test_users_install_without_e(page):
    """An editable clone hides the package from Python started in the folder above it."""
    assert "pip install -e" not in page.read_text()


def test_the_table_of_verdicts_agrees_with_the_rules():
    made = runpy.run_path(str(ROOT / "docs/make_verdicts.py"))
    (written,) = made["BLOCK"].findall((ROOT / "docs/explanation/verdicts.md").read_text())
    assert written == made["block"](), "run python docs/make_verdicts.py"


def test_every_command_and_option_of_the_command_line_is_documented():
    page, _, _ = (ROOT / "docs/howto/command-line.md").read_text().partition("## For those who know Slurm")
    (commands,) = (action for action in cli.parser()._actions if isinstance(action, argparse._SubParsersAction))
    options = {
        option
        for command in commands.choices.values()
        for action in command._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }
    assert set(commands.choices) == set(re.findall(r"^\| `(\w+) [^`]*NAME[^`]*` \|", page, re.MULTILINE))
    assert options == set(re.findall(r"`(--[a-z-]+)", page))


@pytest.mark.parametrize("kind", [cb.Session, cb.Batch, cb.Job])
def test_every_public_member_occurs_in_the_pages(kind):
    text = "\n".join(page.read_text() for page in [*PAGES, *NOTEBOOKS])
    members = [name for name in dir(kind) if not name.startswith("_")]
    assert [name for name in members if not re.search(rf"\.{name}\b", text)] == []


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == cb.__version__
    assert citation["license"] == "BSD-3-Clause"


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_has_a_target(page):
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
