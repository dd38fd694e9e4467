"""`tallydesk stop`: end every process of the desk, wherever it was started."""

import time

import typer

from trader import config

app = typer.Typer(add_completion=False)

ASK = """UPDATE role SET stop_at = clock_timestamp()
  WHERE name IN (SELECT name FROM role_status WHERE alive) RETURNING name"""
TELL_UP = "SELECT pg_notify('tallydesk_stop', '')"
# `tallydesk up` ends its processes and itself; as long as it lives it could start them, and PostgreSQL, again.
ALIVE = """SELECT name FROM role_status WHERE alive
  UNION ALL SELECT 'up (its session has pid ' || pid || ')' FROM pg_stat_activity
   WHERE application_name = 'up' AND datname = current_database() ORDER BY 1"""
PATIENCE_SECONDS = 40.0


@app.command()
def stop() -> None:
    """Ask every process of the desk to finish what is in flight and end, `up` too; wait until they have.

    Cron starts them again within a minute: take its line out of the crontab first. Exit code 1 if one lives on.

    Example: tallydesk stop
    """
    import psycopg

    from trader.embedded import existing_url

    url = existing_url(config.load())
    with psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="stop") as connection:
        connection.execute(TELL_UP)
        asked = sorted(name for (name,) in connection.execute(ASK).fetchall())
        print(f"asked to stop: {', '.join(asked)}" if asked else "nothing is running")
        deadline = time.monotonic() + PATIENCE_SECONDS
        while alive := [name for (name,) in connection.execute(ALIVE).fetchall()]:
            if time.monotonic() > deadline:
                print(f"still running after {PATIENCE_SECONDS:.0f} s: {', '.join(alive)}")
                raise typer.Exit(1)
            time.sleep(0.2)
    print("all stopped; the embedded PostgreSQL, if used, runs on: tallydesk db stop")
