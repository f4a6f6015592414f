"""Who calls: a service by its key (``AUTH=token``), or a user by a JWT (``AUTH=jwt``).

A caller is found out once, in front of everything, and put into the ASGI scope. Whether he may do
what he asks is decided where the call is: the table of ``api/routes.py`` says what each takes.
With ``AUTH=none`` nothing of this is there.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import jwt
import msgspec

from api.problems import Refused, Texts
from api.schemas import UserId
from engine.errors import LedgerAway, Misconfigured
from engine.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from engine.engine import Engine
    from engine.service_keys import ServiceKeys
    from engine.settings import Settings

MAX_REMEMBERED: Final = 10_000
"""Tokens whose signatures need not be verified again."""

_UNREADABLE = Texts(
    "Authorization must be there once, as `Bearer` and a token.",
    "Заголовок Authorization должен быть один: `Bearer` и токен.",
)
_NO_KEY = Texts("This key is not known, or was revoked.", "Этот ключ неизвестен или был отозван.")
_NO_SUBJECT = Texts(
    "The token's `sub` is no user id, or its `scope` no string.",
    "В токене `sub` — не идентификатор пользователя или `scope` — не строка.",
)
_FAULTS_OF_A_TOKEN: Final = {
    jwt.ExpiredSignatureError: Texts("The token has expired.", "Срок действия токена истёк."),
    jwt.ImmatureSignatureError: Texts(
        "The token is not valid yet.", "Срок действия токена ещё не наступил."
    ),
    jwt.InvalidAudienceError: Texts(
        "The token is for another audience.", "Токен выдан для другого получателя."
    ),
    jwt.InvalidIssuerError: Texts(
        "The token is of another issuer.", "Токен выдан другим издателем."
    ),
    jwt.MissingRequiredClaimError: Texts(
        "The token lacks one of `exp`, `sub`, `aud`, `iss`.",
        "В токене нет чего-то из `exp`, `sub`, `aud`, `iss`.",
    ),
    jwt.InvalidSignatureError: Texts(
        "The token's signature is not right.", "Подпись токена неверна."
    ),
}
_UNREADABLE_TOKEN: Final = Texts(
    "This is no token that can be read.", "Такой токен нельзя прочитать."
)
_UNUSABLE: Final = (OSError, ValueError, KeyError, NotImplementedError, jwt.PyJWTError)
"""What comes of a key that is none; PyJWT leaves some of it to Python."""


class Caller(NamedTuple):
    """Somebody who calls."""

    name: str
    """Under which his calls are counted and his Idempotency-Keys are his; empty for a stranger,
    who is counted by his address."""
    permissions: frozenset[Permission]
    user_id: str | None = None
    """The only user for whom he may act; None for a service, which may for each."""
    code: str = "forbidden"
    """The problem that is the answer to what he may not."""
    detail: Texts | None = None


STRANGER: Final = Caller("", frozenset(), code="unauthorized")


class Verifier(Protocol):
    """Knows callers by their tokens."""

    def caller(self, token: bytes) -> Caller:
        """Who shows this token.

        Raises:
            Refused: nobody who is known.
            LedgerAway: it cannot be known now.
        """
        ...


class Keys:
    """Knows services by their keys."""

    def __init__(self, keys: ServiceKeys) -> None:
        self._keys = keys

    def caller(self, token: bytes) -> Caller:
        """See ``Verifier``."""
        key = self._keys.find(token)
        if key is None:
            raise Refused("unauthorized", _NO_KEY)
        return Caller(f"key {key.name}", key.permissions)


class Tokens:
    """Knows users by JWTs, and remembers those that it has verified until they expire."""

    def __init__(self, settings: Settings) -> None:
        """Read the key or keys that sign.

        Raises:
            Misconfigured: not exactly one is set, or it cannot be used.
        """
        self._key_of = _keys_of(settings)
        self._claims: dict[str, Any] = {
            "audience": settings.jwt_audience or None,
            "issuer": settings.jwt_issuer or None,
            "options": {"require": ["exp", "sub"]},
        }
        self._known: dict[bytes, tuple[Caller, int]] = {}

    def caller(self, token: bytes) -> Caller:
        """See ``Verifier``."""
        known = self._known.get(token)
        if known is not None and known[1] > time.time():
            return known[0]
        try:
            claims = self._claims_of(token)
        except jwt.PyJWTError as error:
            self._known.pop(token, None)
            raise Refused("unauthorized", _fault_of(error)) from None
        caller = _user(claims)
        if len(self._known) >= MAX_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[token] = caller, int(claims["exp"])
        return caller

    def _claims_of(self, token: bytes) -> dict[str, Any]:
        key = self._key_of(jwt.get_unverified_header(token))
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[key.algorithm_name], **self._claims
        )
        return claims


def check(settings: Settings) -> None:
    """See that callers can be known as the settings say.

    Raises:
        Misconfigured: they cannot; the message names the setting.
    """
    if settings.auth == "jwt":
        Tokens(settings)


def verifier(settings: Settings, engine: Engine) -> Verifier | None:
    """How this API knows its callers; None where it lets everybody in."""
    if settings.auth == "jwt":
        return Tokens(settings)
    return Keys(engine.service_keys) if engine.service_keys else None


class Identify:
    """Puts the caller into the scope. It refuses nobody: some calls are for everybody."""

    def __init__(self, app: ASGIApp, verifier: Verifier) -> None:
        self._app = app
        self._verifier = verifier

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; who is known already is not asked again."""
        if "caller" not in scope:
            scope["caller"] = identify(scope["headers"], self._verifier)
        await self._app(scope, receive, send)


def identify(headers: list[tuple[bytes, bytes]], verifier: Verifier) -> Caller:
    """Who has sent these headers; a stranger, if that cannot be known."""
    said = [value for name, value in headers if name == b"authorization"]
    if not said:
        return STRANGER
    scheme, _, token = said[0].partition(b" ")
    if len(said) > 1 or scheme.lower() != b"bearer" or not token:
        return STRANGER._replace(detail=_UNREADABLE)
    try:
        return verifier.caller(token.strip(b" "))
    except Refused as refused:
        return STRANGER._replace(detail=refused.detail)
    except LedgerAway:
        return STRANGER._replace(code="ledger_unavailable")


def permit(caller: Caller, permission: Permission) -> None:
    """Refuse a caller who may not do this."""
    if permission not in caller.permissions:
        raise Refused(caller.code, caller.detail)


def caller_of(scope: Scope) -> Caller | None:
    """Who calls; None where everybody is let in."""
    caller: Caller | None = scope.get("caller")
    return caller


def name_of(caller: Caller | None) -> str:
    """Under which name this caller is known; empty where everybody is let in."""
    return caller.name if caller else ""


def user_of(caller: Caller | None) -> str | None:
    """The only user for whom this caller may act; None if he may for each."""
    return caller.user_id if caller else None


def may_see(caller: Caller | None, user_id: str) -> bool:
    """Whether this caller may know of what this user has; what is nobody's, each may."""
    return not user_id or user_of(caller) in (None, user_id)


def check_user(caller: Caller | None, user_id: str) -> None:
    """Refuse a caller who acts for a user that he is not."""
    user = user_of(caller)
    if user is not None and user != user_id:
        raise Refused("forbidden")


def _fault_of(error: jwt.PyJWTError) -> Texts:
    kinds = _FAULTS_OF_A_TOKEN.items()
    return next((text for kind, text in kinds if isinstance(error, kind)), _UNREADABLE_TOKEN)


def _user(claims: dict[str, Any]) -> Caller:
    """The user of a verified token."""
    try:
        user = msgspec.convert(claims["sub"], UserId)
        scopes = msgspec.convert(claims.get("scope", ""), str).split()
        user.encode()
    except (msgspec.ValidationError, UnicodeEncodeError):
        raise Refused("unauthorized", _NO_SUBJECT) from None
    return Caller(f"user {user}", frozenset(p for p in Permission if p in scopes), user)


def _keys_of(settings: Settings) -> Callable[[dict[str, Any]], jwt.PyJWK]:
    """How the key that signed a token is found from its header."""
    found = {
        "JWT_SECRET": settings.jwt_secret,
        "JWT_PUBLIC_KEY_FILE": settings.jwt_public_key_file,
        "JWT_JWKS_FILE": settings.jwt_jwks_file,
    }
    named = {name: value for name, value in found.items() if value}
    if len(named) != 1:
        raise Misconfigured(f"AUTH=jwt needs exactly one of {', '.join(found)}")
    ((name, value),) = named.items()
    try:
        if name == "JWT_JWKS_FILE":
            return _by_id(jwt.PyJWKSet.from_dict(msgspec.json.decode(_read(value), type=dict)))
        key = _of_secret(value) if name == "JWT_SECRET" else _of_public_key(_read(value))
        _check(key)
    except _UNUSABLE as error:
        raise Misconfigured(f"{name}: {error}") from None
    return lambda _: key


def _by_id(keys: jwt.PyJWKSet) -> Callable[[dict[str, Any]], jwt.PyJWK]:
    """A set's key by the token's ``kid``; a token without one is the only key's of a set of one."""
    for key in keys.keys:
        _check(key)
    by_id = {key.key_id: key for key in keys.keys}
    only = keys.keys[0] if len(keys.keys) == 1 else None

    def key_of(header: dict[str, Any]) -> jwt.PyJWK:
        key = by_id.get(header["kid"]) if "kid" in header else only
        if key is None:
            raise jwt.InvalidSignatureError
        return key

    return key_of


def _check(key: jwt.PyJWK) -> None:
    """See that a key verifies, and cannot be guessed (RFC 7518, sections 3.2 and 3.3)."""
    if hasattr(key.key, "private_bytes"):
        raise ValueError("a private key: only who signs tokens should have it")
    if weakness := key.Algorithm.check_key_length(key.key):
        raise ValueError(weakness)


def _of_secret(secret: str) -> jwt.PyJWK:
    return jwt.PyJWK({"kty": "oct", "k": jwt.utils.base64url_encode(secret.encode()).decode()})


def _of_public_key(pem: str) -> jwt.PyJWK:
    rsa = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256)
    return jwt.PyJWK(rsa.to_jwk(rsa.prepare_key(pem), as_dict=True), algorithm="RS256")


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")
