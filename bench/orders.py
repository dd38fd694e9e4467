"""Orders: our pipeline against its floors, each pair measured in turn (A B A B) in one run.

Examples: scripts/bench orders; scripts/bench orders pipeline --orders 3000; scripts/bench orders claim
"""

import argparse
import asyncio
import os

from bench.claim import claim_times
from bench.cpu import cpu
from bench.desk import QUEUE_IN_TABLE, pipeline, prepare
from bench.four_transactions import FourTransactions
from bench.ground import Ground, ground, in_turn
from bench.instant import InstantVenue
from bench.latency import latencies
from bench.report import WIDTH, bound, compare, header, percentile
from bench.simulated import CREDENTIALS, ccxt_alone, simulator
from bench.takeover import takeovers
from trader.exchange.credentials import read_credentials
from trader.trader import SENDS_AT_ONCE


async def measure_pipeline(place: Ground, options: argparse.Namespace) -> None:
    """Our trader with a venue that fills at once, against four transactions an order on bare tables."""
    ours = place.database()
    prepare(ours, options.strategies)
    floor = FourTransactions(place.database(migrated=False), options.strategies)

    async def run_ours() -> list[float]:
        by_view = await pipeline(ours, InstantVenue(), options.orders, options.strategies)
        by_table = await pipeline(ours, InstantVenue(), options.orders, options.strategies, QUEUE_IN_TABLE)
        return [*by_view, by_table[0]]

    async def run_floor() -> float:
        return await floor.run(options.orders)

    mine, base = await in_turn(options.rounds, run_ours, run_floor)
    view, drained, table = ([one[place] for one in mine] for place in range(3))
    compare("instant venue, orders/s, queued by the view", view, base, least=3)
    compare("instant venue, orders/s, queued by the table", table, base)
    compare("instant venue, orders/s, queued before", drained, base)


async def measure_ccxt(place: Ground, options: argparse.Namespace) -> None:
    """Our trader through ccxt and the simulator, against ccxt alone with as many requests in flight."""
    from trader.exchange.live import connect

    with simulator() as venue:
        url = place.database()
        prepare(url, options.strategies, venue.options())

        async def run_ours() -> tuple[float, float]:
            keys = read_credentials("BENCH")
            exchange = connect("binance", options=venue.options(), credentials=keys, mode="simulator")
            try:
                await exchange.markets()  # as in the floor, what is loaded once is loaded before
                return await pipeline(url, exchange, options.orders, options.strategies)
            finally:
                await exchange.close()

        async def run_floor() -> float:
            return await ccxt_alone(venue, options.orders, SENDS_AT_ONCE)

        mine, base = await in_turn(options.rounds, run_ours, run_floor)
    whole, drained = [one[0] for one in mine], [one[1] for one in mine]
    compare("ccxt and simulator, orders/s, queued before", drained, base, least=0.6)
    compare("ccxt and simulator, orders/s, queueing included", whole, base)


async def measure_latency(place: Ground, options: argparse.Namespace) -> None:
    """Row inserted -> request at the venue, one order at a time at an idle trader process, against a bare NOTIFY."""
    ours, floor = await latencies(place, options.singles)
    for name, share, goal in (("p50", 0.5, 10), ("p99", 0.99, 50)):
        what = f"row inserted -> on the wire, {name}; floor: woken"
        bound(what, percentile(ours, share), percentile(floor, share), " ms", goal)


async def measure_claim(place: Ground, options: argparse.Namespace) -> None:
    """Claiming the same 100 orders of 5 strategies with 100,000 queued, and with nothing else queued."""
    many, few = await claim_times(place, options.backlog, options.rounds * 6)
    compare(f"claim of 100 orders, {options.backlog:,} / 100 queued", many, few, most=3, unit=" ms")


async def measure_takeover(place: Ground, options: argparse.Namespace) -> None:
    """A trader is killed with requests out -> another has its orders, against the freeing of a dead one's lock."""
    ours, floor = takeovers(place, options.kills)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        what = f"killed -> its orders are taken, {name}; floor: lock"
        bound(what, percentile(ours, share), percentile(floor, share), " ms", 1000)


async def measure_cpu(place: Ground, options: argparse.Namespace) -> None:
    """CPU time of PostgreSQL and of Python per order, phase by phase."""
    runs = [await cpu(place, options.orders) for _ in range(options.rounds)]
    for phase in runs[0].server:
        server, python = (
            min(run[phase] for run in side) for side in zip(*((r.server, r.python) for r in runs), strict=True)
        )
        print(f"{f'{phase}, CPU an order':<{WIDTH}} PostgreSQL {server:4.0f} us, Python {python:4.0f} us", flush=True)


PARTS = {
    "pipeline": measure_pipeline,
    "ccxt": measure_ccxt,
    "latency": measure_latency,
    "claim": measure_claim,
    "takeover": measure_takeover,
    "cpu": measure_cpu,
}


def main() -> None:
    """Run the parts that were asked for; by default all."""
    parser = argparse.ArgumentParser("bench orders", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; by default all")
    parser.add_argument("--orders", type=int, default=3000, help="in one round")
    parser.add_argument("--strategies", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="of ours and of the floor, in turn")
    parser.add_argument("--singles", type=int, default=200, help="orders timed one by one")
    parser.add_argument("--kills", type=int, default=20, help="of traders")
    parser.add_argument("--backlog", type=int, default=100_000, help="queued orders of the claim")
    parser.add_argument("--commit-delay", type=int, default=0, help="microseconds that a commit takes longer, for both")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: there are {', '.join(PARTS)}")
    os.environ.update(CREDENTIALS)
    with ground() as place:
        place.commit_delay = options.commit_delay
        header("orders", f"{place.name}, a bare commit takes {place.commit_time():.2f} ms")
        for part in options.parts or PARTS:
            asyncio.run(PARTS[part](place, options))


if __name__ == "__main__":
    main()
