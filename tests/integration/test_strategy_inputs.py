"""Candles of other timeframes and markets, live: as in a backtest, and nothing is decided before they are there."""

from datetime import timedelta

import pytest

from jobs.strategy import defer_runs
from tests.plugins.live import START, Live
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import Settings
from trader.bucket import read_buckets
from trader.strategy import load

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
QUARTER = timedelta(minutes=15)
CLASSES = '''
from pandas import DataFrame

from trader.strategy import Input, Strategy, at


class Both(Strategy):
    """In while both markets are above 100 at the last full hour, and this one is now."""
    warm_up = 1
    inputs = {"hour": Input(timeframe="1h"), "eth": Input(market="binance:ETH/USDT", timeframe="1h", warm_up=2)}

    def signal(self, candles, hour, eth):
        above = (at(hour["close"], candles.index) > 100) & (at(eth["close"], candles.index) > 100)
        return (above & (candles["close"] > 100)).astype(float)


class Style2(Strategy):
    warm_up = 1
    inputs = Both.inputs

    def indicators(self, candles, hour, eth):
        return DataFrame({"eth": at(eth["close"], candles.index)})

    def on_bucket(self, context):
        context.state["eth"] = context.now.eth


class Strict(Both):
    gaps = "none"


class Nowhere(Both):
    inputs = {"hour": Input(timeframe="1h"), "eth": Input(market="binance:DOGE/USDT")}


class Broken(Both):
    @property
    def inputs(self):
        raise KeyError("eth")
'''


async def desk(live: Live, name: str, hours: int = 2) -> None:
    """Quarters and hours of both markets up to START + `hours`, but for the newest ETH hour; all is fed."""
    await live.add(name, timeframe=15)
    await live.put(*[90] * (4 * hours - 1), 110, first=START + QUARTER, span=QUARTER)
    await live.put(*[110] * hours, first=START + HOUR)
    await live.put(*[110] * (hours - 1), first=START + HOUR, market=2)
    for market, timeframe in ((1, 15), (1, 60), (2, 60)):
        await live.feed(market, timeframe)


async def test_it_decides_on_candles_of_several_kinds(live: Live) -> None:
    await desk(live, "Both", 3)
    await live.put(110, first=START + 3 * HOUR, market=2)
    await live.put(50, first=START + 4 * HOUR, market=2)  # of the future: not to be seen
    assert await live.run("Both") == "fresh cross to 1: buy for 100"
    [made] = await live.decisions("Both")
    own = await read_buckets(live.db, 1, 15)
    frames = {"hour": await read_buckets(live.db, 1, 60), "eth": await read_buckets(live.db, 2, 60)}
    result = backtest(load(f"{live.module}:Both"), Frames(own, "15m", frames), Settings(fill="close"))
    assert [own.index[index] for index in result.fills.decided] == [made.bucket_time]


async def test_the_second_style_sees_them_too(live: Live) -> None:
    await desk(live, "Style2", 3)
    await live.put(120, first=START + 3 * HOUR, market=2)
    await live.run("Style2")
    [row] = await live.all("SELECT state FROM strategy_state")
    assert row.state == {"eth": 120}


async def test_what_an_input_shows_is_part_of_the_hash(live: Live) -> None:
    await desk(live, "Both", 3)
    await live.put(110, first=START + 3 * HOUR, market=2)
    hashes = set()
    for volume in (1, 2):
        await live.db.execute(
            "UPDATE bucket SET volume = %s WHERE market_id = 2 AND time_close = '2024-01-01 01:00Z'", [volume]
        )
        await live.db.execute("UPDATE strategy SET stake = 0.0001")  # too small to buy
        await live.db.execute("DELETE FROM decision")
        await live.db.execute("UPDATE strategy SET last_bucket = NULL")
        await live.run("Both")
        hashes.add((await live.decisions("Both"))[0].inputs_hash)
    assert len(hashes) == 2


async def test_it_waits_for_a_candle_that_closes_at_the_same_moment(live: Live) -> None:
    await desk(live, "Both", 3)
    reason = 'input "eth": the 1h candle of binance:ETH/USDT that closes at 2024-01-01 03:00 is not there yet'
    assert await live.run("Both") == reason
    assert [(row.action, row.reason) for row in await live.decisions("Both")] == [("waits", reason)]
    row = await live.row("Both")
    assert (row.last_bucket, row.error) == (None, reason)
    await live.put(110, first=START + 3 * HOUR, market=2)
    await live.db.execute("DELETE FROM procrastinate_jobs")
    await defer_runs(live.db, 2, 60)  # the news of the input wakes it
    [job] = await live.all("SELECT args FROM procrastinate_jobs")
    assert job.args == {"strategy_id": live.ids["Both"]}
    await live.run("Both")
    assert [row.action for row in await live.decisions("Both")] == ["buy"]
    assert (await live.row("Both")).error is None
    await live.db.execute("DELETE FROM procrastinate_jobs")
    await defer_runs(live.db, 2, 60)
    assert await live.all("SELECT FROM procrastinate_jobs") == []


async def test_it_does_not_wait_for_ever(live: Live) -> None:
    await desk(live, "Both", 3)
    await live.run("Both")
    await live.db.execute("UPDATE decision SET decided_at = decided_at - interval '4 min'")
    await live.run("Both")
    assert [row.action for row in await live.decisions("Both")] == ["waits"]
    await live.db.execute("UPDATE decision SET decided_at = decided_at - interval '1 min'")
    await live.run("Both")
    [made] = await live.decisions("Both")
    assert made.action == "passed"
    assert made.reason.endswith("is not there yet, and was waited for 5 minutes")
    row = await live.row("Both")
    assert (row.last_bucket, row.error) == (START + 3 * HOUR, made.reason)


async def test_a_candle_that_the_venue_does_not_have_is_not_waited_for(live: Live) -> None:
    await desk(live, "Both", 3)
    await live.db.execute("SET timezone = 'UTC'")
    await live.feed(2, 60, "{[2024-01-01 00:00+00, 2024-01-01 03:00+00)}")
    assert "not there yet" not in await live.run("Both")
    assert [row.action for row in await live.decisions("Both")] == ["buy"]


async def test_between_the_closes_of_an_input_nothing_is_waited_for(live: Live) -> None:
    await desk(live, "Both", 3)
    await live.put(110, first=START + 3 * HOUR, market=2)
    await live.run("Both")
    await live.put(110, 110, 110, first=START + 3 * HOUR + QUARTER, span=QUARTER)
    assert "not there yet" not in await live.run("Both")
    await live.put(110, first=START + 4 * HOUR, span=QUARTER)
    assert "that closes at 2024-01-01 04:00 is not there yet" in await live.run("Both")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "DELETE FROM bucket WHERE market_id = 2; DELETE FROM bucket_feed WHERE market_id = 2",
            'input "eth": nothing keeps the 1h candles of binance:ETH/USDT up to date: '
            "tallydesk feed add binance ETH/USDT 1h --since 2023-11-20",
        ),
        ("UPDATE bucket_feed SET enabled = false WHERE market_id = 2", "tallydesk feed resume binance ETH/USDT 1h"),
    ],
)
async def test_without_a_feed_it_says_how_to_add_one(live: Live, change: str, words: str) -> None:
    await desk(live, "Both", 3)
    await live.db.execute(change)
    assert words in await live.run("Both")
    assert words in (await live.row("Both")).error
    assert [row.action for row in await live.decisions("Both")] == ["passed"]


async def test_an_unknown_market_is_named(live: Live) -> None:
    await desk(live, "Nowhere", 3)
    assert 'input "eth": there is no market binance:DOGE/USDT' in await live.run("Nowhere")


async def test_inputs_that_raise_stop_it(live: Live) -> None:
    await desk(live, "Broken", 3)
    assert "stopped: inputs: KeyError: 'eth'" in await live.run("Broken")


async def test_too_few_candles_of_an_input(live: Live) -> None:
    await desk(live, "Both", 2)
    await live.db.execute("DELETE FROM bucket WHERE market_id = 2")
    await live.put(110, first=START + 2 * HOUR, market=2)
    assert await live.run("Both") == (
        'its input "eth" (binance:ETH/USDT 1h) has 1 of the 2 candles that its warm-up needs'
    )
    assert [row.action for row in await live.decisions("Both")] == ["passed"]


async def test_a_gap_of_an_input_is_one(live: Live) -> None:
    await desk(live, "Strict", 4)
    await live.db.execute("DELETE FROM bucket WHERE market_id = 2 AND time_close = '2024-01-01 03:00Z'")
    await live.put(110, first=START + 4 * HOUR, market=2)
    await live.run("Strict")
    [made] = await live.decisions("Strict")
    assert made.action == "passed"
    assert 'its input "eth" (binance:ETH/USDT 1h): 1 candle is missing' in made.reason
