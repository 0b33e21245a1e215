"""How parameters are read from requests."""

import pytest

from canfar_batch.local import parameters
from canfar_batch.local.answers import MalformedRequest
from canfar_batch.local.messages import Request

FORM = "application/x-www-form-urlencoded"


def post(body=b"", content_type=FORM, query=""):
    headers = {} if content_type is None else {"content-type": content_type}
    return parameters.of(Request("POST", "/x", query, headers, body))


def test_names_are_read_in_any_case():
    assert post(b"IMAGE=a&Env=b=1&Env=c").all("ENV") == ["b=1", "c"]


@pytest.mark.parametrize("query", ["", "Name=a"])
def test_a_name_in_two_spellings_is_malformed(query):
    with pytest.raises(MalformedRequest, match="null"):
        post(b"name=a&NAME=b", query=query)


def test_pairs_with_a_broken_escape_are_lost():
    assert post(b"name=n&x=%zz").as_dict() == {"name": ["n"]}


def test_only_the_first_value_counts():
    assert post(b"image=a&image=b").first("image") == "a"


def test_a_posted_form_is_merged_with_the_query_which_comes_first():
    assert post(b"image=body&name=b", query="image=query").as_dict() == {"image": ["query", "body"], "name": ["b"]}


@pytest.mark.parametrize("content_type", ["application/json", None, "text/plain"])
def test_anything_but_a_form_is_dropped_with_the_query(content_type):
    assert post(b"image=a", content_type, query="name=n").as_dict() == {}


def test_a_form_without_charset_is_latin_1():
    assert post("name=é".encode()).first("name") == "Ã©"
    assert post(b"name=%C3%A9").first("name") == "Ã©"


def test_a_form_with_charset_is_read_in_it():
    assert post(b"name=%C3%A9", f"{FORM}; charset=UTF-8").first("name") == "é"


def test_an_unknown_charset_is_as_none():
    assert post(b"name=%C3%A9", f"{FORM};charset=klingon").first("name") == "Ã©"


def test_a_query_is_utf_8():
    assert parameters.of(Request("GET", "/x", "name=%C3%A9+%2B")).first("name") == "é +"


def test_a_form_beyond_two_mebibytes_loses_everything():
    assert post(b"image=a&args=" + b"x" * parameters.FORM_LIMIT).as_dict() == {}
    assert post(b"args=" + b"x" * (parameters.FORM_LIMIT - 5)).first("args")


def test_a_multipart_without_a_boundary_is_an_error_and_its_type_is_known_in_lower_case_only():
    with pytest.raises(MalformedRequest):
        post(b"", "multipart/form-data")
    assert post(b"", "Multipart/form-data").as_dict() == {}


def test_multipart_parts_count_and_the_query_does_not():
    body = (
        b'--sep\r\nContent-Disposition: form-data; name="name"\r\n\r\nn\r\n'
        b'--sep\r\nContent-Disposition: form-data; name="args"\r\n\r\na\r\nb\r\n\r\n--sep--\r\n'
    )
    assert post(body, 'multipart/form-data; boundary="sep"', query="image=q").as_dict() == {
        "name": ["n"],
        "args": ["a\r\nb\r\n"],
    }


def test_names_without_a_value_are_empty():
    assert post(b"cmd=&args&&").as_dict() == {"cmd": [""], "args": [""]}
