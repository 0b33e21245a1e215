"""What a storage service may answer, and what it may not make us do."""

import pytest

from canfar_batch import errors
from canfar_batch.rest.answers import Answer
from canfar_batch.rest.vospace import VOSpace
from canfar_batch.storage import Storage

XML = 'xmlns:vos="http://www.ivoa.net/xml/VOSpace/v2.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


class Told:
    """A transport whose server answers every question with one document."""

    url = "https://host/arc"

    def __init__(self, document):
        self.document = document

    def ask(self, method, place, query, *, read, body=None, content_type=None):
        return read(Answer(status=200, headers={"content-type": "text/xml"}, body=self.document.encode()))


def node(uri, kind="DataNode", inside="", length="3"):
    size = f'<vos:property uri="ivo://ivoa.net/vospace/core#length">{length}</vos:property>'
    return (
        f'<vos:node {XML} uri="vos://x~arc{uri}" xsi:type="vos:{kind}"><vos:properties>{size}</vos:properties>'
        f"{inside}</vos:node>"
    )


def folder(*children, uri="/home/me/d"):
    return node(uri, "ContainerNode", f"<vos:nodes>{''.join(children)}</vos:nodes>")


OUTSIDE = [
    "/home/me/d/../../../etc/x", "/home/me/d/..", "/home/me/d/.", "/home/me/d/a/b", "/etc/passwd", "/home/me/d",
    "/home/me/d/%2e%2e", "/home/me/d/..%2F..%2Fx", "/home/me/d/a%00b", "",
]  # fmt: skip


@pytest.mark.parametrize("uri", OUTSIDE)
def test_a_listed_name_cannot_lead_out_of_its_folder(uri):
    space = VOSpace(Told(folder(node("/home/me/d/good"), node(uri))))
    with pytest.raises(errors.StorageError, match="cannot be there"):
        space.children("/home/me/d")


@pytest.mark.parametrize("uri", OUTSIDE)
def test_a_download_writes_nothing_outside_its_target(uri, tmp_path):
    target = tmp_path / "deep" / "down" / "results"
    with pytest.raises(errors.CanfarBatchError):
        Storage(VOSpace(Told(folder(node(uri))))).download("/arc/home/me/d", target)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_has_the_path_that_was_asked_for():
    assert VOSpace(Told(node("/etc/../passwd"))).find("/home/me/a").path == "/home/me/a"


def test_folders_without_end_are_given_up(tmp_path):
    class Deep(Told):
        def ask(self, method, place, query, **more):
            self.document = folder(node(f"{place.removeprefix('/nodes')}/d", "ContainerNode"))
            return super().ask(method, place, query, **more)

    with pytest.raises(errors.StorageError, match="cannot be there"):
        Storage(VOSpace(Deep(""))).download("/arc/home", tmp_path / "x")


@pytest.mark.parametrize("length", ["²", "-1", "1e9", "٣", "9" * 400])
def test_a_length_that_is_no_number_counts_as_none(length):
    assert VOSpace(Told(node("/a", length=length))).find("/a").size == 0


def test_a_document_of_nested_entities_does_not_fill_the_memory():
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE x [<!ENTITY e0 "lol">{entities}]><x>&e11;</x>'
    with pytest.raises(errors.PlatformError):
        VOSpace(Told(bomb)).find("/a")
