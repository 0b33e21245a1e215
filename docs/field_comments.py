"""Use `#:` comments as docstrings of fields, and show Sphinx roles as code, in the reference."""

import importlib
import inspect
import re

import attrs
import griffe

COMMENT = re.compile(r"#:\s*(.*)$")
ROLE = re.compile(r":(?:class|meth|mod|data|func):(`[^`]+`)")


class FieldComments(griffe.Extension):
    """An extension that uses the `#:` comment after or above a field or constant as its docstring."""

    def on_attribute_instance(self, *, attr, **_):
        """Use the comment if the attribute has no docstring."""
        if attr.docstring is not None or attr.lineno is None:
            return
        lines = attr.lines_collection[attr.filepath]
        above = lines[attr.lineno - 2].strip() if attr.lineno > 1 else ""
        after = lines[(attr.endlineno or attr.lineno) - 1]
        found = COMMENT.search(after) or (COMMENT.search(above) if above.startswith("#:") else None)
        if found:
            words = found[1][:1].upper() + found[1][1:]
            attr.docstring = griffe.Docstring(words if words.endswith(".") else f"{words}.", parent=attr)

    def on_instance(self, *, obj, **_):
        """Show ``:meth:`stop` `` as `stop`."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"\1", obj.docstring.value)

    def on_class_members(self, *, cls, **_):
        """Show how a value is made, where attrs wrote its `__init__`; and fields without the call that made them."""
        if not any(str(each.value).startswith("attrs.") for each in cls.decorators):
            return
        for attr in cls.attributes.values():
            if str(attr.value).startswith("attrs.field("):
                attr.value = None
        if "__init__" in cls.members:
            return
        made = getattr(importlib.import_module(cls.module.path), cls.name)
        parameters = [
            griffe.Parameter(
                each.name,
                kind=griffe.ParameterKind[each.kind.name.lower()],
                annotation=str(each.annotation) if each.annotation is not each.empty else None,
                default=None if each.default is each.empty else default(each.default),
            )
            for each in inspect.signature(made).parameters.values()
        ]
        init = griffe.Function("__init__", parameters=griffe.Parameters(*parameters), parent=cls, returns="None")
        cls.set_member("__init__", init)


def default(value):
    """A default as one would write it; made anew each time, it has no one value."""
    return "…" if value is attrs.NOTHING else repr(value)
