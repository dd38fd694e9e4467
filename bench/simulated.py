"""A simulated venue in a process of its own, and bare ccxt calling it: the floor of all that goes over the wire."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from trader.simulator.client_options import ccxt_options

ROOT = Path(__file__).resolve().parents[1]
KEY, SECRET = "bench-key", "bench-secret"
CREDENTIALS = {"BENCH_API_KEY": KEY, "BENCH_SECRET": SECRET}


class Venue:
    """A running simulator."""

    def __init__(self, url: str, pid: int = 0) -> None:
        self.url = url
        self.pid = pid

    def options(self) -> dict[str, Any]:
        """ccxt's constructor config for it, without credentials."""
        return ccxt_options(self.url) | {"enableRateLimit": False}

    def admin(self, method: str, what: str, body: object = None) -> Any:
        """Call /simulator/<what>."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/simulator/{what}", data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def last_request(self) -> int:
        """The number of the newest request in its log."""
        return max((entry["id"] for entry in self.admin("GET", "log?since=0&limit=200000")), default=0)

    def orders_since(self, number: int) -> dict[str, int]:
        """When each order's request arrived: milliseconds by client order id."""
        entries = self.admin("GET", f"log?since={number}&limit=200000")
        wanted = (entry for entry in entries if entry["method"] == "POST" and entry["path"] == "/api/v3/order")
        return {entry["client_order_id"]: entry["time"] for entry in wanted if entry["client_order_id"]}


@contextlib.contextmanager
def simulator(*arguments: str) -> Iterator[Venue]:
    """Start one with plenty of money and a pinned price; stop it in the end. Arguments go to its command line."""
    with tempfile.TemporaryDirectory(prefix="bench-venue-") as state:
        command = [sys.executable, "-m", "trader.simulator", "--port", "0", "--state", f"{state}/venue.sqlite"]
        command += ["--key", KEY, "--secret", SECRET, "--balance", "USDT=1000000000", "--book-quote", "1000000"]
        command += ["--weight-limit", "0"]  # it is our speed that is measured
        command += arguments
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE)
        try:
            venue = Venue(_ready(process), process.pid)
            venue.admin("POST", "price", {"price": "50000"})
            yield venue
        finally:
            process.terminate()
            process.wait(30)


def _ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("simulator ready on "):
            return line.rsplit(" ", 1)[1].strip()
    raise AssertionError("the simulator did not start")


@contextlib.asynccontextmanager
async def bare_ccxt(venue: Venue) -> AsyncIterator[Any]:
    """An unmodified asynchronous ccxt binance."""
    import ccxt.async_support as ccxt

    client = ccxt.binance({"apiKey": KEY, "secret": SECRET, **venue.options()})
    try:
        await client.load_markets()
        yield client
    finally:
        await client.close()


async def ccxt_alone(venue: Venue, orders: int, in_flight: int) -> float:
    """Orders per second of create_order and nothing else, `in_flight` at a time."""
    async with bare_ccxt(venue) as client:
        numbers = iter(range(orders))

        async def sender() -> None:
            for _ in numbers:
                extra = {"newClientOrderId": str(uuid.uuid4()), "quoteOrderQty": 10}
                order = await client.create_order("BTC/USDT", "market", "buy", None, None, extra)
                assert order["status"] == "closed"

        started = time.perf_counter()
        await asyncio.gather(*(sender() for _ in range(in_flight)))
        return orders / (time.perf_counter() - started)
