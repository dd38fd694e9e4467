"""What a simulator is told to be: command line and JSON file made into a venue."""

import json
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from trader.clock import from_milliseconds, to_milliseconds
from trader.errors import ConfigError
from trader.simulator.book import BookShape
from trader.simulator.candles import SyntheticSeries, read_candles
from trader.simulator.decimals import ZERO
from trader.simulator.market_clock import MarketClock
from trader.simulator.matching import Balance, Engine
from trader.simulator.replay import Series
from trader.simulator.rules import Rules
from trader.simulator.store import Store
from trader.simulator.timeframe import DAY, closes
from trader.simulator.venue import Market, Venue

DEFAULT_KEY, DEFAULT_SECRET = "simulator-key", "simulator-secret"
SYNTHETIC_START = datetime(2024, 1, 1, tzinfo=UTC)
HISTORY_DAYS = 60
"""How much synthetic history there is before the clock's first moment: enough to warm a strategy up on hours."""
_FIAT_LIKE = ("USD", "USDT", "USDC", "EUR", "BRL", "GBP", "TUSD", "FDUSD")
_MARKET_FIELDS = ("symbol", "candles", "price", "tick", "step", "min_notional", "maker", "taker")


@dataclass(slots=True)
class MarketSpec:
    """One market as asked for; what is None is chosen from its price."""

    symbol: str
    candles: Path | None = None
    price: Decimal | None = None
    rules: dict[str, Decimal] = field(default_factory=dict)


@dataclass(slots=True)
class AccountSpec:
    """One account: its key, its secret (never printed) and what it owns when it is first made."""

    key: str
    secret: str = field(repr=False)
    balances: dict[str, Decimal] = field(default_factory=dict)


def number(name: str, value: object) -> Decimal:
    """A finite, non-negative number (ConfigError naming what is wrong)."""
    try:
        result = Decimal(str(value))
    except InvalidOperation:
        result = Decimal("NaN")
    if not result.is_finite() or result < ZERO:
        raise ConfigError(f"{name} is {value!r}; it must be a number, zero or more")
    return result


def read_config(path: Path | None) -> dict[str, Any]:
    """The JSON file of --config, or nothing."""
    if path is None:
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {path}: {error}") from None
    if not isinstance(config, dict) or set(config) - {"markets", "accounts"}:
        raise ConfigError(f"--config {path}: it must be an object with the fields markets and accounts")
    return config


def market_specs(args: Namespace, config: dict[str, Any]) -> list[MarketSpec]:
    """Markets of the config file, then those of --market; BTC/USDT if none is named."""
    specs = [_market_of_json(one) for one in config.get("markets", [])]
    for word in args.market or ([] if specs else ["BTC/USDT"]):
        symbol, _, file = word.partition("=")
        specs.append(MarketSpec(symbol, Path(file) if file else None))
    if args.candles is not None:
        specs[0].candles = args.candles
    for spec in specs:
        if spec.symbol.count("/") != 1 or not all(part.isalnum() for part in spec.symbol.split("/")):
            raise ConfigError(f"market is {spec.symbol!r}; it must look like BTC/USDT")
        given = {"tick": args.tick, "step": args.step, "min_notional": args.min_notional, "maker": args.maker}
        given["taker"] = args.taker
        spec.rules = {name: value for name, value in given.items() if value is not None} | spec.rules
    return specs


def _market_of_json(raw: Any) -> MarketSpec:
    if not isinstance(raw, dict) or "symbol" not in raw or set(raw) - set(_MARKET_FIELDS):
        raise ConfigError(f"market is {raw!r}; it needs symbol and may have {', '.join(_MARKET_FIELDS[1:])}")
    rules = {name: number(name, raw[name]) for name in _MARKET_FIELDS[3:] if name in raw}
    candles = Path(raw["candles"]) if raw.get("candles") else None
    return MarketSpec(str(raw["symbol"]), candles, number("price", raw["price"]) if "price" in raw else None, rules)


def account_specs(args: Namespace, config: dict[str, Any], quote: str) -> list[AccountSpec]:
    """Accounts of the config file and the one of --key; the default account if none is given."""
    specs = []
    for raw in config.get("accounts", []):
        if not isinstance(raw, dict) or not isinstance(raw.get("key"), str) or not isinstance(raw.get("secret"), str):
            raise ConfigError("accounts in the config file need the texts key and secret")
        owned = {asset: number(f"balance of {asset}", value) for asset, value in raw.get("balances", {}).items()}
        specs.append(AccountSpec(raw["key"], raw["secret"], owned))
    if not specs or args.key is not None or args.balance:
        balances = dict(_balance(word) for word in args.balance or [f"{quote}=10000"])
        specs.append(AccountSpec(args.key or DEFAULT_KEY, args.secret or DEFAULT_SECRET, balances))
    return specs


def _balance(word: str) -> tuple[str, Decimal]:
    asset, equals, value = word.partition("=")
    if not equals or not asset.isalnum():
        raise ConfigError(f"--balance is {word!r}; it must look like USDT=200")
    return asset, number(f"--balance {asset}", value)


def default_rules(spec: MarketSpec, price: Decimal) -> Rules:
    """Rules fit for a market of that price: about five digits of price, quantities worth a fraction of a cent."""
    base, quote = spec.symbol.split("/")
    tick = min(Decimal("0.01"), Decimal(10) ** max(price.adjusted() - 4, -8))
    step = Decimal(10) ** max(min(-3 - price.adjusted(), 0), -5)
    notional = Decimal(5) if quote in _FIAT_LIKE else Decimal("0.0001")
    given = {"tick": tick, "step": step, "min_notional": notional} | spec.rules
    return Rules(base, quote, min_quantity=given["step"], **given)


def wall_milliseconds() -> int:
    """Wall time of this machine."""
    return time.time_ns() // 1_000_000


def build(args: Namespace, wall: Callable[[], int] = wall_milliseconds) -> Venue:
    """Open the state file and put the venue together (ConfigError, InputError)."""
    config = read_config(args.config)
    specs = market_specs(args, config)
    files = {spec.symbol: read_candles(spec.candles) for spec in specs if spec.candles is not None}
    store = Store(args.state)
    resumed = store.meta("clock")
    clock = _clock(args, store, files, wall())
    origin = store.meta("origin")
    markets = [_market(spec, files.get(spec.symbol), origin, args.seed) for spec in specs]
    _same_history(store, markets, args.seed)
    accounts = account_specs(args, config, markets[0].rules.quote)
    _open_accounts(store, accounts)
    now = clock.now(wall())
    notes = [] if resumed is None or args.start is None else [_start_ignored(args.start, store.path, now)]
    notes += [note for market in markets if (note := _silence(market, now)) is not None]
    return Venue(
        notes=notes,
        markets=markets,
        secrets={account.key: account.secret for account in accounts},
        engine=Engine(args.fee_asset, args.fee_asset_price),
        store=store,
        clock=clock,
        wall=wall,
        seed=args.seed,
        shape=BookShape(levels=args.book_levels, first_level=args.book_quote),
        weight_limit=args.weight_limit,
    )


def _clock(args: Namespace, store: Store, files: dict[str, Series], wall: int) -> MarketClock:
    """The clock that the state file remembers, or a new one."""
    kept = store.meta("clock")
    if kept is not None:
        clock = MarketClock(**kept)
        if args.speed is not None and args.speed != clock.speed:
            clock.set_speed(wall, args.speed)
    else:
        clock = MarketClock(wall, _start(args, files, wall), 1.0 if args.speed is None else args.speed)
        ends = [series.end for series in files.values() if series.end is not None]
        clock.end = max(ends) if ends else None
        store.set_meta("origin", clock.market - HISTORY_DAYS * DAY)
    store.set_meta("clock", clock.state())
    return clock


def _start(args: Namespace, files: dict[str, Series], wall: int) -> int:
    """Where the market clock begins: --start, else a tenth into the file, else now (2024 if it is to run fast)."""
    series = next(iter(files.values()), None)
    if args.start is None and series is None:
        return wall if args.live_clock or args.speed in (None, 1) else to_milliseconds(SYNTHETIC_START)
    start = "0.1" if args.start is None else args.start
    try:
        fraction = float(start)
    except ValueError:
        moment = _moment(start)
        if series is not None and series.end is not None and moment >= series.end:
            raise ConfigError(f"--start is {start!r}; the candles end at {_shown(series.end)}") from None
        return moment
    if series is None or not 0 <= fraction <= 1:
        raise ConfigError(f"--start is {start!r}; a fraction must be from 0 to 1 and needs a candle file")
    return series.start + int(((series.end or series.start) - series.start) * fraction)


def _moment(start: str) -> int:
    try:
        moment = datetime.fromisoformat(start)
    except ValueError:
        message = f"--start is {start!r}; it must be a moment like 2016-06-01T00:00Z or a fraction from 0 to 1"
        raise ConfigError(message) from None
    return to_milliseconds(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _market(spec: MarketSpec, series: Series | None, origin: int, seed: int) -> Market:
    price = spec.price
    if price is None:
        price = Decimal(30000) if spec.symbol.startswith("BTC/") else Decimal(100)
        if series is not None:
            price = Decimal(f"{series.columns.close[-1]:.8f}")
    rules = default_rules(spec, price)
    digits = -int(rules.tick.normalize().as_tuple().exponent)
    if series is None:
        return Market(rules, SyntheticSeries(spec.symbol, seed, origin, price, max(digits, 0)), synthetic=True)
    series.digits = max(digits, 0)
    return Market(rules, series, synthetic=False)


def _same_history(store: Store, markets: list[Market], seed: int) -> None:
    """A state file belongs to one history: balances of one market's past make no sense in another's."""
    history = [
        [m.rules.symbol, "synthetic", seed] if m.synthetic else [m.rules.symbol, m.series.start, m.series.end]
        for m in markets
    ]
    kept = store.meta("history")
    if kept is not None and kept != history:
        raise ConfigError(
            f"state file {store.path} was made for {kept}, not {history}; "
            "name another file with --state, or forget this one with --fresh"
        )
    store.set_meta("history", history)


def _start_ignored(start: str, path: str, now: int) -> str:
    return f"--start {start} is ignored: the state file {path} goes on at {_shown(now)}; --fresh forgets it"


def _silence(market: Market, now: int) -> str | None:
    """What to say of a market that has no candle at `now`, so that its price stands still."""
    series, symbol = market.series, market.rules.symbol
    if market.synthetic:
        return None
    if now < series.start:
        return f"{symbol}: no candles before {_shown(series.start)}, the market clock is at {_shown(now)}"
    if series.end is not None and now >= series.end:
        return f"{symbol}: no candles from {_shown(series.end)} on, the market clock is at {_shown(now)}"
    index = series.index(now)
    closed = int(closes(series.columns.time[index : index + 1], series.base)[0])
    if now < closed:
        return None
    until = int(series.columns.time[index + 1])
    return f"{symbol}: no candles from {_shown(closed)} to {_shown(until)}, the market clock is at {_shown(now)}"


def _shown(milliseconds: int) -> str:
    return f"{from_milliseconds(milliseconds):%Y-%m-%d %H:%M} UTC"


def _open_accounts(store: Store, accounts: list[AccountSpec]) -> None:
    known = store.balances()
    for account in accounts:
        if account.key not in known:
            store.save_balances(account.key, {asset: Balance(value) for asset, value in account.balances.items()})
