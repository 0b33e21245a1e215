"""Any argv and any environment arrive byte for byte, through the server's templating and a container's shell."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from shells import PRESENT, container_env

from canfar_batch.local import templating
from canfar_batch.payload.encode import Payload, encode_exec, encode_wrapped, is_plain
from canfar_batch.payload.launch_names import launch_name, single_launch_name
from canfar_batch.payload.receipts import parse_receipt, split_log

IN_ONE_EXAMPLE = 20
EXAMPLES = 30  # times IN_ONE_EXAMPLE: 600 commands in a run, each in every shell
NAME = "calib-ngc1275-k3x9z1-1f-2"

# what shells, YAML, Java's regular expressions, Kubernetes and env each have their own ideas of
HAZARDS = [
    *(
        "",
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "---",
        "...",
        "a b",
        " a ",
        "'",
        '"',
        "'\\''",
        '"a"',
        "\\",
        "\\\\",
        "\\n",
    ),
    *(
        "\\x20",
        "$",
        "$$",
        "$1",
        "$0",
        "$HOME",
        "${HOME}",
        "$(HOME)",
        "$(date)",
        "`date`",
        "*",
        "?",
        "[a-z]*",
        "~",
        "~/x",
    ),
    *(
        "{}",
        "{a,b}",
        "{a: b}",
        "[]",
        "# x",
        "a #b",
        "&",
        "|",
        ";",
        "<",
        ">",
        "!",
        "!x",
        "%s",
        "%",
        "%%",
        "-",
        "--",
        "-n",
    ),
    *(
        "y",
        "Y",
        "n",
        "N",
        "yes",
        "no",
        "true",
        "null",
        "~",
        "0o17",
        "-0o7",
        "0X1F",
        "0B11",
        "1e5_0",
        "1_000",
        "017",
        "1",
    ),
    *(
        "a=b",
        "=b",
        "a=",
        "a==",
        "=",
        ":",
        "a: b",
        "@",
        "\x01",
        "\x7f",
        "\x81\x88",
        "\xa0",
        "\u2028",
        "\x85",
        "é",
        "🙂",
        "\udcff",
    ),
    *("two words.fits", "a; rm -rf b", "x" * 5000, "eyBj", "0Xab", "exit 0", "}", "{ ", "/arc/home", "a/b=c"),
]
SPECIAL_NAMES = [
    *(
        "OMP_NUM_THREADS",
        "HOME",
        "PWD",
        "OLDPWD",
        "YES",
        "no",
        "Y",
        "n",
        "NULL",
        "true",
        "LC_ALL",
        "LANG",
        "OPTIND",
        "OPTARG",
    ),
    *("UID", "EUID", "PPID", "RANDOM", "SECONDS", "LINENO", "_", "IFS", "PS1", "PS4", "SHLVL", "BASHOPTS", "SHELLOPTS"),
    *("HISTSIZE", "TMOUT", "FUNCNEST", "cb_job", "cb_via", "ENV", "MAIL", "TZ", "skaha_sessionid", "SKAHA_SESSION_ID"),
]

byte_texts = st.binary(max_size=40).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))
ascii_texts = st.text(st.characters(min_codepoint=1, max_codepoint=126), max_size=20)
plain_texts = st.from_regex(r"[A-Za-z0-9_@%+=:,./-]{1,12}", fullmatch=True)
words = st.one_of(st.sampled_from(HAZARDS), byte_texts, ascii_texts, plain_texts)
names = st.one_of(st.sampled_from(SPECIAL_NAMES), st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True))
# with these variables the program that prints its arguments is not found, or does not start
names_shown = names.filter(lambda name: name not in ("PATH", "OPTIND") and not name.startswith("LD_"))
environments = st.dictionaries(names_shown, words, max_size=4)
commands = st.tuples(st.lists(words, max_size=5), environments)

# shows the bytes it was started with; no shell variable comes between
SHOW = ("/bin/sh", "-c", "cat /proc/$$/cmdline /proc/$$/environ", "show")


@pytest.fixture(scope="module")
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def through_the_server(payload: Payload, shell: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The argv and the environment that a container begins with."""
    sent = templating.bundle(payload.cmd, payload.args, [f"{name}={value}" for name, value in payload.env])
    env = {**dict(sent.env), **container_env(Path("/"))}
    argv = [templating.expand(word, env) for word in (*(sent.command or ()), *(sent.args or ()))]
    return ([*shell, *argv[1:]] if payload.cmd == "/bin/sh" and argv[1] == "-c" else argv), env


def run(payload: Payload, shell: Sequence[str]) -> bytes:
    argv, env = through_the_server(payload, shell)
    done = subprocess.run(argv, env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def assert_arrived(output: bytes, argv: Sequence[str], env: Mapping[str, str]) -> dict[bytes, bytes]:
    shown = output.split(b"\0")
    assert shown[: len(argv)] == [os.fsencode(word) for word in argv]
    variables = dict(variable.partition(b"=")[::2] for variable in shown[len(argv) : -1])
    for name, value in env.items():
        assert variables[name.encode()] == os.fsencode(value), name
    return variables


def in_every_shell(pool, check, cases):
    tasks = [pool.submit(check, *case, shell) for case in cases for shell in PRESENT.values()]
    for task in tasks:
        task.result()


# a failing case is one of twenty small ones already; shrinking it would start shells for minutes
PHASES = [Phase.explicit, Phase.reuse, Phase.generate]
bounded = settings(
    max_examples=EXAMPLES, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck), print_blob=False
)


@bounded
@given(cases=st.lists(commands, min_size=IN_ONE_EXAMPLE, max_size=IN_ONE_EXAMPLE))
def test_any_argv_and_any_environment_arrive_byte_for_byte(cases, pool):
    def check(args, env, shell):
        argv = [*SHOW, *args]
        assert_arrived(run(encode_exec(argv, env), shell), argv, env)

    in_every_shell(pool, check, cases)


@settings(bounded, max_examples=8)
@given(cases=st.lists(commands, min_size=IN_ONE_EXAMPLE, max_size=IN_ONE_EXAMPLE))
def test_the_wrapper_passes_argv_and_environment_on(cases, pool):
    ours = {"CANFAR_BATCH_KEY": "k", "CANFAR_BATCH_ATTEMPT": "2", "CANFAR_BATCH_NAME": "a batch"}

    def check(args, env, shell):
        argv = [*SHOW, *args]
        payload = encode_wrapped(argv, env, launch_name=NAME, key="k", attempt=2, batch="a batch", outputs=["none"])
        own, start, end = split_log(run(payload, shell), NAME)
        assert start is not None
        assert end is not None
        assert (end["exit_code"], end["missing"]) == (0, ["none"])
        variables = assert_arrived(own, argv, {"SKAHA_SESSION_ID": "abcd1234", **env, **ours})
        strangers = set(map(os.fsdecode, variables)) - set(env) - set(ours) - set(container_env(Path("/")))
        assert strangers <= {"SKAHA_SESSION_ID", "SHLVL", "_", "OLDPWD", "PWD"}

    in_every_shell(pool, check, cases)


@settings(bounded, max_examples=300)
@given(args=st.lists(plain_texts, max_size=4), env=st.dictionaries(names, plain_texts, max_size=3))
def test_plain_commands_are_sent_unchanged_and_arrive(args, env):
    argv = ["/bin/prog", *args]
    if is_plain(argv, env):
        payload = encode_exec(argv, env)
        seen, variables = through_the_server(payload, ("sh",))
        assert (payload.cmd, seen) == ("/bin/prog", argv)
        assert {name: variables[name] for name in env} == env
    else:
        assert encode_exec(argv, env).cmd == "/bin/sh"


@pytest.mark.parametrize("shell", PRESENT.values(), ids=PRESENT)
@pytest.mark.parametrize("program", ["env", "./a=b"])
def test_variables_with_a_meaning_in_shells_arrive(shell, program, tmp_path):
    # a program whose name env would take for a variable
    (tmp_path / "a=b").symlink_to(shutil.which("env") or "")
    values = ["", "x y", "abc", "1", "a=b'\n", "\udcff"]
    environments = [
        {name: values[(place + turn) % len(values)] for place, name in enumerate(SPECIAL_NAMES)}
        for turn in range(len(values))
    ]
    for env in environments:
        for payload in (
            encode_exec([program, "-0"], env, workdir=str(tmp_path)),
            encode_wrapped([program, "-0"], env, launch_name=NAME, key="k", workdir=str(tmp_path)),
        ):
            own, _, _ = split_log(run(payload, shell), NAME)
            variables = dict(variable.partition(b"=")[::2] for variable in own.split(b"\0")[:-1])
            assert {name: os.fsdecode(variables[name.encode()]) for name in env} == env


@pytest.mark.parametrize("shell", PRESENT.values(), ids=PRESENT)
def test_200_kilobytes_of_arguments_arrive(shell):
    argv = [*SHOW, *(f"{place} it's {'x' * 400}" for place in range(480)), "z" * 130_000]
    for payload in (encode_exec(argv), encode_wrapped(argv, launch_name=NAME, key="k")):
        own, _, _ = split_log(run(payload, shell), NAME)
        assert_arrived(own, argv, {})


def test_no_chunk_of_a_payload_looks_like_a_number_or_a_boolean():
    for size in (98_302, 98_303, 98_304, 98_305, 200_000):
        for payload in (encode_exec(["echo", "x " * (size // 4), "\xa0" * (size // 8)]),):
            chunks = (payload.args or "").split(" ")[3:]
            assert all(len(chunk) <= 96 * 1024 for chunk in chunks)
            assert not any(map(templating.retyped, chunks))


# -- names ----------------------------------------------------------------------------------------------------------

LABEL = re.compile(r"[a-z][a-z0-9-]{0,61}[a-z0-9]")


@given(
    batch=st.text(max_size=80),
    key=st.text(max_size=120),
    token=st.text(min_size=1),
    index=st.integers(0, 36**6),
    attempt=st.integers(1, 999),
)
def test_every_launch_name_is_a_dns_label(batch, key, token, index, attempt):
    name = launch_name(batch, key, token=token, index=index, attempt=attempt)
    assert LABEL.fullmatch(name)
    assert name == launch_name(batch, key, token=token, index=index, attempt=attempt)
    assert not templating.retyped(name)


@given(
    first=st.tuples(st.integers(0, 10**6), st.integers(1, 99)),
    second=st.tuples(st.integers(0, 10**6), st.integers(1, 99)),
)
def test_two_launches_of_a_batch_have_two_names(first, second):
    names = [launch_name("b", "k", token="t", index=index, attempt=attempt) for index, attempt in (first, second)]
    assert (names[0] == names[1]) == (first == second)


@given(label=st.text(max_size=100))
def test_single_launches_have_different_names(label):
    name = single_launch_name(label)
    assert LABEL.fullmatch(name)
    assert name != single_launch_name(label)


# -- logs ------------------------------------------------------------------------------------------------------------

START = f"#canfar_batch {NAME} start key=k attempt=2 id=abcd1234 host=h started=10.5 workdir=home #{NAME}\n".encode()
END = f"#canfar_batch {NAME} end key=k attempt=2 started=10.5 finished=11 code=0 outputs=0 #{NAME}\n".encode()
logs = st.one_of(
    st.binary(),
    st.lists(
        st.sampled_from([b"\n", b"\r", b"#", b"#canfar_batch ", b"#canfar_batch other end #other\n", START[:30], b"x"])
    ).map(b"".join),
)


@given(own=logs, late=logs)
def test_a_jobs_output_is_found_between_its_receipts(own, late):
    # a mark of its own name that the job leaves without a line's end would be a receipt torn by what follows
    raw = b"\n" + START + own + b"\n" + END + late
    if f"#canfar_batch {NAME} ".encode() not in own + late:
        assert split_log(raw, NAME)[0] == own + late
    assert (split_log(raw, NAME)[2] or {}).get("exit_code") == 0


@given(own=logs, cut=st.integers(min_value=0))
def test_a_log_cut_anywhere_gives_no_wrong_receipt(own, cut):
    if f"#canfar_batch {NAME} ".encode() in own:
        return
    raw = b"\n" + START + own + b"\n" + END
    cut %= len(raw) + 1
    for part in (raw[:cut], raw[cut:]):
        mine, start, end = split_log(part, NAME)
        assert start is None or start["started_at"] == 10.5
        assert end is None or end["exit_code"] == 0
        assert len(mine) <= len(own) + len(END)
    assert split_log(raw[len(START) + 1 :], NAME)[0] == own


@given(text=st.one_of(st.binary(), st.text(), st.just(START), st.just(END + START)))
def test_a_receipt_file_is_read_or_is_none(text):
    receipt = parse_receipt(text)
    assert receipt is None or receipt["launch_name"] == NAME
