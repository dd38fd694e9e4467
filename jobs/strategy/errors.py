"""Why a run of a strategy makes no decision."""

from trader.errors import TallydeskError


class Stopped(TallydeskError):
    """The class of a strategy could not be loaded, raised, or gave no signal. The message is for its row."""


class TooFew(TallydeskError):
    """There are fewer candles than the warm-up: nothing can be said yet."""


class Missing(TallydeskError):
    """Candles are missing that the strategy does not decide across, and it is known why."""


class Unsure(TallydeskError):
    """Candles are missing, and nobody knows yet why."""


class NotThere(TallydeskError):
    """A candle of an input is not there yet, which a decision waits for."""

    def __init__(self, message: str, awaited: tuple[int, int]) -> None:
        super().__init__(message)
        self.awaited = awaited
        """Its market and timeframe."""
