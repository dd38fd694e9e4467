"""What a strategy is: the class that one is made from, in either of two styles."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar, get_args, get_origin

from trader.strategy.context import Context, OnBucketContext
from trader.strategy.gap import GapPolicy
from trader.strategy.input import Input
from trader.strategy.params import Params

if TYPE_CHECKING:
    from pandas import DataFrame, Series

P = TypeVar("P", bound=Params)
Style = Literal["signal", "on_bucket"]


class Strategy(ABC, Generic[P]):
    """A strategy: `class Mine(Strategy[MyParams])`, or `class Mine(Strategy)` if nothing can be set.

    It has one of two styles: `signal`, or `on_bucket` (with or without `indicators`). The same code serves live, where
    only the newest candle is decided on, and in a backtest, over all of them. So what it says at a candle may depend on
    nothing but the candles that have closed by then, the parameters, and in `on_bucket` the context with its state.
    Nothing may be kept in the object itself: a live run makes a new one each time.
    """

    params_model: ClassVar[type[Params]] = Params
    gaps: ClassVar[GapPolicy] = "no_trades"
    """Which gaps within the candles of its warm-up it decides across."""
    params: P

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            arguments = get_args(base) if get_origin(base) is Strategy else ()
            if arguments and isinstance(arguments[0], type) and issubclass(arguments[0], Params):
                cls.params_model = arguments[0]

    def __init__(self, params: P | None = None) -> None:
        self.params = params if params is not None else self.params_model()  # type: ignore[assignment]

    @property
    @abstractmethod
    def warm_up(self) -> int:
        """How many candles the first meaningful value needs, its own candle included: at least 1."""

    @property
    def inputs(self) -> Mapping[str, Input]:
        """Further candles, by the names under which `signal` and `indicators` get them."""
        return {}

    # The rest of the arguments is whatever `inputs` names: mypy lets a subclass name them.

    def signal(self, candles: "DataFrame", *_: Any, **inputs: Any) -> "Series":
        """Style 1: the target exposure at the close of each candle, from -1 (short) over 0 (out) to 1 (in).

        `candles` has float columns open, high, low, close, volume and a UTC index, the times of close, oldest first; so
        has each input. The result has the index of `candles`. Values before the warm-up do not count: the kit makes
        them 0.
        """
        raise NotImplementedError

    def adjust(self, target: float, context: Context) -> float:
        """Style 1: the last word on the newest target, for a strategy that looks at its money. As it is, if not made.

        A backtest by arrays does not call it.
        """
        return target

    def indicators(self, candles: "DataFrame", *_: Any, **inputs: Any) -> "DataFrame":
        """Style 2: columns with the index of `candles`, computed once over all of them; `context.now` has the newest.

        NaN is no value, and allowed.
        """
        import pandas as pd

        return pd.DataFrame(index=candles.index)

    def on_bucket(self, context: OnBucketContext) -> float | None:
        """Style 2: called at the close of each candle. A target as of `signal` is followed; None is no wish.

        A target above 0 enters on a fresh cross; one of 0 or below sells all that is held and takes waiting orders
        back. `context.buy`, `sell` and `cancel` may be used as well, or instead.
        """
        raise NotImplementedError


def styles_of(strategy: type[Strategy[Any]]) -> list[Style]:
    """The styles that a class has: exactly one, if it is right."""
    styles: list[Style] = ["signal", "on_bucket"]
    return [style for style in styles if getattr(strategy, style) is not getattr(Strategy, style)]


def style_of(strategy: Strategy[Any]) -> Style:
    """The style of a strategy that `load` made."""
    [style] = styles_of(type(strategy))
    return style
