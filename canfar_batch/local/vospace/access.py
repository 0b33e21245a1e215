"""Who may read and write which node."""

from __future__ import annotations

from canfar_batch.local.answers import Refusal
from canfar_batch.local.vospace.documents import named
from canfar_batch.local.vospace.tree import CREATOR, Node, Tree


def may_read(node: Node, user: str | None) -> bool:
    """Return whether *user* may read a node's content."""
    return node.is_public or (user is not None and node.properties[CREATOR] == user)


def may_write(node: Node, user: str | None) -> bool:
    """Return whether *user* may change a node; in the folder of projects, everyone with a name may."""
    if user is None:
        return False
    return node.properties[CREATOR] == user or node.path == "/projects"


def find(tree: Tree, path: str, user: str | None, *, words: str = "NodeNotFound: ") -> Node:
    """Return the node of *path* if the folders above it may be read.

    Raises:
        Refusal: It does not exist, or a folder above it may not be read.
    """
    check_parents(tree, path, user)
    node = tree.find(path)
    if node is None:
        raise Refusal(404, f"{words}{named(path)}")
    return node


def check_parents(tree: Tree, path: str, user: str | None) -> None:
    """Refuse a path below a folder that may not be read; the folder is named.

    Raises:
        Refusal: A folder may not be read.
    """
    parts = path.split("/")
    for depth in range(1, len(parts)):
        above = tree.find("/".join(parts[:depth]))
        if above is None:
            return
        above = tree.follow(above) or above
        if not may_read(above, user):
            raise Refusal(403, f"PermissionDenied: {named(above.path)}")
