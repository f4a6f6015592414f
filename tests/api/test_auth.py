"""Who may do what: services by their keys, users by JWTs, everybody where nobody is asked."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from httpx2 import ASGITransport, AsyncClient

from api import auth, routes
from api.auth import Caller, Keys, Tokens
from engine.engine import Engine
from engine.errors import LedgerAway, Misconfigured
from engine.model import Booking, Status
from engine.permissions import Permission
from engine.service_keys import ServiceKey
from engine.settings import Settings
from tests import world
from tests.api.conformance import Described, document
from tests.api.doubles import over

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from api.auth import Verifier
    from engine.service_keys import ServiceKeys
    from tests.world import Stores

    OpenEvent = Callable[..., Awaitable[int]]

SECRET = "s" * 32
RESERVE = "/api/bookings/reserve"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def _settings(**more: str) -> Settings:
    return Settings.model_validate({"auth": "jwt", **(more or {"jwt_secret": SECRET})})


def _token(key: Any = SECRET, algorithm: str = "HS256", kid: str | None = None, **more: Any) -> str:
    claims = {"sub": "ann", "exp": time.time() + 600, "scope": "read reserve", **more}
    left = {name: value for name, value in claims.items() if value is not None}
    headers = {"kid": kid} if kid else None
    return jwt.encode(left, key, algorithm, headers=headers)


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _pem() -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return RSA.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def _jwks() -> str:
    of_rsa = jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True)
    of_ec = jwt.algorithms.ECAlgorithm.to_jwk(EC.public_key(), as_dict=True)
    return json.dumps({"keys": [{**of_rsa, "kid": "r"}, {**of_ec, "kid": "e"}]})


def _private(form: str) -> str:
    """The key that signs, as a file that was taken for the public one's."""
    if form == "jwk":
        return json.dumps({"keys": [jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)]})
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return RSA.private_bytes(serialization.Encoding.PEM, pkcs8, plain).decode()


class TestKeys:
    """``AUTH=token``."""

    class Book:
        """Keys without a ledger."""

        def __init__(self, outcome: ServiceKey | Exception | None) -> None:
            self._outcome = outcome

        def find(self, _secret: bytes) -> ServiceKey | None:
            """See ``ServiceKeys``."""
            if isinstance(self._outcome, Exception):
                raise self._outcome
            return self._outcome

    def _keys(self, outcome: ServiceKey | Exception | None) -> Keys:
        return Keys(cast("ServiceKeys", self.Book(outcome)))

    async def test_known(self) -> None:
        """A key may do what its scopes say, for any user."""
        key = ServiceKey("box-office", frozenset({Permission.READ}))
        booking = Booking(1, 1, "ben", 0, Status.CONFIRMED)
        async with over(booking, verifier=self._keys(key)) as client:
            read = await client.get("/api/bookings/1", headers=_bearer("k"))
            cancelled = await client.delete("/api/bookings/1", headers=_bearer("k"))
        assert read.status_code == 200
        assert (cancelled.status_code, cancelled.json()["code"]) == (403, "forbidden")

    async def test_idempotency_keys(self, engine: Engine, open_event: OpenEvent) -> None:
        """Each service has its own, whoever it books for."""
        event_id, header = await open_event(2), {"idempotency-key": uuid4().hex}
        statuses = []
        for name, user in (("office", "ann"), ("web", "ben"), ("office", "ben"), ("web", "ben")):
            verifier = self._keys(ServiceKey(name, frozenset({Permission.RESERVE})))
            app = Described(routes.build(engine, wait_ms=5000, verifier=verifier))
            transport, headers = ASGITransport(app=app), {**_bearer("k"), **header}
            async with AsyncClient(transport=transport, base_url="http://onsale") as client:
                body = {"event_id": event_id, "user_id": user}
                answer = await client.post(RESERVE, json=body, headers=headers)
            statuses.append((answer.status_code, "idempotency-replayed" in answer.headers))
        assert statuses == [(201, False), (201, False), (422, False), (201, True)]

    async def test_unknown(self) -> None:
        """A key that is nobody's is 401, with how to do better."""
        async with over(None, verifier=self._keys(None)) as client:
            answer = await client.get("/api/events/1", headers=_bearer("k"))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "revoked" in answer.json()["detail"]

    async def test_not_read_yet(self) -> None:
        """Until the keys were read nobody is told that his is wrong: 503, and when to try again."""
        async with over(None, verifier=self._keys(LedgerAway("away"))) as client:
            answer = await client.get("/api/events/1", headers=_bearer("k"))
            health = await client.get("/health", headers=_bearer("k"))
        assert (answer.status_code, answer.json()["code"]) == (503, "ledger_unavailable")
        assert health.status_code == 200

    async def test_over_real_stores(self, settings: Settings, stores: Stores) -> None:
        """Made on the command line, used over HTTP, revoked, refused."""
        secured = settings.model_copy(update={"auth": "token"})
        engine = await Engine.open(secured)
        app = routes.build(engine, wait_ms=0, verifier=auth.verifier(secured, engine))
        name = uuid4().hex
        made = await asyncio.to_thread(stores.onsale, "keys", "create", name, "--scope", "read")
        transport = ASGITransport(app=Described(app))
        async with AsyncClient(transport=transport, base_url="http://onsale") as client:

            async def statuses() -> set[int]:
                sent = [_bearer(made.stdout.strip()), {}]
                return {(await client.get("/api/events/1", headers=h)).status_code for h in sent}

            async def let_in() -> bool:
                return 401 in await statuses() and bool({200, 404} & await statuses())

            async def shut_out() -> bool:
                return await statuses() == {401}

            await world.until(let_in, within_s=10)
            await asyncio.to_thread(stores.onsale, "keys", "revoke", name)
            await world.until(shut_out, within_s=10)
        await engine.close()


class TestTokens:
    """``AUTH=jwt``: what is a user's token, and what is not."""

    def test_secret(self) -> None:
        """HS256, with the user, what he may, and that he may it for himself alone."""
        caller = Tokens(_settings()).caller(_token().encode())
        assert caller == Caller("user ann", frozenset({"read", "reserve"}), "ann")

    @pytest.mark.parametrize(
        ("scope", "may"),
        [
            (None, set()),
            ("", set()),
            ("admin", {"admin"}),
            ("openid read  admin email", {"read", "admin"}),
            ("READ", set()),
        ],
    )
    def test_scopes(self, scope: str | None, may: set[str]) -> None:
        """Those that are ours count; others are somebody else's."""
        assert Tokens(_settings()).caller(_token(scope=scope).encode()).permissions == may

    def test_public_key(self, tmp_path: Path) -> None:
        """RS256, by a file."""
        (tmp_path / "key.pem").write_text(_pem())
        tokens = Tokens(_settings(jwt_public_key_file=str(tmp_path / "key.pem")))
        assert tokens.caller(_token(RSA, "RS256").encode()).user_id == "ann"

    def test_set_of_keys(self, tmp_path: Path) -> None:
        """A JWKS file: each token by the key that it names, each key with its own algorithm."""
        (tmp_path / "jwks.json").write_text(_jwks())
        tokens = Tokens(_settings(jwt_jwks_file=str(tmp_path / "jwks.json")))
        assert tokens.caller(_token(RSA, "RS256", "r").encode()).user_id == "ann"
        assert tokens.caller(_token(EC, "ES256", "e").encode()).user_id == "ann"
        for wrong in (_token(RSA, "RS256", "e"), _token(RSA, "RS256", "x"), _token(RSA, "RS256")):
            with pytest.raises(auth.Refused):
                tokens.caller(wrong.encode())

    def test_set_of_one(self, tmp_path: Path) -> None:
        """Nothing needs to be named where there is one key."""
        one = {"keys": json.loads(_jwks())["keys"][:1]}
        (tmp_path / "jwks.json").write_text(json.dumps(one))
        tokens = Tokens(_settings(jwt_jwks_file=str(tmp_path / "jwks.json")))
        assert tokens.caller(_token(RSA, "RS256").encode()).user_id == "ann"

    def test_the_public_key_is_no_secret(self, tmp_path: Path) -> None:
        """A token that says HS256 is not verified with the public key as its secret."""
        (tmp_path / "key.pem").write_text(_pem())
        tokens = Tokens(_settings(jwt_public_key_file=str(tmp_path / "key.pem")))
        head, claims, _ = _token().split(".")
        key = jwt.PyJWK({"kty": "oct", "k": base64.urlsafe_b64encode(_pem().encode()).decode()})
        mac = key.Algorithm.sign(f"{head}.{claims}".encode(), key.key)
        forged = f"{head}.{claims}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
        with pytest.raises(auth.Refused):
            tokens.caller(forged.encode())

    BAD: dict[str, Callable[[], str]] = {  # noqa: RUF012  a table
        "expired": lambda: _token(exp=time.time() - 1),
        "not yet": lambda: _token(nbf=time.time() + 600),
        "issued later": lambda: _token(iat=time.time() + 600),
        "no end": lambda: _token(exp=None),
        "end of text": lambda: _token(exp="never"),
        "nobody": lambda: _token(sub=None),
        "empty user": lambda: _token(sub=""),
        "long user": lambda: _token(sub="u" * 256),
        "user with a line feed": lambda: _token(sub="a\nb"),
        "user a surrogate": lambda: _token(sub="\ud800"),
        "scopes in a list": lambda: _token(scope=["read"]),
        "no audience": lambda: _token(aud=None, iss="us"),
        "other audience": lambda: _token(aud="them", iss="us"),
        "other issuer": lambda: _token(aud="onsale", iss="them"),
        "no issuer": lambda: _token(aud="onsale"),
        "other secret": lambda: _token("x" * 32),
        "other algorithm": lambda: _token("s" * 48, "HS384"),
        "no algorithm": lambda: _token(None, "none"),
        "no token": lambda: "abc",
        "two parts": lambda: "abc.def",
        "no JSON": lambda: "YWJj.YWJj.YWJj",
        "a deep header": lambda: base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".e30.YQ",
        "a critical header": lambda: jwt.encode(
            {"sub": "ann", "exp": time.time() + 9}, SECRET, headers={"crit": ["x"], "x": 1}
        ),
        "a kid that is a list": lambda: (
            base64.urlsafe_b64encode(b'{"alg":"HS256","kid":[1]}').decode().rstrip("=") + ".e30.YQ"
        ),
    }

    @pytest.mark.parametrize("kind", BAD)
    async def test_bad(self, kind: str) -> None:
        """What is not whole, not now, not for us, or not of whom we trust is 401 and says why."""
        named = {} if "audience" not in kind and "issuer" not in kind else {"jwt_issuer": "us"}
        audience = {"jwt_audience": "onsale"} if named else {}
        tokens = Tokens(_settings(jwt_secret=SECRET, **named, **audience))
        async with over(None, verifier=tokens) as client:
            answers = [
                await client.get(
                    "/api/events/1", headers={**_bearer(self.BAD[kind]()), "accept-language": said}
                )
                for said in ("en", "ru")
            ]
        assert [answer.status_code for answer in answers] == [401, 401]
        assert [answer.headers["www-authenticate"] for answer in answers] == ["Bearer", "Bearer"]
        english, russian = (answer.json()["detail"] for answer in answers)
        assert english.isascii()
        assert not russian.isascii()

    async def test_reasons(self) -> None:
        """The commonest are told apart."""
        reasons = {
            _token(exp=time.time() - 1): "expired",
            _token("x" * 32): "signature",
            _token(sub=None): "lacks",
            _token(aud="them"): "audience",
        }
        async with over(None, verifier=Tokens(_settings())) as client:
            for token, reason in reasons.items():
                answer = await client.get("/api/events/1", headers=_bearer(token))
                assert reason in answer.json()["detail"]

    def test_verified_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A token that was verified is remembered; so many are, and the oldest goes first."""
        monkeypatch.setattr(auth, "MAX_REMEMBERED", 2)
        verified: list[str] = []
        decode = jwt.decode

        def counted(token: bytes, *args: Any, **more: Any) -> Any:
            claims = decode(token, *args, **more)
            verified.append(claims["sub"])
            return claims

        monkeypatch.setattr(jwt, "decode", counted)
        tokens = Tokens(_settings())
        made = {user: _token(sub=user).encode() for user in ("ann", "ben", "cem")}
        for user in ("ann", "ann", "ben", "ann", "cem", "ben", "ann"):
            assert tokens.caller(made[user]).user_id == user
        assert verified == ["ann", "ben", "cem", "ann"]

    def test_good_for_ever(self) -> None:
        """An end beyond all time is one."""
        tokens, token = Tokens(_settings()), _token(exp=10**400).encode()
        assert tokens.caller(token) == tokens.caller(token)

    def test_remembered_until_it_expires(self) -> None:
        """What was verified is not believed a moment longer than it says."""
        tokens, token = Tokens(_settings()), _token(exp=int(time.time()) - 1).encode()
        tokens._known[token] = Caller("user ann", frozenset(), "ann"), int(time.time()) - 1  # noqa: SLF001
        with pytest.raises(auth.Refused):
            tokens.caller(token)
        assert token not in tokens._known  # noqa: SLF001


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"jwt_issuer": "us"}, "exactly one of JWT_SECRET"),
        ({"jwt_secret": SECRET, "jwt_jwks_file": "x"}, "exactly one of JWT_SECRET"),
        ({"jwt_secret": "short"}, "JWT_SECRET: The HMAC key is 5 bytes long"),
        ({"jwt_public_key_file": "/nowhere"}, "JWT_PUBLIC_KEY_FILE: .*No such file"),
        ({"jwt_public_key_file": __file__}, "JWT_PUBLIC_KEY_FILE: "),
        ({"jwt_jwks_file": "/nowhere"}, "JWT_JWKS_FILE: .*No such file"),
        ({"jwt_jwks_file": __file__}, "JWT_JWKS_FILE: "),
        ({"jwt_jwks_file": "[]"}, "JWT_JWKS_FILE: "),
        ({"jwt_jwks_file": '{"keys": []}'}, "JWT_JWKS_FILE: "),
        ({"jwt_jwks_file": '{"keys": 1}'}, "JWT_JWKS_FILE: "),
        ({"jwt_jwks_file": '{"keys": [{"kty": "oct"}]}'}, "JWT_JWKS_FILE: 'k'"),
        ({"jwt_jwks_file": '{"keys": [{"kty": "oct", "k": "YQ"}]}'}, "JWT_JWKS_FILE: .* is 1 byte"),
        ({"jwt_jwks_file": '{"keys": [{"kty": "oct", "k": "YQ", "alg": "none"}]}'}, "JWT_JWKS_FIL"),
        ({"jwt_jwks_file": _private("jwk")}, "JWT_JWKS_FILE: a private key"),
        ({"jwt_public_key_file": _private("pem")}, "JWT_PUBLIC_KEY_FILE: a private key"),
    ],
)
def test_settings_that_cannot_be(more: dict[str, str], reason: str, tmp_path: Path) -> None:
    """Start-up refuses, with the name of the setting."""
    for name, value in more.items():
        if value[0] in "[{-":
            (tmp_path / "keys").write_text(value)
            more = {name: str(tmp_path / "keys")}
    with pytest.raises(Misconfigured, match=reason):
        auth.check(_settings(**more))


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer a b")],
        [("authorization", "Basic YTpi")],
    ],
)
async def test_no_token(headers: list[tuple[str, str]]) -> None:
    """Nobody, or nobody who can be made out: 401."""
    async with over(None, verifier=Tokens(_settings())) as client:
        answer = await client.get("/api/events/1", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


async def test_two_tokens() -> None:
    """Two callers are nobody, though each alone would do."""
    twice = [("authorization", f"Bearer {_token(sub=user)}") for user in ("ann", "ben")]
    async with over(None, verifier=Tokens(_settings())) as client:
        assert (await client.get("/api/events/1", headers=twice)).status_code == 401
        assert (await client.get("/api/events/1", headers=twice[1:])).status_code == 404


async def test_any_case() -> None:
    """``bearer`` is no other word (RFC 9110, section 11.1)."""
    async with over(None, verifier=Tokens(_settings())) as client:
        headers = {"authorization": f"bEARER  {_token()}"}
        assert (await client.get("/api/events/1", headers=headers)).status_code == 404


class Everybody:
    """A verifier that knows each by what he may: the token is a scope."""

    def caller(self, token: bytes) -> Caller:
        """See ``Verifier``."""
        return Caller(f"key {token!r}", frozenset({Permission(token.decode())}))


@pytest.mark.parametrize("permission", Permission)
async def test_each_call_needs_its_own_scope(permission: Permission) -> None:
    """None of them stands for another one."""
    async with over(ZeroDivisionError(), verifier=cast("Verifier", Everybody())) as client:
        for path, calls in document()["paths"].items():
            for method, call in calls.items():
                real = path.replace("{id}", "1").replace("{user_id}", "ann")
                body = {"json": {"event_id": 1, "user_id": "ann"}} if method == "post" else {}
                answer = await client.request(method, real, headers=_bearer(permission), **body)
                needed = call["security"][0]["bearer"] if "security" in call else [permission]
                assert (answer.status_code == 403) == (needed != [permission]), path


async def test_open_to_all() -> None:
    """What says how the service is needs no token; nor does asking which methods there are."""
    async with over({"redis": "ok"}, verifier=Tokens(_settings())) as client:
        for path in ("/health", "/ready", "/docs", "/live", "/live.js", "/openapi.json"):
            assert (await client.get(path)).status_code == 200
        assert (await client.options("/api/events/1")).status_code == 204
        assert (await client.put("/api/events/1")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404


def test_a_call_without_a_word_on_its_callers() -> None:
    """It cannot be put into the table."""
    with pytest.raises(TypeError):
        routes.Resource(GET=routes.health)  # type: ignore[arg-type]


class TestUsers:
    """``AUTH=jwt``: each for himself, over real stores."""

    @asynccontextmanager
    async def _clients(self, engine: Engine) -> AsyncIterator[tuple[AsyncClient, AsyncClient]]:
        app = Described(routes.build(engine, wait_ms=5000, verifier=Tokens(_settings())))
        transport, url = ASGITransport(app=app), "http://onsale"
        async with (
            AsyncClient(transport=transport, base_url=url, headers=_bearer(_token())) as ann,
            AsyncClient(
                transport=transport, base_url=url, headers=_bearer(_token(sub="ben"))
            ) as ben,
        ):
            yield ann, ben

    async def test_reserve(self, engine: Engine, open_event: OpenEvent) -> None:
        """For oneself; for another user it is 403, and his seat is not taken."""
        event_id = await open_event(1)
        async with self._clients(engine) as (ann, ben):
            refused = await ben.post(RESERVE, json={"event_id": event_id, "user_id": "ann"})
            made = await ann.post(RESERVE, json={"event_id": event_id, "user_id": "ann"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert made.status_code == 201

    async def test_idempotency_keys(self, engine: Engine, open_event: OpenEvent) -> None:
        """Each has his own: another user's, spelled alike, stands for nothing of his."""
        event_id, key = await open_event(2), {"idempotency-key": uuid4().hex}
        async with self._clients(engine) as (ann, ben):
            for who, user in ((ann, "ann"), (ben, "ben")):
                body = {"event_id": event_id, "user_id": user}
                made = await who.post(RESERVE, json=body, headers=key)
                again = await who.post(RESERVE, json=body, headers=key)
                assert made.status_code == 201, made.text
                assert "idempotency-replayed" not in made.headers
                assert again.json() == made.json()

    async def test_somebody_elses(self, engine: Engine, open_event: OpenEvent) -> None:
        """It reads as if it were not there, and cannot be given back."""
        event_id = await open_event(1)
        async with self._clients(engine) as (ann, ben):
            made = await ann.post(RESERVE, json={"event_id": event_id, "user_id": "ann"})
            path = made.headers["location"]
            for answer in (await ben.get(path), await ben.delete(path)):
                assert (answer.status_code, answer.json()["code"]) == (404, "booking_not_found")
            assert (await ann.get(path)).json()["status"] == "confirmed"
            assert (await ann.delete(path)).status_code == 200
            assert (await ann.delete(path)).status_code == 200
            for answer in (await ben.get(path), await ben.delete(path)):
                assert answer.status_code == 404
            assert (await ann.get(path)).status_code == 410

    async def test_statistics(self, engine: Engine) -> None:
        """One's own."""
        async with self._clients(engine) as (ann, ben):
            assert (await ann.get("/metrics/ann")).status_code == 200
            assert (await ben.get("/metrics/ann")).status_code == 403

    async def test_bookings(self, engine: Engine) -> None:
        """One's own list."""
        async with self._clients(engine) as (ann, ben):
            assert (await ann.get("/api/users/ann/bookings")).status_code == 200
            refused = await ben.get("/api/users/ann/bookings")
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")

    async def test_a_lost_booking_is_nobodys(self) -> None:
        """Whose it was is not known; that it is lost is never a silent 404."""
        lost = Booking(1, 0, "", 0, Status.LOST)
        async with over(lost, verifier=Tokens(_settings())) as client:
            answer = await client.get("/api/bookings/1", headers=_bearer(_token()))
        assert (answer.status_code, answer.json()["code"]) == (410, "booking_lost")


async def test_without_auth_a_token_is_nothing() -> None:
    """Nobody looks at it."""
    async with over(None) as client:
        answer = await client.get("/api/events/1", headers=_bearer("rubbish"))
    assert answer.status_code == 404
