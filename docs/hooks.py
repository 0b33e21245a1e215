"""What the site's build does beside MkDocs: links into the repository.

A page may link to a test or an example beside `docs/`, which a reader of the repository can follow. On the site there
is no such page, so the link becomes the file's path as text, or a link into `repo_url` where the build was given one.
A link to a file that is not there fails the build.
"""

import logging
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
log = logging.getLogger("mkdocs.hooks")


def on_page_markdown(markdown, *, page, config, **_):
    docs = Path(config["docs_dir"]).resolve()
    here = docs / Path(page.file.src_path).parent

    def outside(found):
        target = (here / found["target"]).resolve()
        if target.is_relative_to(docs):
            return found[0]
        if not target.exists() or not target.is_relative_to(docs.parent):
            log.warning("%s links to %s, which is not there", page.file.src_path, found["target"])
            return found["text"]
        path = target.relative_to(docs.parent).as_posix()
        if config.get("repo_url"):
            return f"[{found['text']}]({config['repo_url'].rstrip('/')}/blob/HEAD/{path})"
        return found["text"] if path in found["text"] else f"{found['text']} (`{path}`)"

    return LINK.sub(outside, markdown)
