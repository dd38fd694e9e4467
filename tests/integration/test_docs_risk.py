"""The examples of docs/risk.md do what is said there."""

import re
from pathlib import Path

from tests.plugins.books import Books

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "risk.md").read_text(encoding="utf-8")


def test_the_examples_run(books: Books) -> None:
    stop, limits = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    books.strategy("momentum", deposit=1000)
    resting = books.submit(books.queue(strategy="momentum", quantity=1), 100)
    books.move(resting, "accepted")
    queued, ended = books.queue(strategy="momentum"), books.trade("buy", 1, 100, strategy="momentum")
    for statement in stop.split(";\n"):
        if statement.strip():
            books.execute(statement)
    assert books.value("SELECT state FROM account WHERE name = 'main'") == "halted"
    assert books.state(resting).cancel_requested_at is not None
    assert [books.state(order).status for order in (queued, ended)] == ["canceled", "filled"]

    rows = [books.execute(statement) for statement in limits.split(";\n") if statement.strip()]
    books.candle(100)
    assert sorted({row.rule for row in rows[3]}) == [
        "max_open_orders", "max_order_value", "max_orders_per_minute", "max_position", "price_collar"
    ]  # fmt: skip
    left = books.row("SELECT * FROM limits")
    assert (left.strategy, left.max_order_value, left.max_position, left.max_daily_loss) == ("momentum", 50, 80, None)


def test_every_limit_is_explained(books: Books) -> None:
    columns = books.execute("SELECT attname FROM pg_attribute WHERE attrelid = 'limits'::regclass AND attnum > 3")
    explained = set(re.findall(r"^\| `(\w+)` \| ", TEXT.partition("## Limits")[2], re.MULTILINE))
    assert explained == {row.attname for row in columns}
