"""`tallydesk status`: how things are, on one screen."""

import typer

from trader import config

app = typer.Typer(add_completion=False)

ROLES = "SELECT name, alive, since_beat FROM role_status ORDER BY name"
ACCOUNTS = """SELECT a.name AS account, e.name AS exchange, a.mode::text AS mode, a.state, a.halt_reason
  FROM account a JOIN exchange e ON e.id = a.exchange_id ORDER BY a.name"""
ORDERS = 'SELECT status::text, count(*) AS orders FROM "order" GROUP BY status ORDER BY status'
LIMITS = """SELECT account, strategy, rule, asset, allowed, used, remaining, unit FROM risk_usage LIMIT 20"""
IN_DOUBT = "SELECT id, strategy, market, held, held_asset, age, reason FROM order_in_doubt ORDER BY id LIMIT 20"
EXTERNAL = """SELECT account, what, market, side, quantity, price, at::timestamptz(0), venue_order_id FROM external
  ORDER BY what DESC, at DESC LIMIT 10"""
DRIFT = """SELECT account, asset, verdict, venue, ledger, suspense FROM reconciliation
  WHERE verdict <> 'agrees' OR suspense <> 0 ORDER BY 1, 2 LIMIT 20"""
FEEDS = """SELECT e.name || ':' || m.symbol AS market, t.name AS timeframe, f.enabled, f.status::text, f.newest,
  f.last_error
  FROM bucket_feed f JOIN market m ON m.id = f.market_id JOIN exchange e ON e.id = m.exchange_id
  JOIN timeframe t ON t.id = f.timeframe_id ORDER BY 1, t.id LIMIT 20"""
STRATEGIES = """SELECT p.strategy, s.enabled, p.unit, round(p.equity, 2) AS equity, round(p.profit, 2) AS profit,
  p.return_percent, p.trades, s.error FROM performance p JOIN strategy s ON s.name = p.strategy ORDER BY 1 LIMIT 20"""
BUDGETS = """SELECT exchange, coalesce(account, address) AS "for", used, capacity, for_orders,
  blocked_until::timestamptz(0), why FROM budget ORDER BY blocked_until NULLS LAST, 1, 2 LIMIT 20"""
INCIDENTS = """SELECT at::timestamptz(0), severity::text, kind, message FROM incident
  WHERE resolved_at IS NULL ORDER BY at DESC LIMIT 10"""


@app.command()
def status() -> None:
    """Show processes, accounts, strategies, orders, candle feeds, requests and open incidents.

    Example: tallydesk status
    """
    import psycopg
    from rich.console import Console

    from trader.cli._screen import show
    from trader.embedded import existing_url

    console = Console()
    with psycopg.connect(existing_url(config.load()), autocommit=True, application_name="status") as connection:
        show(console, connection, "Processes", ROLES, empty="none was ever started: tallydesk up")
        show(console, connection, "Accounts", ACCOUNTS, empty="none yet: tallydesk account add")
        show(console, connection, "Strategies", STRATEGIES, empty="none yet: tallydesk strategy add")
        show(console, connection, "Orders", ORDERS)
        show(console, connection, "Limits", LIMITS)
        show(console, connection, "In doubt", IN_DOUBT)
        show(console, connection, "Drift", DRIFT)
        show(console, connection, "Other people's orders and fills", EXTERNAL)
        show(console, connection, "Candle feeds", FEEDS)
        show(console, connection, "Requests of this minute", BUDGETS)
        show(console, connection, "Open incidents", INCIDENTS)
