"""All trades of a window, or an error: the three ways that venues list them, against venues in memory."""

from random import Random
from typing import Any

import pytest

from trader.errors import Refused
from trader.exchange.trades import MOST_PAGES, PAGE, by_nanoseconds, by_nothing, by_number, by_recent

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
T0 = 1_700_000_000_000


class Numbered:
    """Binance: by time window or from a number; `last`: of a crowded window it gives the last ones."""

    def __init__(self, times: list[int], *, last: bool = False) -> None:
        self.rows = [{"id": str(i), "timestamp": at} for i, at in enumerate(sorted(times))]
        self.last = last
        self.asked = 0

    async def __call__(self, limit: int, params: dict[str, int]) -> tuple[list[Any], Any]:
        self.asked += 1
        assert limit <= PAGE
        if "fromId" in params:
            assert set(params) == {"fromId"}
            return self.rows[params["fromId"] :][:limit], None
        since, until = params["startTime"], params["endTime"]
        assert until - since < HOUR
        found = [row for row in self.rows if since <= row["timestamp"] <= until]
        return found[-limit:] if self.last else found[:limit], None


def between(rows: list[Any], since: int, until: int) -> list[Any]:
    return [row for row in rows if since <= row["timestamp"] < until]


@pytest.mark.parametrize("seed", range(40))
async def test_numbered_trades_are_complete(seed: int) -> None:
    random = Random(seed)
    times = [T0 + random.randrange(2 * DAY) for _ in range(random.choice([0, 3, 50, 2000]))]
    times += [T0 + DAY + random.randrange(MINUTE) for _ in range(random.choice([0, 1000, 3500]))]
    venue = Numbered(times)
    since = T0 + random.choice([0, DAY, random.randrange(2 * DAY)])
    until = since + random.choice([MINUTE, 3 * MINUTE, HOUR, 7 * HOUR])
    rows, complete = await by_number(venue, since, until)
    assert complete >= until
    assert between(rows, since, until) == between(venue.rows, since, until)
    assert between(rows, since, complete) == between(venue.rows, since, complete)


async def test_a_long_silence_takes_two_questions() -> None:
    venue = Numbered([T0 - 1, T0 + 61 * DAY + MINUTE])
    assert await by_number(venue, T0, T0 + 61 * DAY) == ([], T0 + 61 * DAY)
    assert venue.asked == 2


async def test_what_is_not_all_is_refused() -> None:
    crowded = [T0 + i for i in range(PAGE + 500)]
    with pytest.raises(Refused, match="the last ones of a window"):
        await by_number(Numbered(crowded, last=True), T0, T0 + MINUTE)
    with pytest.raises(Refused, match=f"after {MOST_PAGES} pages"):
        await by_number(Numbered([T0 + DAY]), T0 - 90 * HOUR, T0)
    with pytest.raises(Refused, match="is not known"):
        await by_nothing(crowded, T0, T0 + MINUTE)  # type: ignore[arg-type]


async def test_nanoseconds() -> None:
    random = Random(1)
    times = sorted(T0 + random.randrange(HOUR) for _ in range(5000))
    rows = [{"id": None, "timestamp": at} for at in times]

    async def ask(limit: int, params: dict[str, str]) -> tuple[list[Any], Any]:
        start = int(params["since"]) // 1_000_000
        page = [row for row in rows if row["timestamp"] > start][:limit]
        return page, {"result": {"last": str(page[-1]["timestamp"] * 1_000_000) if page else params["since"]}}

    until = T0 + HOUR // 2
    found, complete = await by_nanoseconds(ask, T0, until)
    assert complete >= until
    assert between(found, T0, until) == between(rows, T0, until)
    assert await by_nanoseconds(ask, T0 + DAY, T0 + DAY + MINUTE) == ([], T0 + DAY + MINUTE)


async def test_the_last_ones_alone_prove_what_lies_after_the_first_of_them() -> None:
    async def ask(limit: int, params: dict[str, Any]) -> tuple[list[Any], Any]:
        return [{"id": str(i), "timestamp": T0 + i * MINUTE} for i in range(limit)], None

    rows, _ = await by_recent(ask, T0 + 1, T0 + 5 * MINUTE)
    assert len(rows) == 60
    with pytest.raises(Refused, match="only the last 60"):
        await by_recent(ask, T0, T0 + MINUTE)
