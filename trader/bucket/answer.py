"""What came of a question to a venue: the candles of its answer that had closed, and what it proves of all others."""

from dataclasses import dataclass
from datetime import datetime

from trader.bucket.candles import Candles
from trader.bucket.coverage import Question, Span, closed_until, proven
from trader.bucket.feed import Feed
from trader.bucket.refusal import Refusal, sift
from trader.clock import from_milliseconds, to_milliseconds
from trader.exchange.protocol import Exchange


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a question: what is to be stored, and what it proves."""

    question: Question
    candles: Candles
    """Those that had closed."""
    refusals: tuple[Refusal, ...]
    span: Span | None
    """The opening times of which it says all."""
    now: datetime | None
    """The venue's clock from before the question."""
    is_present: bool
    """There was nothing newer."""
    reachable: int | None
    """The venue does not reach further back than this."""
    first: int | None
    """When the first candle in it opens."""


async def ask(exchange: Exchange, feed: Feed, question: Question, now: datetime | None) -> Answer:
    """Ask, and judge the answer by `now`, the venue's clock from before; None: it is a replay. Raises ExchangeError."""
    moment = None if now is None else to_milliseconds(now)
    since = None if question.since is None else from_milliseconds(question.since)
    page = await exchange.candles(feed.symbol, feed.timeframe.name, since, question.limit)
    sifted = sift(page, feed.timeframe, question.since, moment)
    opens = sifted.opens
    if moment is not None:
        until: int | None = closed_until(feed.timeframe, moment)
    else:
        until = max(int(opens[-1]), feed.end or 0) if len(opens) else feed.end
    span = proven(exchange.candle_ways, feed.timeframe, question, opens, until, replay=moment is None)
    is_present = len(opens) < question.limit if moment is None else span is not None and span[1] == until
    cut = question.since is not None and span is not None and span[0] > question.since
    return Answer(
        question,
        candles=sifted.candles[sifted.candles.time_open < (until or 0)],
        refusals=sifted.refusals,
        span=span,
        now=now,
        is_present=is_present,
        reachable=span[0] if cut and span is not None else None,
        first=int(opens[0]) if len(opens) else None,
    )
