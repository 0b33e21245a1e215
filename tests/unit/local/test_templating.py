"""The templating of the service: every row of its documented table, and YAML's own reader as a witness."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from canfar_batch.local.answers import Refusal
from canfar_batch.local.templating import (
    Bundle,
    KubectlRefusal,
    YamlError,
    bundle,
    env_name,
    expand,
    flow_strings,
    paste,
    retyped,
    scalar,
    split_args,
    split_env,
)

BASE64_SCRIPT = "{\teval\t`echo\tZXZhbCAiJChwcmludGYgJXMgIiRAIiB8IGJhc2U2NCAtZCki|base64\t-d`;exit\t97;}"


def args_of(text):
    return bundle(None, text).args


def refusal_of(make, *words):
    with pytest.raises(Refusal) as caught:
        make(*words)
    response = caught.value.response
    return response.status, response.body.decode()


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("a b", ("a", "b")),
        ("a  b", ("a", "", "b")),
        (" a", ("", "a")),
        ("a   ", ("a",)),
        ("", ("",)),
        (" ", ()),
        ("a\tb", ("a\tb",)),
        ("a\xa0b", ("a\xa0b",)),
        ("a\nb", ("a b",)),
        ("a\rb", ("a b",)),
        ("a\r\nb", ("a b",)),
        ("a\x85b", ("a b",)),
        ("a\n\nb", ("a\nb",)),
        ("a\t\n\tb", ("a b",)),
        ("a\n---b", ("a ---b",)),
        ('a","b', ("a", "b")),
        ('a"]#', ("a",)),
        ("a\\nb", ("anb",)),
        ("a\\", ("a",)),
        ("\\\\n", ("\n",)),
        ("a\\\\x20b", ("a b",)),
        ("\\\\\\\\", ("\\",)),
        ("$0", ("${headless.image.bundle}",)),
        ("$00", ("${headless.image.bundle}",)),
        ("\\$X", ("$X",)),
        ("\\$(X)", ("$(X)",)),
        *((word, (word,)) for word in ("yes", "no", "on", "off", "true", "null", "~")),
        *((word, (word,)) for word in ("1", "1e3", "0x1f", "017", "08", "1_000", "2020-01-01", "1.5.2", "-8", "-0.5")),
        *((mark, (mark,)) for mark in "'`|#:,[]{}()&*!^%@>?<;~=+/"),
        ("é😀", ("é😀",)),
        (BASE64_SCRIPT, (BASE64_SCRIPT,)),
    ],
)
def test_args_arrive_as_the_real_service_delivers_them(sent, received):
    assert args_of(sent) == received


@pytest.mark.parametrize("sent", ["a b", "a  b", "", " a "])
def test_cmd_is_never_split(sent):
    assert bundle(sent, None).command == (sent,)


@pytest.mark.parametrize(
    ("sent", "status", "text"),
    [
        ("$NAME", 400, "Illegal group reference\n"),
        ("cost$.", 400, "Illegal group reference\n"),
        ("$(X)", 400, "Illegal group reference\n"),
        ("${X}", 400, "No group with name {X}\n"),
        ("${a.b}", 400, "named capturing group is missing trailing '}'\n"),
        ("${}", 400, "named capturing group has 0 length name\n"),
        ("${1a}", 400, "capturing group name {1a} starts with digit character\n"),
        ("$1", 500, "unexpected exception: java.lang.IndexOutOfBoundsException: No group 1"),
    ],
)
def test_dollars_that_java_takes_for_groups_are_refused(sent, status, text):
    assert refusal_of(args_of, sent) == (status, text)


@pytest.mark.parametrize(
    "sent",
    [
        '"',
        'a"b',
        'a" "b',
        "\\\\q",
        "\\\\x4z",
        "\\\\/",
        "a\n---\nb",
        "a\n...\tb",
        "\x01",
        "\x7f",
        "\x80",
        "\ufffe",
        "\\\\uD800",
    ],
)
def test_invalid_yaml_is_an_unexpected_exception(sent):
    status, text = refusal_of(args_of, sent)
    assert status == 500
    assert text.startswith("unexpected exception: ")


def test_control_characters_are_called_special():
    assert "special characters are not allowed" in refusal_of(args_of, "a\x1bb")[1]


@pytest.mark.parametrize(
    "word",
    ["y", "Y", "n", "N", "0o17", "0O17", "+0o7", "-0o7", "0X1F", "0B11", "1e5_0", "-08", "+09", "-0_9", "+0019"],
)
def test_words_that_kubectl_types_make_the_job_invalid(word):
    assert retyped(word)
    with pytest.raises(KubectlRefusal):
        args_of(f"before {word} after")
    with pytest.raises(KubectlRefusal):
        bundle(None, None, [f"A={word}"])


@pytest.mark.parametrize(
    "word", ["0o18", "0o7777777777777777777777777", "y1", "-", "+", ".", "0XG", "e5_0", "-a", "-0.8"]
)
def test_words_that_only_resemble_numbers_stay_strings(word):
    assert not retyped(word)
    assert args_of(word) == (word,)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("A=b", (("A", "b"),)),
        ("A=", ()),
        ("A", ()),
        ("A=b=c", ()),
        ("A==b", ()),
        ("A=b=", (("A", "b"),)),
        ("A=b==", (("A", "b"),)),
        ("A=  two  words ", (("A", "  two  words "),)),
        ("A=$0", (("A", "${headless.image.bundle}"),)),
        *((f"{word}=x", (("true", "x"),)) for word in ("YES", "On", "TRUE", "true")),
        *((f"{word}=x", (("false", "x"),)) for word in ("NO", "Off", "false")),
        ("0123=x", (("83", "x"),)),
        ("0x1F=x", (("31", "x"),)),
        ('A=x"#y', (("A", "x"),)),
        ("NAME #comment=x", (("NAME", "x"),)),
        (" NAME =x", (("NAME", "x"),)),
    ],
)
def test_env_arrives_as_the_real_service_delivers_it(sent, received):
    assert bundle(None, None, [sent]).env == received


@pytest.mark.parametrize("sent", ["=b", "NULL=x", "~=x", "Y=x", "n=x", "#x=x", "two words\u00e9=x"])
def test_unusable_env_names_are_refused_by_kubectl(sent):
    with pytest.raises(KubectlRefusal):
        bundle(None, None, [sent])


@pytest.mark.parametrize("sent", ["[a=x", "{a=x", "&a=x", "*a=x", "!a=x", "@a=x", "a: b=x", "'a=x", "a\nb=x"])
def test_env_names_that_yaml_cannot_read_are_unexpected_exceptions(sent):
    assert refusal_of(lambda: bundle(None, None, [sent]))[0] == 500


def test_a_refused_dollar_comes_before_any_yaml_is_read():
    assert refusal_of(lambda: bundle('"', "$X"))[0] == 400


def test_a_missing_parameter_means_the_images_own():
    assert bundle(None, None) == Bundle(command=None, args=None, env=())


def test_placeholders_that_survive_are_filled_in_afterwards():
    assert bundle(None, "\\${skaha.userid} \\${skaha.other}", known={"skaha.userid": "ada"}).args == (
        "ada",
        "${skaha.other}",
    )


def test_splitting_follows_java():
    assert split_args("  ") == []
    assert split_args("a ") == ["a"]
    assert split_env("=") is None
    assert split_env("=b") == ("", "b")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)", "1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$", "$"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("a$", "a$"),
        ("$($(A))", "$($(A))"),
        ("x$(A)y$(A)", "x1y1"),
        ("$()", "$()"),
    ],
)
def test_the_kubelet_expands_known_variables(text, expanded):
    assert expand(text, {"A": "1"}) == expanded


# YAML's own reader as a witness; it knows escapes that SnakeYAML does not, so those stay out.
NASTY = st.text(st.sampled_from('ab"\\ \t\n\r\x85\u2028nxu0A,]#-.é😀'), max_size=12).filter(
    lambda text: "\\\t" not in text
)


@given(NASTY)
@example("a\n \t\n b")
@example("a\\\n   b")
@example("---\n")
@example('"#')
def test_a_double_quoted_scalar_reads_as_yaml_reads_it(text):
    yaml = pytest.importorskip("yaml")
    whole = f'"{text}"'
    try:
        expected = yaml.safe_load(whole)
    except (yaml.YAMLError, ValueError):
        expected = None
    try:
        read = scalar(whole)
    except (Refusal, YamlError):
        read = None
    # a scalar followed by something else (a mapping, say) cannot come from the template
    if isinstance(expected, str) or expected is None:
        assert read == expected


@given(st.lists(NASTY, max_size=4))
def test_a_flow_sequence_reads_as_yaml_reads_it(words):
    yaml = pytest.importorskip("yaml")
    whole = "[" + ", ".join(f'"{word}"' for word in words) + "]"
    try:
        read = flow_strings(whole)
    except (Refusal, YamlError):
        return
    assert read == yaml.safe_load(whole)


@given(st.text(st.sampled_from("ab\\$\\${}() 0"), max_size=10))
def test_pasting_escaped_text_gives_it_back(text):
    assert paste(text.replace("\\", "\\\\").replace("$", "\\$")) == text


@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]*", fullmatch=True))
def test_ordinary_env_names_stay(name):
    if name.lower() not in {"yes", "no", "on", "off", "true", "false", "null"}:
        assert env_name(name) == name


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            ("true", 'a"b'),
            "while parsing a flow sequence\n in 'reader', line 81, column 15:\n"
            '            args: ["a"b"]\n                  ^\n'
            "expected ',' or ']', but got <scalar>\n in 'reader', line 81, column 19:\n"
            '            args: ["a"b"]\n                      ^\n',
        ),
        (
            ('a"b', None),
            "while parsing a flow sequence\n in 'reader', line 80, column 18:\n"
            '            command: ["a"b"]\n                     ^\n'
            "expected ',' or ']', but got <scalar>\n in 'reader', line 80, column 22:\n"
            '            command: ["a"b"]\n                         ^\n',
        ),
        (
            ("true", None, ['A=x"y']),
            "while parsing a block mapping\n in 'reader', line 82, column 11:\n"
            "            - name: A\n              ^\n"
            "expected <block end>, but found '<scalar>'\n in 'reader', line 83, column 21:\n"
            '              value: "x"y"\n                        ^\n',
        ),
        (
            ("true", "a\n---\nb"),
            "while scanning a quoted scalar\n in 'reader', line 81, column 16:\n"
            '            args: ["a\n                   ^\n'
            "found unexpected document separator\n in 'reader', line 82, column 1:\n    ---\n    ^\n",
        ),
        (
            (None, None, ["A: B=c"]),
            "mapping values are not allowed here\n in 'reader', line 81, column 18:\n"
            "            - name: A: B\n                     ^\n",
        ),
    ],
)
def test_yaml_errors_name_the_place_in_the_template(parameters, text):
    assert refusal_of(lambda: bundle(*parameters)) == (500, f"unexpected exception: {text}")


def test_a_long_line_is_cut_around_the_error():
    text = refusal_of(lambda: bundle("true", "x" * 100 + 'a"b' + "y" * 100))[1]
    last = text.splitlines()[-2:]
    assert last[0].startswith("     ... xxx")
    assert last[0].endswith("yyy ... ")
    assert last[0][last[1].index("^")] == "b"
