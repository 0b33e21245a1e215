"""MkDocs hooks: links into the repository, and notebooks as pages.

A page may link to a file outside `docs/`, which a reader of the repository can follow. The examples are on the site
too, with their list as a page. Other files have no page, so a link to one becomes the file's path as text, or a link
into `repo_url` if the build has one. A link to a missing file fails the build.

A notebook becomes a page with the outputs of its last run (`make_tutorial.py`). The notebook itself is beside the page
as a download.
"""

import html
import json
import logging
import re
import shutil
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>(?:\.\./)+[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
log = logging.getLogger("mkdocs.hooks")


class Notebook(File):
    """A notebook that MkDocs treats as a page."""

    def is_documentation_page(self):
        return True


def on_files(files, *, config):
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            files.remove(file)
            files.append(Notebook(file.src_uri, file.src_dir, file.dest_dir, file.use_directory_urls))
    for path in sorted(path for path in EXAMPLES.iterdir() if path.suffix in (".md", ".py", ".ipynb")):
        place = path.relative_to(ROOT).as_posix()
        files.append(File.generated(config, place, abs_src_path=str(path), inclusion=InclusionLevel.INCLUDED))
    return files


def on_page_read_source(*, page, config):
    if not isinstance(page.file, Notebook):
        return None
    cells = json.loads(Path(page.file.abs_src_path).read_text(encoding="utf-8"))["cells"]
    page.shown = []
    name = Path(page.file.src_uri).name
    title, *parts = (part for cell in cells for part in in_markdown(cell, page.shown))
    download = f'<p><a href="{name}" download>Download this page as a notebook</a></p>'
    return "\n\n".join((title, download, *parts))


def in_markdown(cell, shown):
    """Yield the cell as Markdown; append its outputs to *shown*, with a placeholder for each."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        yield source
        return
    yield f"```python\n{source}\n```"
    for output in cell.get("outputs", ()):
        data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
        if "text/html" in data:
            shown.append(apart(data["text/html"]))
        elif "image/png" in data:
            shown.append(
                f'<img alt="Output of the cell above" src="data:image/png;base64,{data["image/png"].strip()}">'
            )
        else:
            text = "".join(output.get("text", ())) or data.get("text/plain", "")
            shown.append(printed(ESCAPES.sub("", text).strip()))
        yield f'<div class="shown" markdown="0">shown-{len(shown) - 1}-shown</div>'


def printed(text):
    """Return printed text as HTML; long lines may wrap, because they are sentences and not tables."""
    kind = ' class="long"' if any(len(line) > 72 for line in text.splitlines()) else ""
    return f"<pre{kind}>{html.escape(text)}</pre>"


def apart(view):
    """Return a view of the package in a shadow root, so that its style and the site's do not mix."""
    return f'<div><template shadowrootmode="open">{view}</template></div>' if "cb-view" in view else view


def on_page_content(content, *, page, **_):
    shown = getattr(page, "shown", ())
    return re.sub(r"shown-(\d+)-shown", lambda found: shown[int(found[1])], content)


def on_post_page(output, **_):
    """Remove the script that is fetched from another host; it would only add search to pages on a disk."""
    return re.sub(r'<script src="https://unpkg\.com/[^"]*"></script>', "", output)


def on_post_template(output_content, **_):
    return on_post_page(output_content)


def on_post_build(*, config):
    """Copy the notebooks beside their pages."""
    docs, site = Path(config["docs_dir"]), Path(config["site_dir"])
    for notebook in docs.rglob("*.ipynb"):
        shutil.copyfile(notebook, site / notebook.relative_to(docs))


def on_page_markdown(markdown, *, page, config, **_):
    docs = Path(config["docs_dir"]).resolve()
    top = "../" * page.file.src_uri.count("/")
    here = Path(page.file.abs_src_path).resolve().parent

    def resolve(found):
        target = (here / found["target"]).resolve()
        for folder, above in {docs: docs, EXAMPLES: ROOT}.items():  # files with a page on the site
            if target.is_relative_to(folder):
                return f"[{found['text']}]({top}{target.relative_to(above).as_posix()}{found['anchor'] or ''})"
        if not target.exists() or not target.is_relative_to(docs.parent):
            log.warning("%s links to %s, which does not exist", page.file.src_path, found["target"])
            return found["text"]
        path = target.relative_to(docs.parent).as_posix()
        if config.get("repo_url"):
            return f"[{found['text']}]({config['repo_url'].rstrip('/')}/blob/HEAD/{path})"
        return found["text"] if path in found["text"] else f"{found['text']} (`{path}`)"

    return LINK.sub(resolve, markdown)
