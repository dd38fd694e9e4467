"""Making a strategy of one's own: a file that works, and a test that passes."""

import keyword
import re
import sys
from pathlib import Path
from typing import NamedTuple

from trader.config import Settings
from trader.errors import InputError

SIGNAL = '''"""{title}: what it does, in one sentence.

Rule: the target is 1 (in) where the close is above its mean over `period` candles, else 0 (out).
"""

from pandas import DataFrame, Series

from trader.strategy import Params, Strategy, param


class {cls}Params(Params):
    """What can be set: defaults, bounds, and the range that a sweep searches."""

    period: int = param(20, ge=2, le=5_000, search=(5, 100))


class {cls}(Strategy[{cls}Params]):
    """In while the close is above its mean, else out."""

    @property
    def warm_up(self) -> int:
        """How many candles the first value needs, its own included."""
        return self.params.period

    def signal(self, candles: DataFrame) -> Series:
        """The target at each close, from -1 to 1, by nothing but the candles up to it."""
        close = candles["close"]
        return (close > close.rolling(self.params.period).mean()).astype("float64")
'''

ON_BUCKET = '''"""{title}: what it does, in one sentence.

Rules: it buys where the close rises above its mean over `period` candles, and sells at a stop `stop` below the entry,
or where the close falls below the mean. After a stop it waits for the next rise.
"""

from pandas import DataFrame

from trader.strategy import OnBucketContext, Params, Strategy, param


class {cls}Params(Params):
    """What can be set: defaults, bounds, and the range that a sweep searches."""

    period: int = param(20, ge=2, le=5_000, search=(5, 100))
    stop: float = param(0.05, gt=0, lt=1, search=(0.01, 0.2))


class {cls}(Strategy[{cls}Params]):
    """In from a rise above the mean to a fall below it, or to a stop."""

    @property
    def warm_up(self) -> int:
        """How many candles the first value needs, its own included."""
        return self.params.period

    def indicators(self, candles: DataFrame) -> DataFrame:
        """Columns over all candles at once; `context.now` has the row of the candle that has just closed."""
        return DataFrame({{"mean": candles["close"].rolling(self.params.period).mean()}})

    def on_bucket(self, context: OnBucketContext) -> float | None:
        """What to do at this close. What is to be remembered goes into `context.state`, never into `self`."""
        above = context.close > context.now.mean
        rose = above and not context.state.get("above", True)
        context.state["above"] = above
        if rose and not context.quantity and not context.orders:
            context.buy()
            context.sell(stop=context.close * (1 - self.params.stop))
            return None
        return None if above else 0.0
'''

TEST = '''"""{title} on candles that are drawn: when it trades, and that it knows no future."""

import numpy as np
from pandas import DataFrame, date_range

from trader.backtest.check import check
from trader.backtest.run import Frames, backtest
from trader.backtest.settings import parse_settings
from trader.strategy import load

STRATEGY = "{path}:{cls}"


def candles(closes: list[float]) -> DataFrame:
    """Hours with these closes; each opens where the one before closed."""
    close = np.array(closes, dtype=float)
    opens = np.concatenate((close[:1], close[:-1]))
    columns = {{"open": opens, "high": np.maximum(opens, close), "low": np.minimum(opens, close), "close": close}}
    index = date_range("2024-01-01 01:00", periods=len(close), freq="1h", tz="UTC", name="time_close")
    return DataFrame({{**columns, "volume": 1.0}}, index=index)


def test_it_buys_a_rise_and_sells_a_fall() -> None:
    closes = [100.0] * 10 + [105.0] * 3 + [90.0] * 10
    fills = backtest(load(STRATEGY, {{"period": 5}}), Frames(candles(closes), "1h"), parse_settings({{}})).fills
    assert fills.side.tolist() == [1, -1]
    assert fills.bar.tolist() == {bars}


def test_it_uses_no_future_and_its_warm_up_is_enough() -> None:
    walk = 100 * np.exp(np.random.default_rng(1).normal(0, 0.01, 3_000).cumsum())
    report = check(load(STRATEGY), candles(walk.tolist()))
    assert report.proved, report
'''

PATH = """
sys.path.append(str(Path(__file__).resolve().parent))  # beside this file, wherever the tests are started

"""
STYLES = {"signal": (SIGNAL, [11, 14]), "on_bucket": (ON_BUCKET, [11, 13])}


class Made(NamedTuple):
    """What was written."""

    strategy: Path
    test: Path
    class_: str
    """As module:Class."""


def make(name: str, style: str, settings: Settings) -> Made:
    """Write the strategy and its test. InputError: the name or style will not do, or one of the files is there."""
    if style not in STYLES:
        raise InputError(f"--style is {style!r}: allowed are {', '.join(STYLES)}")
    folder, tests, package = _places(settings)
    _check_name(name)
    class_name = "".join(part.capitalize() for part in name.split("_"))
    made = Made(folder / f"{name}.py", tests / f"test_{name}.py", f"{package}{name}:{class_name}")
    for path in made[:2]:
        if path.exists():
            raise InputError(f"{path} is there already: nothing is written over it; choose another name")
    if not package and _is_taken(name):
        raise InputError(f"name is {name!r}: Python has a module of that name, which would be found in its place")
    code, bars = STYLES[style]
    words = {"title": name.replace("_", " ").capitalize(), "cls": class_name, "path": f"{package}{name}", "bars": bars}
    test = TEST.format(**words)
    if not package:
        test = test.replace("import numpy as np\n", "import sys\nfrom pathlib import Path\n\nimport numpy as np\n", 1)
        test = test.replace('\nSTRATEGY = "', f'{PATH}STRATEGY = "', 1)
    _write(made.strategy, code.format(**words))
    _write(made.test, test)
    return made


def _places(settings: Settings) -> tuple[Path, Path, str]:
    """Where strategies and tests go, and what comes before a module's name."""
    if settings.strategies is not None:
        if not settings.strategies.is_dir():
            raise InputError(f"TALLYDESK_STRATEGIES is {settings.strategies}, and there is no such directory: make it")
        return settings.strategies, settings.strategies, ""
    folder, tests = settings.project / "strategies", settings.project / "tests" / "unit"
    if not (settings.project / "pyproject.toml").is_file() or not folder.is_dir() or not tests.is_dir():
        raise InputError("there is no checkout to write into: name a directory by TALLYDESK_STRATEGIES in .env")
    return folder, tests, "strategies."


def _check_name(name: str) -> None:
    """InputError: a name that is none for a module."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,59}", name) or keyword.iskeyword(name) or name.startswith("test_"):
        raise InputError(f"name is {name!r}: small letters, digits and _ are allowed, a letter first, as in my_cross")


def _is_taken(name: str) -> bool:
    """Whether Python finds another module of that name."""
    from importlib.util import find_spec

    return name in sys.stdlib_module_names or find_spec(name) is not None


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
