"""Every no of this API: one table from a code to its HTTP status and its texts (RFC 9457).

``detail`` is for developers, in the language that ``Accept-Language`` asks for. ``error`` is what
clients of the first system show to people, hence always Russian; it is also the title of an answer
in that language. A code is a promise: it is never renamed, and a new reason gets a new code.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

from api.answers import Answer, Header, answer, encode, location, rfc3339
from api.languages import Language
from engine.errors import Fault, LedgerAway, Overloaded, RedisAway

PROBLEM_JSON = b"application/problem+json"
_VARY: Header = (b"vary", b"accept-language")


class Texts(NamedTuple):
    """A sentence in each of our languages, in the order of ``Language``."""

    en: str
    ru: str

    def of(self, language: Language) -> str:
        """The sentence in a language."""
        return self.en if language is Language.EN else self.ru


class Problem(NamedTuple):
    """What a code means to HTTP and to people."""

    status: int
    title: str
    detail: Texts
    error: str
    retry_after_seconds: int | None = None
    headers: tuple[Header, ...] = ()


PROBLEMS: dict[str, Problem] = {
    # What the engine refuses: these codes are the refusals of ``engine.model.Word``.
    "sold_out": Problem(
        409,
        "Sold out",
        Texts(
            "No seat was left at this instant.",
            "В этот момент свободных мест не было.",
        ),
        "Все места забронированы",
    ),
    "not_open": Problem(
        409,
        "Not open yet",
        Texts(
            "The sale has not begun: see opens_at.",
            "Продажа ещё не началась: см. opens_at.",
        ),
        "Продажа ещё не началась",
    ),
    "closed": Problem(
        409,
        "Closed",
        Texts(
            "The sale has ended.",
            "Продажа закончилась.",
        ),
        "Продажа закончилась",
    ),
    "already_booked": Problem(
        409,
        "Already booked",
        Texts(
            "This user holds a seat of this event already: see booking_id.",
            "У этого пользователя уже есть место на это событие: см. booking_id.",
        ),
        "Вы уже забронировали место на это событие",
    ),
    "idempotency_key_reused": Problem(
        422,
        "Idempotency-Key reused",
        Texts(
            "This Idempotency-Key was sent with another request: take a new one.",
            "Этот Idempotency-Key уже был у другого запроса: возьмите новый.",
        ),
        "Ключ идемпотентности уже использован для другого запроса",
    ),
    "event_not_found": Problem(
        404,
        "Event not found",
        Texts(
            "There is no event with this id.",
            "События с таким идентификатором нет.",
        ),
        "Событие не найдено",
    ),
    "booking_not_found": Problem(
        404,
        "Booking not found",
        Texts(
            "There is no booking with this id.",
            "Бронирования с таким идентификатором нет.",
        ),
        "Бронирование не найдено",
    ),
    "below_booked": Problem(
        409,
        "Below what is booked",
        Texts(
            "The event has more bookings than it would have seats.",
            "Бронирований у события больше, чем стало бы мест.",
        ),
        "Мест не может быть меньше, чем уже забронировано",
    ),
    "invalid_window": Problem(
        409,
        "Invalid window",
        Texts(
            "The sale would close before it opens.",
            "Продажа закончилась бы раньше, чем началась.",
        ),
        "Продажа не может закончиться раньше, чем начнётся",
    ),
    # What has become of a booking that can be read no more: ``booking_`` and its status.
    "booking_cancelled": Problem(
        410,
        "Booking cancelled",
        Texts(
            "The seat was given back.",
            "Место было возвращено.",
        ),
        "Бронирование отменено",
    ),
    "booking_rejected": Problem(
        410,
        "Booking rejected",
        Texts(
            "The ledger refused this booking.",
            "Реестр отклонил это бронирование.",
        ),
        "Бронирование отклонено",
    ),
    "booking_lost": Problem(
        410,
        "Booking lost",
        Texts(
            "The booking was accepted, but Redis lost it before the ledger had it. Book again.",
            "Бронирование было принято, но Redis утратил его прежде, чем о нём узнал реестр. "
            "Забронируйте снова.",
        ),
        "Бронирование утрачено из-за сбоя, забронируйте место ещё раз",
    ),
    # What a caller got wrong.
    "invalid_body": Problem(
        400,
        "Invalid body",
        Texts(
            "The body is not what this call takes.",
            "Тело запроса не такое, какое принимает этот вызов.",
        ),
        "Некорректное тело запроса",
    ),
    "invalid_id": Problem(
        400,
        "Invalid id",
        Texts(
            "The id in the path is not one.",
            "Идентификатор в пути им не является.",
        ),
        "Некорректный идентификатор",
    ),
    "invalid_user_id": Problem(
        400,
        "Invalid user id",
        Texts(
            "A user id is 1 to 255 characters of UTF-8, none of them a control character.",
            "Идентификатор пользователя — от 1 до 255 символов UTF-8, без управляющих.",
        ),
        "Некорректный идентификатор пользователя",
    ),
    "invalid_query": Problem(
        400,
        "Invalid query",
        Texts(
            "The query is not what this call takes.",
            "Параметры запроса не такие, какие принимает этот вызов.",
        ),
        "Некорректные параметры запроса",
    ),
    "invalid_content_length": Problem(
        400,
        "Invalid Content-Length",
        Texts(
            "Content-Length is not a number of bytes.",
            "Content-Length — не число байтов.",
        ),
        "Некорректный заголовок Content-Length",
    ),
    "invalid_idempotency_key": Problem(
        400,
        "Invalid Idempotency-Key",
        Texts(
            "Idempotency-Key takes 1 to 255 printable ASCII characters.",
            "Idempotency-Key — от 1 до 255 печатных символов ASCII.",
        ),
        "Некорректный ключ идемпотентности",
    ),
    "not_found": Problem(
        404,
        "Not found",
        Texts(
            "Nothing is at this path.",
            "По этому пути ничего нет.",
        ),
        "Страница не найдена",
    ),
    "method_not_allowed": Problem(
        405,
        "Method not allowed",
        Texts(
            "This path does not take this method: see Allow.",
            "Этот путь не принимает такого метода: см. Allow.",
        ),
        "Метод не поддерживается",
    ),
    "body_too_slow": Problem(
        408,
        "Request timeout",
        Texts(
            "The body did not arrive in time.",
            "Тело запроса не пришло вовремя.",
        ),
        "Время ожидания запроса истекло",
    ),
    "body_too_large": Problem(
        413,
        "Content too large",
        Texts(
            "The body is over 4096 bytes.",
            "Тело запроса больше 4096 байтов.",
        ),
        "Слишком большой запрос",
    ),
    "unsupported_media_type": Problem(
        415,
        "Unsupported media type",
        Texts(
            "Content-Type must be application/json, in UTF-8.",
            "Content-Type должен быть application/json, в UTF-8.",
        ),
        "Неподдерживаемый формат запроса",
    ),
    "unsupported_content_encoding": Problem(
        415,
        "Unsupported content encoding",
        Texts(
            "The body must be sent as it is, without a Content-Encoding.",
            "Тело запроса посылают как есть, без Content-Encoding.",
        ),
        "Неподдерживаемое сжатие запроса",
    ),
    "rate_limited": Problem(
        429,
        "Too many requests",
        Texts(
            "This caller has sent too many requests.",
            "От этого клиента пришло слишком много запросов.",
        ),
        "Слишком много запросов, попробуйте позже",
        1,
    ),
    "unauthorized": Problem(
        401,
        "Unauthorized",
        Texts(
            "This call needs `Authorization: Bearer` and a token.",
            "Этому вызову нужен заголовок `Authorization: Bearer` с токеном.",
        ),
        "Требуется авторизация",
        headers=((b"www-authenticate", b"Bearer"),),
    ),
    "forbidden": Problem(
        403,
        "Forbidden",
        Texts(
            "The token is not for this call, or not for this user.",
            "Токен не для этого вызова или не для этого пользователя.",
        ),
        "Недостаточно прав",
    ),
    # What is broken, or at its bound.
    "internal_error": Problem(
        500,
        "Internal error",
        Texts(
            "This is a defect; it was logged.",
            "Это дефект; он записан в журнал.",
        ),
        "Внутренняя ошибка сервера",
    ),
    "overloaded": Problem(
        503,
        "Overloaded",
        Texts(
            "A queue is at its bound. Nothing was decided; try again.",
            "Очередь заполнена. Ничего не решено; повторите запрос.",
        ),
        "Сервис перегружен, попробуйте ещё раз",
        1,
    ),
    "redis_unavailable": Problem(
        503,
        "Redis is away",
        Texts(
            "Nothing was decided, or the answer was lost. To try again is safe.",
            "Ничего не решено, или ответ потерян. Повторить запрос безопасно.",
        ),
        "Сервис временно недоступен, попробуйте ещё раз",
        1,
    ),
    "ledger_unavailable": Problem(
        503,
        "The ledger is away",
        Texts(
            "Postgres was needed and does not answer. To try again is safe.",
            "Нужен был Postgres, а он не отвечает. Повторить запрос безопасно.",
        ),
        "Сервис временно недоступен, попробуйте ещё раз",
        1,
    ),
    "not_ready": Problem(
        503,
        "Not ready",
        Texts(
            "A part does not work: see parts.",
            "Какая-то часть не работает: см. parts.",
        ),
        "Сервис не готов к работе",
        1,
    ),
}


class Refused(Exception):
    """A request that is answered with a problem."""

    def __init__(self, code: str, detail: Texts | None = None, *headers: Header) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.headers = headers


def problem(
    code: str,
    language: Language,
    *headers: Header,
    detail: Texts | None = None,
    retry_after_seconds: int | None = None,
    **members: object,
) -> Answer:
    """Build the answer of a code; ``members`` are what it says beyond RFC 9457."""
    row = PROBLEMS[code]
    retry_after_seconds = retry_after_seconds or row.retry_after_seconds
    body = {
        "type": f"/problems/{code}",
        "title": row.title if language is Language.EN else row.error,
        "status": row.status,
        "detail": (detail or row.detail).of(language),
        "code": code,
        "error": row.error,
        **members,
    }
    headers = (_content_language(language), _VARY, *row.headers, *headers)
    if retry_after_seconds is not None:
        headers = (*headers, (b"retry-after", b"%d" % retry_after_seconds))
    return answer(row.status, encode(body), *headers, media_type=PROBLEM_JSON)


def _content_language(language: Language) -> Header:
    return (b"content-language", language.encode())


BARE = {language: {code: problem(code, language) for code in PROBLEMS} for language in Language}
"""Each problem without a detail of its own, built once: refusals are most of an on-sale."""

_ALREADY_BOOKED: dict[Language, bytes] = {
    language: bare["already_booked"].body.removesuffix(b"}") for language, bare in BARE.items()
}


def already_booked(booking_id: int, language: Language) -> Answer:
    """The refusal that names the booking which the user holds."""
    return answer(
        PROBLEMS["already_booked"].status,
        b'%b,"booking_id":%d}' % (_ALREADY_BOOKED[language], booking_id),
        _content_language(language),
        _VARY,
        location(booking_id),
        media_type=PROBLEM_JSON,
    )


def not_open(opens_ms: int, language: Language) -> Answer:
    """The refusal that says when the sale begins."""
    seconds = max(1, math.ceil(opens_ms / 1000 - time.time()))
    return problem("not_open", language, retry_after_seconds=seconds, opens_at=rfc3339(opens_ms))


def refusal(refused: Refused, language: Language) -> Answer:
    """The answer to a request that was refused."""
    if refused.detail is None:
        return BARE[language][refused.code]
    return problem(refused.code, language, *refused.headers, detail=refused.detail)


FAULTS: dict[type[Fault], str] = {
    RedisAway: "redis_unavailable",
    LedgerAway: "ledger_unavailable",
    Overloaded: "overloaded",
}


def code_of(error: Fault) -> str:
    """What a fault is called."""
    found = (code for kind, code in FAULTS.items() if isinstance(error, kind))
    return next(found, "internal_error")


def fault(error: Fault, language: Language) -> Answer:
    """The answer when something the engine needs is away, or at its bound."""
    return BARE[language][code_of(error)]
