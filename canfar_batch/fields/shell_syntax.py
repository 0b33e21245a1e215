"""The syntax of shell commands, as far as checks need it: which text means something to the shell."""

from __future__ import annotations

import re


class Masked:
    """A shell command without its literal text.

    Attributes:
        live: The command, characters that mean nothing to the shell replaced by ``_``: in quotes, after a backslash,
            in comments, here-documents, arithmetic and ``${…}``.
        expanded: The command, only those replaced in which a shell fills in no variable.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._live, self._expanded = list(text), list(text)
        self._documents: list[re.Match[str]] = []
        self._at = 0
        while self._at < len(text):
            self._code("")
            self._at += 1  # a closing parenthesis that none opened, as in a case
        self.live, self.expanded = "".join(self._live), "".join(self._expanded)

    def _hide(self, begin: int, end: int, *, literal: bool) -> None:
        end = min(end, len(self._text))
        self._live[begin:end] = "_" * (end - begin)
        if literal:
            self._expanded[begin:end] = "_" * (end - begin)

    def _code(self, closing: str) -> None:
        """Read commands up to *closing*, a parenthesis or backquote that the caller opened."""
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == closing or char == ")":
                return
            if char == "(":
                self._nested(1, ")")
            elif char == "`":
                self._nested(1, "`")
            elif char == "\n" and self._documents:
                self._here_documents()
            elif char == "#" and (self._at == 0 or text[self._at - 1] in " \t\n;&|("):
                self._literal(re.compile(r"#[^\n]*"), 0)
            elif char == "'":
                self._literal(re.compile(r"'[^']*'?"), 1)
            elif char == '"':
                self._double_quotes()
            else:
                self._piece()

    def _nested(self, opening: int, closing: str) -> None:
        self._at += opening
        self._code(closing)
        self._at += 1

    def _literal(self, pattern: re.Pattern[str], edge: int) -> None:
        found = pattern.match(self._text, self._at)
        assert found is not None
        self._hide(found.start() + edge, max(found.end() - edge, found.start() + edge), literal=True)
        self._at = found.end()

    def _piece(self) -> None:
        """Read one construct that means the same in and outside double quotes, or one character."""
        text, at = self._text, self._at
        if text[at] == "\\":
            self._hide(at, at + 2, literal=True)
            self._at += 2
        elif found := _ARITHMETIC.match(text, at):
            self._hide(at + 1, found.end(), literal=False)
            self._at = found.end()
        elif text.startswith("$(", at):
            self._nested(2, ")")
        elif found := _EXPANSION.match(text, at):
            self._hide(at + 1, found.end(), literal=False)
            self._at = found.end()
        elif found := _HERE_DOCUMENT.match(text, at):
            self._documents.append(found)
            self._hide(at + 2, found.end(), literal=True)
            self._at = found.end()
        else:
            self._at += 1

    def _double_quotes(self) -> None:
        self._at += 1
        self._quoted(len(self._text), '"')
        self._at += 1

    def _quoted(self, end: int, closing: str) -> None:
        """Read text in which only substitutions mean something, up to *end* or *closing*."""
        while self._at < end and self._text[self._at] != closing:
            begin = self._at
            if self._text[begin] == "`":
                self._nested(1, "`")
            elif self._text.startswith("<<", begin):
                self._hide(begin, begin + 2, literal=False)
                self._at += 2
            else:
                self._piece()
                if self._at == begin + 1:
                    self._hide(begin, self._at, literal=False)

    def _here_documents(self) -> None:
        """Hide the documents that begin on the next line, but not the substitutions in them."""
        documents, self._documents = self._documents, []
        self._at += 1
        for document in documents:
            begin = end = self._at
            while end < len(self._text):
                line, newline, _ = self._text[end:].partition("\n")
                end += len(line) + len(newline)
                if (line.lstrip("\t") if document["tabs"] else line) == document["word"]:
                    break
            if document["quote"]:
                self._hide(begin, end, literal=True)
            else:
                self._quoted(end, "")
            self._at = max(self._at, end)
            if end > begin and self._text[end - 1] == "\n":
                self._live[end - 1] = "\n"


_ARITHMETIC = re.compile(r"\$\(\((?:[^()]|\([^()]*\))*\)\)")
_EXPANSION = re.compile(r"\$\{[^{}]*\}")
_HERE_DOCUMENT = re.compile(r"(?<!<)<<(?!<)(?P<tabs>-?)[ \t]*(?P<quote>\\?['\"]?)(?P<word>[^\s'\";&|<>()]+)['\"]?")
