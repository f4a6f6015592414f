"""What a request says, read with bounds and refused with a reason."""

from __future__ import annotations

import asyncio
import json
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import msgspec

from api.problems import Refused, Texts
from api.reasons import in_russian
from api.schemas import ReserveRequest, UserId, reserve_decoder

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from engine.deadline import Deadline

MAX_BODY_BYTES = 4096
_ID = re.compile(r"[1-9][0-9]{0,15}")
_IDEMPOTENCY_KEY = re.compile(rb"[ -~]{1,255}")
_JSON_MEDIA_TYPE = re.compile(
    rb'application/json(?:[ \t]*;[ \t]*(?:charset="?utf-8"?|(?!charset=)[!-:<-~]*))*[ \t]*',
    re.IGNORECASE,
)


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """The headers by lower-case name; one that was sent twice is joined (RFC 9110, 5.3)."""
    pairs: list[tuple[bytes, bytes]] = scope["headers"]
    headers = dict(pairs)
    if len(headers) != len(pairs):
        for name in headers:
            headers[name] = b", ".join(value for other, value in pairs if other == name)
    return headers


def check_media(headers: dict[bytes, bytes]) -> None:
    """Refuse, before a byte of it is read, a body that is too large or not plain JSON."""
    length = headers.get(b"content-length", b"0")
    if not length.isdigit():
        raise Refused("invalid_content_length")
    if len(length) > 9 or int(length) > MAX_BODY_BYTES:  # noqa: PLR2004  digits: bounds the int()
        raise Refused("body_too_large")
    media_type = headers.get(b"content-type", b"")
    if media_type != b"application/json" and not _JSON_MEDIA_TYPE.fullmatch(media_type):
        raise Refused("unsupported_media_type")
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refused("unsupported_content_encoding")


async def read_body(receive: Receive, deadline: Deadline[asyncio.Task[Any]]) -> bytes | None:
    """Read the whole body.

    Returns:
        The bytes, at most 4096; None where the caller went away.

    Raises:
        Refused: It is larger, or took longer to arrive.
    """
    task = cast("asyncio.Task[Any]", asyncio.current_task())
    deadline.enter(task)
    try:
        body = await _collect(receive)
    except asyncio.CancelledError:
        if deadline.leave(task):
            raise
        task.uncancel()
        detail = Texts(
            f"The body did not arrive within {deadline.seconds:g} seconds.",
            f"Тело запроса не пришло за {deadline.seconds:g} с.",
        )
        raise Refused("body_too_slow", detail, (b"connection", b"close")) from None
    finally:
        deadline.leave(task)
    return body


async def _collect(receive: Receive) -> bytes | None:
    body: bytes = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise Refused("body_too_large")
        if not message.get("more_body", False):
            return body


def parse_reserve(body: bytes) -> ReserveRequest:
    """Read the body of a reserve call.

    Raises:
        Refused: It is not an object of exactly these two fields, each once and each in its bounds.
    """
    try:
        request = reserve_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid_body", _fault_of(body, error)) from None
    # Both fields are there, so that with two colons in all nothing can be there twice.
    if body.count(b":") != 2:  # noqa: PLR2004
        json.loads(body, object_pairs_hook=_refuse_duplicates)
    return request


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            detail = Texts(f"`{name}` is there more than once.", f"`{name}` встречается дважды.")
            raise Refused("invalid_body", detail)


def _fault_of(body: bytes, error: Exception) -> Texts:
    """Say what is wrong with a body, where msgspec says it badly."""
    if not body:
        return Texts("The body is empty.", "Тело запроса пусто.")
    if isinstance(error, UnicodeDecodeError):
        return Texts("The body is not UTF-8.", "Тело запроса не в UTF-8.")
    if isinstance(error, RecursionError):
        return Texts("The body is nested too deeply.", "Вложенность тела слишком глубока.")
    if "matching regex" in str(error):
        return Texts(
            "`user_id` must not hold control characters (U+0000-001F, U+007F-009F).",
            "В `user_id` не должно быть управляющих символов (U+0000-001F, U+007F-009F).",
        )
    if not isinstance(error, msgspec.ValidationError) and _is_json(body):
        return Texts("A string holds a lone surrogate.", "В строке есть непарный суррогат.")
    return Texts(f"{error}.", f"{in_russian(str(error))}.")


def _is_json(body: bytes) -> bool:
    """Whether the standard library, which takes lone surrogates, can read it."""
    try:
        json.loads(body.decode(), parse_constant=int)  # NaN and its kin are no int: ValueError
    except (ValueError, RecursionError):
        return False
    return True


def fingerprint_of(headers: dict[bytes, bytes]) -> str:
    """The fingerprint of the ``Idempotency-Key``, empty without one."""
    key = headers.get(b"idempotency-key")
    if key is None:
        return ""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refused("invalid_idempotency_key")
    return blake2b(key, digest_size=8).hexdigest()


def id_of(scope: Scope, *, largest: int) -> int:
    """The id in the path: a decimal integer from 1 to ``largest``, written plainly."""
    text: str = scope["path_params"]["id"]
    if not _ID.fullmatch(text) or int(text) > largest:
        detail = Texts(
            f"An id is an integer from 1 to {largest}.",
            f"Идентификатор — целое число от 1 до {largest}.",
        )
        raise Refused("invalid_id", detail)
    return int(text)


def user_id_of(scope: Scope, prefix: bytes) -> str:
    """The user id that follows ``prefix`` in the path.

    Read from the raw path: the server's own decoding replaces what is not UTF-8 without a word.
    """
    try:
        text = unquote_to_bytes(scope["raw_path"].removeprefix(prefix)).decode()
        return msgspec.convert(text, UserId)
    except (UnicodeDecodeError, msgspec.ValidationError):
        raise Refused("invalid_user_id") from None
