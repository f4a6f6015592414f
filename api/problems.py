"""Every no of this API: one table from a code to its HTTP status and its texts (RFC 9457).

``detail`` is for developers. ``error`` is what clients of the first system show to people, hence
Russian. A code is a promise: it is never renamed, and a new reason gets a new code.
"""

from __future__ import annotations

from typing import NamedTuple

from api.answers import Answer, Header, answer, encode, location
from engine.errors import Fault, LedgerAway, Overloaded, RedisAway

PROBLEM_JSON = b"application/problem+json"


class Problem(NamedTuple):
    """What a code means to HTTP and to people."""

    status: int
    title: str
    detail: str
    error: str
    retry_after_seconds: int | None = None


PROBLEMS: dict[str, Problem] = {
    # What the engine refuses: these codes are the refusals of ``engine.model.Word``.
    "sold_out": Problem(
        409,
        "Sold out",
        "No seat was left at this instant.",
        "Все места забронированы",  # noqa: RUF001  Russian
    ),
    "already_booked": Problem(
        409,
        "Already booked",
        "This user holds a seat of this event already: see booking_id.",
        "Вы уже забронировали место на это событие",
    ),
    "event_not_found": Problem(
        404, "Event not found", "There is no event with this id.", "Событие не найдено"
    ),
    "booking_not_found": Problem(
        404, "Booking not found", "There is no booking with this id.", "Бронирование не найдено"
    ),
    "below_booked": Problem(
        409,
        "Below what is booked",
        "The event has more bookings than it would have seats.",
        "Мест не может быть меньше, чем уже забронировано",
    ),
    # What has become of a booking that can be read no more: ``booking_`` and its status.
    "booking_cancelled": Problem(
        410, "Booking cancelled", "The seat was given back.", "Бронирование отменено"
    ),
    "booking_rejected": Problem(
        410, "Booking rejected", "The ledger refused this booking.", "Бронирование отклонено"
    ),
    "booking_lost": Problem(
        410,
        "Booking lost",
        "The booking was accepted, but Redis lost it before the ledger had it. Book again.",
        "Бронирование утрачено из-за сбоя, забронируйте место ещё раз",
    ),
    # What a caller got wrong.
    "invalid_body": Problem(
        400, "Invalid body", "The body is not what this call takes.", "Некорректное тело запроса"
    ),
    "invalid_id": Problem(
        400, "Invalid id", "The id in the path is not one.", "Некорректный идентификатор"
    ),
    "invalid_user_id": Problem(
        400,
        "Invalid user id",
        "A user id is 1 to 255 characters of UTF-8, none of them a control character.",
        "Некорректный идентификатор пользователя",
    ),
    "invalid_query": Problem(
        400,
        "Invalid query",
        "The query is not what this call takes.",
        "Некорректные параметры запроса",
    ),
    "invalid_content_length": Problem(
        400,
        "Invalid Content-Length",
        "Content-Length is not a number of bytes.",
        "Некорректный заголовок Content-Length",
    ),
    "invalid_idempotency_key": Problem(
        400,
        "Invalid Idempotency-Key",
        "Idempotency-Key takes 1 to 255 printable ASCII characters.",
        "Некорректный ключ идемпотентности",
    ),
    "not_found": Problem(404, "Not found", "Nothing is at this path.", "Страница не найдена"),
    "method_not_allowed": Problem(
        405,
        "Method not allowed",
        "This path does not take this method: see Allow.",
        "Метод не поддерживается",
    ),
    "body_too_slow": Problem(
        408,
        "Request timeout",
        "The body did not arrive in time.",
        "Время ожидания запроса истекло",
    ),
    "body_too_large": Problem(
        413, "Content too large", "The body is over 4096 bytes.", "Слишком большой запрос"
    ),
    "unsupported_media_type": Problem(
        415,
        "Unsupported media type",
        "Content-Type must be application/json, in UTF-8.",
        "Неподдерживаемый формат запроса",
    ),
    "unsupported_content_encoding": Problem(
        415,
        "Unsupported content encoding",
        "The body must be sent as it is, without a Content-Encoding.",
        "Неподдерживаемое сжатие запроса",
    ),
    "rate_limited": Problem(
        429,
        "Too many requests",
        "This caller has sent too many requests.",
        "Слишком много запросов, попробуйте позже",
        1,
    ),
    # What is broken, or at its bound.
    "internal_error": Problem(
        500, "Internal error", "This is a defect; it was logged.", "Внутренняя ошибка сервера"
    ),
    "overloaded": Problem(
        503,
        "Overloaded",
        "A queue is at its bound. Nothing was decided; try again.",
        "Сервис перегружен, попробуйте ещё раз",
        1,
    ),
    "redis_unavailable": Problem(
        503,
        "Redis is away",
        "Nothing was decided, or the answer was lost. To try again is safe.",
        "Сервис временно недоступен, попробуйте ещё раз",
        1,
    ),
    "ledger_unavailable": Problem(
        503,
        "The ledger is away",
        "Postgres was needed and does not answer. To try again is safe.",
        "Сервис временно недоступен, попробуйте ещё раз",
        1,
    ),
    "not_ready": Problem(
        503, "Not ready", "A part does not work: see parts.", "Сервис не готов к работе", 1
    ),
}


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(self, code: str, detail: str | None = None, *headers: Header) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.headers = headers


def problem(
    code: str,
    *headers: Header,
    detail: str | None = None,
    retry_after_seconds: int | None = None,
    **members: object,
) -> Answer:
    """Build the answer of a code; ``members`` are what it says beyond RFC 9457."""
    row = PROBLEMS[code]
    retry_after_seconds = retry_after_seconds or row.retry_after_seconds
    body = {
        "type": f"/problems/{code}",
        "title": row.title,
        "status": row.status,
        "detail": detail or row.detail,
        "code": code,
        "error": row.error,
        **members,
    }
    if retry_after_seconds is not None:
        headers = (*headers, (b"retry-after", b"%d" % retry_after_seconds))
    return answer(row.status, encode(body), *headers, media_type=PROBLEM_JSON)


BARE = {code: problem(code) for code in PROBLEMS}
"""Each problem without a detail of its own, built once: refusals are most of an on-sale."""

_ALREADY_BOOKED: bytes = BARE["already_booked"].body["body"].removesuffix(b"}")


def already_booked(booking_id: int) -> Answer:
    """The refusal that names the booking which the user holds."""
    return answer(
        PROBLEMS["already_booked"].status,
        b'%b,"booking_id":%d}' % (_ALREADY_BOOKED, booking_id),
        location(booking_id),
        media_type=PROBLEM_JSON,
    )


def refusal(refused: Refused) -> Answer:
    """The answer to a request that was refused."""
    if refused.detail is None:
        return BARE[refused.code]
    return problem(refused.code, *refused.headers, detail=refused.detail)


FAULTS: dict[type[Fault], str] = {
    RedisAway: "redis_unavailable",
    LedgerAway: "ledger_unavailable",
    Overloaded: "overloaded",
}


def code_of(error: Fault) -> str:
    """What a fault is called."""
    found = (code for kind, code in FAULTS.items() if isinstance(error, kind))
    return next(found, "internal_error")


def fault(error: Fault) -> Answer:
    """The answer when something the engine needs is away, or at its bound."""
    return BARE[code_of(error)]
