"""Templates are listed, read and written; as scripts they report errors in their input."""

import re
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from canfar_batch import templates

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10, for which pytest installs it
    import tomli as tomllib

pytestmark = pytest.mark.usefixtures("elsewhere")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("skaha_sessionid", "SKAHA_SESSION_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(tmp_path):
    """Run a template as a script; return its exit code and its output."""

    def run(name, *arguments, **environment):
        script = templates.write(name, tmp_path, overwrite=True)
        words = ["bash", script] if script.suffix == ".sh" else [sys.executable, script]
        path = {"PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"}
        return subprocess.run(
            [*words, *map(str, arguments)], env={**path, **environment}, capture_output=True, text=True, timeout=100
        )

    return run


def test_there_are_four_templates():
    assert templates.names() == ["basic-processing", "fits-stack", "ml-training", "robust-job"]


def test_a_template_is_read_and_written_as_the_same_text():
    for name in templates.names():
        assert templates.write(name, "script").read_text(encoding="utf-8") == templates.read(name)
        Path("script").unlink()


@pytest.mark.parametrize("documented", [templates, templates.names, templates.read, templates.write])
def test_every_example_runs(documented, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", textwrap.dedent(documented.__doc__), re.DOTALL)
    exec(textwrap.dedent(example), {})


def test_a_template_is_written_executable_without_leftovers():
    written = templates.write("ml-training", "train.py")
    assert stat.S_IMODE(written.stat().st_mode) == 0o755
    assert [path.name for path in Path().iterdir()] == ["train.py"]


def test_a_directory_gets_the_template_under_its_own_name():
    assert templates.write("basic-processing", ".") == Path("basic-processing.sh")


def test_changes_are_overwritten_only_if_asked():
    Path("train.py").write_text("mine")
    with pytest.raises(FileExistsError, match=r"train\.py exists; .* overwrite=True"):
        templates.write("ml-training", "train.py")
    assert Path("train.py").read_text() == "mine"
    templates.write("ml-training", "train.py", overwrite=True)
    assert Path("train.py").read_text() == templates.read("ml-training")


def test_an_unknown_template_is_an_error_with_the_known_names():
    for ask in (templates.read, lambda name: templates.write(name, "script")):
        with pytest.raises(LookupError, match="no template 'ml'; there are basic-processing, fits-stack, ml-training"):
            ask("ml")


def test_templates_and_wrapper_are_package_data():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "templates/*" in settings["tool"]["setuptools"]["package-data"]["canfar_batch"]
    assert "payload/*.sh" in settings["tool"]["setuptools"]["package-data"]["canfar_batch"]
    assert all(templates.read(name) for name in templates.names())


@pytest.mark.parametrize("name", templates.names())
def test_every_template_is_a_valid_documented_script(name):
    text = templates.read(name)
    if text.startswith("#!/usr/bin/env bash\n"):
        assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    else:
        assert text.startswith("#!/usr/bin/env python3\n")
        compile(text, name, "exec")
    assert f"{name}.{'sh' if 'bash' in text[:30] else 'py'} " in text[:400]
    assert "/home/" not in text


def test_a_missing_input_is_reported_with_the_directory(run, tmp_path):
    for name, arguments in {
        "robust-job": ("absent", "out.json"),
        "fits-stack": ("out.fits", "absent"),
        "basic-processing": ("absent", ".", "out"),
    }.items():
        ended = run(name, *arguments)
        assert ended.returncode == 2, name
        assert "absent" in ended.stderr, name
        assert str(tmp_path) in ended.stderr, name


# -- the robust job ---------------------------------------------------------------------------------------------------


def test_the_robust_job_reports_the_wrong_line_and_keeps_an_old_result(run):
    Path("numbers.txt").write_text("1\n2\nthree\n")
    Path("out.json").write_text("older")
    ended = run("robust-job", "numbers.txt", "out.json", skaha_sessionid="abc12345")
    assert ended.returncode == 1
    assert "numbers.txt, line 3: 'three' is not a number" in ended.stderr
    assert Path("out.json").read_text() == "older"
    (log,) = Path("logs").iterdir()
    assert log.name.startswith("job_abc12345_")
    assert "Traceback" in log.read_text()


def test_a_stopped_robust_job_logs_it_and_writes_no_result(tmp_path):
    text = templates.read("robust-job").replace(
        "    numbers = []\n", "    log.info('at work')\n    time.sleep(60)\n", 1
    )
    Path("slow.py").write_text(text)
    Path("numbers.txt").write_text("1\n")
    words = [sys.executable, "slow.py", "numbers.txt", "out.json"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        while "at work" not in process.stderr.readline():
            assert process.poll() is None
        process.terminate()
        assert process.wait(30) == 143
    (log,) = Path("logs").iterdir()
    assert "stopped by a signal" in log.read_text()
    assert not Path("out.json").exists()


def test_two_robust_jobs_without_an_id_get_logs_of_their_own(run):
    Path("numbers.txt").write_text("1\n")
    for _ in range(2):
        assert run("robust-job", "numbers.txt", "out.json").returncode == 0
    assert len(list(Path("logs").glob("job_unknown_*.log"))) == 2


# -- basic processing -------------------------------------------------------------------------------------------------


@pytest.fixture
def script():
    """Write the Python script that `basic-processing` calls; its body knows the options as `options`."""

    def written(body):
        head = """
            import argparse, sys, pathlib
            parser = argparse.ArgumentParser()
            for name in ("--input-dir", "--output-dir", "--job-id"):
                parser.add_argument(name, type=pathlib.Path)
            options, others = parser.parse_known_args()
        """
        Path("process.py").write_text(textwrap.dedent(head) + textwrap.dedent(body))
        Path("data").mkdir(exist_ok=True)

    return written


def test_basic_processing_moves_all_files_of_the_script(run, script):
    script("""
        (options.output_dir / "sub dir").mkdir()
        (options.output_dir / "sub dir" / "new\\nline -n.txt").write_text(" ".join(others))
        (options.output_dir / ".hidden").write_text(str(options.job_id))
    """)
    ended = run("basic-processing", "process.py", "data", "out put", "--sigma", "3 4", SKAHA_SESSION_ID="abc12345")
    assert ended.returncode == 0, ended.stderr
    assert Path("out put/sub dir/new\nline -n.txt").read_text() == "--sigma 3 4"
    assert Path("out put/.hidden").read_text() == "abc12345"
    assert sorted(path.name for path in Path("out put").iterdir()) == [".hidden", "sub dir"]
    assert "[job abc12345] completed: 2 files" in ended.stdout


def test_basic_processing_fails_with_its_script(run, script):
    script("""
        (options.output_dir / "half").write_text("")
        sys.exit(7)
    """)
    ended = run("basic-processing", "process.py", "data", "out")
    assert ended.returncode == 7
    assert list(Path("out").iterdir()) == []
    assert "ended with code 7" in ended.stderr


def test_basic_processing_forwards_a_stop_to_its_script(tmp_path, script):
    script("""
        import signal, time
        signal.signal(signal.SIGTERM, lambda *_: (print("tidied up", flush=True), sys.exit(9)))
        print("ready", flush=True)
        time.sleep(60)
    """)
    words = ["bash", templates.write("basic-processing", tmp_path), "process.py", "data", "out"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 9
    assert "tidied up" in said
    assert list(Path("out").iterdir()) == []


# -- stacking ---------------------------------------------------------------------------------------------------------


def test_a_stack_in_strips_equals_the_stack_at_once(run):
    np, fits = pytest.importorskip("numpy"), pytest.importorskip("astropy.io.fits")
    cube = np.random.default_rng(1).normal(size=(5, 40, 30)).astype("f4")
    cube[2, 7, :] = np.nan
    cube[:, 9, 9] = np.nan
    for number, image in enumerate(cube):
        fits.PrimaryHDU(image).writeto(f"{number}.fits")
    Path("all.txt").write_text("".join(f"{number}.fits\n" for number in range(5)))
    for output, memory, strips in (("once.fits", "1", 1), ("strips.fits", "3e-5", 4), ("rows.fits", "1e-9", 40)):
        ended = run("fits-stack", output, "@all.txt", "--memory", memory)
        assert ended.returncode == 0, ended.stderr
        assert f"in {strips} strips" in ended.stderr
    assert fits.getdata("once.fits").dtype == ">f4"
    with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
        wanted = np.nanmedian(cube, axis=0)
    for output in ("once.fits", "strips.fits", "rows.fits"):
        np.testing.assert_array_equal(fits.getdata(output), wanted)
    assert fits.getheader("once.fits")["NCOMBINE"] == 5


def test_scaled_and_compressed_images_are_stacked_by_value(run):
    np, fits = pytest.importorskip("numpy"), pytest.importorskip("astropy.io.fits")
    image = np.arange(100, dtype="u2").reshape(10, 10) + 40000
    fits.PrimaryHDU(image).writeto("unsigned.fits")
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(image.astype("i4"))]).writeto("packed.fits")
    fits.PrimaryHDU(image.astype("f8") + 2).writeto("double.fits.gz")
    ended = run("fits-stack", "out.fits", "unsigned.fits", "packed.fits", "double.fits.gz")
    assert ended.returncode == 0, ended.stderr
    with fits.open("out.fits", checksum=True) as hdus:
        np.testing.assert_array_equal(hdus[0].data, image.astype("f8"))
        assert "BZERO" not in hdus[0].header


def test_images_that_cannot_be_stacked_are_reported(run):
    np, fits = pytest.importorskip("numpy"), pytest.importorskip("astropy.io.fits")
    fits.PrimaryHDU(np.zeros((3, 4))).writeto("a.fits")
    fits.PrimaryHDU(np.zeros((4, 3))).writeto("b.fits")
    fits.PrimaryHDU().writeto("empty.fits")
    Path("text.fits").write_text("no FITS at all")
    for other, words in (
        ("b.fits", "b.fits is (4, 3), and a.fits is (3, 4)"),
        ("empty.fits", "empty.fits holds no image"),
        ("text.fits", "the job failed"),
    ):
        ended = run("fits-stack", "out.fits", "a.fits", other)
        assert ended.returncode == 1, other
        assert words in ended.stderr, other
    assert not Path("out.fits").exists()


def test_a_stack_does_not_replace_its_own_input(run):
    Path("a.fits").write_text("precious")
    ended = run("fits-stack", "a.fits", "a.fits")
    assert ended.returncode == 2
    assert "is an input as well" in ended.stderr
    assert Path("a.fits").read_text() == "precious"


# -- training ---------------------------------------------------------------------------------------------------------


def test_training_explains_which_npy_files_it_reads(run):
    pytest.importorskip("sklearn", reason="scikit-learn (the extra ml) is not installed")
    np = pytest.importorskip("numpy")
    np.save("data.npy", np.zeros((4, 2)))
    ended = run("ml-training", "data.npy", "model.joblib")
    assert ended.returncode == 1
    assert "np.savez(path, features=X, labels=y)" in ended.stderr
    np.savez("data.npz", X=np.zeros((4, 2)))
    assert "has no array features and labels; there are: X" in run("ml-training", "data.npz", "m").stderr
    assert not Path("model.joblib").exists()
