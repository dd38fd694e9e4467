"""Pictures and reports: right numbers at right places, nothing from elsewhere, and readable in a browser."""

import html
import json
import os
import re
import shutil
import struct
import subprocess
import zlib
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from strategies.sma_cross import SmaCross, SmaCrossParams
from tests.unit.test_backtest_record import STARTED, loaded, run_of, walk
from trader.backtest.chart import moments, number, ticks
from trader.backtest.plot import plot
from trader.backtest.record import MEASURES, Point, Run, began, compute
from trader.backtest.report import monthly, report, write_report
from trader.backtest.result import AFTER_A_GAP, FROM_THE_START, Result
from trader.backtest.settings import parse_settings
from trader.backtest.words import WORDS, Word, not_done, quote_of, told
from trader.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOT = ROOT / "docs" / "images" / "backtest-report.png"
PLOT = ROOT / "docs" / "images" / "backtest-plot.png"
WRITE = os.environ.get("TALLYDESK_WRITE_IMAGES") == "1"
"""Whether the pictures of the docs are written anew; else they are compared by nobody, and made elsewhere."""
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND")  # fmt: skip


def example() -> tuple[Run, Result, int]:
    """A year and a half of hours, four days of which are missing, with money that comes later."""
    frame = walk(13_000, hole=range(7_000, 7_400))
    strategy = SmaCross(SmaCrossParams(fast=20, slow=200))
    flows = [{"at": "2023-07-01T00:00:00Z", "amount": 5000}]
    given = {"price_tick": "0.01", "quantity_step": "0.0001", "slippage": "0.0002", "cost_min": 5, "flows": flows}
    terms, over = parse_settings(given), loaded(frame)
    begun = began(strategy, over, terms, "bucket", STARTED, path="strategies.sma_cross:SmaCross")
    run, result, since = compute(strategy, over, terms, begun)
    assert result is not None
    return replace(run, market="binance:BTC/USDT", source="database", id=12), result, since


@pytest.mark.parametrize(
    ("market", "quote"),
    [("binance:BTC/USDT", "USDT"), ("files:BTC/USD:USD", "USD"), ("files:GOOG", None), (None, None)],
)
def test_the_money_is_in_the_quote_asset_where_the_market_tells_one(market: str | None, quote: str | None) -> None:
    assert quote_of(market) == quote
    run = replace(example()[0], market=market)
    shown = report(run)
    assert ("; money in " in shown) == (quote is not None)
    assert quote is None or f"; money in {quote}</p>" in shown


# The report


class Tags(HTMLParser):
    """Whether every tag is closed, and what is referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.found: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("href", "src", "srcset", "data", "action")]
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_needs_nothing_else() -> None:
    run, _, _ = example()
    text = report(run)
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.references == ["data:,"]
    assert not tags.found & {"script", "img", "iframe", "object", "embed"}
    assert not re.search(r"https?:|url\(|@import|//", text)
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(picture)


def test_the_report_says_what_there_is_to_say() -> None:
    run, _, _ = example()
    assert run.made is not None
    text = html.unescape(report(run))
    for word in WORDS:
        assert word.meaning in text
        assert told(word, run.made.measures[word.name]) in text
    for said in (
        "Computed over 1 gap with 400 missing candles", "2023-10-19 16:00 to 2023-11-05 08:00: 400 missing",
        "strategies.sma_cross:SmaCross", "fast 20, price ohlc4, slow 200", run.digest, run.code, run.version,
        "slippage 0.0002", "13,000" if run.candles == 13_000 else f"{run.candles:,} of 1h",
    ):  # fmt: skip
        assert said in text, said
    assert text.count('<polygon class="bought"') == sum(trade.side == "buy" for trade in run.made.trades)
    assert text.count('<polygon class="sold"') == sum(trade.side == "sell" for trade in run.made.trades)


def test_what_others_named_is_text_and_nothing_more() -> None:
    run, _, _ = example()
    evil = "<script>alert('x')</script>"
    assert run.made is not None
    made = replace(run.made, refused={evil: 3})
    shown = report(replace(run, params={"x": evil}, market=evil, source=evil, strategy=evil, made=made))
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 5
    failed = report(replace(run, made=None, error=evil))
    assert "<script" not in failed
    assert "It failed: &lt;script&gt;" in failed


def test_returns_by_month_by_hand() -> None:
    """1 to 1.1 in January, which ends with the close at midnight; 1.1 to 0.99 in March; February is not there."""

    def point(year: int, month: int, day: int, hour: int, unit: str) -> Point:
        one = Decimal(1)
        return Point(datetime(year, month, day, hour, tzinfo=UTC), one, one, one, one, Decimal(unit), None, one)

    points = [point(2024, 1, 5, 3, "1"), point(2024, 2, 1, 0, "1.1"), point(2024, 3, 9, 0, "0.99")]
    assert monthly(points) == {2024: {1: Decimal("0.1"), 3: Decimal("-0.1")}}


def test_numbers_as_people_read_them() -> None:
    kinds = {kind: Word("x", "x", kind, "") for kind in ("money", "percent", "ratio", "days", "count")}
    assert told(kinds["money"], Decimal("12345.678")) == "12,345.68"
    assert told(kinds["money"], Decimal("0.00012345")) == "0.00012345"
    assert told(kinds["money"], Decimal("-0.0000000001")) == "0.00"
    assert told(kinds["percent"], Decimal("-1.0049")) == "-1.00 %"
    assert told(kinds["days"], 3.04) == "3.0 days"
    assert told(kinds["count"], 1234) == "1,234"
    assert told(kinds["ratio"], None) == "·"


def test_what_was_not_done_is_told_by_its_kind() -> None:
    assert not_done(FROM_THE_START, 1) == f"1 entry not taken: {FROM_THE_START}"
    assert not_done(AFTER_A_GAP, 1_200) == f"1,200 entries not taken: {AFTER_A_GAP}"
    assert not_done("a gap follows", 1) == "1 order not filled: a gap follows"
    assert not_done("a gap follows", 2) == "2 orders not filled: a gap follows"


def test_every_measure_has_its_word() -> None:
    assert [word.name for word in WORDS if word.name not in MEASURES] == []
    assert len(WORDS) == len(MEASURES)


def test_axes_have_round_values() -> None:
    assert ticks(0.3, 9.7, 5) == [2, 4, 6, 8]
    assert ticks(-0.02, 0.011, 4) == [-0.02, -0.01, 0, 0.01]
    assert ticks(90, 5_000, 5, logarithmic=True) == [100, 200, 500, 1_000, 2_000, 5_000]
    assert number(12_500.0) == "12,500"
    day = 86_400
    start = datetime(2023, 11, 20, tzinfo=UTC).timestamp()
    assert [text for _, text in moments(start, start + 200 * day)][:3] == ["Dec 2023", "2024", "Feb"]
    assert [text for _, text in moments(start, start + 0.9 * day)] == [
        "20 Nov", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00",
    ]  # fmt: skip


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = run_of(frame=walk(300))
    with pytest.raises(InputError, match=r"--html is .*/nowhere/a\.html: there is no directory .*/nowhere$"):
        write_report(run, tmp_path / "nowhere" / "a.html")
    with pytest.raises(InputError, match=r"--html is .*: cannot be written: Is a directory"):
        write_report(run, tmp_path)


@pytest.mark.skipif(not CHROMIUM, reason="NOT RUN: there is no chromium here to open the report in")
def test_a_browser_shows_the_report(tmp_path: Path) -> None:
    """Without any network; the screenshot is the one of the docs."""
    run, _, _ = example()
    page = tmp_path / "report.html"
    write_report(run, page)
    picture = SCREENSHOT if WRITE else tmp_path / "report.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    home = {**os.environ, "HOME": str(tmp_path)}
    browse = [CHROMIUM, *HEADLESS, f"--user-data-dir={tmp_path / 'profile'}"]
    for options in ([f"--screenshot={picture}", "--window-size=1280,1900"], ["--dump-dom"]):
        done = subprocess.run(
            [*browse, *options, page.as_uri()], env=home, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("<svg") == 3
    assert "Returns by month" in done.stdout
    pixels = rows_of(picture)
    assert pixels.shape == (1900, 1280)
    assert len(np.unique(pixels[300:1800:10])) > 20  # not an empty page


LOOK = """<!doctype html><body><iframe src="report.html" style="width:{width}px;height:4000px;border:0"></iframe>
<script>
onload = () => {{
  const frame = document.querySelector("iframe"), page = frame.contentDocument, inside = frame.contentWindow
  const box = (what) => page.querySelector(what).getBoundingClientRect()
  const measures = [...page.querySelectorAll(".measures tr")].map((row) => row.getBoundingClientRect().height)
  document.title = JSON.stringify({{
    wide: page.documentElement.scrollWidth, room: inside.innerWidth, highest: Math.max(...measures),
    letter: parseFloat(inside.getComputedStyle(page.querySelector(".tick")).fontSize) * box(".chart").width / 1120,
  }})
}}
</script>"""


@pytest.mark.skipif(not CHROMIUM, reason="NOT RUN: there is no chromium here to open the report in")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_can_be_read_on_a_phone(tmp_path: Path, width: int) -> None:
    """Nothing is wider than the page, names without a space neither; a browser's own window is wider than a phone."""
    run, _, _ = example()
    assert run.made is not None
    long = "x" * 200
    made = replace(run.made, refused={FROM_THE_START: 3, long: 1})
    write_report(
        replace(run, made=made, strategy=long, params={long: long}, path=f"{long}:X"), tmp_path / "report.html"
    )
    (tmp_path / "look.html").write_text(LOOK.format(width=width), encoding="utf-8")
    browse = [CHROMIUM, *HEADLESS, f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"]
    done = subprocess.run(
        [*browse, "--window-size=1400,4000", "--dump-dom", (tmp_path / "look.html").as_uri()],
        env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    [told_] = re.findall("<title>(.*)</title>", done.stdout)
    seen = json.loads(told_)
    assert seen["wide"] <= seen["room"] == width
    assert seen["letter"] > 10
    assert seen["highest"] < 130  # no column of single words


# The picture


def test_the_plot_has_its_size_and_all_trades(tmp_path: Path) -> None:
    run, result, since = example()
    picture = PLOT if WRITE else tmp_path / "plot.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot(result, run, picture, since)
    pixels = rows_of(picture)
    assert pixels.shape == (1000, 1600)
    assert len(np.unique(pixels)) > 20
    drawn = tmp_path / "plot.svg"
    plot(result, run, drawn, since)
    text = drawn.read_text()
    ElementTree.fromstring(text)
    for said in ("bought and held", "candles missing", "UTC", "below peak, %", "fast 20, price ohlc4, slow 200"):
        assert f"<!-- {said}" in text or said in text


@pytest.mark.parametrize("bars", [2, 21, 101, 400])
def test_short_runs_can_be_drawn_and_told(tmp_path: Path, bars: int) -> None:
    """With no trade at all, one bar that decides, and no day to tell a ratio from."""
    frame, strategy, terms = walk(bars), SmaCross(SmaCrossParams(fast=1, slow=2)), parse_settings({})
    begun = began(strategy, loaded(frame), terms, "bucket", STARTED, path="strategies.sma_cross:SmaCross")
    run, result, since = compute(strategy, loaded(frame), terms, begun)
    assert result is not None
    plot(result, run, tmp_path / "plot.png", since)
    tags = Tags()
    tags.feed(report(run))
    assert tags.open == []


def test_what_grows_a_hundredfold_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    frame = walk(3_000)
    prices = ["open", "high", "low", "close"]
    frame[prices] = frame[prices].mul(np.exp(np.linspace(0, 6, len(frame))), axis=0)
    strategy, terms = SmaCross(SmaCrossParams(fast=1, slow=2)), parse_settings({"taker": 0})
    begun = began(strategy, loaded(frame), terms, "bucket", STARTED, path="strategies.sma_cross:SmaCross")
    run, result, since = compute(strategy, loaded(frame), terms, begun)
    assert result is not None
    text = report(run)
    assert "<h2>Worth of 100 that were paid in</h2>" in text
    labels = re.findall(r'text-anchor="end">([\d,]+)<', text)
    assert {"100", "200", "500", "1,000", "2,000", "5,000"} <= set(labels)
    assert "(1 of " not in text
    plot(result, run, tmp_path / "wide.svg", since)
    assert "worth of 100" in (tmp_path / "wide.svg").read_text()


def test_of_very_many_fills_some_are_marked() -> None:
    run, _, _ = example()
    assert run.made is not None
    many = replace(run, made=replace(run.made, trades=run.made.trades * 40))
    text = report(many)
    assert "(1 of 3 fills is marked)" in text
    marks = text.count('<polygon class="bought"'), text.count('<polygon class="sold"')
    assert sum(marks) == -(-len(run.made.trades) * 40 // 3)
    assert min(marks) > 700
    assert "The newest 1,000 of 4,800; backtest_trade has all." in text


def rows_of(path: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
    """The first colour of every pixel of a PNG, without its filters undone: enough to see that there is something."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    channels = {0: 1, 2: 3, 6: 4}[colour]
    rows = np.frombuffer(zlib.decompress(packed), dtype=np.uint8).reshape(height, 1 + width * channels)
    return rows[:, 1::channels]
