"""What makes a Binary HTTP message invalid, beyond its framing.

RFC 9292 section 4: an invalid message must not be processed further. Decoders raise
`MessageError` for what stands here, encoders `UsageError`, so that neither end can be the one
that lets it through.

===================================  =========================================================
refused                              because
===================================  =========================================================
framing indicator over 3             RFC 9292 section 3.3
method that is no token              RFC 9113 section 8.3.1, RFC 9110 section 9.1
scheme that is no scheme, or empty   RFC 9113 section 8.3.1, RFC 3986 section 3.1
authority that is no host and port   RFC 9113 section 8.3.1, RFC 3986 section 3.2; no userinfo
                                     with http and https. Empty is allowed.
path that is not absolute            RFC 9113 section 8.3.1, for http and https; ``*`` is for
                                     OPTIONS alone
path with a fragment, white space,   RFC 3986 section 3.3; what else browsers leave unescaped
a control or a byte over 0x7e        in paths and queries is allowed
CONNECT with scheme or path, or      RFC 9113 section 8.5, RFC 9110 section 9.3.6
without host and port
Host twice, no host and port, or     RFC 9113 section 8.3.1, RFC 9110 section 7.2
not the authority
status outside 100 to 599            RFC 9292 section 3.5
status 101                           RFC 9113 section 8.6: there is no connection to switch
field name that is no lowercase      RFC 9292 section 3.6, RFC 9113 sections 8.2 and 8.2.1
token
pseudo-field                         RFC 9292 section 3.6 for the five known ones; RFC 9113
                                     section 8.3 for those of extensions not agreed on
field value with a control, or       RFC 9113 section 8.2.1, RFC 9110 section 5.5; a tab inside
white space at an end                is allowed
Content-Length twice, no number,     RFC 9110 section 8.6. A response may be empty all the same:
or not the content's length          it may answer HEAD, or be a 304.
Content-Length, Host or the like     RFC 9110 section 6.5.1
among trailers
padding other than zeros             RFC 9292 section 3.8
an end inside a part, or inside      RFC 9292 section 3.8
a section that has begun
===================================  =========================================================

Not refused, though senders should leave them out: fields about connections (Connection,
Keep-Alive, Proxy-Connection, TE, Transfer-Encoding, Upgrade). RFC 9292 section 3.6 says that they
do not make a message invalid. They have no effect here.
"""

from __future__ import annotations

import re

from transport.bhttp.messages import Fields
from transport.errors import MessageError

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?)?")
_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+\-.]*")
_PATH = re.compile(rb"[!\"$-~]*")

_NAME_CHARACTERS = rb"A-Za-z0-9\-._~%!$&'()*+,;="
_HOST = rb"(?:\[[" + _NAME_CHARACTERS + rb":]+\]|[" + _NAME_CHARACTERS + rb"]*)"
_WEB_AUTHORITY = re.compile(_HOST + rb"(?::[0-9]*)?")
_AUTHORITY = re.compile(rb"(?:[" + _NAME_CHARACTERS + rb":]*@)?" + _HOST + rb"(?::[0-9]*)?")
_HOST_AND_PORT = re.compile(rb"(?=[^:])" + _HOST + rb":[0-9]{1,5}")
_LENGTH = re.compile(rb"[0-9]{1,19}")

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}

# Framing, routing and the form of content are decided before trailers come.
_NO_TRAILERS = frozenset(
    (
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"host",
        b"transfer-encoding",
    )
)


def check_field(name: bytes, value: bytes) -> None:
    """Refuse a field line that HTTP does not allow; `MessageError`."""
    if _NAME.fullmatch(name) is None:
        raise MessageError(f"a field name of {len(name)} bytes is not a lowercase HTTP token")
    if _VALUE.fullmatch(value) is None:
        raise MessageError(
            f"a field value of {len(value)} bytes holds a control character, or white space "
            "at an end"
        )


def check_trailers(trailers: Fields) -> None:
    """Refuse trailer fields that would come too late to mean anything; `MessageError`."""
    if any(name in _NO_TRAILERS for name, _ in trailers):
        raise MessageError("a field of framing, routing or content form stands among the trailers")


def check_control_data(method: bytes, scheme: bytes, authority: bytes, path: bytes) -> None:
    """Refuse control data that names no request; `MessageError`."""
    if _TOKEN.fullmatch(method) is None:
        raise MessageError("the request's method is not an HTTP token")
    if method == b"CONNECT":
        if scheme or path or _HOST_AND_PORT.fullmatch(authority) is None:
            raise MessageError("a CONNECT request has host and port, and no scheme or path")
        return
    if _SCHEME.fullmatch(scheme) is None:
        raise MessageError("the request's scheme is not a URI scheme")
    web = scheme.lower() in _DEFAULT_PORTS
    if (_WEB_AUTHORITY if web else _AUTHORITY).fullmatch(authority) is None:
        raise MessageError("the request's authority is not a host with or without a port")
    if _PATH.fullmatch(path) is None:
        raise MessageError("the request's path holds a character that must be percent-encoded")
    if web and path[:1] != b"/" and (method, path) != (b"OPTIONS", b"*"):
        raise MessageError("the request's path does not begin with a slash")


def check_host(scheme: bytes, authority: bytes, headers: Fields) -> None:
    """Refuse a Host field that is repeated, no host, or not the authority; `MessageError`."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or any(_WEB_AUTHORITY.fullmatch(host) is None for host in hosts):
        raise MessageError("the request has no single Host field with a host and port")
    if hosts and authority:
        scheme = scheme.lower()
        if _comparable(scheme, hosts[0]) != _comparable(scheme, authority):
            raise MessageError("the request's Host field is not its authority")


def _comparable(scheme: bytes, authority: bytes) -> bytes:
    """An authority as it is compared (RFC 3986 section 6.2.3): case, empty or default port."""
    authority = authority.lower().removesuffix(_DEFAULT_PORTS.get(scheme, b":"))
    return authority.removesuffix(b":")


def is_informational(status: int) -> bool:
    """Whether `status` is 1xx; `MessageError` for 101 and outside 100 to 599."""
    if not 100 <= status <= 599:
        raise MessageError(f"status {status} is not an HTTP status code")
    if status == 101:
        raise MessageError("status 101 switches protocols, which a Binary HTTP message cannot do")
    return status < 200


class ContentCount:
    """Counts content against the Content-Length field, if there is one."""

    __slots__ = ("_declared", "_may_be_empty", "_size")

    def __init__(self, headers: Fields = (), *, may_be_empty: bool = False) -> None:
        """Read the header fields; `MessageError` if they disagree or hold no number."""
        values = [value for name, value in headers if name == b"content-length"]
        if len(values) > 1 or any(_LENGTH.fullmatch(value) is None for value in values):
            raise MessageError("the message has no single, numeric Content-Length")
        self._declared = int(values[0]) if values else None
        self._may_be_empty = may_be_empty
        self._size = 0

    def add(self, size: int) -> None:
        """Count `size` bytes; `MessageError` if they are more than declared."""
        self._size += size
        if self._declared is not None and self._size > self._declared:
            raise MessageError(
                f"content of {self._size} bytes or more has a Content-Length of {self._declared}"
            )

    def end(self) -> None:
        """Content has ended; `MessageError` if it is shorter than declared."""
        if self._declared in (None, self._size) or (self._may_be_empty and self._size == 0):
            return
        raise MessageError(
            f"content of {self._size} bytes has a Content-Length of {self._declared}"
        )
