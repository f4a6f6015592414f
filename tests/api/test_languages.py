"""Each caller reads why in his own language, if it is one of ours."""

from __future__ import annotations

import re

import pytest

from api.languages import Language, chosen
from api.problems import BARE, PROBLEMS
from api.reasons import in_russian
from api.requests import Refused, parse_reserve
from tests.api.doubles import over
from tests.api.test_malformed import BODIES, JSON, RESERVE

CYRILLIC = re.compile("[\u0430-\u044f\u0410-\u042f]")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        (b"", "en"),
        (b"ru", "ru"),
        (b"RU-ru", "ru"),
        (b"en", "en"),
        (b"ru-RU,ru;q=0.9,en-US;q=0.8,en;q=0.7", "ru"),
        (b"en-GB,en;q=0.9,ru;q=0.8", "en"),
        (b"en;q=0.5, ru;q=0.7", "ru"),
        (b"ru;q=0.7,en;q=0.5", "ru"),
        (b"ru, en", "ru"),
        (b"en, ru", "en"),
        (b"de, fr;q=0.9", "en"),
        (b"de, ru;q=0.1", "ru"),
        (b"*", "en"),
        (b"*;q=0.5, ru;q=0.4", "en"),
        (b"en;q=0, *", "ru"),
        (b"ru;q=0", "en"),
        (b"en;q=0, ru;q=0", "en"),
        (b"en;q=0.1, ru ; q = 0.2", "ru"),
        (b"ru;q=1.000, en;q=0.999", "ru"),
        (b"ru;q=2, en;q=0.1", "en"),
        (b"ru;q=0.0001, en;q=0.1", "en"),
        (b"ru;q=high, en", "en"),
        (b"ru;level=1", "en"),
        (b"russian", "en"),
        (b"r\xff, en", "en"),
        (b",,ru,,", "ru"),
        (b"en, " * 100 + b"ru;q=1", "en"),
    ],
)
def test_chosen(header: bytes | None, language: str) -> None:
    """The weights decide, then the order; what cannot be read is ignored; English is the rest."""
    assert chosen(header) == language


@pytest.mark.parametrize("code", PROBLEMS)
@pytest.mark.parametrize("language", Language)
def test_an_answer_says_its_language(code: str, language: Language) -> None:
    """And that another one would be answered to others."""
    headers = dict(BARE[language][code].headers)
    assert headers[b"content-language"] == language.encode()
    assert headers[b"vary"] == b"accept-language"


@pytest.mark.parametrize("kind", BODIES)
def test_what_is_wrong_with_a_body(kind: str) -> None:
    """Each fault that msgspec finds is said in Russian; none is left in English."""
    body = re.sub(rb"(?<![A-Za-z_])E(?![A-Z_])", b"1", BODIES[kind])
    with pytest.raises(Refused) as refused:
        parse_reserve(body)
    assert refused.value.detail
    english, russian = refused.value.detail
    assert CYRILLIC.search(russian)
    words = re.sub(r"`[^`]*`", "", russian)
    assert set(re.findall("[A-Za-z]{2,}", words)) <= {"JSON", "UTF", "Unicode", "FFF"}
    assert english.endswith(".")
    assert russian.endswith(".")
    assert english != russian


def test_a_sentence_that_is_not_known() -> None:
    """Is better left in English than not said."""
    assert in_russian("Something new") == "Something new"


@pytest.mark.parametrize(
    ("method", "path", "russian"),
    [
        ("GET", "/nothing", "По этому пути ничего нет."),
        ("PUT", "/health", "Этот путь не принимает такого метода: см. Allow."),
        ("GET", "/api/events/0", "Идентификатор — целое число от 1 до 2147483647."),
        ("GET", "/metrics/%00", PROBLEMS["invalid_user_id"].detail.ru),
        ("POST", RESERVE, PROBLEMS["unsupported_media_type"].detail.ru),
    ],
)
async def test_http(method: str, path: str, russian: str) -> None:
    """The detail and the title follow ``Accept-Language``; ``error`` is Russian in any case."""
    async with over(None) as client:
        asked = [
            await client.request(method, path, headers={"accept-language": language})
            for language in ("ru-RU, en;q=0.5", "en")
        ]
    in_ru, in_en = (answer.json() for answer in asked)
    assert [answer.headers["content-language"] for answer in asked] == ["ru", "en"]
    assert in_ru["detail"] == russian
    assert not CYRILLIC.search(in_en["detail"] + in_en["title"])
    assert in_ru["title"] == in_ru["error"] == in_en["error"]
    assert in_ru["code"] == in_en["code"]


async def test_two_headers() -> None:
    """One that was sent in parts is read as one."""
    headers = [("accept-language", "en;q=0.5"), ("accept-language", "ru"), *JSON.items()]
    async with over(None) as client:
        answer = await client.post(RESERVE, content=b"{}", headers=headers)
    assert answer.headers["content-language"] == "ru"
    assert answer.json()["detail"] == "Нет обязательного поля `event_id`."
