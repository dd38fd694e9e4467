"""What happens in chaos: one function an act, drawn by weight."""

import contextlib
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import ccxt
import psycopg

from tests.plugins.desk import MARKET, kill_postgresql
from tests.simulation.chaos_world import FAR_ABOVE, STRATEGIES, SYMBOL, World

OPEN = "('accepted', 'partially_filled', 'pending_cancel')"
HTTP_FAULTS: list[dict[str, Any]] = [
    {"fault": "drop_answer"},
    {"fault": "drop_request"},
    {"fault": "delay_answer", "seconds": 1.5},
    {"fault": "delay", "seconds": 1.0},
    {"fault": "delay", "seconds": 3.5},
    {"fault": "hang", "seconds": 3},
    {"fault": "status", "status": 503},
    {"fault": "status", "status": 502, "act": True},
    {"fault": "unknown_1007", "act": True},
    {"fault": "unknown_1007"},
    {"fault": "truncate"},
    {"fault": "garbage"},
    {"fault": "too_many_requests", "seconds": 1},
    {"fault": "reject", "code": -2010, "message": "Account has insufficient balance for requested action."},
    {"fault": "partial"},
]
LOOK_UP_FAULTS = [
    {"fault": "lookup_error", "endpoint": "GET /api/v3/order"},
    {"fault": "drop_answer", "endpoint": "GET /api/v3/myTrades"},
    {"fault": "status", "endpoint": "GET /api/v3/openOrders"},
    {"fault": "drop_answer", "endpoint": "DELETE /api/v3/order"},
    {"fault": "drop_request", "endpoint": "DELETE /api/v3/order"},
    {"fault": "too_many_requests", "endpoint": "GET /api/v3/openOrders", "seconds": 1},
    {"fault": "status", "endpoint": "GET /api/v3/account"},
]
EVENT_FAULTS = ("event_drop", "event_duplicate", "event_reorder", "disconnect")
TRADERS = ("trader-1", "trader-2")
SESSIONS_OF_ROLES = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name ~ '^(trader|worker|scheduler)'
"""


def insert(world: World, fields: dict[str, Any]) -> int | None:
    """Queue an order as a person does; its id, or None if the database refuses it."""
    columns, marks = ", ".join(fields), ", ".join(["%s"] * len(fields))
    try:
        row = world.sql(f"INSERT INTO orders ({columns}) VALUES ({marks}) RETURNING id", *fields.values())[0]
    except psycopg.errors.IntegrityError:  # a strategy that has more such orders than it may, a parent that ended
        world.counts["orders refused in the INSERT"] += 1
        return None
    world.counts["orders queued"] += 1
    return int(row.id)


def near(world: World, share: str) -> Decimal:
    """A price by its share of the market's."""
    return round(world.price * Decimal(share), 2)


def queue_orders(world: World) -> None:
    """Of every kind, some of them nonsense."""
    dice = world.dice
    for _ in range(dice.choice((1, 1, 2, 5, 12))):
        fields: dict[str, Any] = {
            "strategy": f"s{dice.randrange(STRATEGIES)}",
            "side": dice.choice(("buy", "buy", "sell")),
        }
        fields["market"] = MARKET
        kind = dice.random()
        if kind < 0.35:
            fields |= {"type": "market", "quote_quantity": dice.choice((4, 10, 25, 60))}
        elif kind < 0.55:
            fields |= {"type": "market", "quantity": dice.choice(("0.0002", "0.001", "0.000001"))}
        elif kind < 0.65:
            fields |= {"type": "market"}
        else:
            share = dice.choice(("0.97", "0.995", "1.0", "1.005", "1.03"))
            fields |= {"type": "limit", "quantity": "0.0005", "limit_price": near(world, share)}
            fields |= {"time_in_force": dice.choice(("GTC", "GTC", "GTC", "IOC", "FOK", "PO"))}
        if dice.random() < 0.05:
            fields["expires_at"] = "2020-01-01"
        insert(world, fields)


def queue_bracket(world: World) -> None:
    """An entry, and behind it a take profit and a stop, trailing or not, of which one cancels the other."""
    dice = world.dice
    common = {"strategy": f"s{dice.randrange(STRATEGIES)}", "market": MARKET}
    if dice.random() < 0.5:
        entry = insert(world, common | {"side": "buy", "type": "market", "quote_quantity": 25})
    else:
        price = near(world, dice.choice(("0.99", "1.01")))
        entry = insert(world, common | {"side": "buy", "type": "limit", "quantity": "0.0005", "limit_price": price})
    if entry is None:
        return
    exit_ = common | {"side": "sell", "after_id": entry, "parent_id": entry}
    insert(
        world,
        exit_ | {"type": "limit", "quantity": "0.0004", "limit_price": near(world, dice.choice(("1.003", "1.02")))},
    )
    trails = dice.random() < 0.5
    stop = {"trail": "0.015"} if trails else {"trigger_price": near(world, "0.985"), "trigger_when": "falls"}
    insert(world, exit_ | {"type": "market", "quantity": "0.0004"} | stop)
    world.counts["brackets, the stop trails" if trails else "brackets"] += 1


def replace_one(world: World) -> None:
    """Another order in the place of one that rests or waits."""
    rows = world.sql(f"""SELECT id, side::text FROM "order" WHERE type = 'limit' AND cancel_requested_at IS NULL
        AND (status IN {OPEN} OR status = 'waiting') ORDER BY id DESC LIMIT 50""")
    if rows:
        old = world.dice.choice(rows)
        strategy = world.sql("SELECT strategy FROM orders WHERE id = %s", old.id)[0].strategy
        fields = {"strategy": strategy, "market": MARKET, "side": old.side, "type": "limit", "replaces_id": old.id}
        share = world.dice.choice(("0.98", "1.0", "1.02"))
        if insert(world, fields | {"quantity": "0.0006", "limit_price": near(world, share)}):
            world.counts["orders that replace others"] += 1


def deposit_or_withdraw(world: World) -> None:
    kind = world.dice.choice(("deposit", "withdrawal"))
    strategy, quantity = f"s{world.dice.randrange(STRATEGIES)}", world.dice.choice((5, 50, 200, 200_000))
    try:
        world.sql(
            "INSERT INTO orders (strategy, type, asset, quantity) VALUES (%s, %s, 'USDT', %s)", strategy, kind, quantity
        )
        world.counts[f"{kind}s"] += 1
    except psycopg.errors.CheckViolation:
        world.counts[f"{kind}s refused"] += 1


def cancel_one(world: World) -> None:
    rows = world.sql(f"""SELECT id FROM "order" WHERE cancel_requested_at IS NULL
        AND (status IN {OPEN} OR status IN ('waiting', 'queued', 'submitted')) ORDER BY id DESC LIMIT 200""")
    if rows:
        with contextlib.suppress(psycopg.errors.RestrictViolation):  # it ended meanwhile
            world.sql("UPDATE orders SET cancel_requested_at = now() WHERE id = %s", world.dice.choice(rows).id)
            world.counts["cancels asked"] += 1


def move_price(world: World) -> None:
    world.price = near(world, world.dice.choice(("0.98", "0.997", "1.003", "1.02")))
    world.price = min(max(world.price, Decimal(40_000)), Decimal(62_000))
    world.at_venue(lambda: world.venue.price(str(world.price)))


def human_trades(world: World) -> None:
    """Somebody else with the same keys, who has the venue's faults as well."""
    dice = world.dice
    with contextlib.suppress(ccxt.BaseError):
        act = dice.random()
        if act < 0.5:
            world.humans_order("market", dice.choice(("buy", "sell")), 0.0004)
        elif act < 0.8:
            world.humans_order("limit", "sell", 0.001, FAR_ABOVE + dice.randrange(100))
        elif len(world.humans_open) > 1:
            name = dice.choice(sorted(world.humans_open - {world.resting}))
            world.humans_open.discard(name)  # whatever the answer
            world.human.cancel_order("", SYMBOL, {"clientOrderId": name})


def venue_fault(world: World) -> None:
    fault = dict(world.dice.choice(HTTP_FAULTS))
    times = world.dice.choice((1, 1, 2, 3))
    world.at_venue(lambda: world.venue.fault(fault.pop("fault"), times=times, **fault))
    world.counts["faults of the venue"] += 1


def look_up_fault(world: World) -> None:
    fault = dict(world.dice.choice(LOOK_UP_FAULTS))
    times = world.dice.choice((1, 2, 3))
    world.at_venue(lambda: world.venue.fault(str(fault.pop("fault")), times=times, **fault))
    world.counts["faults of look-ups and cancels"] += 1


def event_fault(world: World) -> None:
    kind = world.dice.choice(EVENT_FAULTS)
    world.at_venue(lambda: world.venue.fault(kind, endpoint=None, times=world.dice.choice((1, 3, 10))))
    world.counts["faults of the stream"] += 1


def kill_trader(world: World) -> None:
    world.roles[world.dice.choice(TRADERS)].kill()
    world.counts["kill -9 of a trader"] += 1


def kill_helper(world: World) -> None:
    world.roles[world.dice.choice(("worker-1", "scheduler"))].kill()
    world.counts["kill -9 of worker or scheduler"] += 1


def pause_trader(world: World) -> None:
    name = world.dice.choice(TRADERS)
    if world.roles[name].alive and name not in world.asleep:
        world.roles[name].pause()
        world.asleep[name] = time.monotonic() + world.dice.choice((0.5, 3.0, 12.0, 36.0))
        world.counts["SIGSTOP of a trader"] += 1


def drop_connections(world: World) -> None:
    """The database throws some of the desk's sessions out."""
    rows = world.sql(SESSIONS_OF_ROLES)
    if rows:
        unlucky = [row.pid for row in world.dice.sample(rows, min(len(rows), world.dice.choice((1, 2, 20))))]
        world.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", unlucky)
        world.counts["database connections dropped"] += len(unlucky)


def stop_postgresql(world: World) -> None:
    if world.dice.random() < 0.5:
        world.server.stop("immediate")
        world.counts["immediate stops of PostgreSQL"] += 1
    else:
        kill_postgresql(world.server)
        world.counts["kill -9 of PostgreSQL"] += 1
    time.sleep(world.dice.uniform(0, 1))  # how long it is away is drawn
    world.server.ensure()


def kill_venue(world: World) -> None:
    world.venue.kill()
    time.sleep(world.dice.uniform(0, 1))  # how long it is away is drawn
    world.venue.start()
    world.venue.price(str(world.price))
    world.counts["kill -9 of the venue"] += 1


def power_cut(world: World) -> None:
    venue = world.dice.random() < 0.3
    world.cut_power(venue=venue)
    time.sleep(world.dice.uniform(0, 1))  # how long it is dark is drawn
    world.power_is_back(venue=venue)
    world.counts["power cuts"] += 1


def halt_for_a_moment(world: World) -> None:
    world.sql("UPDATE account SET halted = true, halt_reason = 'chaos' WHERE name = 'main'")
    time.sleep(world.dice.uniform(0, 0.5))  # how long is drawn
    world.sql("UPDATE account SET halted = false WHERE name = 'main'")
    world.counts["halts"] += 1


def reduce_for_a_moment(world: World) -> None:
    world.sql("UPDATE account SET reducing = true WHERE name = 'main'")
    time.sleep(world.dice.uniform(0, 0.5))  # how long is drawn
    world.sql("UPDATE account SET reducing = false WHERE name = 'main'")
    world.counts["times the account only reduced"] += 1


def change_limits(world: World) -> None:
    strategy = f"s{world.dice.randrange(STRATEGIES)}"
    world.sql("DELETE FROM limits WHERE strategy = %s", strategy)
    if world.dice.random() < 0.6:
        world.sql(
            """INSERT INTO limits (strategy, max_order_value, max_open_orders, max_orders_per_minute)
               VALUES (%s, %s, %s, %s)""",
            strategy, world.dice.choice((20, 50)), world.dice.choice((1, 3)), world.dice.choice((2, 10)),
        )  # fmt: skip
    world.counts["changes of risk limits"] += 1


ACTS: list[tuple[int, Callable[[World], None]]] = [
    (30, queue_orders),
    (5, queue_bracket),
    (4, replace_one),
    (6, deposit_or_withdraw),
    (6, cancel_one),
    (8, move_price),
    (4, human_trades),
    (10, venue_fault),
    (5, look_up_fault),
    (4, event_fault),
    (6, kill_trader),
    (3, pause_trader),
    (2, kill_helper),
    (2, drop_connections),
    (1, stop_postgresql),
    (1, kill_venue),
    (1, power_cut),
    (1, halt_for_a_moment),
    (1, reduce_for_a_moment),
    (1, change_limits),
]
"""Each with its weight."""
