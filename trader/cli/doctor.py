"""`tallydesk doctor`: what is wrong with this installation, if anything, and what to do about it."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from trader import config
from trader.config import Settings

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
ACCOUNTS = "SELECT name, mode::text, halted, credentials FROM account ORDER BY name"
FAILED = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` says what to do when it is not well."""

    well: bool
    text: str
    remedy: str = ""


@app.command()
def doctor() -> None:
    """Check settings, database, migrations, clocks, credentials, processes and the books; exit code 1 if one is ill.

    Example: tallydesk doctor
    """
    from rich.console import Console

    console = Console()
    ill = 0
    for finding in examine(config.load()):
        ill += not finding.well
        mark = "[green]ok  [/green]" if finding.well else "[red]FAIL[/red]"
        console.print(f"{mark} {finding.text}" + (f"\n     [bold]{finding.remedy}[/bold]" if not finding.well else ""))
    raise typer.Exit(1 if ill else 0)


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything, in the order in which things depend on each other."""
    import psycopg

    from trader.embedded import database_url

    yield _disk(settings)
    with psycopg.connect(database_url(settings), autocommit=True, application_name="doctor") as connection:
        yield from _server(connection)
        migrated = _migrated(settings)
        yield migrated
        if migrated.well:
            for look in (_accounts, _roles, _jobs, _books):
                yield from look(settings, connection)


def _disk(settings: Settings) -> Finding:
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    free = shutil.disk_usage(settings.home).free
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
    return Finding(now == wanted, f"the schema is at {now}", f"Run: tallydesk migrate (the newest is {wanted})")


def _accounts(settings: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    for name, mode, halted, prefix in connection.execute(ACCOUNTS).fetchall():
        missing = [
            f"{prefix}_{what}" for what in ("API_KEY", "SECRET") if prefix and not os.environ.get(f"{prefix}_{what}")
        ]
        text = f"account {name} ({mode})" + (f" has its keys in {prefix}_*" if prefix and not missing else "")
        yield Finding(not missing, text, f"Set {' and '.join(missing)} in the environment or .env")
        yield Finding(
            not halted, f"account {name} is {'halted' if halted else 'sending'}", "UPDATE account SET halted = false …"
        )
        if mode == "live":
            yield Finding(
                settings.allow_live, "live trading is allowed here", "Set TALLYDESK_ALLOW_LIVE=1 if you mean it"
            )


def _roles(settings: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    alive = dict(connection.execute("SELECT name, alive FROM role_status").fetchall())
    for role in settings.roles:
        yield Finding(
            alive.get(role.name, False), f"{role.name} is running", "Run: tallydesk up, or tallydesk watchdog"
        )


def _jobs(_: Settings, connection: "psycopg.Connection[Any]") -> Iterator[Finding]:
    failed = _row(connection, FAILED)[0]
    yield Finding(failed == 0, f"{failed} failed jobs", "See: select * from job_status; and bucket_feed.last_error")
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
    yield Finding(
        drift == 0, f"{drift} balances differ from the venue's", "See: select * from reconciliation where drift <> 0"
    )


def _row(connection: "psycopg.Connection[Any]", statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    if row is None:
        raise AssertionError(f"a row was certain here: {statement}")
    return row
