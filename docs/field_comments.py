"""Fields of the package's values are told about in comments, `size: int  #: what it is`: the reference shows those."""

import re

import griffe

COMMENT = re.compile(r"#:\s*(.*)$")


class FieldComments(griffe.Extension):
    """Makes an attribute's `#:` comment, behind it or above it, its docstring."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: object) -> None:
        if attr.docstring is not None or attr.lineno is None or not isinstance(attr.filepath, griffe_path()):
            return
        lines = attr.lines_collection[attr.filepath]
        last = attr.endlineno or attr.lineno
        for line in (lines[last - 1], lines[attr.lineno - 2] if attr.lineno > 1 else ""):
            found = COMMENT.search(line)
            if found and (line is lines[last - 1] or line.lstrip().startswith("#:")):
                words = found[1]
                attr.docstring = griffe.Docstring(f"{words[:1].upper()}{words[1:]}.".replace("..", "."), parent=attr)
                return


def griffe_path() -> type:
    from pathlib import Path

    return Path
