"""`tallydesk doctor`: what is wrong with this installation, if anything, and what to do about it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from trader import config
from trader.config import Settings
from trader.errors import TallydeskError

if TYPE_CHECKING:
    import psycopg

app = typer.Typer(add_completion=False)

LEAST_FREE_BYTES = 1_000_000_000
LONGEST_SNAPSHOT_SECONDS = 60

SETTINGS = (
    "SELECT current_setting('server_version_num')::int, current_setting('fsync'), current_setting('synchronous_commit')"
)
CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
SNAPSHOT = """SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::int, max(application_name)
  FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid <> pg_backend_pid() AND datname = current_database()"""
BLOCKED = """SELECT exchange, to_char(blocked_until AT TIME ZONE 'UTC', 'HH24:MI:SS'), why FROM budget
  WHERE blocked_until IS NOT NULL ORDER BY 1, 2"""
STRATEGIES = "SELECT name, error FROM strategy WHERE error IS NOT NULL ORDER BY 1 LIMIT 20"
RUNNING = """SELECT s.name, s.class, s.params, s.schedule::text, e.name || ':' || m.symbol, t.name
  FROM strategy s JOIN market m ON m.id = s.market_id JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = s.timeframe_id WHERE s.enabled AND s.class IS NOT NULL ORDER BY 1"""
FEEDS = """SELECT e.name || ':' || m.symbol || ' ' || t.name, f.last_error
  FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = f.timeframe_id WHERE f.status = 'error' ORDER BY 1 LIMIT 20"""
# The error is in the worker's log, and in last_error of the feed or error of the strategy that it worked for.
FAILED = """SELECT j.task_name, count(*) FROM procrastinate_jobs j WHERE j.status = 'failed' AND EXISTS (
  SELECT FROM procrastinate_events e
   WHERE e.job_id = j.id AND e.type = 'failed' AND e.at > clock_timestamp() - interval '1 hour')
  GROUP BY 1 ORDER BY 1"""
UNKNOWN_DRIFT = "SELECT DISTINCT account FROM reconciliation WHERE drift IS NULL AND venue IS NOT NULL ORDER BY 1"
ACCOUNTS = """SELECT a.name, a.mode::text, a.state, a.halt_reason, a.credentials,
  a.halted AND EXISTS (SELECT FROM account_drift d WHERE d.account_id = a.id AND d.halted_at IS NOT NULL)
  FROM account a ORDER BY a.name"""
MARKS = {True: "[green]ok  [/green]", False: "[red]FAIL[/red]", None: "[yellow]?   [/yellow]"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do when it is not well."""

    well: bool | None
    """None: it cannot be told now."""
    text: str
    remedy: str = ""


@app.command()
def doctor() -> None:
    """Check settings, database, migrations, clocks, credentials, processes and the books; exit code 1 if one is ill.

    Example: tallydesk doctor
    """
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    ill = 0
    for finding in examine(config.load()):
        ill += finding.well is False
        console.print(f"{MARKS[finding.well]} {escape(finding.text)}", soft_wrap=True)
        if finding.well is False:
            console.print(f"     [bold]{escape(finding.remedy)}[/bold]", soft_wrap=True)  # to be copied
    raise typer.Exit(1 if ill else 0)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, in the order in which things depend on each other."""
    yield _disk(settings)
    yield from _folder(settings)
    yield from _secrets(settings)
    connection = _connect(settings)
    if isinstance(connection, Finding):
        yield connection
        return
    with connection:
        yield from _server(connection)
        migrated = _migrated(settings)
        yield migrated
        if migrated.well:
            for look in (_accounts, _roles, _venues, _strategies, _candles, _jobs, _books):
                yield from look(settings, connection)


def _connect(settings: Settings) -> "psycopg.Connection[Any] | Finding":
    """The database, or what is to be said of its not being there."""
    import psycopg

    from trader.embedded import existing_url

    remedy = "Start the server that DATABASE_URL names, or mend DATABASE_URL in the environment or .env"
    if settings.database_url is None:
        remedy = "Run: tallydesk migrate (it starts the embedded server and makes what is missing)"
    try:
        url = existing_url(settings)
        return psycopg.connect(url, autocommit=True, application_name="doctor", connect_timeout=10)
    except (psycopg.Error, TallydeskError) as error:
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return Finding(False, f"no database: {first}", remedy)


def _secrets(settings: Settings) -> Iterator[Finding]:
    """Files with keys in them are for their owner's eyes."""
    for path in sorted({settings.project / ".env", settings.home / ".env"}):
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:  # not there: `config.load` has read every one that is
            continue
        yield Finding(not mode & 0o077, f"{path} has mode {mode:04o}", f"Others can open it. Run: chmod 600 {path}")


def _folder(settings: Settings) -> Iterator[Finding]:
    """The directory of one's own strategies, if the settings name one."""
    if settings.strategies is not None:
        text, remedy = f"own strategies are in {settings.strategies}", "There is no such directory: make it, or mend"
        yield Finding(settings.strategies.is_dir(), text, f"{remedy} TALLYDESK_STRATEGIES in the environment or .env")


def _disk(settings: Settings) -> Finding:
    place = next(path for path in (settings.home, *settings.home.parents) if path.exists())
    free = shutil.disk_usage(place).free
    text = f"{settings.home} has {free / 1e9:.1f} GB free"
    return Finding(free > LEAST_FREE_BYTES, text, "Make room: PostgreSQL stops when its disk is full.")


def _server(connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    import time

    version, fsync, synchronous_commit = _row(connection, SETTINGS)
    yield Finding(version >= 150000, f"PostgreSQL {version // 10000}", "Tallydesk needs PostgreSQL 15 or newer.")
    durable = fsync == "on" and synchronous_commit != "off"
    text = f"fsync is {fsync}, synchronous_commit is {synchronous_commit}"
    yield Finding(durable, text, "With these off a power cut loses orders that were sent.")
    difference = abs(_row(connection, CLOCK)[0] - time.time())
    yield Finding(
        difference < 1, f"this machine's clock and the database's differ by {difference:.3f} s", "Run NTP on both."
    )
    age, name = _row(connection, SNAPSHOT)
    text = f"the oldest open snapshot is {age} s old" + (f" ({name})" if age else "")
    yield Finding(
        age < LONGEST_SNAPSHOT_SECONDS, text, "End that session: dead rows pile up behind it and slow every claim."
    )


def _migrated(settings: Settings) -> Finding:
    from trader.embedded import database_url
    from trader.migrate import current, head

    now, wanted = current(database_url(settings)), head()
    return Finding(
        now == wanted,
        f"the schema is at {now or 'nothing: it was never migrated'}",
        f"Run: tallydesk migrate (the newest is {wanted})",
    )


def _accounts(settings: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    for name, mode, state, reason, prefix, differs in connection.execute(ACCOUNTS).fetchall():
        missing = [
            f"{prefix}_{what}" for what in ("API_KEY", "SECRET") if prefix and not os.environ.get(f"{prefix}_{what}")
        ]
        text = f"account {name} ({mode})" + (f" has its keys in {prefix}_*" if prefix and not missing else "")
        yield Finding(not missing, text, f"Set {' and '.join(missing)} in the environment or .env")
        yield _state(name, state, reason, differs)
        if mode == "live":
            yield Finding(
                settings.allow_live, "live trading is allowed here", "Set TALLYDESK_ALLOW_LIVE=1 if you mean it"
            )


def _state(name: str, state: str, reason: str | None, differs: bool) -> Finding:
    """Whether an account sends; `differs`: a large difference to its venue halted it."""
    if state == "active":
        return Finding(True, f"account {name} is active")
    text = f"account {name} is {state}" + (f": {reason}" if reason else "")
    remedy = f"When that is dealt with: tallydesk resume {name} (it sets halted and reducing to false)"
    if differs:
        remedy = (
            "It differs from its venue: look at the view reconciliation first. Setting halted to false, or "
            f"tallydesk resume {name} --accept-drift, accepts the difference: the next round books it"
        )
    return Finding(False, text, remedy)


def _roles(settings: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    alive = dict(connection.execute("SELECT name, alive FROM role_status").fetchall())
    for role in settings.roles:
        yield Finding(
            alive.get(role.name, False), f"{role.name} is running", "Run: tallydesk up, or tallydesk watchdog"
        )


def _venues(_: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    blocked = connection.execute(BLOCKED).fetchall()
    for name, until, why in blocked:
        text = f"{name} is not asked anything until {until} UTC: {why}"
        remedy = "It goes on by itself. If it comes again: does another program ask from this address?"
        yield Finding(False, text, remedy)
    if not blocked:
        yield Finding(True, "no venue has told us to wait")


def _strategies(_: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    strategies, feeds = (connection.execute(statement).fetchall() for statement in (STRATEGIES, FEEDS))
    for name, error in strategies:
        remedy = "Mend its class or params; it is tried again at the next candle"
        yield Finding(False, f"strategy {name}: {error}", remedy)
    for name, error in feeds:
        yield Finding(False, f"feed {name}: {error}", "The worker tries again; if it stays: is the venue there?")
    if not strategies and not feeds:
        yield Finding(True, "no strategy and no candle feed has an error")


def _candles(_: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    """Whether a feed keeps all that the enabled strategies read."""
    from trader.cli._unfed import KEPT, asked, unfed
    from trader.clock import SystemClock
    from trader.strategy import load, series_of

    well = True
    for name, path, params, schedule, market, timeframe in connection.execute(RUNNING).fetchall():
        try:
            series = series_of(load(path, params), market, timeframe, schedule)
        except TallydeskError as error:
            well = False
            yield Finding(None, f"which candles strategy {name} reads cannot be told here: {error}")
            continue
        rows = connection.execute(KEPT, asked(series)).fetchall()
        for one in unfed(series, rows, SystemClock().now()):
            well = False
            yield Finding(False, f"strategy {name}: {one.text}", one.remedy[0].upper() + one.remedy[1:])
    if well:
        yield Finding(True, "feeds keep all candles that enabled strategies read")


def _jobs(settings: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    failed = connection.execute(FAILED).fetchall()
    names = f": {', '.join(f'{count} {task}' for task, count in failed)}" if failed else ""
    text = f"{sum(count for _, count in failed)} jobs failed within the last hour{names}"
    yield Finding(not failed, text, f"The reasons are in {settings.home / 'log'}, in the workers' logs")
    doubt = _row(connection, "SELECT count(*) FROM order_in_doubt")[0]
    yield Finding(
        doubt == 0, f"{doubt} orders in doubt", "See: select * from order_in_doubt; evidence will settle them"
    )
    incidents = _row(connection, "SELECT count(*) FROM incident WHERE resolved_at IS NULL")[0]
    yield Finding(
        incidents == 0, f"{incidents} open incidents", "See: select * from incident where resolved_at is null"
    )


def _books(_: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    wrong = _row(connection, "SELECT count(*) FROM invariant_violation")[0]
    yield Finding(
        wrong == 0, f"{wrong} invariant violations", "Stop trading and see: select * from invariant_violation"
    )
    over = _row(connection, "SELECT count(*) FROM reconciliation WHERE unallocated < 0 AND venue IS NOT NULL")[0]
    remedy = "Strategies were given more than the venue has: withdraw from one, or pay in at the venue"
    yield Finding(over == 0, f"{over} assets given out beyond what is there", remedy)
    drift = _row(connection, "SELECT count(*) FROM reconciliation WHERE drift <> 0 AND verdict <> 'tolerated'")[0]
    unknown = [account for (account,) in connection.execute(UNKNOWN_DRIFT).fetchall()]
    for account in unknown:
        text = f"whether account {account} agrees with its venue is unknown: an order of it is in flight"
        yield Finding(None, text)
    if unknown and drift == 0:
        return
    yield Finding(
        drift == 0, f"{drift} balances differ from the venue's", "See: select * from reconciliation where drift <> 0"
    )


def _row(connection: "psycopg.Connection[Any]", statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    if row is None:
        raise AssertionError(f"a row was certain here: {statement}")
    return row
