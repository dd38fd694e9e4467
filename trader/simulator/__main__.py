"""python -m trader.simulator: run a simulated exchange until it is told to stop."""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from aiohttp import web

from trader.errors import InputError, TallydeskError
from trader.simulator.config import DEFAULT_KEY, DEFAULT_SECRET, build, number
from trader.simulator.faults import Faults
from trader.simulator.request_log import RequestLog
from trader.simulator.rules import Rules
from trader.simulator.server import Server
from trader.simulator.sockets import Sockets
from trader.simulator.venue import Venue

EXAMPLES = """examples:
  python -m trader.simulator --port 8700
  python -m trader.simulator --port 0 --market BTC/USD --candles btc_1m.csv.gz --speed 600 --start 0.5
  python -m trader.simulator --market BTC/USDT --market ETH/USDT=eth_1m.csv --balance USDT=200 --fresh
"""
_DEFAULT = Rules("", "")
RULES = {
    "tick": "smallest step of a price (default: by the price)",
    "step": "smallest step of a quantity (default: by the price)",
    "min-notional": f"least worth of an order (default {_DEFAULT.min_notional} where quote is USDT or the like)",
    "maker": f"fee of an order that rested, as a fraction (default {_DEFAULT.maker})",
    "taker": f"fee of an order that filled at once, as a fraction (default {_DEFAULT.taker})",
}


def _checked(name: str) -> Callable[[str], Decimal]:
    def convert(value: str) -> Decimal:
        try:
            return number(name, value)
        except TallydeskError as error:
            raise ArgumentTypeError(str(error)) from None

    return convert


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser("simulator", description=__doc__, epilog=EXAMPLES, formatter_class=RawDescriptionHelpFormatter)
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=8700, help="0 picks a free one")
    p.add_argument("--state", type=Path, help="the committed state; default simulator.sqlite in TALLYDESK_HOME")
    p.add_argument("--fresh", action="store_true", help="forget what the state file holds")
    p.add_argument("--market", action="append", metavar="BTC/USDT[=FILE]", help="repeatable; without FILE: synthetic")
    p.add_argument("--candles", type=Path, metavar="FILE", help="candle file (csv, csv.gz) of the first market")
    p.add_argument("--speed", type=float, help="market seconds per wall second (default 1)")
    p.add_argument("--start", metavar="ISO|FRACTION", help="where a new market clock begins (default 0.1 of the file)")
    p.add_argument("--live-clock", action="store_true", help="synthetic data whose market clock is wall time")
    p.add_argument("--seed", type=int, default=1, help="of synthetic data and of the book")
    p.add_argument("--key", help=f"API key of the account (default {DEFAULT_KEY})")
    p.add_argument("--secret", help=f"its secret (default {DEFAULT_SECRET})")
    p.add_argument("--balance", action="append", metavar="USDT=200", help="repeatable; used when the account is new")
    p.add_argument("--config", type=Path, help="JSON file with more markets and accounts")
    for name, what in RULES.items():
        p.add_argument(f"--{name}", type=_checked(name), help=f"{what}, of every market")
    p.add_argument("--fee-asset", metavar="BNB", help="pay fees in this asset while its balance lasts")
    p.add_argument("--fee-asset-price", type=_checked("fee-asset-price"), default=Decimal(300), help="in quote")
    p.add_argument("--book-levels", type=int, default=20, help="levels on each side of the synthetic book")
    p.add_argument("--book-quote", type=_checked("book-quote"), default=Decimal(200), help="worth of its first level")
    p.add_argument("--weight-limit", type=int, default=6000, help="of one address, a minute (default 6000); 0: none")
    p.add_argument("--tick-seconds", type=float, default=0.1, help="how often resting orders and streams move")
    return p


def check_arguments(args: Namespace) -> None:
    """Refuse what does not fit together (SystemExit 2 with a sentence), and name the state file."""
    refuse = parser().error
    if args.live_clock and (args.candles or args.start or args.speed not in (None, 1)):
        refuse("--live-clock goes with neither --candles nor --start nor a --speed other than 1")
    if args.speed is not None and not 0 <= args.speed <= 10_000_000:
        refuse(f"--speed is {args.speed}; it must be from 0 to 10000000")
    if not 0 <= args.port <= 65535:
        refuse(f"--port is {args.port}; it must be from 0 to 65535")
    if args.weight_limit < 0:
        refuse(f"--weight-limit is {args.weight_limit}; it must be 0 (no limit) or more")
    if not 0.001 <= args.tick_seconds <= 60:
        refuse(f"--tick-seconds is {args.tick_seconds}; it must be from 0.001 to 60")
    if not 1 <= args.book_levels <= 1000 or not args.book_quote or not args.fee_asset_price:
        refuse("--book-levels must be from 1 to 1000, --book-quote and --fee-asset-price above 0")
    if args.state is None:
        home = Path(os.environ.get("TALLYDESK_HOME") or Path.home() / ".local/state/tallydesk")
        home.mkdir(parents=True, exist_ok=True)
        args.state = home / "simulator.sqlite"
    if args.fresh:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{args.state}{suffix}").unlink(missing_ok=True)


async def serve(args: Namespace, venue: Venue) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    faults, log = Faults(), RequestLog()
    sockets = Sockets(venue, faults, log)
    server = Server(venue, faults, log, sockets.handle)
    runner = web.AppRunner(server.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = socket.create_server((args.host, args.port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise InputError(f"port {args.port} of {args.host} is in use: name another one with --port") from None
    await web.SockSite(runner, listener).start()
    for market in venue.markets.values():
        source = f"synthetic data, seed {args.seed}" if market.synthetic else f"replay of {market.series.base} candles"
        print(f"{market.rules.symbol}: {source}", flush=True)
    for note in venue.notes:
        print(f"note: {note}", flush=True)
    print(f"simulator ready on http://{args.host}:{listener.getsockname()[1]}", flush=True)
    while not stop.is_set():
        venue.advance()
        sockets.tick()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), args.tick_seconds)
    await sockets.close()
    await runner.cleanup()


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    args = parser().parse_args(argv)
    try:
        check_arguments(args)
        venue = build(args)
        try:
            asyncio.run(serve(args, venue))
        finally:
            venue.store.close()
    except (TallydeskError, OSError) as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
