"""Files as other tools write them."""

import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from trader.bucket import read_file, read_files, timeframe_named
from trader.errors import InputError

MINUTE, HOURLY, DAILY, MONTHLY = map(timeframe_named, ("1m", "1h", "1d", "1M"))
START = 1704067200000
ROWS = [[START + i * 60_000, 1.1 + i, 2.5 + i, 0.3 + i, 1.7 + i, 10.0 * i] for i in range(5)]
FRAME = pd.DataFrame([row[1:] for row in ROWS], columns=["open", "high", "low", "close", "volume"]).assign(
    date=pd.to_datetime([row[0] for row in ROWS], unit="ms", utc=True)
)
BACKTESTING = FRAME.set_index("date").rename(columns=str.capitalize)
KLINES = (
    "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore"
)


def klines(rows: list[list[float]] = ROWS, scale: int = 1) -> str:
    """Rows as Binance Vision has them, in milliseconds or, with scale 1000, in microseconds."""
    lines = []
    for row in rows:
        opens = int(row[0]) * scale
        values = ",".join(f"{value:.8f}" for value in row[1:])
        lines.append(f"{opens},{values},{opens + 60_000 * scale - 1},123.4,7,1.0,2.0,0\n")
    return "".join(lines)


def zipped(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(f"{name}.csv", text)
    return buffer.getvalue()


def written(frame: pd.DataFrame, how: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    getattr(frame, how)(buffer, **options)
    return buffer.getvalue()


LISTS = json.dumps(ROWS)
HEADERLESS = "".join(",".join(map(repr, row)) + "\n" for row in ROWS)
SECONDS = "time,open,high,low,close,volume\n" + "".join(
    ",".join(map(repr, [row[0] // 1000, *row[1:]])) + "\n" for row in ROWS
)
NAIVE = FRAME.assign(date=FRAME["date"].dt.tz_localize(None))
HERE = FRAME.assign(date=FRAME["date"].dt.tz_convert("America/Sao_Paulo"))

FILES: dict[str, tuple[bytes, str, str]] = {
    "freqtrade.feather": (written(FRAME, "to_feather"), "Feather, freqtrade, times as timestamps", "freqtrade"),
    "freqtrade.json": (LISTS.encode(), "JSON, ccxt, times in milliseconds", "freqtrade"),
    "freqtrade.json.gz": (gzip.compress(LISTS.encode()), "gzip of JSON, ccxt", "freqtrade"),
    "freqtrade.parquet": (written(FRAME, "to_parquet"), "Parquet, freqtrade", "freqtrade"),
    "freqtrade.csv": (written(FRAME, "to_csv", index=False), "CSV, freqtrade, times as text", "freqtrade"),
    "naive.feather": (written(NAIVE, "to_feather"), "Feather, freqtrade, times as timestamps", "freqtrade"),
    "naive.csv": (written(NAIVE, "to_csv", index=False), "CSV, freqtrade, times as text", "freqtrade"),
    "zone.feather": (written(HERE, "to_feather"), "Feather, freqtrade, times as timestamps", "freqtrade"),
    "zone.csv": (written(HERE, "to_csv", index=False), "CSV, freqtrade, times as text", "freqtrade"),
    "ccxt.json": (json.dumps(ROWS, indent=1).encode(), "JSON, ccxt, times in milliseconds", "ccxt"),
    "ccxt.csv": (HEADERLESS.encode(), "CSV, ccxt, times in milliseconds", "ccxt"),
    "backtesting.csv": (written(BACKTESTING, "to_csv"), "CSV, backtesting, times as text", "backtesting"),
    "unnamed.csv": (
        written(BACKTESTING.rename_axis(None), "to_csv"), "CSV, backtesting, times as text", "backtesting",
    ),
    "backtesting.parquet": (written(BACKTESTING, "to_parquet"), "Parquet, backtesting", "backtesting"),
    "unnamed.parquet": (
        written(BACKTESTING.rename_axis(None), "to_parquet"), "Parquet, backtesting", "backtesting",
    ),
    "BTCUSDT-1m-2024-01.zip": (
        zipped(klines=klines()), "zip of CSV, binance, times in milliseconds at the open", "binance",
    ),
    "header.zip": (zipped(klines=f"{KLINES}\n{klines()}"), "zip of CSV, binance, times in milliseconds", "binance"),
    "BTCUSDT-1m-2025-01.csv": (
        klines(scale=1000).encode(), "CSV, binance, times in microseconds at the open", "binance",
    ),
    "seconds.csv": (SECONDS.encode(), "CSV, columns time,open,high,low,close,volume, times in seconds", "auto"),
    "quoted.csv": (
        written(FRAME.astype({"date": str}), "to_csv", index=False, quoting=1), "CSV, freqtrade", "freqtrade",
    ),
    "more.csv": (
        written(FRAME.assign(symbol="BTC, USDT", trades=7), "to_csv", index=False), "CSV, freqtrade", "freqtrade",
    ),
    "more.feather": (written(FRAME.assign(symbol="BTC"), "to_feather"), "Feather, freqtrade", "freqtrade"),
    "names.feather.renamed": (written(FRAME, "to_feather"), "Feather, freqtrade", "freqtrade"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_it_is_read_exactly_and_said_for_what_it_is(tmp_path: Path, name: str) -> None:
    content, says, kind = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    for asked in ("auto", kind):
        found = read_files([path], MINUTE, kind=asked)
        columns = [found.candles.time_open, *(getattr(found.candles, column) for column in FRAME.columns[:5])]
        assert np.stack(columns, axis=1).tolist() == ROWS
        assert says in found.files[0].says


@pytest.mark.parametrize("name", ["freqtrade.feather", "ccxt.csv", "BTCUSDT-1m-2024-01.zip", "backtesting.csv"])
def test_another_format_than_the_one_asked_for_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name][0])
    with pytest.raises(InputError, match=r"--format is tallydesk \(columns time_open_ms,.*\), but this is format "):
        read_file(path, MINUTE, kind="tallydesk")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.csv", "date,open,high,low,close,volume\n2024-01-01,1,2,1,2,x\n", "line 2: volume is 'x'; it must be a"),
        ("x.csv", "date,open,high,low,close,volume\n01/02/2024,1,2,1,2,3\n", "line 2: date is '01/02/2024'; it must"),
        ("x.csv", "date,open,high,low,close,volume\n2024-01,1,2,1,2,3\n", "line 2: date is '2024-01'; it must be"),
        ("x.csv", "date,open,high,low,close,volume\n20240101,1,2,1,2,3\n", "line 2: date is 20240101; it must be seco"),
        ("x.csv", "date,open,high,low,close,volume\n2024-01-01,1,2,1,2,3\n\n2024-01-02,1,2,1,2,3", "line 3: has 0 fie"),
        ("x.csv", "date,open,high,low,close,volume\n2024-01-01 00:00:00.0005,1,2,1,2,3\n", "it must be a whole number"),
        ("x.csv", "date,open,high,low,close,volume\n2024-01-01T00:00:00+25:00,1,2,1,2,3\n", "line 2: date is '2024-0"),
        ("x.csv", "date,time,open,high,low,close,volume\n", "line 1: 'date' and 'time' could both be the time"),
        ("x.csv", "date,open,high,low,close\n", "line 1: the header is 'date,open,high,low,close', without volume"),
        ("x.csv", "date,open,Open,high,low,close,volume\n", "line 1: the column open is there 2 times"),
        ("x.csv", "1704067200,1,2,1,2,3,4\n", "line 1: has no header and 7 columns; without one there must be 6"),
        ("x.csv", f"{HEADERLESS}1704067500,1,2,1,2,3\n", "line 6: time is 1704067500; others are milliseconds"),
        ("x.csv", "time,open,high,low,close,volume\n1704067200000500,1,2,1,2,3\n", "line 2: time is 1704067200000500"),
        ("x.csv", 'date,open,high,low,close,volume\n"2024-01-01,1,2,1,2,3\n', "line 2: cannot be read: unexpected end"),
        ("x.csv", "date,open,high,low,close,volume\n2024-01-01,1_0,20,1,2,3\n", "line 2: open is '1_0'; it must be a"),
        ("x.json", "{}", "must be a JSON list of"),
        ("x.json", "[", "is not JSON"),
        ("x.json", "[" * 100_000, "is not JSON"),
        ("x.json", "[]", "holds no candles"),
        ("x.json", "[1]", "row 1: is 1; it must be [milliseconds"),
        ("x.json", f"[{ROWS[0]}, {ROWS[1][:5]}]", "row 2: is [1704067260000, 2.1"),
        ("x.json", f'[{ROWS[0]}, [1704067260000, "1", 2, 1, 2, 3]]', "row 2: open is \"1\"; it must be a number"),
        ("x.json", f"[{ROWS[0]}, [1704067260000, 1, 2, 1, 2, null]]", "row 2: volume is null; it must be a number"),
        ("x.json", f"[{ROWS[0]}, [1704067260000, 1, 2, 1, 2, true]]", "row 2: volume is true; it must be a number"),
        ("x.json", f"[{ROWS[0]}, [1704067260000, 1, 2, 1, 2, {10**400}]]", "row 2: volume is too large"),
        ("x.json", f"[{ROWS[0]}, [1704067260000, 1, 2, 1, 2, NaN]]", "row 2: volume nan is not a finite number"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_text_is_named(tmp_path: Path, name: str, content: str, problem: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_file(path, MINUTE)
    assert problem in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("how", ["to_feather", "to_parquet"])
@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        (FRAME.drop(columns="high"), "without high; it must be"),
        (FRAME.drop(columns="date"), "without a time (date, timestamp"),
        (FRAME.assign(close=["1", "2", "3", "4", "5"]), "close is of type"),
        (FRAME.assign(date=[True] * 5), "date is of type bool; it must be a timestamp"),
        (FRAME.assign(volume=FRAME["volume"].where(FRAME.index != 3)), "row 4: volume is missing"),
        (FRAME.assign(low=FRAME["low"].where(FRAME.index != 2, np.inf)), "row 3: low inf is not a finite number"),
        (FRAME.assign(date=FRAME["date"].where(FRAME.index != 3)), "row 4: date is missing"),
        (FRAME.assign(date=FRAME["date"] + pd.Timedelta(1, "us")), "row 1: date is 2024-01-01T00:00:00.000001; it m"),
        (FRAME.assign(high=FRAME["high"].where(FRAME.index != 4, 0.1)), "row 5: high 0.1 is below low"),
        (FRAME[::-1].reset_index(drop=True), "is before the candle above it"),
        (FRAME[:0], "holds no candles"),
    ],
)
def test_what_is_wrong_in_a_frame_is_named(tmp_path: Path, how: str, frame: pd.DataFrame, problem: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(written(frame, how))
    with pytest.raises(InputError) as caught:
        read_file(path, MINUTE)
    assert problem in str(caught.value)


def test_floats_of_half_the_width_and_decimals_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(written(FRAME.astype({"open": "float32", "volume": "int64"}), "to_parquet"))
    candles = read_file(path, MINUTE)
    assert candles.open.tolist() == [float(np.float32(row[1])) for row in ROWS]
    assert candles.volume.tolist() == [row[5] for row in ROWS]


def test_a_zip_may_hold_several_and_they_are_put_in_order(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(zipped(b=klines(ROWS[:3]), a=klines(ROWS[2:])))
    content = read_files([path], MINUTE)
    assert content.candles.time_open.tolist() == [row[0] for row in ROWS]
    assert [file.where for file in content.files] == [f"{path}, b.csv", f"{path}, a.csv"]
    path.write_bytes(zipped(a=klines(ROWS[:3]), readme="hello"))
    with pytest.raises(InputError, match=r"x.zip, readme.csv, line 1: the header is 'hello'"):
        read_file(path, MINUTE)
    path.write_bytes(zipped())
    with pytest.raises(InputError, match=r"x\.zip: cannot be unpacked: it does not begin"):
        read_file(path, MINUTE)


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no candle files; their names end in \.csv, "):
        read_file(tmp_path, MINUTE)
    (tmp_path / "BTCUSDT-1m-2024-01.zip").write_bytes(zipped(a=klines(ROWS[:3])))
    (tmp_path / "BTCUSDT-1m-2024-01.zip.CHECKSUM").write_text("0 x")
    (tmp_path / "BTCUSDT-1m-2024-02.zip").write_bytes(zipped(a=klines(ROWS[3:], 1000)))
    steps: list[tuple[int, int]] = []
    assert len(read_files([tmp_path], MINUTE, progress=lambda *step: steps.append(step)).candles) == 5
    assert steps == [(0, 2), (1, 2), (2, 2)]


def rows(*minutes: int) -> str:
    return "time_open_ms,open,high,low,close,volume\n" + "".join(f"{START + m * 60_000},1,2,1,2,3\n" for m in minutes)


@pytest.mark.parametrize(
    ("timeframe", "content", "problem"),
    [
        ("4h", rows(0, 60, 120), "line 3: time_open_ms 2024-01-01 01:00 UTC is before the 4h candle above it has clo"),
        ("5m", rows(0, 1), "line 3: time_open_ms 1704067260000 (2024-01-01 00:01:00 UTC) is not where a 5m candle"),
        ("1m", rows(0, 60, 120), "no two candles are 1m apart, the closest are 1h apart; is the timeframe right?"),
        ("1m", rows(0, 7, 14), "no two candles are 1m apart, the closest are 7 minutes apart; is the timeframe right?"),
        ("1h", klines(ROWS[:1]), "line 1: close_time 1704067259999 is not the end of a 1h candle; is the timeframe"),
        ("1h", klines(ROWS[:1], 1000), "line 1: close_time 1704067259999999 is not the end of a 1h candle"),
    ],
)
def test_a_wrong_timeframe_is_noticed(tmp_path: Path, timeframe: str, content: str, problem: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_file(path, timeframe_named(timeframe))
    assert problem in str(caught.value)


def test_klines_whose_venue_cut_some_short_in_an_outage_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    lines = klines().splitlines()
    lines[2] = lines[2].replace(str(START + 3 * 60_000 - 1), str(START + 2 * 60_000 + 17_000))
    path.write_text(f"{KLINES}\n" + "\n".join(lines))
    assert len(read_file(path, MINUTE)) == 5
    path.write_text(f"{KLINES}\n2024-01-01,1,2,1,2,3,1704067259999,1,1,1,1,0\n")
    assert read_file(path, MINUTE).time_open.tolist() == [START]


def test_files_with_candles_that_lie_across_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(rows(0, 240))
    (tmp_path / "b.csv").write_text(rows(300, 540))
    with pytest.raises(InputError, match=r"b.csv and .*a.csv: their 4h candles overlap, and open at different moments"):
        read_file(tmp_path, timeframe_named("4h"))


@pytest.mark.parametrize("end", ["2024-01-31", "2024-02-01", "2024-01-31T23:59:59", "2024-01-31 23:59:59.999Z"])
def test_a_month_may_be_stamped_at_its_end_in_many_ways(tmp_path: Path, end: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"Date,Open,High,Low,Close,Volume\n{end},1,2,1,2,3\n")
    assert read_file(path, MONTHLY, "close").time_open.tolist() == [START]
    if end != "2024-02-01":
        with pytest.raises(InputError, match="is not where a 1M candle may open"):
            read_file(path, MONTHLY)


def test_the_name_of_the_time_says_what_it_is_and_the_option_overrules_it(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("time_close,open,high,low,close,volume\n2024-01-01 00:01:00+00,1,2,1,2,3\n")  # as psql's \copy
    assert read_file(path, MINUTE).time_open.tolist() == [START]
    assert read_file(path, MINUTE, "open").time_open.tolist() == [START + 60_000]
    assert "times as text at the close" in read_files([path], MINUTE).files[0].says


def test_without_pyarrow_it_is_said_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "x.feather"
    path.write_bytes(FILES["freqtrade.feather"][0])
    code = """
import sys
sys.modules["pyarrow"] = None
from pathlib import Path
from trader.bucket import read_file, timeframe_named
from trader.errors import InputError
try:
    read_file(Path(sys.argv[1]), timeframe_named("1m"))
except InputError as error:
    print(error)
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("which is not installed: pip install 'tallydesk[files]'\n")
