"""The express way of the one hot call: a booking that asks for nothing unusual.

Neither a task nor an ASGI call is made for it. The request itself stands in line: for its caller's
rate limit, for Redis, for the ledger (``engine/attempt.py``). It is read, checked and answered by
the functions of the call in ``api/routes.py``; what it comes to is the same.

Whatever is not plain is served by the application. What was learned by then goes with it in the
scope: ``caller``, who must not become a stranger while he waits for what he was let in to do;
``allowance``, if the request was counted against a limit; and ``outcome``, if something has come of
it: a reservation, or a failure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from api.auth import check_user, identify, permit
from api.middleware import limited_by, limits_of
from api.requests import MAX_BODY_BYTES, check_media, headers_of, parse_reserve
from api.routes import RESERVE, answer_of, wait_of
from engine.attempt import Attempt
from engine.errors import Dirty, Fenced
from engine.model import Status
from engine.permissions import Permission

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from api.answers import Header
    from api.auth import Caller, Verifier
    from api.protocol import Cycle
    from api.schemas import ReserveRequest
    from engine.engine import Engine
    from engine.limiter import Allowance
    from engine.model import Reservation

PLACE: Final = (b"POST", RESERVE.encode())
"""The method and the path of the call."""
_UNUSUAL: Final = frozenset((b"idempotency-key", b"x-request-id"))


class Express:
    """Takes plain bookings over."""

    def __init__(
        self,
        engine: Engine,
        app: ASGIApp,
        *,
        wait_ms: int,
        rate_limit: int = 0,
        verifier: Verifier | None = None,
    ) -> None:
        """Serve as ``app``, which was built with the same settings (``routes.build``)."""
        self.engine = engine
        self.app = app
        self.rate_limit = rate_limit
        self._limiter = engine.limiter if rate_limit else None
        self._wait_ms = wait_ms
        self._verifier = verifier

    def take(self, cycle: Cycle) -> bool:
        """Take a request over; False if it is not plain."""
        headers, body = headers_of(cycle.headers), cycle.whole_body
        if len(body) > MAX_BODY_BYTES or not _UNUSUAL.isdisjoint(headers):
            return False
        try:
            caller = identify(cycle.headers, self._verifier) if self._verifier else None
            if caller:
                permit(caller, Permission.RESERVE)
            check_media(headers)
            request = parse_reserve(body)
            check_user(caller, request.user_id)
            wait = wait_of(headers, self._wait_ms)
            passenger = Passenger(self, cycle, request, headers, wait, caller)
            if self._limiter:
                name = limited_by(caller, cycle.protocol.client)
                self._limiter.ask(name, passenger.allowed)
            else:
                passenger.board()
        except Exception:  # noqa: BLE001 - the application meets it as well, and says what it is
            return False
        return True


class Passenger(Attempt):
    """One request on its way."""

    __slots__ = ("_allowance", "_applied", "_caller", "_cycle", "_express", "_headers", "_request")

    def __init__(
        self,
        express: Express,
        cycle: Cycle,
        request: ReserveRequest,
        headers: dict[bytes, bytes],
        wait: tuple[int, tuple[Header, ...]],
        caller: Caller | None,
    ) -> None:
        wait_ms, self._applied = wait
        super().__init__(express.engine.waiters_of(request.event_id), wait_ms)
        self._express = express
        self._cycle = cycle
        self._request = request
        self._headers = headers
        self._caller = caller
        self._allowance: Allowance | None = None

    def board(self) -> None:
        """Stand in line for Redis.

        Raises:
            Fault: nothing was decided.
        """
        self._express.engine.attempt(self._request.event_id, self._request.user_id, self)

    def allowed(self, allowance: Allowance) -> None:
        """Go on, if the caller's limit allows it."""
        self._allowance = allowance
        if allowance.wait_ms:
            self._leave()
            return
        try:
            self.board()
        except Exception as error:  # noqa: BLE001 - who tells us has others to tell
            self._leave(error)

    def end(self, made: Reservation | None) -> None:
        """Answer."""
        if made is None or made.status is Status.REJECTED:
            self._leave(made)
            return
        try:
            is_answered = self._answer(made)
        except Exception as error:  # noqa: BLE001 - who tells us has others to tell
            self._leave(error)
            return
        if is_answered:
            del self._cycle  # the ledger's waiters keep us for as long as it is behind
        else:
            self._leave(made)

    def fail(self, error: Exception) -> None:
        """Have the application try again, or say that there is no answer."""
        self._leave(None if isinstance(error, Dirty | Fenced) else error)

    def _answer(self, made: Reservation) -> bool:
        answer = answer_of(made, self._request, self._headers, self._applied)
        allowance = self._allowance
        limits = limits_of(allowance, self._express.rate_limit) if allowance else ()
        return self._cycle.answer(answer, limits)

    def _leave(self, outcome: Reservation | Exception | None = None) -> None:
        """Have the application serve the request."""
        learned: dict[str, object] = {"allowance": self._allowance, "outcome": outcome}
        if self._caller:
            learned["caller"] = self._caller
        self._cycle.run(self._express.app, **learned)
        del self._cycle  # as in ``end``
