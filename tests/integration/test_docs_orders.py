"""The examples of docs/orders.md do what is said there."""

import re
from pathlib import Path

from tests.plugins.books import Books

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "orders.md").read_text(encoding="utf-8")


def test_the_examples_are_orders(books: Books) -> None:
    examples = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 5
    books.strategy("momentum", deposit=1000)
    for example in examples:
        for statement in example.replace("binance:", "sim:").split(";\n"):
            if statement.strip():
                books.execute(statement)
    rows = books.execute("SELECT * FROM orders WHERE type IN ('market', 'limit') ORDER BY id")
    shown = [(row.side, row.type, row.status, row.time_in_force, row.trigger_when) for row in rows]
    assert shown == [
        ("buy", "limit", "canceled", "IOC", None),
        ("sell", "market", "waiting", None, "falls"),
        ("sell", "limit", "waiting", "GTC", "falls"),
        ("buy", "market", "waiting", None, "rises"),
        ("sell", "market", "waiting", None, None),
        ("buy", "market", "queued", None, None),
        ("sell", "limit", "waiting", "GTC", None),
        ("sell", "market", "waiting", None, "falls"),
        ("buy", "limit", "queued", "GTC", None),
    ]
    assert {(row.after_id, row.parent_id) for row in rows[-3:-1]} == {(rows[-4].id, rows[-4].id)}
    assert rows[-1].replaces_id == rows[0].id
