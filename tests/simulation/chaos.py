"""Chaos: a desk at work while everything that can fail does, by a seed; then the books are checked on both sides.

Run by `scripts/chaos --minutes N --seed S`, or `scripts/chaos --cuts N --seed S` for power cuts alone, each of them
followed by the whole proof; a short run of both is part of the tests. Real processes (two traders, a worker, a
scheduler, the simulated venue, PostgreSQL with fsync on), real kill -9.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.plugins.desk import BROKEN_CHAIN
from tests.simulation.chaos_acts import ACTS, OPEN, cancel_one, move_price, queue_bracket, queue_orders, venue_fault
from tests.simulation.chaos_world import World

SETTLE_SECONDS = 180.0
UNFINISHED = f"""SELECT id, status::text, reason FROM "order"
  WHERE status IN ('waiting', 'queued', 'submitted') OR status IN {OPEN}"""
CANCEL_ALL = f"""UPDATE "order" SET cancel_requested_at = now()
  WHERE (status IN {OPEN} OR status = 'waiting') AND cancel_requested_at IS NULL"""
IN_FLIGHT = """SELECT count(*) AS n FROM "order" WHERE status = 'submitted'"""
# An order that was in doubt for so long that a person was told is no fault of the books, once the doubt has ended.
ALARMS = """
SELECT kind, message, order_id FROM incident
 WHERE severity = 'critical' AND NOT (kind = 'in doubt' AND resolved_at IS NOT NULL)
"""
ALERTS = "SELECT count(*) AS n FROM incident WHERE kind = 'in doubt'"
UNEXPLAINED = """
SELECT a.code, b.total FROM balance b
  JOIN ledger_account l ON l.id = b.ledger_account_id JOIN asset a ON a.id = b.asset_id
 WHERE l.kind = 'suspense' AND b.total <> 0
"""
EXTERNAL = "SELECT count(*) AS n FROM external WHERE what = 'open order' AND venue_order_id = %s"


def run(world: World, seconds: float) -> None:
    """Let it happen for `seconds`."""
    weights, acts = [weight for weight, _ in ACTS], [act for _, act in ACTS]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        world.keep_alive()
        world.dice.choices(acts, weights)[0](world)
        time.sleep(world.dice.uniform(0.02, 0.25))  # the rhythm of events is drawn from the seed


def cut_again_and_again(world: World, cuts: int) -> list[str]:
    """Cut the power `cuts` times at random moments under load, and prove the books after each; what was broken."""
    for number in range(1, cuts + 1):
        world.keep_alive()
        world.venue.fault("delay_answer", seconds=0.3, times=40)  # so that there is something in flight
        for act in (venue_fault, queue_orders, queue_bracket, move_price, queue_orders, cancel_one, queue_orders):
            act(world)
        world.wait_until_ready()
        queue_orders(world)
        venue = world.dice.random() < 0.3
        time.sleep(world.dice.uniform(0, 1.5))  # when the power goes is drawn
        world.counts["orders in flight when the power went"] += world.sql(IN_FLIGHT)[0].n
        world.cut_power(venue=venue)
        world.power_is_back(venue=venue)
        world.counts["power cuts"] += 1
        at_once = world.sql("SELECT * FROM invariant_violation") + world.sql(BROKEN_CHAIN)
        settle(world)
        if found := [f"right after the cut: {row}" for row in at_once] + violations(world):
            return [f"cut {number}: {what}" for what in found]
    return []


def settle(world: World) -> None:
    """No more faults: everything in flight ends, what is open is canceled, other people's trades are booked."""
    world.venue.clear_faults()
    world.venue.price(str(world.price))
    for name in list(world.asleep):
        world.asleep[name] = 0.0
    end = time.monotonic() + SETTLE_SECONDS
    while world.sql(UNFINISHED) and time.monotonic() < end:
        world.keep_alive()
        world.sql(CANCEL_ALL)
        time.sleep(0.2)
    while world.desk.process("reconcile", "main").wait() != 0 and time.monotonic() < end:
        world.keep_alive()


def violations(world: World) -> list[str]:
    """A-F of the scenarios, here and at the venue; alarms; and what became of the human's orders."""
    found = [f"unfinished: {row}" for row in world.sql(UNFINISHED)] + world.desk.violations()
    found += [f"incident: {row}" for row in world.sql(ALARMS)]
    found += [f"unexplained: {row}" for row in world.sql(UNEXPLAINED)]
    found += [f"halted: {row}" for row in world.sql("SELECT name, halt_reason FROM account WHERE halted")]
    theirs = {
        one["client_order_id"]: one for one in world.venue.orders() if one["client_order_id"] in world.humans_open
    }
    found += [
        f"somebody else's order {name} was {one['status']}"
        for name, one in theirs.items()
        if one["status"] == "CANCELED"
    ]
    resting = theirs[world.resting]
    if resting["status"] != "NEW" or not world.sql(EXTERNAL, str(resting["id"]))[0].n:
        found.append(f"somebody else's resting order is {resting['status']}, or not shown as external")
    return found


def report(world: World) -> str:
    """What happened, counted."""
    rows = world.sql('SELECT status::text, count(*) AS n FROM "order" GROUP BY 1 ORDER BY 1')
    lines = [f"  {count:6} {what}" for what, count in sorted(world.counts.items())]
    kills = sum(count for what, count in world.counts.items() if what.startswith(("kill -9", "immediate")))
    lines += [f"  {kills:6} kills in all"] + [f"  {row.n:6} orders ended {row.status}" for row in rows]
    fills = world.sql("SELECT count(*) AS n FROM fill")[0].n
    foreign = world.sql("SELECT count(*) AS n FROM external_fill")[0].n
    alerts = world.sql(ALERTS)[0].n
    again = world.sql('SELECT coalesce(sum(attempt - 1), 0) AS n FROM "order" WHERE attempt > 1')[0].n
    return "\n".join(
        [
            *lines,
            f"  {fills:6} fills",
            f"  {foreign:6} fills of somebody else",
            f"  {again:6} sent again after proof of absence",
            f"  {alerts:6} alerts for an order that was in doubt for five minutes, and is not any more",
        ]
    )


def happen(world: World, options: argparse.Namespace) -> list[str]:
    """Do what was asked for, and print what came of it; what was broken."""
    if options.cuts:
        found, what = cut_again_and_again(world, options.cuts), f"{options.cuts} power cuts"
    else:
        run(world, options.minutes * 60)
        settle(world)
        found, what = violations(world), f"{options.minutes:g} minutes"
    print(f"seed {options.seed}, {what}\n{report(world)}\n  {len(found):6} violations")
    for violation in found:
        print("VIOLATION", violation)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run chaos; 0 if nothing was violated."""
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cuts", type=int, default=0, help="this many power cuts instead, each followed by the proof")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the directory with the database and the logs")
    options = parser.parse_args(arguments)
    home = Path(tempfile.mkdtemp(prefix="chaos"))
    home.chmod(0o755)
    world = World(home, options.seed)
    try:
        world.set_up()
        found = happen(world, options)
    finally:
        world.end()
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    if found and options.keep:
        print(f"kept: {home}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
