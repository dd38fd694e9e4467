"""A run as one HTML file that needs nothing else: no script and no request, light or dark as the reader has it."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import Any

from trader.backtest.chart import MONTHS, WIDE, Line, Mark, chart
from trader.backtest.record import Made, Point, Run, shortage
from trader.backtest.words import (
    NONE,
    WORDS,
    gap_sentence,
    interval,
    money,
    of_holding,
    quote_of,
    span,
    terms,
    texts,
    told,
)
from trader.errors import InputError

STYLE = Path(__file__).with_name("report.css")
FEW_GAPS = 5
"""Gaps that are listed at the top, the longest."""
MOST_TRADES = 1_000
"""Fills that are listed, the newest."""
MOST_MARKS = 2_000
"""Fills that are marked in the chart; of more, every second, third, ... one."""
CARDS = ("return_percent", "annual_return_percent", "max_drawdown_percent", "sharpe", "trades", "win_percent",
         "profit_factor", "exposure_percent")  # fmt: skip


def check_path(path: Path) -> None:
    """InputError: there is no such directory."""
    if not path.absolute().parent.is_dir():
        raise InputError(f"--html is {path}: there is no directory {path.absolute().parent}")


def write_report(run: Run, path: Path) -> None:
    """Write the report of a run to a file. InputError if it cannot be written."""
    check_path(path)
    try:
        path.write_text(report(run), encoding="utf-8")
    except OSError as error:
        raise InputError(f"--html is {path}: cannot be written: {error.strerror or error}") from None


def report(run: Run) -> str:
    """The report of a run, as HTML."""
    title = f"{run.name} on {run.market or run.source} {run.timeframe}"
    parts = [_head(run, title)]
    if run.made is None:
        parts.append(f'<p class="note failed">It failed: {escape(run.error or "")}</p>')
    else:
        parts += _came_out(run, run.made)
    parts += [_made_of(run)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(run: Run, title: str) -> str:
    number = f"Backtest {run.id}, " if run.id is not None else ""
    unit = f"; money in {escape(quote)}" if (quote := quote_of(run.market)) else ""
    return (
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="soft">{number}{run.candles:,} candles from {span(run.used_from, run.used_to)}; '
        f"{escape(texts(run.params))}; {escape(terms(run.settings))}{unit}</p>"
    )


def _came_out(run: Run, made: Made) -> list[str]:
    """All that a run that did not fail has to show."""
    return [
        f'<p class="verdict">{_verdict(run, made)}</p>',
        _gaps(made),
        f'<p class="note warn">{escape(short)}</p>' if (short := shortage(run)) else "",
        _cards(made),
        _charts(run, made),
        _months(made),
        _measures(made),
        _trades(made),
        _refused(made),
    ]


def _verdict(run: Run, made: Made) -> str:
    """The result in a sentence, with the market beside it and how sure it is."""
    values = made.measures
    rate, held = float(values["return_percent"] or 0), values["buy_and_hold_percent"]
    text = f"{_coloured(f'{rate:+,.2f} %', rate)} after fees of {money(values['fees'] or 0)}"
    if held is not None:
        text += f"; buying once and holding made {_coloured(f'{held:+,.2f} %', float(held))}"
    if made.confidence is not None:
        low, high = made.confidence["return_percent"]
        level, lost = 100 * made.confidence["level"], made.confidence["loss_percent"]
        text += (
            f". Drawn again in blocks of its days, {level:g} of 100 such histories return {low:+,.1f} % to "
            f"{high:+,.1f} %, and {lost:.0f} of 100 lose money"
        )
    return text + "."


def _coloured(text: str, value: float) -> str:
    style = "good" if value > 0 else "bad" if value < 0 else "soft"
    return f'<b class="{style}">{escape(text)}</b>'


def _gaps(made: Made) -> str:
    if not made.measures["gaps"]:
        return f'<p class="note">{escape(gap_sentence(made.measures))}</p>'
    rows = "".join(
        f"<li>{_minute(gap['from'])} to {_minute(gap['to'])}: {gap['missing']:,} missing</li>"
        for gap in sorted(made.longest_gaps, key=lambda gap: -gap["missing"])[:FEW_GAPS]
    )
    return f'<div class="note warn">{escape(gap_sentence(made.measures))} The longest:<ul>{rows}</ul></div>'


def _minute(moment: str) -> str:
    """An ISO moment as people write it."""
    return escape(moment[:16].replace("T", " "))


def _cards(made: Made) -> str:
    words = {word.name: word for word in WORDS}
    cards = []
    for name in CARDS:
        lies = interval(made.confidence, words[name])
        small = f"<small>{lies}</small>" if lies else ""
        value = told(words[name], made.measures[name])
        cards.append(f'<div class="card"><span>{words[name].label}</span><b>{value}</b>{small}</div>')
    return f'<div class="cards">{"".join(cards)}</div>'


# Pictures


def _charts(run: Run, made: Made) -> str:
    times = [point.time.timestamp() for point in made.points]
    missing = _missing(made)

    units = [
        float(value) for point in made.points for value in (point.unit_value, point.held_value) if value is not None
    ]
    wide = min(units) > 0 and max(units) > WIDE * min(units)

    def percent(values: Iterable[Decimal | None]) -> list[float | None]:
        return [None if value is None else 100 * (float(value) - (0 if wide else 1)) for value in values]

    price = Line("price", "close", [float(point.price) for point in made.points])
    own = Line("run", "this run", percent(point.unit_value for point in made.points))
    held = Line("beside", "bought and held", percent(point.held_value for point in made.points))
    falls = Line("fall", "below the peak", [-float(point.drawdown_percent) for point in made.points])
    lines = [held, own] if any(value is not None for value in held.values) else [own]
    step = _step(made)
    fewer = f" (1 of {step} fills is marked)" if step > 1 else ""
    shaded = '<i style="background:var(--soft);opacity:.4;height:9px"></i>candles missing' if missing else ""
    return "\n".join(
        [
            "<h2>Price and trades</h2>",
            '<p class="legend"><i style="background:var(--price)"></i>close '
            '<i style="background:var(--good);height:9px"></i>bought '
            '<i style="background:var(--bad);height:9px"></i>sold'
            f"{fewer} {shaded}</p>",
            _scrolled(chart("price and trades", times, [price], 330, marks=_marks(made), missing=missing)),
            f"<h2>{'Worth of 100 that were paid in' if wide else 'Return'}</h2>",
            '<p class="legend"><i style="background:var(--run)"></i>this run '
            '<i style="background:var(--beside)"></i>bought once and held</p>',
            _scrolled(chart("return", times, lines, 290, unit="" if wide else " %", missing=missing)),
            "<h2>Below the peak</h2>",
            _scrolled(chart("below the peak", times, [falls], 170, unit=" %", filled=True, missing=missing)),
        ]
    )


def _scrolled(picture: str) -> str:
    """Where it is wider than the page, it is scrolled, and not the page."""
    return f'<div class="scroll">{picture}</div>'


def _marks(made: Made) -> list[Mark]:
    return [
        Mark(
            min(max(trade.decided_at.timestamp(), made.points[0].time.timestamp()), made.points[-1].time.timestamp()),
            float(trade.price),
            trade.side == "buy",
            f"{trade.side} {trade.quantity:f} at {trade.price:f}, decided {trade.decided_at:%Y-%m-%d %H:%M}",
        )
        for trade in made.trades[:: _step(made)]
    ]


def _step(made: Made) -> int:
    """Every how many-th fill is marked: odd, so that buys and sales both are."""
    step = -(-len(made.trades) // MOST_MARKS)
    return step + (step + 1) % 2 if step > 1 else 1


def _missing(made: Made) -> list[tuple[float, float]]:
    """The longest gaps, as seconds since 1970, where they are wide enough to be seen."""
    least = 0.002 * (made.points[-1].time - made.points[0].time).total_seconds()
    found = [tuple(datetime.fromisoformat(gap[end]).timestamp() for end in ("from", "to")) for gap in made.longest_gaps]
    return [(start, end) for start, end in found if end - start > least]


# Tables


def _months(made: Made) -> str:
    """Returns by month, a row for each year; a close at midnight is of the month before."""
    years = monthly(made.points)
    head = "".join(f"<th>{name}</th>" for name in MONTHS)
    rows = []
    for year, months in years.items():
        whole = Decimal(1)
        cells = []
        for month in range(1, 13):
            rate = months.get(month)
            whole *= 1 + (rate or 0)
            cells.append(_cell(rate))
        rows.append(f"<tr><th>{year}</th>{''.join(cells)}{_cell(whole - 1)}</tr>")
    return (
        "<h2>Returns by month, %</h2>\n"
        f'<div class="scroll"><table class="months"><tr><th></th>{head}<th>year</th></tr>{"".join(rows)}</table></div>'
    )


def monthly(points: Sequence[Point]) -> dict[int, dict[int, Decimal]]:
    """What each month returned, as a share, by year and month."""
    last: dict[tuple[int, int], Decimal] = {}
    for point in points:
        moment = point.time.astimezone(UTC) - timedelta(microseconds=1)
        last[moment.year, moment.month] = point.unit_value
    years: dict[int, dict[int, Decimal]] = {}
    before = Decimal(1)
    for (year, month), value in last.items():
        if before:
            years.setdefault(year, {})[month] = value / before - 1
        before = value
    return years


def _cell(rate: Decimal | None) -> str:
    if rate is None:
        return "<td></td>"
    percent = 100 * float(rate)
    if abs(percent) < 0.05:
        return '<td class="soft">0.0</td>'
    strength = min(55.0, 10 + 3 * abs(percent))
    colour = "good" if percent > 0 else "bad"
    style = f"background:color-mix(in srgb, var(--{colour}) {strength:.0f}%, transparent)"
    return f'<td style="{style}">{percent:+,.1f}</td>'


def _measures(made: Made) -> str:
    level = f"{100 * made.confidence['level']:g} % of draws" if made.confidence else ""
    rows = [
        f'<tr><td>{word.label}</td><td class="n">{told(word, made.measures[word.name])}</td>'
        f'<td class="n" data-of="{level}">{interval(made.confidence, word)}</td>'
        f'<td class="n" data-of="bought and held">{of_holding(made.held, word)}</td>'
        f"<td>{escape(word.meaning)}</td></tr>"
        for word in WORDS
    ]
    note = (
        f'<p class="soft">A dot ({NONE}) is a measure that cannot be told. '
        + (
            f"Intervals: stationary bootstrap of the daily returns, {made.confidence['draws']:,} draws in blocks of "
            f"{made.confidence['block']:.1f} on average; they say how much luck "
            "there may be in it, not what comes next."
            if made.confidence
            else "There are too few days to tell how sure it is."
        )
        + "</p>"
    )
    return (
        f'<h2>Measures</h2>\n<div class="scroll"><table class="measures"><tr><th>measure</th><th class="n">value</th>'
        f'<th class="n">{level}</th><th class="n">bought and held</th><th>meaning</th></tr>{"".join(rows)}'
        f"</table></div>\n{note}"
    )


def _trades(made: Made) -> str:
    shown = made.trades[-MOST_TRADES:]
    if not shown:
        return '<h2>Fills</h2>\n<p class="soft">There was none.</p>'
    columns = ("", "decided (UTC)", "side", "price", "quantity", "quote", "fee", "realised", "")
    head = "".join(f'<th class="{"n" if at > 2 and at < 8 else ""}">{name}</th>' for at, name in enumerate(columns))
    rows = []
    for trade in shown:
        gain = "" if trade.realised is None else _coloured(money(trade.realised), float(trade.realised))
        notes = ", ".join(["after a gap"] * trade.after_gap + ["maker"] * (trade.liquidity == "maker"))
        numbers = (
            f"{trade.price:,f}",
            f"{trade.quantity:,f}",
            money(trade.quote),
            f"{_short(trade.fee)} {trade.fee_in}",
            gain,
        )
        cells = "".join(f'<td class="n">{text}</td>' for text in numbers)
        rows.append(
            f'<tr><td class="n soft">{trade.number:,}</td><td>{trade.decided_at:%Y-%m-%d %H:%M}</td>'
            f'<td>{trade.side}</td>{cells}<td class="soft">{notes}</td></tr>'
        )
    whole = len(made.trades)
    said = (
        f"All {whole:,}." if whole == len(shown) else f"The newest {len(shown):,} of {whole:,}; backtest_trade has all."
    )
    return (
        f'<h2>Fills</h2>\n<p class="soft">{said} Each was decided at the close of a candle, and filled after it.</p>\n'
        f'<div class="tall"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _short(value: Decimal) -> str:
    return f"{value:.8f}".rstrip("0").rstrip(".")


def _refused(made: Made) -> str:
    if not made.refused:
        return ""
    rows = "".join(
        f'<tr><td class="n">{count:,}</td><td>{escape(reason)}</td></tr>' for reason, count in made.refused.items()
    )
    head = '<tr><th class="n">how many</th><th>why</th></tr>'
    return f'<h2>Orders not filled, entries not taken</h2>\n<div class="scroll"><table>{head}{rows}</table></div>'


def _made_of(run: Run) -> str:
    """All that is needed to do it again."""
    rows: list[tuple[str, Any]] = [
        ("class", run.path),
        ("strategy", run.strategy),
        ("parameters", texts(run.params)),
        ("decides at", "every candle" if run.schedule == "bucket" else f"every {run.schedule}"),
        ("candles", f"{run.candles:,} of {run.timeframe}, {span(run.used_from, run.used_to)}, from {run.source}"),
        ("asked for", _asked(run.asked_from, run.asked_to)),
        (
            "inputs",
            "; ".join(f"{name}: {one['candles']:,} candles of {one['from']}" for name, one in run.inputs.items()),
        ),
        ("warm-up", None if run.warm_up is None else f"{run.warm_up:,} candles, in which nothing is decided"),
        ("data", f"SHA-256 {run.digest}"),
        ("code", f"SHA-256 {run.code}"),
        ("Tallydesk", run.version),
        ("engine", run.engine),
        ("seed", f"{run.seed} (of the bootstrap; nothing else is random)"),
        ("settings", texts({name: value for name, value in run.settings.items() if value not in (None, [])})),
        ("computed", f"{run.finished_at or run.started_at:%Y-%m-%d %H:%M:%S} UTC"),
    ]
    cells = "".join(
        f"<tr><td>{name}</td><td><code>{escape(str(value))}</code></td></tr>" for name, value in rows if value
    )
    return f'<h2>What it was made of</h2>\n<div class="scroll"><table>{cells}</table></div>'


def _asked(since: datetime | None, until: datetime | None) -> str:
    begin = f"{since:%Y-%m-%d %H:%M}" if since else "the first"
    end = f"{until:%Y-%m-%d %H:%M}" if until else "the newest"
    return f"{begin} to {end}"
