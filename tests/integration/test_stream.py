"""What the venue's stream says, against orders in the database: what is settled, what is left alone, who wins races."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import pytest
from psycopg.rows import namedtuple_row

from tests.plugins.books import Books
from trader import migrate, recovery
from trader.db import Identity, Pool, connect, open_pool
from trader.errors import ConfigError, Unknown
from trader.exchange.protocol import Exchange, FillReport, OrderReport, OrderRequest
from trader.order import Outcome
from trader.stream import SILENT_AFTER, Stream, Streams, merged, settle_reports
from trader.trader import Desk, settle_in_transaction

TRADER = Identity("trader", "test")
LIMIT = {"type": "limit", "quantity": 1, "limit_price": 100}


@dataclass
class Venue:
    """The part of a venue that speaks by itself. `created` is what was placed there."""

    says: list[list[OrderReport] | Exception] = field(default_factory=list)
    streams: bool = True
    opened: int = 0
    closed: int = 0
    created: list[OrderRequest] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def executions(self) -> AsyncGenerator[list[OrderReport], None] | None:
        self.opened += 1
        return self._events() if self.streams else None

    async def _events(self) -> AsyncGenerator[list[OrderReport], None]:
        try:
            while self.says:
                one = self.says.pop(0)
                if isinstance(one, Exception):
                    raise one
                yield one
            self.told.set()
            await asyncio.Event().wait()
        finally:
            self.closed += 1
            self.ended.set()

    async def find(self, symbol: str, client_order_id: str) -> OrderReport | None:
        return None

    async def create(self, request: OrderRequest) -> OrderReport:
        self.created.append(request)
        raise Unknown("it was sent")


@pytest.fixture
def books(committed_books: Books) -> Books:
    committed_books.strategy(deposit=1000)
    return committed_books


@pytest.fixture
async def pool(books: Books) -> AsyncIterator[Pool]:
    async with open_pool(books.url, TRADER, 4) as opened:
        yield opened


def desk_of(pool: Pool, venue: Venue | None = None) -> Desk:
    return Desk(uuid4(), pool, {1: cast(Exchange, venue or Venue())})


def submitted(books: Books, **fields: Any) -> int:
    return books.submit(books.queue(**(LIMIT | fields)), 100)


def name_of(books: Books, order: int) -> str:
    return str(books.state(order).client_order_id)


def trade(number: str = "t1", quantity: str = "1", order: str = "v1") -> FillReport:
    now = datetime.now(UTC)
    return FillReport(number, order, "buy", Decimal(quantity), Decimal(100), Decimal(0), None, "maker", now)


def report(
    name: str | None, status: Any = "accepted", filled: str | None = "0", *fills: FillReport, number: str = "v1"
) -> OrderReport:
    quantity = None if filled is None else Decimal(filled)
    return OrderReport(number, name, "BTC/USDT", status, quantity, fills)


async def test_what_it_says_of_our_orders_is_settled(books: Books, pool: Pool) -> None:
    order = submitted(books)
    name = name_of(books, order)
    await settle_reports(desk_of(pool), 1, [report(name)])
    assert (books.state(order).status, books.state(order).venue_order_id) == ("accepted", "v1")
    await settle_reports(desk_of(pool), 1, [report(name, "filled", "1", trade())])
    assert books.state(order).status == "filled"
    assert [row.source for row in books.execute("SELECT source::text FROM fill")] == ["stream"]


async def test_the_last_state_counts_however_the_events_come(books: Books, pool: Pool) -> None:
    order = submitted(books)
    name = name_of(books, order)
    first, second = trade("t1", "0.4"), trade("t2", "0.6")
    events = [
        report(name, "filled", "1", second),
        report(name),
        report(name, "partially_filled", "0.4", first),
        report(name, "filled", "1", second),
    ]
    await settle_reports(desk_of(pool), 1, events)
    steps = books.execute("SELECT to_status::text AS s FROM order_event WHERE order_id = %s ORDER BY id", order)
    assert [row.s for row in steps] == ["queued", "submitted", "filled"]
    assert books.state(order).filled_quantity == 1


@pytest.mark.parametrize("status", ["filled", "canceled", "expired"])
async def test_an_end_that_does_not_say_how_much_was_filled_is_left_to_the_poll(
    books: Books, pool: Pool, status: str
) -> None:
    """Kraken's stream, as ccxt reads it, leaves the filled quantity out."""
    order = submitted(books)
    name = name_of(books, order)
    await settle_reports(desk_of(pool), 1, [report(name), report(name, status, None)])
    assert (books.state(order).status, books.state(order).venue_order_id) == ("accepted", "v1")
    await settle_reports(desk_of(pool), 1, [report(name, status, None, trade("t1", "0.4"))])
    assert (books.state(order).status, books.state(order).filled_quantity) == ("partially_filled", Decimal("0.4"))
    assert books.value("SELECT held FROM allowance WHERE asset = 'USDT'") == 60
    await settle_reports(desk_of(pool), 1, [report(name, "canceled", "0.4")])
    assert (books.state(order).status, books.state(order).filled_quantity) == ("canceled", Decimal("0.4"))


@pytest.mark.parametrize("bad", ["v\0", "v\udcff"], ids=["NUL", "half a character"])
async def test_what_no_row_can_hold_ends_nothing(
    books: Books, pool: Pool, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    order = submitted(books)
    name = name_of(books, order)
    await settle_reports(desk_of(pool), 1, [report(name, number=bad)])
    await settle_reports(desk_of(pool), 1, [report(name, "partially_filled", "0.4", trade(bad, "0.4"))])
    assert books.state(order).status == "submitted"
    said = [record.getMessage() for record in caplog.records]
    assert [one.startswith("what the stream said cannot be settled, the poll reads it again: ") for one in said] == [
        True,
        True,
    ]
    await settle_reports(desk_of(pool), 1, [report(name)])
    assert books.state(order).status == "accepted"


async def test_an_end_with_fills_missing_is_none_yet(books: Books, pool: Pool) -> None:
    order = submitted(books)
    name = name_of(books, order)
    await settle_reports(desk_of(pool), 1, [report(name, "filled", "1", trade("t2", "0.6"))])
    assert books.state(order).status == "partially_filled"
    await settle_reports(desk_of(pool), 1, [report(name, "partially_filled", "0.4", trade("t1", "0.4"))])
    assert books.state(order).filled_quantity == 1
    await settle_reports(desk_of(pool), 1, [report(name, "filled", "1")])
    assert books.state(order).status == "filled"


async def test_an_execution_alone_is_found_by_the_venues_number(books: Books, pool: Pool) -> None:
    order = submitted(books)
    await settle_reports(desk_of(pool), 1, [report(name_of(books, order))])
    await settle_reports(desk_of(pool), 1, [report(None, None, None, trade(quantity="0.5"))])
    assert (books.state(order).status, books.state(order).filled_quantity) == ("partially_filled", Decimal("0.5"))


@pytest.mark.parametrize(
    "change",
    [
        {"client_order_id": "7f1de5e1-9a0b-4c69-8d3c-0d6f3a2b1c00"},
        {"client_order_id": "somebody-elses"},
        {"client_order_id": None, "venue_order_id": "v2"},
        {"symbol": "ETH/USDT"},
        {"symbol": "NO/SUCH"},
        {"status": "rejected"},
    ],
    ids=str,
)
async def test_what_is_not_about_our_order_changes_nothing(books: Books, pool: Pool, change: dict[str, Any]) -> None:
    order = submitted(books)
    before = books.state(order)
    fields = {"client_order_id": before.client_order_id and str(before.client_order_id), "venue_order_id": "v1"}
    fields |= {"symbol": "BTC/USDT", "status": "filled", "filled_quantity": Decimal(1), "fills": (trade(),)}
    await settle_reports(desk_of(pool), 1, [OrderReport(**(fields | change))])
    assert books.state(order) == before
    assert books.execute("SELECT FROM fill") == []


async def test_another_number_at_the_venue_is_another_order(books: Books, pool: Pool) -> None:
    order = submitted(books)
    name = name_of(books, order)
    await settle_reports(desk_of(pool), 1, [report(name)])
    before = books.state(order)
    await settle_reports(desk_of(pool), 1, [report(name, "filled", "1", trade(order="v9"), number="v9")])
    assert books.state(order) == before


async def test_an_order_that_was_not_sent_is_not_settled(books: Books, pool: Pool) -> None:
    order = books.queue(**LIMIT)
    before = books.state(order)
    await settle_reports(desk_of(pool), 1, [report(name_of(books, order), "filled", "1", trade())])
    assert books.state(order) == before
    assert books.execute("SELECT FROM fill") == []


async def test_what_is_known_already_is_not_written_again(books: Books, pool: Pool) -> None:
    order = submitted(books)
    name = name_of(books, order)
    told = [report(name), report(name, "partially_filled", "0.5", trade(quantity="0.5"))]
    await settle_reports(desk_of(pool), 1, told)
    before = books.state(order)
    for one in [*told, report(None, None, None, *told[1].fills)]:
        await settle_reports(desk_of(pool), 1, [one])
    assert books.state(order) == before  # its updated_at, too


async def test_a_fact_that_cannot_be_is_left_to_the_poll(books: Books, pool: Pool) -> None:
    order = submitted(books)
    await settle_reports(desk_of(pool), 1, [report(name_of(books, order), "filled", "1", trade(quantity="-1"))])
    assert books.state(order).status == "submitted"


def test_one_report_is_left_of_each_order() -> None:
    one, other = report("a", "accepted"), report(None, "canceled", "0", number="v2")
    execution = trade()
    alone = report(None, None, None, execution)
    assert merged([alone, one, other, one]) == [report("a", "accepted", "0", execution), other]


ASKED = 'SELECT fence FROM "order" WHERE id = %s'
TAKEN = """UPDATE "order" SET in_doubt_since = now(), next_look_at = now() - interval '1 s', absences = 2, fence = 1
 WHERE id = %s"""


async def test_s08_no_resend_when_the_stream_speaks_after_the_proof_of_absence(books: Books, pool: Pool) -> None:
    """in doubt, then the stream says accepted before the look-up -> no resend. Here in the last moment: absence is
    proved, the order is taken under a fence, and its next attempt is to be written down."""
    order = submitted(books)
    books.trader(TAKEN, order)
    venue = Venue()
    desk = desk_of(pool, venue)
    (row,) = await recovery.take_due(desk, list(desk.exchanges))
    await settle_reports(desk, 1, [report(name_of(books, order))])
    await recovery.resolve(desk, row)
    assert venue.created == []
    assert (books.state(order).status, books.state(order).attempt) == ("accepted", 1)


async def test_s08_the_next_attempt_waits_for_a_fact_that_is_being_settled(books: Books, pool: Pool) -> None:
    """in doubt, then the stream says accepted before the look-up -> no resend. The fact is not committed yet."""
    order = submitted(books)
    books.trader(TAKEN, order)
    venue = Venue()
    desk = desk_of(pool, venue)
    (row,) = await recovery.take_due(desk, list(desk.exchanges))
    async with await connect(books.url, TRADER) as other, other.transaction():
        await other.execute("""UPDATE "order" SET status = 'accepted', venue_order_id = 'v1' WHERE id = %s""", [order])
        resolving = asyncio.create_task(recovery.resolve(desk, row))
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        async with asyncio.timeout(20):
            while not books.value(waiting):  # noqa: ASYNC110 - nobody tells when a session begins to wait
                await asyncio.sleep(0.01)
    await resolving
    assert venue.created == []
    assert (books.state(order).status, books.state(order).attempt) == ("accepted", 1)


@pytest.mark.parametrize("verdict", ["canceled", "denied", "refused", "never sent", "in doubt"])
async def test_s08_what_was_concluded_before_the_stream_spoke_is_void(books: Books, pool: Pool, verdict: Any) -> None:
    """in doubt, then the stream says accepted before the look-up -> no resend, and no other end: it rests there."""
    order = submitted(books)
    await settle_reports(desk_of(pool), 1, [report(name_of(books, order))])
    fence = books.value(ASKED, order)
    await settle_in_transaction(pool, [Outcome(order, fence, verdict, reason="it never reached the venue")])
    state = books.state(order)
    assert (state.status, state.in_doubt_since, state.reason) == ("accepted", None, None)


async def test_an_account_is_heard_while_its_row_wants_it(books: Books, pool: Pool) -> None:
    order = submitted(books)
    venue = Venue([[report(name_of(books, order))]])
    async with asyncio.TaskGroup() as group, asyncio.timeout(20), await connect(books.url, TRADER) as connection:
        streams = Streams(desk_of(pool, venue), group)
        await streams.tend(connection, [1])
        await venue.told.wait()
        assert books.state(order).status == "accepted"
        await streams.tend(connection, [1])
        books.execute("UPDATE account SET stream = false")
        await streams.tend(connection, [1])
        await venue.ended.wait()
        assert venue.opened == 1
        venue.told.clear()
        books.execute("UPDATE account SET stream = true")
        await streams.tend(connection, [1])
        await venue.told.wait()
        assert venue.opened == 2
        streams.stop()


async def test_it_ends_where_there_is_no_stream(books: Books, pool: Pool) -> None:
    venue = Venue(streams=False)
    await asyncio.wait_for(Stream(desk_of(pool, venue), 1, "main").run(), 10)
    refusing = Venue([ConfigError("urls.ws is wss://example.com")])
    await asyncio.wait_for(Stream(desk_of(pool, refusing), 1, "main").run(), 10)
    assert (venue.opened, refusing.opened) == (1, 1)


async def test_it_listens_again_after_an_error_and_after_silence(
    books: Books, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    venue = Venue([Unknown("cut off"), Unknown("cut off again")])
    stream = Stream(desk_of(pool, venue), 1, "main")
    caplog.set_level("INFO", "stream")
    listening = asyncio.create_task(stream.run())
    await asyncio.wait_for(venue.ended.wait(), 20)
    for _ in range(SILENT_AFTER):  # it is down: there is nothing to end
        stream.miss()
    await asyncio.wait_for(venue.told.wait(), 20)
    assert (venue.opened, venue.closed) == (3, 2)
    assert [record.getMessage() for record in caplog.records] == [
        "account main: its stream is down, polling goes on: cut off"
    ]
    venue.told.clear()
    for _ in range(SILENT_AFTER + 2):
        stream.miss()
    await asyncio.wait_for(venue.told.wait(), 20)
    assert (venue.opened, venue.closed) == (4, 3)
    listening.cancel()
    await asyncio.wait([listening])
    assert venue.closed == 4


async def test_back_and_forward_with_what_a_stream_brought(books: Books) -> None:
    async with open_pool(books.url, TRADER, 2) as pool:
        order = submitted(books)
        await settle_reports(desk_of(pool), 1, [report(name_of(books, order), "filled", "1", trade())])
    revisions = migrate.revisions()
    migrate.downgrade(books.url, revisions[revisions.index("0014_stream") - 1])
    for session in (books.person, books.process):
        session.execute("DISCARD ALL")
        session.row_factory = namedtuple_row
    books.execute("SET timezone = 'UTC'")
    assert [row.source for row in books.execute("SELECT source FROM execution")] == ["poll"]
    migrate.upgrade(books.url)
    assert [row.source for row in books.execute("SELECT source FROM execution")] == ["poll"]
    assert books.value("SELECT stream FROM account WHERE name = 'main'") is True
