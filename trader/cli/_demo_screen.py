"""What the demo shows while it runs, and at its end."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, LiteralString

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from trader.cli._screen import Rows, show

if TYPE_CHECKING:
    import psycopg

    from trader.cli._demo import Plan

CANDLES: LiteralString = "SELECT count(*), max(time_close) FROM bucket"
STATUSES: LiteralString = """
SELECT status::text, count(*) FROM "order" WHERE type IN ('market', 'limit') GROUP BY 1 ORDER BY 2 DESC
"""
RESULTS: LiteralString = """
SELECT p.strategy, round(p.equity, 2), round(p.profit, 2), round(p.fees, 2), p.return_percent, p.trades,
       CASE WHEN s.signal IS NULL THEN 'waits' WHEN s.signal > 0 THEN 'long' ELSE 'flat' END
  FROM performance p JOIN strategy s ON s.name = p.strategy ORDER BY 1
"""
# The columns in the unit of the desk are left out: their rates are as old as the last reading of prices, and here hours
# of the market pass in a second.
HOLDING: LiteralString = """
SELECT strategy, account, asset, total, held, average_cost, price, value, unit FROM holding ORDER BY strategy, asset
"""
PERFORMANCE: LiteralString = """
SELECT strategy, unit, deposits, withdrawals, equity, profit, realised, unrealised, fees, return_percent,
       max_drawdown_percent, trades, win_percent, unpriced FROM performance ORDER BY strategy
"""
LAST_FILLS: LiteralString = """
SELECT f.booked_at::time(0), s.name, f.side::text, trim_scale(f.quantity), round(f.price, 2),
       trim_scale(f.fee) || ' ' || a.code
  FROM fill f JOIN "order" o ON o.id = f.order_id JOIN strategy s ON s.id = o.strategy_id
  LEFT JOIN asset a ON a.id = f.fee_asset_id ORDER BY f.id DESC LIMIT 5
"""
FIRST_FILL: LiteralString = """
SELECT extract(epoch FROM min(booked_at) - (SELECT min(created_at) FROM exchange))::float8 FROM fill
"""


class Progress:
    """What has happened so far, read from the database."""

    def __init__(self, connection: "psycopg.Connection[Any]", seconds: float) -> None:
        self._connection = connection
        self.seconds = seconds
        self.started = time.monotonic()

    @property
    def elapsed(self) -> float:
        return min(time.monotonic() - self.started, self.seconds)

    @property
    def over(self) -> bool:
        return self.elapsed >= self.seconds

    def _rows(self, statement: LiteralString) -> list[Any]:
        return self._connection.execute(statement).fetchall()

    def line(self) -> str:
        """One line of plain text, for a screen that is none."""
        (candles, newest), *_ = self._rows(CANDLES)
        orders = ", ".join(f"{count} {status}" for status, count in self._rows(STATUSES)) or "none yet"
        results = ", ".join(f"{row[0]} {row[2]:+}" for row in self._rows(RESULTS))
        seen = f"{candles} candles to {newest:%Y-%m-%d %H:%M}" if newest else "no candles yet"
        return f"{self.elapsed:5.1f} s | {seen} | orders: {orders} | profit: {results}"

    def screen(self) -> Group:
        """The live picture."""
        (candles, newest), *_ = self._rows(CANDLES)
        facts = Table.grid(padding=(0, 2))
        facts.add_row(
            "time", ProgressBar(self.seconds, self.elapsed, width=40), f"{self.elapsed:.0f} of {self.seconds:.0f} s"
        )
        facts.add_row("candles in", f"{candles:,}", f"to {newest:%Y-%m-%d %H:%M} UTC" if newest else "")
        orders = "  ".join(f"{status} [bold]{count}[/bold]" for status, count in self._rows(STATUSES))
        facts.add_row("orders", orders or "none yet", "")
        columns = ["strategy", "equity", "profit", "fees", "return %", "trades", "wants to be"]
        fills = ["at", "strategy", "side", "quantity", "price", "fee"]
        parts: list[RenderableType] = [facts, "", Rows("Strategies (USDT)", columns, self._rows(RESULTS)), ""]
        if last := self._rows(LAST_FILLS):
            parts.append(Rows("Last fills", fills, last))
        return Group(*parts)


def watch_progress(console: Console, progress: Progress, check: Callable[[], None]) -> None:
    """Show progress until it is over; `check` raises if something has died."""
    if not console.is_terminal:
        while not progress.over:
            check()
            print(progress.line(), flush=True)
            time.sleep(min(5.0, progress.seconds))
        return
    with Live(progress.screen(), console=console, refresh_per_second=4) as live:
        while not progress.over:
            check()
            time.sleep(0.4)
            live.update(progress.screen())


def final_report(console: Console, connection: "psycopg.Connection[Any]", plan: "Plan") -> list[str]:
    """Print where everything ended up; what is not as it must be."""
    console.print()
    show(console, connection, "holding (in its unit)", HOLDING)
    console.print()
    show(console, connection, "performance (in its unit)", PERFORMANCE, expanded=True)
    console.print()
    show(console, connection, "select * from reconciliation", "SELECT * FROM reconciliation ORDER BY asset")
    console.print()
    show(
        console, connection, "select * from invariant_violation", "SELECT * FROM invariant_violation", empty="(0 rows)"
    )
    first = (connection.execute(FIRST_FILL).fetchone() or (None,))[0]
    if first is not None:
        console.print(f"\nThe first fill was booked {first:.1f} s after the database was ready.")
    console.print("\nEvery cent of it is in the database. Look further:\n")
    console.print(f"  [bold]{plan.command('psql')}[/bold]", soft_wrap=True)  # to be copied: no line breaks
    console.print(
        "  [dim]select * from orders;  select * from fill;  select * from ledger;  select * from order_event;[/dim]\n"
    )
    return list(_problems(connection))


def _problems(connection: "psycopg.Connection[Any]") -> list[str]:
    checks: dict[str, LiteralString] = {
        "there were no fills": "SELECT NOT EXISTS (SELECT FROM fill)",
        "the books disagree with themselves": "SELECT EXISTS (SELECT FROM invariant_violation)",
        "the venue's balances differ from the ledger": """SELECT EXISTS (SELECT FROM reconciliation WHERE drift <> 0)
            OR NOT EXISTS (SELECT FROM reconciliation WHERE drift = 0)""",
        "a strategy failed": "SELECT EXISTS (SELECT FROM strategy WHERE error IS NOT NULL)",
    }
    return [text for text, statement in checks.items() if (connection.execute(statement).fetchone() or (True,))[0]]
