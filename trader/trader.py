"""The trader: claims queued orders, reserves their funds, sends them, settles what comes back.

Every order takes the same four steps, and power may be cut between any two of them:

1. one transaction: claim, judge, hold the funds, note what will be sent and when (`claim`);
2. no transaction: call the venue (`send`);
3. one transaction: write what the answer proves (`settle.py`);
4. an answer that proves nothing leaves the order in doubt: evidence settles it (`recovery.py`).

Starting is the same as recovering: the loops below first find what an earlier trader left behind.
"""

import asyncio
import gc
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import groupby
from uuid import UUID

from psycopg.errors import DataError, IntegrityError, LockNotAvailable, UniqueViolation

from trader import balance, order, risk
from trader.db import LOST_CONNECTION, Connection, Pool, end_if_cancelled, first_line, retrying
from trader.errors import ExchangeError, Fatal, Refused, Retry, Unknown
from trader.evidence import Traces
from trader.exchange.protocol import Exchange
from trader.gate import Gate
from trader.market_quote import QuoteCache
from trader.order import Claimed, Outcome, Queued
from trader.risk import NO_LIMITS, Limits
from trader.settle import dispute, note_unreadable, settle
from trader.sizing import Denial, Placement, needs_quote, size

log = logging.getLogger("trader")

Submit = Callable[[Connection, Sequence[tuple[Queued, Placement]], int], Awaitable[list[Claimed]]]

LANES_PER_CLAIM = 32
ORDERS_PER_LANE = 8
CLAIMED_AT_ONCE = 160
"""No further claim while so many orders wait for their send: what is claimed and waits outgrows its time stamp."""
UNSETTLED_AT_ONCE = 640
"""No further claim while so many are claimed and not settled: after a crash each of them is looked up."""
SENDS_AT_ONCE = 32
"""Calls in flight at one venue; the orders of one strategy go one after the other."""
LEASE = timedelta(seconds=30)
OUTCOMES_PER_SETTLE = 200
GATHER_SECONDS = 0.02
"""Before settling, while more answers are to come: so that they are settled together. A single order does not wait."""
UNREADABLE = (DataError, IntegrityError, UnicodeError)
"""How a fact fails that no row can hold: a quantity of zero, an order number with a NUL in it, half a character."""
IMPATIENT = "SET LOCAL lock_timeout = '2s'"
"""For what is read again anyway: somebody's open transaction on one order must not hold up all the others."""
HELD_UP = "order %s: somebody's open transaction holds it, it is looked at again"
SETTLERS = 2
"""Transactions that settle at once, each for lanes of its own: one would leave a core of the database idle."""


@dataclass(slots=True)
class Desk:
    """What the loops of one trader share: its name, its database and its venues."""

    instance: UUID
    pool: Pool
    exchanges: dict[int, Exchange]
    """By account id. An account whose venue cannot be connected is not here, and none of its orders is claimed."""
    quotes: QuoteCache = field(default_factory=QuoteCache)
    in_doubt: dict[tuple[int, int], float] = field(default_factory=dict)
    """By (order, attempt): since when, on our own clock, we know that it is in doubt."""
    traces: Traces = field(default_factory=Traces)
    outcomes: "tuple[asyncio.Queue[Outcome], ...]" = field(
        default_factory=lambda: tuple(asyncio.Queue() for _ in range(SETTLERS))
    )
    """What became of sends, by settler. One has all of a lane's: a lane is not free before its orders are settled."""
    sending: defaultdict[int, asyncio.Semaphore] = field(
        default_factory=lambda: defaultdict(lambda: asyncio.Semaphore(SENDS_AT_ONCE))
    )
    """By account id: a venue that is slow holds up nobody else's."""
    gate: Gate = field(init=False)

    def __post_init__(self) -> None:
        self.gate = Gate(self.pool)


@dataclass(frozen=True, slots=True)
class Batch:
    """What one claim gave: orders to send, lane by lane, and markets whose price must be known first."""

    lanes: list[list[Claimed]]
    wanted: set[tuple[int, str]]


async def claim(desk: Desk) -> Batch:
    """Claim a batch: one transaction after which every order in it is denied, or submitted with its funds held."""
    try:
        return await retrying(partial(_claim_by, desk, order.submit))
    except UNREADABLE as error:  # of one of them, and it must not stop all others
        log.warning("a claim was refused, its orders are submitted one by one: %s", first_line(error))
        return await retrying(partial(_claim_by, desk, submit_singly))


async def _claim_by(desk: Desk, submit: Submit) -> Batch:
    async with desk.pool.connection() as connection, connection.transaction():
        return await _claim(connection, desk, submit)


async def _claim(connection: Connection, desk: Desk, submit: Submit) -> Batch:
    lanes = await order.claim_lanes(connection, desk.exchanges.keys(), LANES_PER_CLAIM)
    if not lanes:
        return Batch([], set())
    fence, limited = await order.claim_fence(connection)
    locked, held_up = await risk.lock(connection, lanes) if limited else ([], set())
    free = [strategy for strategy in lanes if strategy not in held_up]
    queued = await order.take_heads(connection, free, ORDERS_PER_LANE)
    allowances = await balance.allowances(connection, free)
    limits = await risk.read(connection, locked, queued) if locked else NO_LIMITS
    placements, denials, wanted = judge(queued, allowances, desk.quotes, limits)
    await order.deny(connection, denials)
    claimed = await submit(connection, placements, fence)
    if locked:
        await risk.note(connection, locked)
    by_lane = [list(group) for _, group in groupby(claimed, key=lambda one: one.strategy_id)]
    busy = [group[0].strategy_id for group in by_lane]
    await order.lease_lanes(connection, lanes, busy, desk.instance, fence, LEASE)
    return Batch(by_lane, wanted)


async def submit_singly(
    connection: Connection, placements: Sequence[tuple[Queued, Placement]], fence: int
) -> list[Claimed]:
    """Submit orders one by one. One that the database refuses is denied in its words; the others go on."""
    claimed: list[Claimed] = []
    for queued, placement in placements:
        try:
            async with connection.transaction():
                claimed += await order.submit(connection, [(queued, placement)], fence)
        except UNREADABLE as error:
            await order.deny(connection, [(queued.id, Denial(f"it cannot be placed: {first_line(error)}"))])
    return claimed


def judge(
    queued: Sequence[Queued], allowances: balance.Allowances, quotes: QuoteCache, limits: Limits = NO_LIMITS
) -> tuple[list[tuple[Queued, Placement]], list[tuple[int, Denial]], set[tuple[int, str]]]:
    """Decide each order in turn. An order that needs a price nobody has asked for yet holds up its lane until then."""
    placements: list[tuple[Queued, Placement]] = []
    denials: list[tuple[int, Denial]] = []
    wanted: set[tuple[int, str]] = set()
    waiting: set[int] = set()
    for one in queued:
        if one.strategy_id in waiting:
            continue
        try:
            decision = _decide(one, allowances, quotes, limits)
        except ArithmeticError:  # one market's rules, as somebody wrote them, must not end a trader
            decision = Denial(f"it cannot be sized: the rules of {one.rules.symbol} give it too many digits")
        if decision is None:
            wanted.add((one.account_id, one.rules.symbol))
            waiting.add(one.strategy_id)
        elif isinstance(decision, Denial):
            denials.append((one.id, decision))
        else:
            placements.append((one, decision))
            allowances.reserve(one.strategy_id, decision.hold_asset_id, decision.hold_quantity)
    return placements, denials, wanted


def _decide(
    one: Queued, allowances: balance.Allowances, quotes: QuoteCache, limits: Limits
) -> Placement | Denial | None:
    if one.halted:
        return Denial(f"account {one.account} is halted")
    if one.reducing and one.intent.side == "buy":
        return Denial(f"account {one.account} is reducing: only sells are sent")
    if one.intent.expires_at is not None and one.intent.expires_at < one.now:
        return Denial(f"stale: it expired at {one.intent.expires_at:%Y-%m-%d %H:%M:%S} UTC, before a trader saw it")
    priced = needs_quote(one.intent) or limits.need_quote(one)
    quote = quotes.fresh(one.account_id, one.rules.symbol) if priced else None
    if quote is None and priced:
        return None
    asset_id = one.rules.quote_id if one.intent.side == "buy" else one.rules.base_id
    decision = size(one.intent, one.rules, allowances.free(one.strategy_id, asset_id), quote)
    return decision if isinstance(decision, Denial) else limits.admit(one, decision, quote) or decision


async def send_lane(desk: Desk, lane: Sequence[Claimed]) -> None:
    """Send the orders of one lane in turn; the last one frees the lane."""
    started = asyncio.get_running_loop().time()
    for claimed in lane:
        if asyncio.get_running_loop().time() - started > LEASE.total_seconds() / 2:
            outcome = _never_sent(claimed, "the venue was too slow for the whole batch", 0)
        else:
            outcome = await send(desk, claimed)
        frees = (claimed.strategy_id, claimed.fence) if claimed is lane[-1] else None
        await desk.outcomes[claimed.strategy_id % SETTLERS].put(replace(outcome, frees_lane=frees))


async def send(desk: Desk, claimed: Claimed) -> Outcome:
    """Send one order, if it is still ours and nothing is halted, and say what its answer proves."""
    async with desk.sending[claimed.account_id]:
        ready = await desk.gate.ready(claimed)
        if ready == "halted":
            return Outcome(claimed.id, claimed.fence, "denied", reason="the account was halted before it was sent")
        if ready == "reducing":
            reason = "the account was set to reducing before it was sent"
            return Outcome(claimed.id, claimed.fence, "denied", reason=reason)
        if ready == "canceled":
            return Outcome(claimed.id, claimed.fence, "canceled", reason="canceled before it was sent")
        if ready == "fenced":
            return Outcome(claimed.id, claimed.fence, "never sent")  # not ours: settling writes nothing
        return await call_venue(desk.exchanges[claimed.account_id], ready)


async def call_venue(exchange: Exchange, claimed: Claimed) -> Outcome:
    """Place an order at the venue. Each kind of failure proves something else; only proof is written."""
    try:
        report = await exchange.create(claimed.request)
    except Refused as error:
        return Outcome(claimed.id, claimed.fence, "refused", reason=str(error))
    except Fatal as error:
        return Outcome(claimed.id, claimed.fence, "refused", reason=str(error), halts=True)
    except Retry as error:
        return _never_sent(claimed, str(error), error.after or 1.0)
    except Unknown as error:
        pause = 0 if error.exists else 0.5
        return Outcome(claimed.id, claimed.fence, "in doubt", reason=str(error), pause=pause, exists=error.exists)
    except ExchangeError as error:
        return Outcome(claimed.id, claimed.fence, "in doubt", reason=str(error))
    return Outcome(claimed.id, claimed.fence, "accepted", report=report)


def _never_sent(claimed: Claimed, reason: str, pause: float) -> Outcome:
    return Outcome(
        claimed.id, claimed.fence, "never sent", reason=f"not placed, will be sent again: {reason}", pause=pause
    )


class Trader:
    """The loops of one trader process. `run` ends when `stop` is set and everything in flight is settled."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.wake = asyncio.Event()
        """Set when orders were queued: claim now instead of at the next tick."""
        self.stop = asyncio.Event()
        self._lanes: set[asyncio.Task[None]] = set()
        self._unsettled = 0
        self._settling = 0

    async def run(self) -> None:
        """Claim and send until stopped. Raises if the database is lost: whoever starts next recovers."""
        gc.freeze()  # what was made before stays: modules, markets. Looking for garbage in it would only cost time.
        async with asyncio.TaskGroup() as group:
            settlers = [group.create_task(self._settle(outcomes)) for outcomes in self.desk.outcomes]
            while not self.stop.is_set():
                end_if_cancelled()
                if self._unsettled >= UNSETTLED_AT_ONCE or self._unsent() >= CLAIMED_AT_ONCE:
                    await self._pause()
                    continue
                batch = await claim(self.desk)
                for lane in batch.lanes:
                    self._unsettled += len(lane)
                    task = group.create_task(send_lane(self.desk, lane))
                    self._lanes.add(task)
                    task.add_done_callback(self._lanes.discard)
                if batch.wanted:
                    group.create_task(self._ask_prices(batch.wanted))
                if not batch.lanes:
                    await self._pause()
            if self._lanes:
                await asyncio.wait(self._lanes)
            for settler, outcomes in zip(settlers, self.desk.outcomes, strict=True):
                await outcomes.join()
                settler.cancel()

    def _unsent(self) -> int:
        """How many claimed orders wait for their send, or for its answer."""
        return self._unsettled - self._settling - sum(outcomes.qsize() for outcomes in self.desk.outcomes)

    async def _ask_prices(self, wanted: set[tuple[int, str]]) -> None:
        if await self.desk.quotes.refresh(self.desk.exchanges, wanted):
            self.wake.set()

    async def _pause(self, seconds: float = 0.25) -> None:
        """Until woken; at the latest after a tick, for lanes that another trader or a settle held for a moment."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wake.wait()
        self.wake.clear()

    async def _settle(self, outcomes: "asyncio.Queue[Outcome]") -> None:
        """Settle outcomes as they come, all that are there in one transaction."""
        while True:
            end_if_cancelled()
            batch = [await outcomes.get()]
            if self._unsent() > 1:
                await asyncio.sleep(GATHER_SECONDS)
            while not outcomes.empty() and len(batch) < OUTCOMES_PER_SETTLE:
                batch.append(outcomes.get_nowait())
            self._settling += len(batch)
            self.wake.set()  # others may be claimed meanwhile
            await settle_in_transaction(self.desk.pool, batch)
            self._settling -= len(batch)
            self._unsettled -= len(batch)
            for _ in batch:
                outcomes.task_done()
            self.wake.set()  # their lanes are free again


async def settle_in_transaction(pool: Pool, outcomes: Sequence[Outcome]) -> None:
    """Settle outcomes durably. A connection lost half-way is tried again: settling twice writes nothing twice.

    Raises LockNotAvailable if somebody holds one of the orders, and a poll or the stream alone told of them.
    """
    impatient = all(outcome.source in ("poll", "stream") for outcome in outcomes)

    async def work() -> None:
        async with pool.connection() as connection, connection.transaction():
            if impatient:
                await connection.execute(IMPATIENT)
            await settle(connection, outcomes)

    async def contradicted() -> None:
        async with pool.connection() as connection, connection.transaction():
            await dispute(connection, outcomes[0])

    for attempt in range(5):
        try:
            return await retrying(work)
        except UniqueViolation:
            if len(outcomes) == 1:
                return await retrying(contradicted)
            for outcome in outcomes:  # one of them contradicts what we know: the others are settled all the same
                await settle_in_transaction(pool, [outcome])
            return None
        except LOST_CONNECTION as error:  # a server that is out of space or memory says so in the same class
            if attempt == 4 or (impatient and isinstance(error, LockNotAvailable)):
                raise
            log.warning("settling failed, it is tried again: %s", first_line(error))
            await asyncio.sleep(0.2 * (attempt + 1))
    return None


async def tell_unreadable(pool: Pool, order_id: int, error: BaseException) -> None:
    """An order of which the venue says what no row can hold becomes an incident; all others go on."""
    async with pool.connection() as connection, connection.transaction():
        await note_unreadable(connection, order_id, first_line(error))
