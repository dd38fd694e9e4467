"""Fixture `simulator`: starts simulated exchanges as processes of their own and stops them after the test.

Use: `venue = simulator("--balance", "USDT=200")`; then `venue.url`, `venue.key`, `venue.secret`,
`venue.options()` (constructor config for ccxt), and the helpers below. `venue.kill()` is kill -9,
`venue.start()` starts it again on the same port and state.
"""

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from trader.simulator.client_options import ccxt_options

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15.0


class Simulator:
    """A running simulator and what a test may do to it."""

    def __init__(self, state: Path, arguments: tuple[str, ...], key: str, secret: str) -> None:
        self.state = state
        self.key = key
        self.secret = secret
        self.port = 0
        self.output = ""
        self._arguments = arguments
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def options(self, **more: Any) -> dict[str, Any]:
        """Constructor config that points ccxt's binance here, with credentials and without a rate limit."""
        config = {"apiKey": self.key, "secret": self.secret, "enableRateLimit": False, **ccxt_options(self.url)}
        return config | more

    def start(self) -> None:
        """Start the process and wait until it listens."""
        command = [sys.executable, "-m", "trader.simulator", "--port", str(self.port), "--state", str(self.state)]
        command += ["--key", self.key, "--secret", self.secret, *self._arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.output = ""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if line.startswith("simulator ready on "):
                self.port = int(line.rsplit(":", 1)[1])
                return
        raise AssertionError(f"the simulator did not start: {self.output}")

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def stop(self) -> int | None:
        """SIGTERM; the exit code."""
        if self._process is None:
            return None
        self._process.terminate()
        code = self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._process = None
        return code

    def admin(self, method: str, what: str, body: object = None) -> Any:
        """Call /simulator/<what>; AssertionError with the simulator's own words if it refuses."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/simulator/{what}", data, {"Content-Type": "application/json"}, method=method)
        try:
            with urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except HTTPError as error:
            raise AssertionError(f"{method} {what}: {error.code} {error.read().decode()}") from None

    def fault(self, fault: str, endpoint: str | None = "POST /api/v3/order", **fields: Any) -> None:
        """Add one fault rule; `match` may hold more than the endpoint. Fires once unless `times` says otherwise."""
        match = ({"endpoint": endpoint} if endpoint else {}) | fields.pop("match", {})
        self.admin("POST", "faults", [{"fault": fault, "match": match, **fields}])

    def hide_orders(self) -> None:
        """From now on no look-up and no list knows of any order or execution; balances show what they did."""
        for path in ("order", "openOrders", "myTrades"):
            self.fault("lookup_miss", endpoint=f"GET /api/v3/{path}", times=None)

    def clear_faults(self) -> None:
        self.admin("DELETE", "faults")

    def price(self, price: str | None, market: str | None = None) -> None:
        """Pin the market price (None lets it go)."""
        self.admin("POST", "price", {"price": price} | ({"market": market} if market else {}))

    def hide(self, start: int, end: int, *, trades: bool = False) -> None:
        """Do not show the candles in [start, end), milliseconds of market time; with `trades` nor those."""
        self.admin("POST", "hide", {"from": start, "to": end, "trades": trades})

    def give_back(self) -> None:
        """Show everything again that was hidden."""
        self.admin("POST", "hide", {"back": True})

    def clock(self, **fields: float) -> Any:
        """Read the clocks, or set them: speed=, advance_seconds=."""
        return self.admin("POST", "clock", fields) if fields else self.admin("GET", "clock")

    def credit(self, asset: str, quantity: str, key: str | None = None) -> Any:
        return self.admin("POST", "balance", {"key": key or self.key, "asset": asset, "quantity": quantity})

    def cancel_by_itself(self, venue_order_id: str, symbol: str = "BTCUSDT") -> None:
        """The venue cancels an order for reasons of its own."""
        query = f"symbol={symbol}&orderId={venue_order_id}&timestamp={int(time.time() * 1000)}"
        signature = hmac.new(self.secret.encode(), query.encode(), hashlib.sha256).hexdigest()
        url = f"{self.url}/api/v3/order?{query}&signature={signature}"
        with urlopen(Request(url, headers={"X-MBX-APIKEY": self.key}, method="DELETE"), timeout=PATIENCE) as answer:
            assert json.load(answer)["status"] == "CANCELED"

    def orders(self) -> list[dict[str, Any]]:
        """Every order that the venue has ever accepted."""
        return self.admin("GET", "orders")

    def venue_state(self) -> dict[str, Any]:
        return self.admin("GET", "state")

    def log(self, since: int = 0) -> list[dict[str, Any]]:
        return self.admin("GET", f"log?since={since}&limit=100000")

    def wait_for_log(self, wanted: Callable[[dict[str, Any]], bool], patience: float = PATIENCE) -> dict[str, Any]:
        """The first log entry that `wanted` accepts, as soon as there is one."""
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            for entry in self.log():
                if wanted(entry):
                    return entry
            time.sleep(0.01)
        raise AssertionError(f"no such request within {patience} s; the last were {self.log()[-5:]}")


def _factory(folder: Path) -> Iterator[Callable[..., Simulator]]:
    running: list[Simulator] = []

    def start(*arguments: str, key: str = "test-key", secret: str = "test-secret", start: bool = True) -> Simulator:
        venue = Simulator(folder / f"simulator{len(running)}.sqlite", arguments, key, secret)
        running.append(venue)
        if start:
            venue.start()
        return venue

    yield start
    for venue in running:
        venue.kill()


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Callable[..., Simulator]]:
    """A factory: `simulator("--speed", "60", key="k", secret="s")` starts one and gives a `Simulator`."""
    yield from _factory(tmp_path)


@pytest.fixture(scope="module")
def simulator_for_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Simulator]]:
    """The same factory for a venue that all tests of a module share."""
    yield from _factory(tmp_path_factory.mktemp("simulator"))
