"""Whether what the API answers is what its description says: stands around every API under test."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from openapi_schema_validator import OAS31Validator

from api import openapi

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    Json = dict[str, Any]

# Of HTTP itself: OpenAPI 3.1 says that the first is not to be described as a header.
UNDESCRIBED = {"content-type", "content-length"}


class Answered(NamedTuple):
    """An answer, whole."""

    status: int
    headers: dict[str, str]
    body: bytes


@cache
def document() -> Json:
    """The description, read as a stranger reads it."""
    read: Json = json.loads(openapi.document())
    return read


def validator(schema: Json) -> OAS31Validator:
    """A schema of the description, with what it refers to."""
    return OAS31Validator({**schema, "components": document()["components"]})


def followed(item: Json) -> Json:
    """What a reference stands for."""
    while "$ref" in item:
        _, *names = item["$ref"].split("/")
        item = document()
        for name in names:
            item = item[name]
    return item


def operation(method: str, path: str) -> Json | None:
    """The call that a request makes; None if there is none."""
    for template, calls in document()["paths"].items():
        pattern = re.sub(r"\\\{(\w+)\\\}", _segment, re.escape(template))
        if re.fullmatch(pattern, path):
            found: Json | None = calls.get(method.lower())
            return found
    return None


def _segment(name: re.Match[str]) -> str:
    return ".*" if name[1] == "user_id" else "[^/]+"


def codes(call: Json) -> set[str]:
    """Every code that a call says it may refuse with."""
    problems = (
        answer["content"]["application/problem+json"]
        for status, answer in call["responses"].items()
        if status >= "4"
    )
    return {code for each in problems for code in each["examples"]}


def check(call: Json, answered: Answered) -> None:
    """See that a call says that it gives this answer."""
    assert str(answered.status) in call["responses"], f"{answered.status} is not described"
    described = call["responses"][str(answered.status)]
    _check_headers(described["headers"], answered.headers)
    media_type = answered.headers["content-type"].partition(";")[0]
    assert media_type in described["content"]
    schema = described["content"][media_type]["schema"]
    if media_type.endswith("json"):
        validator(schema).validate(json.loads(answered.body))
    if media_type == "application/problem+json":
        assert json.loads(answered.body)["code"] in codes(call)


def _check_headers(described: Json, given: dict[str, str]) -> None:
    headers = {name.lower(): followed(header) for name, header in described.items()}
    assert set(given) - UNDESCRIBED <= set(headers), "a header is not described"
    assert {name for name, header in headers.items() if header.get("required")} <= set(given)
    for name, value in given.items():
        if name in headers:
            schema = headers[name]["schema"]
            validator(schema).validate(int(value) if schema["type"] == "integer" else value)


class Described:
    """An API that fails where it answers otherwise than it says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and look at the answer."""
        messages: list[Message] = []

        async def seen(message: Message) -> None:
            messages.append(message)
            await send(message)

        await self._app(scope, receive, seen)
        call = operation(scope["method"], scope["raw_path"].decode())
        if call and messages:
            pairs = messages[0]["headers"]
            headers = {name.decode(): value.decode() for name, value in pairs}
            assert len(headers) == len(pairs), "a header is there twice"
            body = b"".join(message["body"] for message in messages[1:])
            check(call, Answered(messages[0]["status"], headers, body))
