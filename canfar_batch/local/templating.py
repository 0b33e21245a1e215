"""What becomes of cmd, args and env on their way into a container.

The service pastes them unescaped into a YAML template with Java's ``replaceAll``, reads the result with SnakeYAML
(YAML 1.1), writes it again, hands that to kubectl, whose YAML reader has other rules, and the kubelet expands
``$(NAME)`` at last. Each step loses or refuses something. The functions here repeat the steps one by one, so that what
survives here survives there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from canfar_batch.local.answers import illegal, unexpected

PLACEHOLDER = "${headless.image.bundle}"  #: the text that cmd, args and env replace, and what ``$0`` turns into


class KubectlRefusal(Exception):
    """What came out of the template is no valid Job: kubectl fails, and the service finds no Job afterwards."""


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What a container is told to run. None: the image's own."""

    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()


def bundle(
    cmd: str | None, args: str | None, env: Iterable[str] = (), known: Mapping[str, str] | None = None
) -> Bundle:
    """Take cmd, args and env through the template, as far as the Job that kubectl posts.

    Args:
        cmd: The parameter as it was sent; None where it was not.
        args: Likewise.
        env: Every value of the parameter.
        known: What the template's other placeholders stand for (``skaha.userid`` …); they are filled in afterwards.

    Raises:
        Refusal: The text cannot be pasted (400) or is no YAML afterwards (500).
        KubectlRefusal: It is YAML, but no valid Job.
    """
    pairs = [pair for pair in map(split_env, env) if pair is not None]
    texts = {
        "command": None if cmd is None else flow_list([cmd]),
        "args": None if args is None else flow_list(split_args(args)),
        "names": [name for name, _ in pairs],
        "values": [f'"{value}"' for _, value in pairs],
    }
    # pasted as one text on the server: a refused `$` anywhere comes before any YAML is read
    pasted = {
        what: [fill(paste(text), known or {}) for text in ([texts_] if isinstance(texts_, str) else texts_ or [])]
        for what, texts_ in texts.items()
    }
    command = tuple(flow_strings(pasted["command"][0])) if pasted["command"] else None
    arguments = tuple(flow_strings(pasted["args"][0])) if pasted["args"] else None
    variables = tuple(
        (env_name(name), scalar(value)) for name, value in zip(pasted["names"], pasted["values"], strict=True)
    )
    for text in (*(command or ()), *(arguments or ()), *(part for variable in variables for part in variable)):
        if retyped(text) or "\0" in text:
            raise KubectlRefusal(text)
    for name, _ in variables:
        if not re.fullmatch(r"[ -<>-~]+", name):
            raise KubectlRefusal(name)
    return Bundle(command, arguments, variables)


# How the service splits


def split_args(args: str) -> list[str]:
    """Java's ``split(" ")``: empty words stay, but not at the end; an empty text is one empty word."""
    words = args.split(" ")
    if args:
        while words and not words[-1]:
            words.pop()
    return words


def split_env(text: str) -> tuple[str, str] | None:
    """A variable's name and value as Java's ``split("=")`` makes them: None, dropped, unless it makes exactly two."""
    pieces = text.split("=")
    while len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    return (pieces[0], pieces[1]) if len(pieces) == 2 else None


def flow_list(words: Sequence[str]) -> str:
    """The YAML text that the service makes of words, with nothing escaped."""
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


# How Java pastes


def paste(text: str, placeholder: str = PLACEHOLDER) -> str:
    r"""What ``replaceAll`` puts in place of *placeholder*: ``\`` and ``$`` are special in a replacement.

    Raises:
        Refusal: ``$`` that refers to no group, or a lonely ``\`` at the end.
    """
    if "\\" not in text and "$" not in text:
        return text
    result: list[str] = []
    at = 0
    while at < len(text):
        char = text[at]
        if char == "\\":
            if at + 1 == len(text):
                raise illegal("character to be escaped is missing")
            result.append(text[at + 1])
            at += 2
        elif char == "$":
            at = _group_reference(text, at + 1)
            result.append(placeholder)
        else:
            result.append(char)
            at += 1
    return "".join(result)


def _group_reference(text: str, at: int) -> int:
    """The position after a reference to group 0, the only group that there is."""
    if at == len(text):
        raise illegal("Illegal group reference: group index is missing")
    if text[at] == "{":
        name = re.compile(r"[A-Za-z0-9]*").match(text, at + 1)
        assert name is not None
        if not name[0]:
            raise illegal("named capturing group has 0 length name")
        if text[name.end() : name.end() + 1] != "}":
            raise illegal("named capturing group is missing trailing '}'")
        if name[0][0].isdigit():
            raise illegal(f"capturing group name {{{name[0]}}} starts with digit character")
        raise illegal(f"No group with name {{{name[0]}}}")
    if text[at] not in "0123456789":
        raise illegal("Illegal group reference")
    if text[at] != "0":
        raise unexpected(f"java.lang.IndexOutOfBoundsException: No group {text[at]}")
    return len(text) - len(text[at:].lstrip("0"))  # Java takes as many digits as still name a group


def fill(text: str, known: Mapping[str, str]) -> str:
    """Fill in the placeholders that the service replaces after this text was pasted."""
    if "${" not in text:
        return text
    return re.sub(r"\$\{([a-z.]+)\}", lambda found: known.get(found[1], found[0]), text)


# How YAML 1.1 reads

_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_ESCAPES = {
    "0": "\0",
    "a": "\a",
    "b": "\b",
    "t": "\t",
    "n": "\n",
    "v": "\v",
    "f": "\f",
    "r": "\r",
    "e": "\x1b",
    " ": " ",
    '"': '"',
    "\\": "\\",
    "N": "\x85",
    "_": "\xa0",
    "L": "\u2028",
    "P": "\u2029",
}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_UNICODE_BREAKS = frozenset("\u2028\u2029")
_PLAIN = re.compile('[^"\\\\ \t\r\n\x85\u2028\u2029]*')
_BETWEEN_TOKENS = re.compile("(?:[ \n\r\x85\u2028\u2029]|#[^\n\r\x85\u2028\u2029]*)*")
_DOCUMENT_MARK = re.compile("(?:---|\\.\\.\\.)(?=[\0 \t\r\n\x85\u2028\u2029]|$)")


def flow_strings(text: str) -> list[str]:
    """Read a flow sequence of double-quoted scalars, as the template's ``command`` and ``args`` are.

    Raises:
        Refusal: It is no such thing; other scalars, which only quotes in a parameter can smuggle in, count as that.
    """
    _printable(text)
    items: list[str] = []
    at = 1
    while True:
        at = _blank(text, at)
        if text[at : at + 1] == '"':
            item, at = _double_quoted(text, at)
            items.append(item)
            at = _blank(text, at)
            if text[at : at + 1] == ",":
                at += 1
                continue
        if text[at : at + 1] != "]":
            found = "<scalar>" if text[at:] else "<stream end>"
            raise unexpected(
                "while parsing a flow sequence\n in 'string', line 1, column 1\n"
                f"expected ',' or ']', but got {found}\n in 'string', line 1, column {at + 1}"
            )
        break
    _end(text, at + 1)
    return items


def scalar(text: str) -> str:
    """Read one double-quoted scalar, as the template's ``value`` is.

    Raises:
        Refusal: It is no such thing.
    """
    _printable(text)
    value, at = _double_quoted(text, 0)
    _end(text, at)
    return value


def _printable(text: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found is not None:
        raise unexpected(
            f"unacceptable code point '{found[0]}' (0x{ord(found[0]):X}) special characters are not allowed\n"
            f"in \"'string'\", position {found.start()}"
        )


def _blank(text: str, at: int) -> int:
    """Past blanks, line breaks and comments, for which a `#` between two tokens is enough."""
    found = _BETWEEN_TOKENS.match(text, at)
    assert found is not None
    return found.end()


def _end(text: str, at: int) -> None:
    at = _blank(text, at)
    if at < len(text):
        raise unexpected(
            "while parsing a block mapping\n in 'string', line 1, column 1\n"
            f"expected <block end>, but found '<scalar>'\n in 'string', line 1, column {at + 1}"
        )


def _double_quoted(text: str, start: int) -> tuple[str, int]:
    """The scalar that opens at *start*, and the position after its closing quote."""
    if text[start : start + 1] != '"':
        raise _scan_error("expected a double-quoted scalar", start)
    parts: list[str] = []
    at = start + 1
    while True:
        plain = _PLAIN.match(text, at)
        assert plain is not None
        parts.append(plain[0])
        at = plain.end()
        char = text[at : at + 1]
        if not char:
            raise _scan_error("found unexpected end of stream", at)
        if char == '"':
            return "".join(parts), at + 1
        if char == "\\":
            escaped, at = _escape(text, at + 1)
            parts.append(escaped)
        else:
            folded, at = _fold(text, at)
            parts.append(folded)


def _escape(text: str, at: int) -> tuple[str, int]:
    char = text[at : at + 1]
    if char in _ESCAPES:
        return _ESCAPES[char], at + 1
    if char in _HEX_ESCAPES:
        width = _HEX_ESCAPES[char]
        digits = text[at + 1 : at + 1 + width]
        if not re.fullmatch(r"[0-9A-Fa-f]+", digits) or len(digits) != width:
            raise _scan_error(f"expected escape sequence of {width} hexadecimal numbers, but found: {digits}", at)
        point = int(digits, 16)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise unexpected("java.lang.IllegalArgumentException: invalid string value has occurred")
        return chr(point), at + 1 + width
    line_break = _BREAK.match(text, at)
    if line_break is None:
        raise _scan_error(f"found unknown escape character {char}", at)
    # an escaped line break joins the lines; the next one's leading blanks go
    breaks, at = _breaks(text, line_break.end())
    return breaks, at


def _fold(text: str, at: int) -> tuple[str, int]:
    """Blanks and line breaks inside a scalar: one break is a space, each further one a newline; Unicode's own stay."""
    blanks = re.compile("[ \t]*").match(text, at)
    assert blanks is not None
    line_break = _BREAK.match(text, blanks.end())
    if line_break is None:
        return blanks[0], blanks.end()
    breaks, at = _breaks(text, line_break.end())
    own = line_break[0] if line_break[0] in _UNICODE_BREAKS else ""
    return own + breaks or " ", at


def _breaks(text: str, at: int) -> tuple[str, int]:
    breaks = ""
    while True:
        if _DOCUMENT_MARK.match(text, at):
            raise unexpected(
                f"while scanning a quoted scalar\nfound unexpected document separator\n in 'string', column {at + 1}"
            )
        while text[at : at + 1] in {" ", "\t"}:
            at += 1
        line_break = _BREAK.match(text, at)
        if line_break is None:
            return breaks, at
        breaks += line_break[0] if line_break[0] in _UNICODE_BREAKS else "\n"
        at = line_break.end()


def _scan_error(problem: str, at: int) -> Exception:
    return unexpected(f"while scanning a double-quoted scalar\n{problem}\n in 'string', line 1, column {at + 1}")


# How YAML types what is not quoted

_BOOL = {
    form: str(word in {"yes", "true", "on"}).lower()
    for word in ("yes", "no", "true", "false", "on", "off")
    for form in (word, word.capitalize(), word.upper())
}
_INT = re.compile(
    r"[-+]?0b_*[01][01_]*|[-+]?0_*[0-7][0-7_]*|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x_*[0-9a-fA-F][0-9a-fA-F_]*"
    r"|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+"
)
_FLOAT = re.compile(
    r"[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|[-+]?\.[0-9_]+(?:[eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_GO_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_GO_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def env_name(text: str) -> str:
    """A variable's name, which the template leaves unquoted, as YAML reads it.

    Raises:
        Refusal: It is no YAML scalar.
        KubectlRefusal: It is nothing at all, and a variable needs a name.
    """
    _printable(text)
    name = re.split(r"(?:^|[ \t])#", text, maxsplit=1)[0].strip(" \t")
    if re.search(r"[\r\n\x85]|:[ \t]|:$", name) or re.match(r"[\[\]{},&*!|>'\"%@`]|[-?:](?:[ \t]|$)", name):
        raise unexpected(f"while parsing a block mapping\n in 'string', line 1, column 1\nat the name {name!r}")
    if name in {"", "~", "null", "Null", "NULL"}:
        raise KubectlRefusal("a variable without a name")
    if name in _BOOL:
        return _BOOL[name]
    if _INT.fullmatch(name):
        return str(_yaml_int(name))
    return name


def _yaml_int(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").replace("_", "")
    if ":" in digits:
        value = 0
        for part in digits.split(":"):
            value = value * 60 + int(part)
        return sign * value
    base = 2 if digits.startswith("0b") else 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    return sign * int(digits[2:] if base in {2, 16} else digits, base)


def retyped(text: str) -> bool:
    """Whether kubectl takes this string for a boolean or a number.

    SnakeYAML writes a string without quotes when YAML 1.1 would read it as a string again. kubectl's reader knows more
    numbers and booleans, and the API server refuses one in place of a string.
    """
    if text in {"y", "Y", "n", "N"}:
        return True
    if not re.match(r"[-+0-9]", text):
        return False
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text) or re.fullmatch(r"0[0-9_]*", text):
        return False  # SnakeYAML quotes what it would itself take for a number
    digits = text.replace("_", "")
    integer = _GO_INT.fullmatch(digits)
    if integer is not None and -(2**63) <= _go_int(integer) < 2**64:
        return True
    return _GO_FLOAT.fullmatch(digits) is not None


def _go_int(found: re.Match[str]) -> int:
    sign, *digits = found.groups()
    value = next(int(text, base) for text, base in zip(digits, (16, 2, 8, 10), strict=True) if text is not None)
    return -value if sign == "-" else value


# How the kubelet expands


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` where NAME is known, and ``$$`` by ``$``; all else stays."""
    if "$" not in text:
        return text

    def expanded(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", expanded, text)
