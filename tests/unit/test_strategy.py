"""The kit: finding a class, checking its parameters and its signal, deciding."""

from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from pydantic import Field

from trader.errors import InputError
from trader.strategy import (
    Context,
    Decision,
    Minimums,
    Params,
    Performance,
    Position,
    SignalError,
    Stake,
    Strategy,
    Targets,
    adjusted,
    decide,
    describe,
    evaluate,
    find_class,
    load,
    needed,
)

SMA = "strategies.sma_cross:SmaCross"
D = Decimal


def frame(*closes: float) -> pd.DataFrame:
    index = pd.date_range("2024-01-01", periods=len(closes), freq="1h", tz="UTC", name="time_close")
    columns = {name: list(closes) for name in ("open", "high", "low", "close")}
    return pd.DataFrame({**columns, "volume": 1.0}, index=index, dtype="float64")


# Finding


def test_a_class_is_found_by_name_and_takes_its_defaults() -> None:
    strategy = load(SMA)
    assert strategy.params.model_dump() == {"price": "ohlc4", "fast": 3, "slow": 100}
    assert load(SMA, {"fast": 5, "slow": 20}).warm_up == 20


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("SmaCross", ["write module:Class"]),
        ("strategies.sma_cross:", ["write module:Class"]),
        ("nowhere:SmaCross", ['no module "nowhere"']),
        (
            "strategies.nowhere:SmaCross",
            ['no module "strategies.nowhere"', "momentum, moving_average, regime_trend, sma_cross, support_resistance"],
        ),
        ("strategies.sma_cross:Sma", ['no class "Sma"', "SmaCross"]),
        ("strategies.sma_cross:Field", ['"Field"', "SmaCross"]),
        ("strategies.sma_cross:Strategy", ['"Strategy"', "SmaCross"]),
        ("trader.errors:Nothing", ["no strategy at all"]),
    ],
)
def test_a_wrong_class_is_refused_with_what_there_is(path: str, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        find_class(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


UNFINISHED = """
from abc import abstractmethod
from trader.strategy import Strategy
class Bare(Strategy):
    def signal(self, candles):
        return candles.close * 0
class More(Strategy):
    @abstractmethod
    def level(self): ...
class Whole(Bare):
    warm_up = 1
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", "Bare lacks warm_up, which a strategy must have (docs/strategies.md)"),
        ("More", "More lacks level and warm_up, which a strategy must have (docs/strategies.md)"),
        (
            "Gone",
            'there is no class "Gone" in unfinished; it has Whole, Bare (lacks warm_up), More (lacks level and '
            "warm_up)",
        ),
    ],
)
def test_a_class_that_lacks_members_is_told_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    (tmp_path / "unfinished.py").write_text(UNFINISHED)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        find_class(f"unfinished:{name}")
    assert str(caught.value) == f'strategy class "unfinished:{name}": {said}'
    assert find_class("unfinished:Whole")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\nraise KeyError('gone')\n", ["KeyError", "gone", ":2"]),
        ("import no_such_library\n", ["no_such_library", ":1"]),
        ("x = 1\n\ndef (:\n", ["SyntaxError", ":3"]),
        ("raise SystemExit(3)\n", ["SystemExit", ":1"]),
    ],
)
def test_a_module_that_cannot_be_imported_says_why_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: list[str]
) -> None:
    name = f"broken_{abs(hash(code))}"
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        load(f"{name}:Mine")
    assert all(word in str(caught.value) for word in [name, *words]), str(caught.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"fats": 1}, ['unknown parameter "fats"', "price, fast, slow"]),
        ({"fast": 0}, ["fast is 0", "a whole number, at least 1, at most 5000"]),
        ({"fast": "5"}, ["fast is '5'", "a whole number"]),
        ({"fast": True}, ["fast is True", "a whole number"]),
        ({"price": "mid"}, ["price is 'mid'", "open, high, low, close, ohlc4, hl2, hlc3"]),
        ({"fast": 20, "slow": 20}, ["fast is 20 and slow is 20", "fast must be smaller than slow"]),
        ({"fast": 0, "slow": 1}, ["fast is 0", "slow is 1"]),
        ({"fast": D(1)}, ["plain JSON values"]),
    ],
)
def test_wrong_parameters_are_named_with_what_is_allowed(params: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        load(SMA, params)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("warm_up = 1", "it has neither signal nor on_bucket"),
        ("warm_up = 1; signal = on_bucket = lambda *_: None", "it has both signal and on_bucket: one of them decides"),
    ],
)
def test_a_class_has_one_of_two_styles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    name = f"styled_{abs(hash(body))}"
    (tmp_path / f"{name}.py").write_text(f"from trader.strategy import Strategy\nclass Mine(Strategy):\n    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=message):
        load(f"{name}:Mine")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def __init__(self, params): 1 / 0", r"Mine cannot be made: ZeroDivisionError: .*\.py:4\)"),
        ("def __init__(self): pass", r"Mine cannot be made: TypeError: "),
    ],
)
def test_what_a_constructor_raises_is_told_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, message: str
) -> None:
    name = f"built_{abs(hash(body))}"
    head = "from trader.strategy import Strategy\nclass Mine(Strategy):\n    warm_up = 1; signal = lambda *_: None\n"
    (tmp_path / f"{name}.py").write_text(f"{head}    {body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SignalError, match=message):
        load(f"{name}:Mine")


def test_parameters_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="jump is nan: a number, at least 1, at most 1000"):
        load("strategies.momentum:Momentum", {"jump": float("nan")})


def test_parameters_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(SMA).params.fast = 7


# Running


class GivenParams(Params):
    values: list[float | None] = Field(default_factory=list)
    warm_up: int = 1


class Given(Strategy[GivenParams]):
    """Gives what it is told to."""

    @property
    def warm_up(self) -> int:
        return self.params.warm_up

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return pd.Series(self.params.values, index=candles.index[: len(self.params.values)], dtype="float64")


class Loose(Given):
    """Gives anything."""

    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        return self.answer  # type: ignore[return-value]


class Plain(Strategy):  # type: ignore[type-arg]
    """Has nothing to set."""

    warm_up = 1  # type: ignore[assignment]

    def signal(self, candles: pd.DataFrame) -> pd.Series:
        candles["close"] = 0.0  # its own copy
        return pd.Series(True, index=candles.index)


def test_a_warm_up_that_raises_is_told_with_its_line() -> None:
    class Wrong(Plain):
        @property
        def warm_up(self) -> int:
            return int("many")

    with pytest.raises(SignalError, match=r"warm_up: ValueError: invalid literal .* \(.*test_strategy\.py:\d+\)"):
        needed(Wrong())


def given(*values: float | None, warm_up: int = 1) -> Given:
    return Given(GivenParams(values=list(values), warm_up=warm_up))


def test_a_signal_is_passed_on_as_floats() -> None:
    assert evaluate(given(-1.0, 0.5, 1.0), frame(1, 2, 3)).tolist() == [-1.0, 0.5, 1.0]


def test_what_is_before_the_warm_up_is_zero_whatever_it_was() -> None:
    assert evaluate(given(None, 9.0, 1.0, 0.5, warm_up=3), frame(1, 2, 3, 4)).tolist() == [0.0, 0.0, 1.0, 0.5]


def test_a_strategy_without_parameters_needs_no_brackets_and_cannot_change_the_candles() -> None:
    candles = frame(1, 2)
    assert evaluate(Plain(), candles).tolist() == [1.0, 1.0]
    assert candles["close"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0, 1.0], "list, not a pandas Series"),
        (pd.Series([1.0]), "1 values for 2 candles"),
        (pd.Series([1.0, 1.0]), "another index"),
        (pd.Series(["in", "in"], index=frame(1, 2).index), "not numbers"),
        (pd.Series([0.0, float("nan")], index=frame(1, 2).index), "2024-01-01 01:00:00 is nan"),
        (pd.Series([0.0, float("inf")], index=frame(1, 2).index), "2024-01-01 01:00:00 is inf"),
        (pd.Series([1.01, 0.0], index=frame(1, 2).index), "2024-01-01 00:00:00 is 1.01: from -1 to 1"),
    ],
)
def test_a_signal_that_is_none_is_refused(answer: object, words: str) -> None:
    with pytest.raises(SignalError, match=words):
        evaluate(Loose(answer), frame(1, 2))


@pytest.mark.parametrize("warm_up", [0, -1, 100_001])
def test_a_warm_up_that_is_none_is_refused(warm_up: int) -> None:
    with pytest.raises(SignalError, match=f"warm_up is {warm_up}"):
        evaluate(given(1.0, warm_up=warm_up), frame(1))


def test_an_error_is_told_by_the_line_of_the_strategy_that_led_to_it() -> None:
    with pytest.raises(AttributeError) as caught:
        given(1.0).signal(None)  # type: ignore[arg-type]
    told = describe(caught.value, __name__)
    assert told.startswith("AttributeError: 'NoneType'")
    assert f"{Path(__file__).name}:" in told


class Careful(Given):
    """Out after a loss of a tenth."""

    def adjust(self, target: float, context: Context) -> float:
        return 0.0 if context.performance.return_percent < -10 else 2 * target


def context(return_percent: str) -> Context:
    zero = D(0)
    made = Performance(zero, zero, zero, zero, zero, zero, zero, D(return_percent), None, 0, None)
    return Context(D(100), Position(zero, None), made)


def test_a_strategy_may_look_at_its_money_last() -> None:
    assert adjusted(Careful(), 0.5, context("-9")) == 1.0
    assert adjusted(Careful(), 0.5, context("-11")) == 0.0
    assert adjusted(given(), 0.5, context("-11")) == 0.5
    with pytest.raises(SignalError, match=r"adjust gave 2\.0"):
        adjusted(Careful(), 1.0, context("0"))


# Deciding

RULES = Minimums(quantity_min=D("0.001"), quantity_step=D("0.001"), cost_min=D(5))
ALL = Stake(D(100), in_percent=True)


def decision(
    now: float,
    previous: float | None,
    *,
    holding: str = "0",
    free: str = "100",
    open_orders: int = 0,
    stake: Stake = ALL,
) -> Decision:
    return decide(Targets(now, previous, D(10_000)), D(holding), D(free), open_orders, stake, RULES)


@pytest.mark.parametrize(
    ("now", "previous", "holding", "order", "reason"),
    [
        (1.0, 0.0, "0", "buy", "fresh cross"),
        (1.0, -1.0, "0", "buy", "fresh cross"),
        (0.1, 0.0, "0", "buy", "fresh cross"),
        (1.0, 0.0, "0.0009", "buy", "fresh cross"),  # dust is nothing
        (1.0, 1.0, "0", None, "waits for a fresh cross"),
        (1.0, 0.1, "0", None, "waits for a fresh cross"),
        (1.0, None, "0", None, "before is unknown"),
        (1.0, 0.0, "0.5", None, "in already"),
        (1.0, 1.0, "0.5", None, "in already"),
        (0.0, 1.0, "0.5", "sell", "sell all of 0.5"),
        (-1.0, 1.0, "0.5", "sell", "sell all of 0.5"),
        (0.0, 0.0, "0.5", "sell", "sell all of 0.5"),  # the exit was missed: it is made up for
        (0.0, None, "0.5", "sell", "sell all of 0.5"),
        (0.0, 1.0, "0.001", "sell", "sell all of 0.001"),
        (0.0, 1.0, "0.0009", None, "only dust"),
        (0.0, 1.0, "0", None, "nothing is held"),
        (0.0, 1.0, "-0.5", None, "nothing is held"),
    ],
)
def test_targets_become_orders(
    now: float, previous: float | None, holding: str, order: str | None, reason: str
) -> None:
    made = decision(now, previous, holding=holding)
    assert (made.order, reason in made.reason) == (order, True), made


def test_what_is_worth_less_than_the_market_trades_is_dust() -> None:
    low = Targets(0.0, 1.0, D(4_000))
    assert decide(low, D("0.001"), D(0), 0, ALL, RULES).order is None
    assert decide(low, D("0.002"), D(0), 0, ALL, RULES).order == "sell"
    assert decide(low, D("0.0000001"), D(0), 0, ALL, Minimums()).order == "sell"


@pytest.mark.parametrize(("now", "holding"), [(1.0, "0"), (0.0, "0.5")])
def test_nothing_is_ordered_while_an_order_is_open(now: float, holding: str) -> None:
    made = decision(now, 0.0, holding=holding, open_orders=1)
    assert made == Decision(None, "1 order of it still open")


@pytest.mark.parametrize(
    ("free", "stake", "order", "reason"),
    [
        ("0", ALL, None, "allowance is used up"),
        ("-1", ALL, None, "allowance is used up"),
        ("4.99", ALL, None, "below the minimum of 5"),
        ("5", ALL, "buy", "buy for 5"),
        ("9", Stake(D(50), in_percent=True), None, "a stake of 4.5 is below the minimum of 5"),
        ("10", Stake(D(50), in_percent=True), "buy", "buy for 5"),
        ("100", Stake(D(60), in_percent=False), "buy", "buy for 60"),
        ("59.99", Stake(D(60), in_percent=False), None, "a stake of 60 exceeds the allowance of 59.99"),
    ],
)
def test_an_entry_needs_its_stake(free: str, stake: Stake, order: str | None, reason: str) -> None:
    made = decision(1.0, 0.0, free=free, stake=stake)
    assert (made.order, reason in made.reason) == (order, True), made
