"""Binary HTTP messages (RFC 9292): types, encoding and decoding, whole or piece by piece.

`transport.bhttp.rules` says which messages both ends refuse, and why.
"""

from transport.bhttp.decoder import (
    RequestDecoder,
    ResponseDecoder,
    decode_request,
    decode_response,
)
from transport.bhttp.encoder import (
    RequestEncoder,
    ResponseEncoder,
    encode_request,
    encode_response,
)
from transport.bhttp.messages import (
    DEFAULT_LIMITS,
    Content,
    End,
    Event,
    Fields,
    Limits,
    Request,
    RequestHead,
    Response,
    ResponseHead,
)

__all__ = [
    "DEFAULT_LIMITS",
    "Content",
    "End",
    "Event",
    "Fields",
    "Limits",
    "Request",
    "RequestDecoder",
    "RequestEncoder",
    "RequestHead",
    "Response",
    "ResponseDecoder",
    "ResponseEncoder",
    "ResponseHead",
    "decode_request",
    "decode_response",
    "encode_request",
    "encode_response",
]
