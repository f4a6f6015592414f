"""What a crowd shows to be let in: one service key for all, or a JWT for each."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import jwt

from engine.errors import Misconfigured
from engine.permissions import Permission

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.settings import Settings

GOOD_FOR_S: Final = 600


def tokens(settings: Settings, key: str) -> Callable[[str], str]:
    """The token of each user: the key, or where ``AUTH=jwt`` one that is signed for him.

    Raises:
        Misconfigured: only who has the private key could sign.
    """
    if settings.auth != "jwt":
        return lambda _user: key
    if not settings.jwt_secret:
        raise Misconfigured("AUTH=jwt: a crowd can sign its tokens with JWT_SECRET, not without")
    claims: dict[str, Any] = {"scope": f"{Permission.READ} {Permission.RESERVE}"}
    if settings.jwt_audience:
        claims["aud"] = settings.jwt_audience
    if settings.jwt_issuer:
        claims["iss"] = settings.jwt_issuer

    def signed(user: str) -> str:
        own = {**claims, "sub": user, "exp": time.time() + GOOD_FOR_S}
        return jwt.encode(own, settings.jwt_secret, "HS256")

    return signed
