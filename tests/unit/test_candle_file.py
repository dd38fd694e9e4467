import contextlib
import gzip
import os
import socket
import threading
from pathlib import Path

import pytest

from trader.bucket import contents, read_file, timeframe_named
from trader.errors import InputError

HEADER = "time_open_ms,open,high,low,close,volume\n"
GOOD = ["1704067200000,1,2,0.5,1.5,10", "1704067260000,1,2,0.5,1.5,10", "1704067320000,1,2,0.5,1.5,10"]
MINUTE = timeframe_named("1m")
SHARED = Path(__file__).resolve().parents[2] / "../shared/data"


def write(tmp_path: Path, lines: list[str], header: str = HEADER) -> Path:
    path = tmp_path / "candles.csv"
    path.write_text(header + "\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("1704067320000,1,2,0.5,1.5", "line 4: has 5 fields; it must have 6"),
        ("1704067320000,1,2,0.5,1.5,10,7", "line 4: has 7 fields"),
        ("1704067320000,1,two,0.5,1.5,10", "line 4: high is 'two'; it must be a number"),
        ("1704067320000,1,,0.5,1.5,10", "line 4: high is ''; it must be a number"),
        ("", "line 4: has 0 fields"),
        ("# 1704067320000,1,2,0.5,1.5,10", "line 4: time_open_ms is '# 1704067320000'"),
        ("1704067320000.5,1,2,0.5,1.5,10", "line 4: time_open_ms is 1704067320000.5; it must be a whole number"),
        ("-60000,1,2,0.5,1.5,10", "line 4: time_open_ms is -60000; it must be a whole number"),
        ("170406732000000,1,2,0.5,1.5,10", "line 4: time_open_ms is 170406732000000: that is after the year 2286"),
        ("1704067320001,1,2,0.5,1.5,10", "line 4: time_open_ms 1704067320001 (2024-01-01 00:02:00 UTC) is not where"),
        ("1704067260000,1,2,0.5,1.5,10", "line 4: time_open_ms 1704067260000 (2024-01-01 00:01:00 UTC) is there twice"),
        ("1704067140000,1,2,0.5,1.5,10", "line 4: time_open_ms 1704067140000 (2023-12-31 23:59:00 UTC) is before"),
        ("1704067320000,nan,2,0.5,1.5,10", "line 4: open nan is not a finite number"),
        ("1704067320000,1,inf,0.5,1.5,10", "line 4: high inf is not a finite number"),
        ("1704067320000,1,0.4,0.5,1.5,10", "line 4: high 0.4 is below low"),
        ("1704067320000,1,2,0,1.5,10", "line 4: low 0.0 is not above zero"),
        ("1704067320000,1,2,0.5,1.5,-1", "line 4: volume -1.0 is below zero"),
        ("1704067320000,1,2,0.5,2.5,10", "line 4: high 2.0 is below open or close"),
    ],
)
def test_the_line_and_the_field_are_named(tmp_path: Path, line: str, problem: str) -> None:
    path = write(tmp_path, [*GOOD[:2], line, "1704067380000,1,2,0.5,1.5,10"])
    with pytest.raises(InputError) as caught:
        read_file(path, MINUTE)
    assert str(caught.value).startswith(f"{path}, {problem}")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "holds no candles"),
        (b"time,open\n1,2\n", "line 1: the header is 'time,open', without high; it must be 'time_open_ms,"),
        (HEADER.encode(), "holds no candles"),
        (b"\xff\xfe\x00", "is not text: byte 0 is not UTF-8"),
    ],
)
def test_what_is_no_candle_file(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "candles.csv"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_file(path, MINUTE)
    assert problem in str(caught.value)


def test_a_damaged_archive_and_a_missing_file(tmp_path: Path) -> None:
    whole = gzip.compress((HEADER + "\n".join(GOOD * 1000)).encode())
    for name, content in {
        "cut.csv.gz": whole[:50],
        "no.csv.gz": b"hello",
        "body.csv.gz": whole[:20] + b"xxxxxxxxx",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be (unpacked|read)"):
            read_file(tmp_path / name, MINUTE)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_file(tmp_path / "absent.csv", MINUTE)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_text_and_archives_with_any_line_ending(tmp_path: Path, ending: str) -> None:
    text = "\ufeff" + (HEADER + "\n".join(GOOD) + "\n").replace("\n", ending)
    (tmp_path / "a.csv").write_bytes(text.encode())
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    for name in ("a.csv", "a.csv.gz"):
        candles = read_file(tmp_path / name, MINUTE)
        assert candles.time_open.tolist() == [1704067200000, 1704067260000, 1704067320000]
        assert (candles.high == 2).all()


def test_stamps_may_mean_the_close(tmp_path: Path) -> None:
    candles = read_file(write(tmp_path, GOOD), MINUTE, "close")
    assert candles.time_open[0] == 1704067140000


def test_months_may_be_stamped_with_their_last_day(tmp_path: Path) -> None:
    month = timeframe_named("1M")
    last_days = ["1706659200000,1,2,0.5,1.5,10", "1709164800000,1,2,0.5,1.5,10"]  # 31 January, 29 February 2024
    candles = read_file(write(tmp_path, last_days), month, "close")
    assert candles.time_open.tolist() == [1704067200000, 1706745600000]
    with pytest.raises(InputError, match=r"line 2: time_open_ms 1706659200000 .* is not where a 1M candle may open"):
        read_file(write(tmp_path, last_days), month)
    with pytest.raises(InputError, match=r"line 2: time_open_ms 1706572800000 .* is not where a 1M candle closes"):
        read_file(write(tmp_path, ["1706572800000,1,2,0.5,1.5,10"]), month, "close")


def test_what_is_plain_is_said(tmp_path: Path) -> None:
    """What to do about a file that only looks otherwise than ours."""
    for separator, name in ((";", r"semicolons \(;\)"), ("\t", "tabs"), ("|", "bars .*")):
        lines = [line.replace(",", separator) for line in (HEADER, *GOOD)]
        for given in (lines, lines[1:]):
            (tmp_path / "s.csv").write_text("\n".join(given))
            with pytest.raises(InputError, match=f"s.csv, line 1: the fields are separated by {name}; they must be by"):
                read_file(tmp_path / "s.csv", MINUTE)
    with pytest.raises(InputError, match=r"line 3: .* is before the candle above it; the file goes from new to old"):
        read_file(write(tmp_path, GOOD[::-1]), MINUTE)
    with pytest.raises(InputError, match=r"is before the candle above it$"):
        read_file(write(tmp_path, [GOOD[0], GOOD[2], GOOD[1]]), MINUTE)
    last_days = ["1706659200000,1,2,0.5,1.5,10", "1709164800000,1,2,0.5,1.5,10"]
    with pytest.raises(InputError, match=r"is not where a 1M candle may open; they all fit .*: --stamp close$"):
        read_file(write(tmp_path, last_days), timeframe_named("1M"))
    with pytest.raises(InputError, match=r"is not where a 1M candle may open$"):
        read_file(write(tmp_path, [last_days[0], "1708164800000,1,2,0.5,1.5,10"]), timeframe_named("1M"))


def test_hours_given_as_minutes_are_noticed(tmp_path: Path) -> None:
    lines = [f"{1704067200000 + i * 3600_000},1,2,0.5,1.5,10" for i in range(5)]
    assert len(read_file(write(tmp_path, lines), timeframe_named("1h"))) == 5
    with pytest.raises(InputError, match="no two candles are 1m apart, the closest are 1h apart"):
        read_file(write(tmp_path, lines), MINUTE)


@pytest.mark.skipif(not SHARED.is_dir(), reason="NOT RUN: ../shared/data is not here")
@pytest.mark.parametrize(
    ("name", "timeframe", "stamp", "count"),
    [
        ("bitfinex_BTC-USD_1m_2016", "1m", "open", 293_230),
        ("bitfinex_BTC-USD_1h_2016_derived", "1h", "open", 7_122),
        ("bitfinex_BTC-USD_1d_2016_derived", "1d", "open", 299),
        ("bitfinex_LTC-USD_1m_2016", "1m", "open", 41250),
        ("bitstamp_BTC-USD_1M_2012-2024", "1M", "close", 156),
        ("freqtrade_ADA-BTC_5m", "5m", "open", 5720),
        ("freqtrade_ETH-BTC_5m", "5m", "open", 5760),
        ("freqtrade_LTC-BTC_5m", "5m", "open", 5760),
        ("freqtrade_XLM-BTC_5m", "5m", "open", 5760),
        ("freqtrade_XRP-ETH_1m", "1m", "open", 2469),
        ("fx_EUR-USD_1h_2017-2018", "1h", "open", 5000),
        ("nasdaq_GOOG_1d_2004-2013", "1d", "open", 2_148),
    ],
)
def test_the_shared_files(name: str, timeframe: str, stamp: str, count: int) -> None:
    assert len(read_file(SHARED / f"{name}.csv.gz", timeframe_named(timeframe), stamp)) == count


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/urandom", "/dev/null", "/dev/tty"])
def test_a_device_is_not_read(device: str) -> None:
    """Most never end."""
    with pytest.raises(InputError, match=rf"^{device}: is a device: a regular file, a directory or a pipe is needed$"):
        read_file(Path(device), MINUTE)


def test_a_socket_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x.csv")
        with pytest.raises(InputError, match=r"x\.csv: is a socket: a regular file"):
            read_file(Path("x.csv"), MINUTE)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with path.open("wb") as file:
        file.truncate(10**13)  # a hole: no room on the disk
    with pytest.raises(InputError, match=r"x\.csv: is larger than 2000000000 bytes; split it"):
        read_file(path, MINUTE)


def test_a_pipe_that_nobody_writes_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "WRITER_SECONDS", 0.1)
    os.mkfifo(tmp_path / "x.csv")
    for path in (tmp_path / "x.csv", tmp_path):  # by name, and as one file of a directory
        with pytest.raises(InputError, match=r"x\.csv: is a pipe that nobody writes into"):
            read_file(path, MINUTE)


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    """Also one that is opened before its writer."""
    path = tmp_path / "x.csv"
    os.mkfifo(path)

    def write_in_parts() -> None:
        with path.open("w") as file:  # returns as soon as the reader is there
            file.write(HEADER)
            file.flush()
            file.writelines(line + "\n" for line in GOOD)

    writer = threading.Thread(target=write_in_parts)
    writer.start()
    assert len(read_file(path, MINUTE)) == 3
    writer.join()


def test_a_pipe_without_a_name_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `... | tallydesk ... --file /dev/stdin` has it, and `<(...)` of a shell."""
    monkeypatch.setattr(contents, "WRITER_SECONDS", 0)  # its writer is there, and thinks for longer than that
    text = (HEADER + "\n".join(GOOD) + "\n").encode()
    reading, writing = os.pipe()
    pipe = os.fstat(reading).st_ino

    def ends() -> int:
        found = 0
        for number in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # the list's own
                found += os.fstat(int(number)).st_ino == pipe
        return found

    def write_late() -> None:
        while ends() < 3:  # until it is opened once more, to be read
            pass
        os.write(writing, text)
        os.close(writing)

    writer = threading.Thread(target=write_late)
    writer.start()
    try:
        assert len(read_file(Path(f"/dev/fd/{reading}"), MINUTE)) == 3
    finally:
        writer.join()
        os.close(reading)


def test_a_pipe_that_is_empty(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(writing)
    try:
        with pytest.raises(InputError, match="holds no candles"):
            read_file(Path(f"/dev/fd/{reading}"), MINUTE)
    finally:
        os.close(reading)


def test_a_pipe_that_never_ends_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "LARGEST", 100_000)
    path = tmp_path / "x.csv"
    os.mkfifo(path)

    def write_for_ever() -> None:
        with path.open("wb", buffering=0) as file, contextlib.suppress(BrokenPipeError):
            while True:
                file.write(b"1" * 10_000)

    writer = threading.Thread(target=write_for_ever)
    writer.start()
    with pytest.raises(InputError, match=r"x\.csv: is larger than"):
        read_file(path, MINUTE)
    writer.join(20)
    assert not writer.is_alive()
