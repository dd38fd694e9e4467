"""The row of a decision: what a strategy decided at a candle, and why; and a hash of what it was decided on."""

import hashlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from weakref import WeakKeyDictionary

from jobs.strategy.candles import Window
from trader.db import Connection
from trader.strategy import Strategy

Action = Literal["buy", "sell", "orders", "none", "waits", "passed", "stopped"]
COLUMNS = ["open", "high", "low", "close", "volume"]
LONGEST_REASON = 2_000

# One that waits says since when it does so for this reason, and is not written again for saying the same.
WRITE = """
INSERT INTO decision AS d (strategy_id, bucket_time, market_id, timeframe_id, action, signal, previous, inputs_hash,
                           reason, awaited_market_id, awaited_timeframe_id)
VALUES (%(id)s, %(newest)s, %(market_id)s, %(timeframe_id)s, %(action)s::decision_action, %(signal)s, %(previous)s,
        %(inputs_hash)s, %(reason)s, %(awaited_market)s, %(awaited_timeframe)s)
ON CONFLICT (strategy_id, bucket_time) DO UPDATE
   SET action = EXCLUDED.action, signal = EXCLUDED.signal, previous = EXCLUDED.previous, reason = EXCLUDED.reason,
       inputs_hash = EXCLUDED.inputs_hash, market_id = EXCLUDED.market_id, timeframe_id = EXCLUDED.timeframe_id,
       awaited_market_id = EXCLUDED.awaited_market_id, awaited_timeframe_id = EXCLUDED.awaited_timeframe_id,
       decided_at = CASE WHEN (EXCLUDED.action, EXCLUDED.reason) = (d.action, d.reason) THEN d.decided_at
                         ELSE EXCLUDED.decided_at END
 WHERE d.action = 'waits'
   AND (d.action, d.signal, d.previous, d.reason, d.inputs_hash, d.market_id, d.timeframe_id) IS DISTINCT FROM
       (EXCLUDED.action, EXCLUDED.signal, EXCLUDED.previous, EXCLUDED.reason, EXCLUDED.inputs_hash,
        EXCLUDED.market_id, EXCLUDED.timeframe_id)
"""

DECIDED = """
SELECT FROM decision WHERE (strategy_id, bucket_time) = (%(id)s, %(newest)s) AND action <> 'waits'
"""

# Those that made an order stay: the order comes from there.
PRUNE = """
DELETE FROM decision d
 WHERE d.action NOT IN ('buy', 'sell', 'orders')
   AND d.decided_at < clock_timestamp() - (SELECT decision_keep FROM setting)
   AND NOT EXISTS (SELECT FROM "order" o WHERE o.strategy_id = d.strategy_id AND o.bucket_time = d.bucket_time)
"""

_sources: WeakKeyDictionary[ModuleType, bytes] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a look at a candle."""

    action: Action
    reason: str
    signal: float | None = None
    previous: float | None = None
    inputs_hash: bytes | None = None
    awaited: tuple[int, int] | None = None
    """Market and timeframe of the input whose candle is waited for."""
    error: str | None = None
    """What is wrong and a person has to mend: for the strategy's row."""


async def is_decided(connection: Connection, row: Any) -> bool:
    """Whether the newest candle was decided on already. True only if somebody set `last_bucket` back."""
    values = {"id": row.id, "newest": row.newest}
    return (await connection.execute(DECIDED, values)).rowcount == 1


async def write(connection: Connection, row: Any, verdict: Verdict) -> None:
    """Write the decision of the newest candle. One that is decided stays as it is."""
    market, timeframe = verdict.awaited or (None, None)
    values = {
        "id": row.id,
        "newest": row.newest,
        "market_id": row.market_id,
        "timeframe_id": row.timeframe_id,
        "action": verdict.action,
        "signal": verdict.signal,
        "previous": verdict.previous,
        "inputs_hash": verdict.inputs_hash,
        "reason": verdict.reason[:LONGEST_REASON],
        "awaited_market": market,
        "awaited_timeframe": timeframe,
    }
    await connection.execute(WRITE, values)


def hash_inputs(strategy: Strategy[Any], state: Mapping[str, Any] | None, window: Window) -> bytes:
    """16 bytes of blake2b over all that is decided on but money: the same inputs, the same bytes, on any machine.

    A class is its name and the source of its module and of those of its base classes, as it was first seen here.
    `state` is what it remembered before, in the second style.
    """
    import numpy as np

    found = hashlib.blake2b(digest_size=16)
    kind = type(strategy)
    code = {name: _source(sys.modules[name]).hex() for name in sorted(_modules(kind))}
    params = strategy.params.model_dump(mode="json")
    what = [1, f"{kind.__module__}:{kind.__qualname__}", code, params, state]
    found.update(json.dumps(what, sort_keys=True).encode())
    for one in (window.own, *sorted(window.inputs, key=lambda one: one.name)):
        found.update(json.dumps([one.name, one.market, one.timeframe, len(one.candles)]).encode())
        index: Any = one.candles.index
        found.update(np.ascontiguousarray(index.as_unit("ms").asi8, dtype="<i8").tobytes())
        found.update(np.ascontiguousarray(one.candles[COLUMNS].to_numpy(), dtype="<f8").tobytes())
    return found.digest()


def _modules(strategy: type) -> set[str]:
    """Where a class and its base classes are written, but for ours and Python's own."""
    names = {base.__module__ for base in strategy.__mro__}
    return {name for name in names if name.partition(".")[0] not in ("builtins", "abc", "typing", "trader")}


def _source(module: ModuleType) -> bytes:
    """A hash of the source of a module, read once: a worker goes on with the code that it has loaded."""
    if module not in _sources:
        path = inspect.getsourcefile(module)
        text = Path(path).read_bytes() if path else b""
        _sources[module] = hashlib.blake2b(text, digest_size=16).digest()
    return _sources[module]
