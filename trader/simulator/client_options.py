"""How to point an unmodified ccxt `binance` (sync, async or pro) at a simulator."""

from typing import Any


def ccxt_options(base_url: str) -> dict[str, Any]:
    """Plain constructor config for ccxt's binance; ccxt merges it deep into its own. No credentials in it.

    `base_url` is what the simulator prints when it is ready, such as http://127.0.0.1:8700.
    """
    base = base_url.rstrip("/")
    socket = "ws" + base.removeprefix("http")
    return {
        "urls": {
            "api": {
                "public": f"{base}/api/v3",
                "private": f"{base}/api/v3",
                "sapi": f"{base}/sapi/v1",
                # ccxt tells a spot stream by "/stream" in its address
                "ws": {"spot": f"{socket}/stream/ws", "ws-api": {"spot": f"{socket}/ws-api/v3"}},
            }
        },
        "options": {
            "defaultType": "spot",
            "fetchMarkets": {"types": ["spot"]},
            "fetchMargins": False,
            "fetchCurrencies": False,
        },
    }
