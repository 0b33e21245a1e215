"""How cmd, args and env change on their way into a container.

The service pastes them unescaped into a YAML template with Java's ``replaceAll``, reads the result with SnakeYAML
(YAML 1.1), writes it again, and hands that to kubectl, whose YAML reader has other rules. At last the kubelet expands
``$(NAME)``. Each step loses or refuses something. The functions here repeat the steps one by one, so that a text that
survives here survives there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import attrs

from canfar_batch.local.answers import Refusal, illegal, unexpected

PLACEHOLDER = "${headless.image.bundle}"  #: the text that cmd, args and env replace, and the meaning of ``$0``
FIRST_LINE = 80  #: the line of the template in which cmd, args and env begin
FIRST_CHARACTER = 2264  #: the position of that line; it varies a little with the lengths of names


class KubectlRefusal(Exception):
    """The template's result is not a valid Job: kubectl fails, and the service finds no Job afterwards."""


@attrs.frozen
class Bundle:
    """The command, arguments and variables of a container. None: those of the image."""

    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    env: tuple[tuple[str, str], ...] = ()


def bundle(
    cmd: str | None, args: str | None, env: Iterable[str] = (), known: Mapping[str, str] | None = None
) -> Bundle:
    """Take cmd, args and env through the template, up to the Job that kubectl posts.

    Args:
        cmd: The parameter as sent; None if it is missing.
        args: The parameter as sent; None if it is missing.
        env: Every value of the parameter.
        known: The values of the template's other placeholders (``skaha.userid`` …), which are filled in afterwards.

    Raises:
        Refusal: The text cannot be pasted (400) or is not valid YAML afterwards (500).
        KubectlRefusal: It is YAML, but not a valid Job.
    """
    pairs = [pair for pair in map(split_env, env) if pair is not None]
    # pasted as one text on the server: a refused `$` anywhere comes before any YAML is read
    part = _Part()
    command_at = None if cmd is None else part.add("        command: ", _pasted(flow_list([cmd]), known))
    args_at = None if args is None else part.add("        args: ", _pasted(flow_list(split_args(args)), known))
    if pairs:
        part.add("        env:", "")
    variables_at = [
        (
            part.add("        - name: ", _pasted(name, known)),
            part.add("          value: ", _pasted(f'"{value}"', known)),
        )
        for name, value in pairs
    ]
    try:
        _printable(part.text)
        command = None if command_at is None else tuple(flow_strings(part.piece(command_at)))
        arguments = None if args_at is None else tuple(flow_strings(part.piece(args_at)))
        variables = tuple(_variable(part, name, value) for name, value in variables_at)
    except YamlError as problem:
        raise part.refusal(problem) from None
    for text in (*(command or ()), *(arguments or ()), *(text for variable in variables for text in variable)):
        if retyped(text) or "\0" in text:
            raise KubectlRefusal(text)
    for name, _ in variables:
        if not re.fullmatch(r"[ -<>-~]+", name):
            raise KubectlRefusal(name)
    return Bundle(command, arguments, variables)


def _pasted(text: str, known: Mapping[str, str] | None) -> str:
    # the line break belongs to the text that Java sees: a `$` before it refers to no group
    return fill(paste(text + "\n").removesuffix("\n"), known or {})


class YamlError(Exception):
    """A text that YAML cannot read. Positions count from the beginning of the piece that was read."""

    def __init__(self, problem: str, at: int, context: str | None = None, context_at: int = 0) -> None:
        super().__init__(problem)
        self.problem, self.at, self.context, self.context_at = problem, at, context, context_at


class _Part:
    """The part of the template that a request fills, line by line, so that errors name the right place."""

    def __init__(self) -> None:
        self.text = ""
        self._reading = (0, 0)

    def add(self, before: str, piece: str) -> tuple[int, int]:
        """Append a line; return where its piece begins and ends."""
        start = len(self.text) + len(before)
        self.text += f"{before}{piece}\n"
        return start, start + len(piece)

    def piece(self, place: tuple[int, int]) -> str:
        """Return a piece; positions of errors count from its beginning until the next call."""
        self._reading = place
        return self.text[slice(*place)]

    def refusal(self, error: YamlError) -> Refusal:
        """Return SnakeYAML's words for an error in the piece that was returned last."""
        start = self._reading[0]
        words = [] if error.context is None else [error.context, self._mark(start + error.context_at)]
        return unexpected("\n".join([*words, error.problem, self._mark(start + error.at)]) + "\n")

    def _mark(self, at: int) -> str:
        breaks = [found.end() for found in _BREAK.finditer(self.text, 0, at)]
        start = breaks[-1] if breaks else 0
        line, column = FIRST_LINE + len(breaks), at - start + 1
        return f" in 'reader', line {line}, column {column}:\n{self._snippet(at)}"

    def _snippet(self, at: int) -> str:
        """Return the line around a position, cut to 75 characters, and a caret below."""
        start = end = at
        head = tail = ""
        while start > 0 and not _BREAK.match(self.text[start - 1]):
            start -= 1
            if at - start > 36.5:
                head, start = " ... ", start + 5
                break
        while end < len(self.text) and not _BREAK.match(self.text[end]):
            end += 1
            if end - at > 36.5:
                tail, end = " ... ", end - 5
                break
        caret = " " * (4 + at - start + len(head)) + "^"
        return f"    {head}{self.text[start:end]}{tail}\n{caret}"


def _variable(part: _Part, name: tuple[int, int], value: tuple[int, int]) -> tuple[str, str]:
    read = env_name(part.piece(name))
    try:
        return read, scalar(part.piece(value))
    except YamlError as error:
        if error.context is None:  # the whole variable is the block that did not end
            error.context, error.context_at = "while parsing a block mapping", name[0] - len("name: ") - value[0]
        raise


# How the service splits


def split_args(args: str) -> list[str]:
    """Split as Java's ``split(" ")`` does: empty words stay, but not at the end; an empty text is one empty word."""
    words = args.split(" ")
    if args:
        while words and not words[-1]:
            words.pop()
    return words


def split_env(text: str) -> tuple[str, str] | None:
    """Return a variable's name and value as Java's ``split("=")`` makes them; None, dropped, unless it makes two."""
    pieces = text.split("=")
    while len(pieces) > 1 and not pieces[-1]:
        pieces.pop()
    return (pieces[0], pieces[1]) if len(pieces) == 2 else None


def flow_list(words: Sequence[str]) -> str:
    """Return the YAML text that the service makes of words, with nothing escaped."""
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


# How Java pastes


def paste(text: str, placeholder: str = PLACEHOLDER) -> str:
    r"""Return what ``replaceAll`` puts in place of *placeholder*: ``\`` and ``$`` are special in a replacement.

    Raises:
        Refusal: A ``$`` refers to no group, or a single ``\`` stands at the end.
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
    """Return the position after a reference to group 0, the only group."""
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
_SCANNING, _SCANNING_DOUBLE = "while scanning a quoted scalar", "while scanning a double-quoted scalar"
_BETWEEN_TOKENS = re.compile("(?:[ \n\r\x85\u2028\u2029]|#[^\n\r\x85\u2028\u2029]*)*")
_DOCUMENT_MARK = re.compile("(?:---|\\.\\.\\.)(?=[\0 \t\r\n\x85\u2028\u2029]|$)")


def flow_strings(text: str) -> list[str]:
    """Read a flow sequence of double-quoted scalars, as the template's ``command`` and ``args`` are.

    Raises:
        YamlError: It is not one. Other scalars, which only quotes in a parameter can smuggle in, are refused as well.
    """
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
            raise YamlError(f"expected ',' or ']', but got {found}", at, "while parsing a flow sequence")
        break
    _end(text, at + 1)
    return items


def scalar(text: str) -> str:
    """Read one double-quoted scalar, as the template's ``value`` is.

    Raises:
        YamlError: It is not one.
    """
    value, at = _double_quoted(text, 0)
    _end(text, at)
    return value


def _printable(text: str) -> None:
    found = _UNPRINTABLE.search(text)
    if found is not None:
        raise unexpected(
            f"unacceptable code point '{found[0]}' (0x{ord(found[0]):X}) special characters are not allowed\n"
            f"in \"'reader'\", position {FIRST_CHARACTER + found.start()}"
        )


def _blank(text: str, at: int) -> int:
    """Return the position after blanks, line breaks and comments; a `#` between two tokens begins a comment."""
    found = _BETWEEN_TOKENS.match(text, at)
    assert found is not None
    return found.end()


def _end(text: str, at: int) -> None:
    at = _blank(text, at)
    if at < len(text):
        raise YamlError("expected <block end>, but found '<scalar>'", at)


def _double_quoted(text: str, start: int) -> tuple[str, int]:
    """Return the scalar that opens at *start*, and the position after its closing quote."""
    if text[start : start + 1] != '"':
        raise YamlError("expected a double-quoted scalar", start, _SCANNING_DOUBLE)
    parts: list[str] = []
    at = start + 1
    while True:
        plain = _PLAIN.match(text, at)
        assert plain is not None
        parts.append(plain[0])
        at = plain.end()
        char = text[at : at + 1]
        if not char:
            raise YamlError("found unexpected end of stream", at, _SCANNING, start)
        if char == '"':
            return "".join(parts), at + 1
        if char == "\\":
            escaped, at = _escape(text, at + 1, start)
            parts.append(escaped)
        else:
            folded, at = _fold(text, at, start)
            parts.append(folded)


def _escape(text: str, at: int, start: int) -> tuple[str, int]:
    char = text[at : at + 1]
    if char in _ESCAPES:
        return _ESCAPES[char], at + 1
    if char in _HEX_ESCAPES:
        width = _HEX_ESCAPES[char]
        digits = text[at + 1 : at + 1 + width]
        if not re.fullmatch(r"[0-9A-Fa-f]+", digits) or len(digits) != width:
            raise YamlError(
                f"expected escape sequence of {width} hexadecimal numbers, but found: {digits}",
                at,
                _SCANNING_DOUBLE,
                start,
            )
        point = int(digits, 16)
        if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
            raise unexpected("java.lang.IllegalArgumentException: invalid string value has occurred")
        return chr(point), at + 1 + width
    line_break = _BREAK.match(text, at)
    if line_break is None:
        raise YamlError(
            f"found unknown escape character {char}({ord(char) if char else 0})", at, _SCANNING_DOUBLE, start
        )
    # an escaped line break joins the lines; the next one's leading blanks go
    breaks, at = _breaks(text, line_break.end(), start)
    return breaks, at


def _fold(text: str, at: int, start: int) -> tuple[str, int]:
    """Fold blanks and line breaks: one break is a space, each further one a newline; those of Unicode stay."""
    blanks = re.compile("[ \t]*").match(text, at)
    assert blanks is not None
    line_break = _BREAK.match(text, blanks.end())
    if line_break is None:
        return blanks[0], blanks.end()
    breaks, at = _breaks(text, line_break.end(), start)
    own = line_break[0] if line_break[0] in _UNICODE_BREAKS else ""
    return own + breaks or " ", at


def _breaks(text: str, at: int, start: int) -> tuple[str, int]:
    breaks = ""
    while True:
        if _DOCUMENT_MARK.match(text, at):
            raise YamlError("found unexpected document separator", at, _SCANNING, start)
        while text[at : at + 1] in {" ", "\t"}:
            at += 1
        line_break = _BREAK.match(text, at)
        if line_break is None:
            return breaks, at
        breaks += line_break[0] if line_break[0] in _UNICODE_BREAKS else "\n"
        at = line_break.end()


# How YAML types unquoted text

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
    """Return a variable's name, which the template leaves unquoted, as YAML reads it.

    Raises:
        YamlError: It is not a YAML scalar.
        KubectlRefusal: It is empty, and a variable needs a name.
    """
    name = re.split(r"(?:^|[ \t])#", text, maxsplit=1)[0].strip(" \t")
    colon = re.search(r":(?=[ \t]|$)", name)
    if colon is not None and colon.start() > 0:
        raise YamlError("mapping values are not allowed here", text.index(name) + colon.start())
    if re.search(r"[\r\n\x85]", name) or re.match(r"[\[\]{},&*!|>'\"%@`]|[-?:](?:[ \t]|$)", name):
        raise YamlError(
            "expected <block end>, but found '<scalar>'", 0, "while parsing a block mapping", -len("name: ")
        )
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
    """Return whether kubectl takes this string for a boolean or a number.

    SnakeYAML writes a string without quotes if YAML 1.1 would read it as a string again. kubectl's reader knows more
    numbers and booleans, and the API server refuses one in place of a string.
    """
    if text in {"y", "Y", "n", "N"}:
        return True
    if not re.match(r"[-+0-9]", text):
        return False
    if _INT.fullmatch(text) or _FLOAT.fullmatch(text) or re.fullmatch(r"0[0-9_]*", text):
        return False  # SnakeYAML quotes a text that it would itself take for a number
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
    """Replace ``$(NAME)`` if NAME is known, and ``$$`` by ``$``; all else stays."""
    if "$" not in text:
        return text

    def expanded(found: re.Match[str]) -> str:
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", expanded, text)
