"""Requests that are answered with an error, and bodies that are no records."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from headrace._json import NOT_JSON

__all__ = ["RefusedError", "too_long", "values_of"]


class RefusedError(Exception):
    """A request is answered with an error."""

    def __init__(self, status: HTTPStatus, what: str, **headers: str) -> None:
        self.status, self.what, self.headers = status, what, headers
        super().__init__(what)


def too_long(most: int) -> RefusedError:
    """Return the refusal of a body that has too many bytes."""
    return RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {most:,} bytes; send fewer records at once")


def values_of(body: bytes) -> list[bytes]:
    """Return the text of each record. Raises _RefusedError if it is not JSON."""
    text = body.strip()
    try:
        if text[:1] == b"[":
            return [bytes(one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
        if text[:1] == b"{":
            msgspec.json.decode(text)
            return [text]
    except NOT_JSON as error:
        raise RefusedError(HTTPStatus.BAD_REQUEST, f"is not JSON: {error}") from None
    raise RefusedError(HTTPStatus.BAD_REQUEST, "is no JSON object and no array")
