"""A strategy for freqtrade that wants to be in: the smallest one that gives an entry signal."""

from typing import Any

from freqtrade.strategy import IStrategy
from pandas import DataFrame


class OneBuy(IStrategy):
    """One entry signal, on the newest closed candle of the day when it runs; it never wants to leave."""

    INTERFACE_VERSION = 3
    timeframe = "1d"
    minimal_roi: dict[str, float] = {}  # noqa: RUF012 - freqtrade reads it as a plain attribute
    stoploss = -0.99
    order_types = {  # noqa: RUF012 - the same
        "entry": "market",
        "exit": "market",
        "stoploss": "market",
        "stoploss_on_exchange": False,
    }

    def populate_indicators(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe

    def populate_entry_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        dataframe["enter_long"] = (dataframe["date"] == dataframe["date"].max()).astype(int)
        return dataframe

    def populate_exit_trend(self, dataframe: DataFrame, metadata: dict[str, Any]) -> DataFrame:
        return dataframe
