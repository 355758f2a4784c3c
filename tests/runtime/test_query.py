"""The query of a URL is read strictly, and in one place."""

import pytest

from runtime.enclave.api import ApiError
from runtime.enclave.query import MAX_FIELDS, MAX_QUERY_BYTES, query_of, read_number, read_query
from transport.bhttp import Request


def test_a_query_is_read() -> None:
    """Values by name, decoded, in their order; an empty query and an empty value are both fine."""
    read = read_query(b"q=a+b%26c&tag=1&limit=&tag=%C3%BC", ("q", "limit"), ("tag",))
    assert read == {"q": ("a b&c",), "tag": ("1", "\u00fc"), "limit": ("",)}
    assert read_query(b"", ("q",)) == {}
    request = Request(b"GET", b"https", b"a", b"/v1/personas?q=a?b", (), b"")
    assert read_query(query_of(request), ("q",)) == {"q": ("a?b",)}


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"q", "NAME=VALUE"),
        (b"q=a&&q=b", "NAME=VALUE"),
        (b"q=%zz", "NAME=VALUE"),
        (b"q=a%", "NAME=VALUE"),
        (b"q=%ff", "NAME=VALUE"),
        (b"q=\xc3\xbc", "NAME=VALUE"),
        (b"&".join([b"tag=a"] * (MAX_FIELDS + 1)), "NAME=VALUE"),
        (b"=secret", "there are q, tag"),
        (b"secret=1", "there are q, tag"),
        (b"q=a&q=secret", "only `tag` may be given twice"),
        (b"q=" + b"x" * MAX_QUERY_BYTES, "more than 8192 bytes"),
    ],
)
def test_what_is_not_a_query_is_refused(query: bytes, problem: str) -> None:
    """With 400, the rule, and no echo of what was asked."""
    with pytest.raises(ApiError, match=problem) as refused:
        read_query(query, ("q",), ("tag",))
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "-1", "+1", "1e1", "\u0661", "1_0", " 1", "513", "0000001"])
def test_what_is_not_a_number_is_refused(text: str) -> None:
    """Only ASCII digits, and no more than there can be."""
    assert read_number("from", "512", 512) == 512
    with pytest.raises(ApiError, match="from 0 to 512") as refused:
        read_number("from", text, 512)
    assert refused.value.param == "from"
