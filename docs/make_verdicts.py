"""Write the table of verdicts into `explanation/verdicts.md`.

    python docs/make_verdicts.py

The rows are `canfar_batch.engine.verdict.RULES`, in the order in which the engine tries them. A test fails if the page
and the rules differ.
"""

import re
from pathlib import Path

from canfar_batch.engine.verdict import RULES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "explanation" / "verdicts.md"
BLOCK = re.compile(r"(?<=<!-- generated: verdicts -->\n).*?(?=<!-- end -->)", re.DOTALL)


def block() -> str:
    """Return the generated part of the page."""
    lines = ["| rule | evidence | verdict | how sure |", "|---|---|---|---|"]
    for number, rule in enumerate(RULES, 1):
        seen, outcome = (text.replace("|", r"\|") for text in (rule.seen, rule.outcome))
        lines.append(f"| {number} | {seen} | {outcome} | {'certain' if rule.certain else 'likely'} |")
    return "\n".join([*lines, ""])


def main() -> None:
    PAGE.write_text(BLOCK.sub(lambda _: block(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
