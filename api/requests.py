"""What a request says, read with bounds and refused with a reason."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import parse_qsl, unquote_to_bytes

import msgspec

from api.problems import Refused, Texts
from api.reasons import in_russian
from api.schemas import (
    EventChange,
    NewEvent,
    ReserveRequest,
    UserId,
    event_change_decoder,
    new_event_decoder,
    reserve_decoder,
)
from engine import idempotency
from engine.model import MAX_EVENT_ID, MAX_USER_ID_LENGTH, Place

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from engine.deadline import Deadline

T = TypeVar("T")

MAX_BODY_BYTES = 4096
MAX_LIMIT = 100
DEFAULT_LIMIT = 20
_ID = re.compile(r"[1-9][0-9]{0,15}")
_LIMIT = re.compile(r"[1-9][0-9]{0,2}")
_EVENT_CURSOR = re.compile(r"0|[1-9][0-9]{0,9}")
_SHOWN = 100
_IDEMPOTENCY_KEY = re.compile(rb"[ -~]{1,255}")
# Possessive, here and in ``prefer``: whoever writes a header would else choose how long it is read.
_JSON_MEDIA_TYPE = re.compile(
    rb"application/json[ \t]*+"
    rb'(?:;[ \t]*+(?:charset="?utf-8"?|(?!charset=)[!-:<-~]++)?[ \t]*+)*+',
    re.IGNORECASE,
)
_NO_CHANGE = Texts("Give something to change.", "Укажите, что изменить.")
_NO_QUERY = Texts(
    "The query is not `name=value` pairs in UTF-8, joined by `&`.",
    "Параметры запроса — не пары `имя=значение` в UTF-8, соединённые `&`.",
)
_BAD_LIMIT = Texts(
    f"`limit` must be an integer from 1 to {MAX_LIMIT}.",
    f"`limit` должен быть целым числом от 1 до {MAX_LIMIT}.",
)
_NO_CURSOR = Texts(
    "`after` must be the `next` of an earlier answer.",
    "`after` должен быть `next` из прежнего ответа.",
)


def headers_of(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The headers by lower-case name; one that was sent twice is joined (RFC 9110, 5.3)."""
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
    task = cast("asyncio.Task[Any]", asyncio.current_task(deadline.loop))
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


def parse_new_event(body: bytes) -> NewEvent:
    """Read the body of a call that makes an event."""
    return _parse(new_event_decoder, body)


def parse_event_change(body: bytes) -> EventChange:
    """Read the body of a call that changes an event; it must change something."""
    change = _parse(event_change_decoder, body)
    if change == EventChange():
        raise Refused("invalid_body", _NO_CHANGE)
    return change


def _parse(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Read a body, each of its fields at most once."""
    try:
        parsed = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("invalid_body", _fault_of(body, error)) from None
    json.loads(body, object_pairs_hook=_refuse_duplicates)
    return parsed


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise Refused("invalid_body", _twice(name))


def _twice(name: str) -> Texts:
    return Texts(f"`{name}` is there more than once.", f"`{name}` встречается дважды.")


def _fault_of(body: bytes, error: Exception) -> Texts:
    """Say what is wrong with a body, where msgspec says it badly."""
    if not body:
        return Texts("The body is empty.", "Тело запроса пусто.")
    if not _is_utf8(body):
        return Texts("The body is not UTF-8.", "Тело запроса не в UTF-8.")
    if isinstance(error, RecursionError):
        return Texts("The body is nested too deeply.", "Вложенность тела слишком глубока.")
    if "matching regex" in str(error):
        field = str(error).rpartition("$.")[2].strip("`")
        return Texts(
            f"`{field}` must not hold control characters (U+0000-001F, U+007F-009F).",
            f"В `{field}` не должно быть управляющих символов (U+0000-001F, U+007F-009F).",
        )
    if not isinstance(error, msgspec.ValidationError) and _is_json(body):
        return Texts("A string holds a lone surrogate.", "В строке есть непарный суррогат.")
    return Texts(f"{error}.", f"{in_russian(str(error))}.")


def _is_utf8(body: bytes) -> bool:
    """Whether it is text. Each version of msgspec has its own way to say that it is not."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_json(body: bytes) -> bool:
    """Whether the standard library, which takes lone surrogates, can read it."""
    try:
        json.loads(body.decode(), parse_constant=int)  # NaN and its kin are no int: ValueError
    except (ValueError, RecursionError):
        return False
    return True


def fingerprint_of(headers: dict[bytes, bytes], caller: str) -> str:
    """What this caller's ``Idempotency-Key`` is known by, empty without one."""
    key = headers.get(b"idempotency-key")
    if key is None:
        return ""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Refused("invalid_idempotency_key")
    return idempotency.fingerprint_of(key, caller)


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


def user_id_of(scope: Scope, prefix: str, suffix: str = "") -> str:
    """The user id that stands between ``prefix`` and ``suffix`` in the path.

    From the raw path: the server's own decoding replaces what is not UTF-8 without a word.
    """
    try:
        path = unquote_to_bytes(scope["raw_path"]).decode()
        return msgspec.convert(path.removeprefix(prefix).removesuffix(suffix), UserId)
    except (UnicodeDecodeError, msgspec.ValidationError):
        raise Refused("invalid_user_id") from None


class Paging(NamedTuple):
    """Which part of a list is asked for: how many at most, and after which cursor."""

    limit: int = DEFAULT_LIMIT
    after: str | None = None

    @property
    def after_event(self) -> int:
        """The cursor of a list of events; 0 before the first."""
        if self.after is None:
            return 0
        if not _EVENT_CURSOR.fullmatch(self.after) or int(self.after) > MAX_EVENT_ID:
            raise _no_cursor()
        return int(self.after)

    @property
    def after_user(self) -> str:
        """The cursor of a list of an event's bookings; empty before the first."""
        if self.after is None:
            return ""
        # A hand may have made a user whom this API would not.
        if not 0 < len(self.after) <= MAX_USER_ID_LENGTH or "\0" in self.after:
            raise _no_cursor()
        return self.after

    @property
    def after_place(self) -> Place | None:
        """The cursor of a list of a user's bookings; None before the first."""
        if self.after is None:
            return None
        try:
            return Place.parse(self.after)
        except ValueError:
            raise _no_cursor() from None


def paging_of(scope: Scope) -> Paging:
    """The query of a list: ``limit`` and ``after``, each at most once, and nothing else."""
    query: bytes = scope["query_string"]
    if not query:
        return Paging()
    try:
        pairs = parse_qsl(
            query.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
        )
    except ValueError:
        raise Refused("invalid_query", _NO_QUERY) from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in ("limit", "after"):
            raise Refused("invalid_query", _unknown(name[:_SHOWN]))
        if name in given:
            raise Refused("invalid_query", _twice(name))
        given[name] = value
    limit = given.get("limit", str(DEFAULT_LIMIT))
    if not _LIMIT.fullmatch(limit) or int(limit) > MAX_LIMIT:
        raise Refused("invalid_query", _BAD_LIMIT)
    return Paging(int(limit), given.get("after"))


def _unknown(name: str) -> Texts:
    return Texts(
        f"`{name}` is no parameter of this call: it takes `limit` and `after`.",
        f"У этого вызова нет параметра `{name}`: есть `limit` и `after`.",
    )


def _no_cursor() -> Refused:
    return Refused("invalid_query", _NO_CURSOR)
