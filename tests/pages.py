"""Pages of the documentation, and their blocks of code."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?[^\n]*\n(?P<text>.*?)^(?P=indent)```",
    re.MULTILINE | re.DOTALL,
)


def blocks(page, *languages):
    """Yield the page's blocks in these languages, with the number of the line before each; not those with a title."""
    text = page.read_text()
    for found in FENCE.finditer(text):
        if found["language"] in languages and not found["title"]:
            yield text.count("\n", 0, found.start("text")), textwrap.dedent(found["text"])


def files(page):
    """Yield the blocks that are whole files, with their names, which are the blocks' titles."""
    for found in FENCE.finditer(page.read_text()):
        if found["title"]:
            yield found["title"], textwrap.dedent(found["text"])


def commands(page):
    """Yield the commands of the page's console blocks, without the prompt."""
    for _, block in blocks(page, "console", "bash", "sh", "shell"):
        for line in block.replace("\\\n", " ").splitlines():
            if block.lstrip().startswith("$ ") and not line.startswith("$ "):
                continue  # output of the command
            yield from (part.strip() for part in line.removeprefix("$ ").split("&&") if not part.startswith("#"))
