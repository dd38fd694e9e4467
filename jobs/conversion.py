"""Rates: what each asset that somebody has is worth in the unit of the desk."""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from procrastinate import App, JobContext

from jobs.app import Context, Job, context_of
from trader.conversion import ALWAYS, Pair, Price, Way, middle, on_shortest, ways
from trader.db import Connection, fetch_all, first_line
from trader.errors import TallydeskError
from trader.exchange.protocol import Ticker

TASK = "conversion.rates"
RATES_JOB = Job(TASK, queueing_lock=TASK, lock=TASK)
SECONDS = 10.0
ROUNDS = 5
"""How often venues are asked in one run: once, and again where the prices of the shortest ways turn out not to be."""
LONGEST_ERROR = 1000
MOST_NAMED = 3
"""Markets without a price that a reason names."""

log = logging.getLogger("conversion")

UNIT = """
SELECT a.id AS unit_id, a.code, s.rate_fresh, clock_timestamp() AS now FROM setting s JOIN asset a ON a.code = s.unit
"""

WANTED = """
SELECT asset_id FROM account_balance WHERE (total, free, used) <> (0, 0, 0)
 UNION SELECT asset_id FROM balance WHERE total <> 0
 UNION SELECT unit_id FROM strategy
EXCEPT SELECT %(unit)s::smallint
"""

# What is traded on a simulator says nothing of real money: its prices count where there is nothing else.
# A venue that just failed is left alone for half a minute.
MARKETS = """
WITH venue AS (
  SELECT e.id, e.name, e.replay, coalesce((SELECT bool_and(a.mode = 'simulator') FROM account a
                                            WHERE a.exchange_id = e.id), false) AS simulated
    FROM exchange e WHERE NOT e.offline)
SELECT m.id, v.name || ':' || m.symbol AS name, m.symbol, m.base_id, m.quote_id, v.id AS exchange_id, v.replay,
       r.failed_at > %(now)s - interval '30 s' AS failing, v.name AS exchange, r.error
  FROM market m JOIN venue v ON v.id = m.exchange_id LEFT JOIN price_read r ON r.exchange_id = v.id
 WHERE m.active AND (NOT v.simulated OR NOT EXISTS (SELECT FROM venue o WHERE NOT o.simulated))
"""

# The close of a replayed candle was true in the past that is replayed; one of the future was never true.
PRICES = """
SELECT f.market_id, NULL::numeric AS bid, NULL::numeric AS ask, b.close::numeric AS last, b.time_close AS at
  FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id
  JOIN bucket b ON (b.market_id, b.timeframe_id, b.time_close) = (f.market_id, f.timeframe_id, f.newest)
 WHERE f.enabled AND NOT e.replay AND f.newest BETWEEN %(now)s - %(fresh)s AND %(now)s + interval '1 min'
UNION ALL
SELECT market_id, bid, ask, last, read_at FROM ticker WHERE read_at > %(now)s - %(fresh)s
"""

FIXED = """
SELECT r.asset_id, r.unit_id, r.rate, 'fixed:' || a.code || '/' || u.code AS name
  FROM asset_rate r JOIN asset a ON a.id = r.asset_id JOIN asset u ON u.id = r.unit_id WHERE r.source = 'fixed'
"""

STORE_TICKERS = """
INSERT INTO ticker AS t (market_id, bid, ask, last, read_at)
SELECT * FROM unnest(%(markets)s::int[], %(bids)s::numeric[], %(asks)s::numeric[], %(lasts)s::numeric[],
                     %(at)s::timestamptz[])
 ORDER BY 1
ON CONFLICT (market_id) DO UPDATE SET bid = EXCLUDED.bid, ask = EXCLUDED.ask, last = EXCLUDED.last,
  read_at = EXCLUDED.read_at
"""

STORE_READS = """
INSERT INTO price_read AS r (exchange_id, read_at, failed_at, error)
SELECT id, CASE WHEN error IS NULL THEN at END, CASE WHEN error IS NOT NULL THEN at END, error
  FROM (SELECT *, %(now)s::timestamptz AS at FROM unnest(%(exchanges)s::smallint[], %(errors)s::text[]) x (id, error)) x
 ORDER BY id
ON CONFLICT (exchange_id) DO UPDATE SET read_at = coalesce(EXCLUDED.read_at, r.read_at),
  failed_at = EXCLUDED.failed_at, error = EXCLUDED.error
"""

# What a person fixed is not touched. A rate without news stays as it is, and gets older.
STORE_RATES = """
INSERT INTO asset_rate AS r (asset_id, unit_id, rate, source, path, priced_at, reason)
SELECT x.asset_id, %(unit)s, x.rate, 'market', coalesce(string_to_array(x.path, E'\\n'), '{}'), x.at, x.reason
  FROM unnest(%(assets)s::smallint[], %(rates)s::numeric[], %(paths)s::text[], %(at)s::timestamptz[],
              %(reasons)s::text[]) x (asset_id, rate, path, at, reason)
 ORDER BY 1
ON CONFLICT (asset_id, unit_id) DO UPDATE SET rate = coalesce(EXCLUDED.rate, r.rate),
  path = CASE WHEN EXCLUDED.rate IS NULL THEN r.path ELSE EXCLUDED.path END,
  priced_at = coalesce(EXCLUDED.priced_at, r.priced_at), reason = EXCLUDED.reason, tried_at = clock_timestamp()
 WHERE r.source = 'market'
"""

FORGET = """
DELETE FROM asset_rate WHERE source = 'market' AND (unit_id <> %(unit)s OR asset_id <> ALL (%(assets)s::smallint[]))
"""

# After a day a point an hour is enough, after a year one a day; a ticker that nobody asks for is of no use.
THIN = """
WITH points AS (
  DELETE FROM asset_rate_point p
   WHERE p.at < clock_timestamp() - interval '1 day'
     AND EXISTS (SELECT FROM asset_rate_point n WHERE (n.asset_id, n.unit_id) = (p.asset_id, p.unit_id) AND n.at > p.at
                    AND n.at < CASE WHEN p.at < clock_timestamp() - interval '1 year'
                                    THEN date_trunc('day', p.at, 'UTC') + interval '24 h'
                                    ELSE date_trunc('hour', p.at, 'UTC') + interval '1 h' END))
DELETE FROM ticker WHERE read_at < clock_timestamp() - interval '1 day'
"""


@dataclass(slots=True)
class Round:
    """What is known in one run of the job. Rows are those of UNIT and MARKETS."""

    unit: Any
    wanted: set[int]
    markets: dict[str, Any]
    """By name: those that the venue trades."""
    fixed: list[Pair]
    prices: dict[str, Price]
    """By name of pair: the freshest one that is fresh enough."""
    unasked: set[str]
    """Markets whose ticker was not asked for, and may be."""
    failed: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Exchanges that could not be read: name, and why."""
    read: set[int] = field(default_factory=set)
    """Exchanges that answered in this run."""
    tickers: dict[int, Ticker] = field(default_factory=dict)
    """What they answered, by market."""

    def pairs(self) -> list[Pair]:
        """Everything that may lead somewhere: what has a price, and what may yet turn out to have one."""
        usable = [row for name, row in self.markets.items() if name in self.prices or name in self.unasked]
        return [*self.fixed, *(Pair(row.name, row.base_id, row.quote_id) for row in usable)]

    def to_ask(self) -> list[Any]:
        """The markets that a shortest way may lead over and that were not asked for yet."""
        names = on_shortest(self.pairs(), self.unit.unit_id, self.wanted) & self.unasked
        return [self.markets[name] for name in sorted(names)]

    def learn(self, row: Any, value: tuple[Decimal | None, Decimal | None, Decimal | None], at: datetime) -> None:
        """A price of a market, unless a fresher one is known."""
        price = middle(*map(_positive, value))
        known = self.prices.get(row.name)
        if price is not None and (known is None or known.at <= at):
            self.prices[row.name] = Price(price[0], at, price[1])


def _positive(value: Decimal | None) -> Decimal | None:
    return value if value is not None and value > 0 else None


async def rates(job: JobContext) -> None:
    """Renew every rate that somebody needs. A venue that cannot be read leaves its prices as they are, to get older."""
    context = context_of(job)
    async with context.pool.connection() as connection:
        known = await _load(connection)
        if known is None:
            return
        for _ in range(ROUNDS):
            rows = known.to_ask()
            if not rows:
                break
            known.unasked -= {row.name for row in rows}
            await _ask(context, connection, known, rows)
        async with connection.transaction():
            await _store(connection, known)


async def _load(connection: Connection) -> Round | None:
    units = await fetch_all(connection, UNIT)
    if not units:
        log.info("no exchange lists the unit of the desk (setting.unit): nothing can be told in it")
        return None
    unit = units[0]
    given = {"unit": unit.unit_id, "now": unit.now, "fresh": unit.rate_fresh}
    wanted = {row.asset_id for row in await fetch_all(connection, WANTED, given)}
    markets = {row.name: row for row in await fetch_all(connection, MARKETS, given)} if wanted else {}
    known = Round(unit, wanted, markets, [], {}, {row.name for row in markets.values() if not row.failing})
    for row in await fetch_all(connection, FIXED):
        known.fixed.append(Pair(row.name, row.asset_id, row.unit_id))
        known.prices[row.name] = Price(row.rate, ALWAYS, Decimal(0))
    by_number = {row.id: row for row in markets.values()}
    for row in await fetch_all(connection, PRICES, given):
        if row.market_id in by_number:
            known.learn(by_number[row.market_id], (row.bid, row.ask, row.last), row.at)
    known.failed = {row.exchange_id: (row.exchange, row.error) for row in markets.values() if row.failing}
    return known


async def _ask(context: Context, connection: Connection, known: Round, rows: Iterable[Any]) -> None:
    """Read the tickers of markets, all exchanges at once, one request for each that can do it in one."""
    by_exchange: dict[int, list[Any]] = {}
    for row in rows:
        by_exchange.setdefault(row.exchange_id, []).append(row)
    async with asyncio.TaskGroup() as group:
        for number, some in by_exchange.items():
            group.create_task(_connect_and_read(context, connection, known, number, some))


async def _connect_and_read(
    context: Context, connection: Connection, known: Round, exchange_id: int, rows: list[Any]
) -> None:
    symbols = {row.symbol: row for row in rows}
    try:
        exchange = await context.exchange(connection, exchange_id)
        found = await exchange.tickers(list(symbols))
    except TallydeskError as error:
        text = f"{type(error).__name__}: {first_line(error)}"[:LONGEST_ERROR]
        log.warning("%s: no prices, its rates get older: %s", rows[0].exchange, text)
        known.failed[exchange_id] = (rows[0].exchange, text)
        known.unasked -= {row.name for row in known.markets.values() if row.exchange_id == exchange_id}
        return
    known.read.add(exchange_id)
    for ticker in found:
        if (row := symbols.get(ticker.symbol)) is not None:
            known.tickers[row.id] = ticker
            known.learn(row, (ticker.bid, ticker.ask, ticker.last), known.unit.now)


async def _store(connection: Connection, known: Round) -> None:
    unit = known.unit.unit_id
    await _store_readings(connection, known)
    pairs = [*known.fixed, *(Pair(row.name, row.base_id, row.quote_id) for row in known.markets.values())]
    found = ways(pairs, known.prices, unit)
    assets = sorted(known.wanted)
    best: list[Way | None] = [found.get(asset) for asset in assets]
    row = {
        "unit": unit,
        "assets": assets,
        "rates": [None if way is None else way.rate for way in best],
        "paths": [None if way is None else "\n".join(way.path) for way in best],
        "at": [None if way is None else min(way.at, known.unit.now) for way in best],
        "reasons": [None if asset in found else _reason(known, pairs, asset) for asset in assets],
    }
    await connection.execute(STORE_RATES, row)
    await connection.execute(FORGET, row)


def _reason(known: Round, pairs: list[Pair], asset: int) -> str:
    """Why there is no way from `asset`, for a person."""
    there, code = known.unit.unit_id, known.unit.code
    on_the_way = on_shortest(pairs, there, [asset])
    if not on_the_way:
        return f"no active market leads to {code}, not over others either"
    silent = sorted(on_the_way - known.prices.keys())[:MOST_NAMED]
    dead = {row.exchange_id for name, row in known.markets.items() if name in on_the_way} & known.failed.keys()
    why = [f"{name}: {text}" for name, text in sorted(known.failed[number] for number in dead)]
    return "; ".join([f"no way to {code} with fresh prices: none of {', '.join(silent)}", *why])


async def _store_readings(connection: Connection, known: Round) -> None:
    tickers = known.tickers.values()
    columns = {
        "markets": list(known.tickers),
        "bids": [_positive(ticker.bid) for ticker in tickers],
        "asks": [_positive(ticker.ask) for ticker in tickers],
        "lasts": [_positive(ticker.last) for ticker in tickers],
        "at": [known.unit.now] * len(tickers),
    }
    await connection.execute(STORE_TICKERS, columns)
    left_alone = {row.exchange_id for row in known.markets.values() if row.failing}
    news = dict.fromkeys(known.read) | {n: why for n, (_, why) in known.failed.items() if n not in left_alone}
    given = {"exchanges": list(news), "errors": list(news.values()), "now": known.unit.now}
    await connection.execute(STORE_READS, given)


def register(app: App) -> None:
    """Add the tasks of this module."""
    app.task(name=TASK, pass_context=True)(rates)
