"""Write migrations/schema.sql and docs/tables.md anew: scripts/python -m scripts.schema

Both are made from the migrations: the first is their text, the second what a database made by them says of itself.
"""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from trader import migrate
from trader.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "migrations" / "schema.sql"
TABLES = ROOT / "docs" / "tables.md"
COMMAND = "scripts/python -m scripts.schema"
FOREIGN = "0001_procrastinate"
"""The one step that is not ours: procrastinate's own schema file as it stands."""

EVENTS = {4: "INSERT", 16: "UPDATE", 8: "DELETE", 32: "TRUNCATE"}

# In the order in which they were made, which is the order to read them in.
RELATIONS = """
SELECT c.oid, c.relname AS name, c.relkind::text AS kind, obj_description(c.oid, 'pg_class') AS meaning
  FROM pg_class c
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname !~ '^(procrastinate|alembic)_'
 ORDER BY c.oid
"""

COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
       col_description(a.attrelid, a.attnum) AS meaning, pg_get_expr(d.adbin, d.adrelid) AS default_,
       a.attgenerated <> '' AS generated,
       (SELECT k.confrelid::regclass::text FROM pg_constraint k
         WHERE k.conrelid = a.attrelid AND k.contype = 'f' AND k.conkey = ARRAY[a.attnum]) AS refers_to
  FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

KEYS = """
SELECT pg_get_constraintdef(oid) AS text FROM pg_constraint WHERE conrelid = %s AND contype IN ('p', 'u')
 ORDER BY contype, conname
"""

# Constraints are named as sentences.
CHECKS = """
SELECT replace(conname, '_', ' ') AS text FROM pg_constraint WHERE conrelid = %s AND contype = 'c' ORDER BY conname
"""

REFUSALS = """
SELECT tgtype::int AS events, convert_from(trim(trailing '\\x00'::bytea from tgargs), 'UTF8') AS instead,
       p.proname AS guard, tgqual IS NOT NULL AS some_columns
  FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid
 WHERE tgrelid = %s AND tgnargs = 1 AND p.proname IN ('refuse', 'only_from_triggers', 'only_from_processes')
 ORDER BY tgname
"""

TYPES = """
SELECT t.typname AS name, CASE t.typtype WHEN 'e' THEN
         (SELECT string_agg(enumlabel, ', ' ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid)
       ELSE obj_description(t.oid, 'pg_type') || ' ' || format_type(t.typbasetype, t.typtypmod) || '.' END AS meaning
  FROM pg_type t
 WHERE t.typnamespace = 'public'::regnamespace AND t.typtype IN ('e', 'd') AND t.typname !~ '^procrastinate_'
 ORDER BY t.typname
"""

WHO = {
    "refuse": "Nobody",
    "only_from_triggers": "Only the database itself",
    "only_from_processes": "Only Tallydesk's processes",
}


def schema_text() -> str:
    """Every statement that makes the schema, in one file to read from top to bottom."""
    head = (
        f"-- The whole schema as it stands: what the migrations lead to. Made by {COMMAND}; do not edit.\n"
        "-- procrastinate's own tables come before it (migrations/sql/0001_procrastinate.up.sql).\n"
    )
    return head + "".join(_step(name) for name in migrate.revisions() if name != FOREIGN)


def _step(name: str) -> str:
    text = (migrate.DIRECTORY / "sql" / f"{name}.up.sql").read_text(encoding="utf-8")
    title = name.partition("_")[2].upper()
    return f"\n\n{'-' * 100}\n-- {title}\n{'-' * 100}\n\n{text}"


def tables_text(connection: psycopg.Connection[Any]) -> str:
    """docs/tables.md, from what the database at `connection` says of itself."""
    cursor: psycopg.Cursor[Any]
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        relations: list[Any] = cursor.execute(RELATIONS).fetchall()
        parts = [_head(relations)]
        parts += ["## Tables\n", *(_relation(cursor, row) for row in relations if row.kind == "r")]
        parts += ["## Views\n", *(_relation(cursor, row) for row in relations if row.kind == "v")]
        parts += ["## Types\n", _types(cursor.execute(TYPES).fetchall())]
    return "\n".join(parts)


def _head(relations: Sequence[Any]) -> str:
    def links(kind: str) -> str:
        return ", ".join(f"[{row.name}](#{row.name})" for row in relations if row.kind == kind)

    return (
        "# Tables and views\n\n"
        f"Made from the comments in the database by `{COMMAND}`; do not edit.\n\n"
        "Write to the view `orders`; read the views. Times are `timestamptz`, money is `numeric`.\n\n"
        f"Tables: {links('r')}.\n\nViews: {links('v')}.\n"
    )


def _types(rows: Sequence[Any]) -> str:
    return "\n".join(f"- **{row.name}**: {row.meaning}" for row in rows) + "\n"


def _relation(cursor: psycopg.Cursor[Any], relation: Any) -> str:
    lines = [f"### {relation.name}\n", f"{relation.meaning}\n", *_columns(cursor, relation)]
    notes = [f"- {row.text}" for row in cursor.execute(KEYS, [relation.oid])]
    if checks := [row.text for row in cursor.execute(CHECKS, [relation.oid])]:
        notes.append(f"- Checked: {'; '.join(checks)}.")
    notes += [_refusal(row) for row in cursor.execute(REFUSALS, [relation.oid])]
    return "\n".join([*lines, *([""] if notes else []), *notes, ""])


def _columns(cursor: psycopg.Cursor[Any], relation: Any) -> Iterator[str]:
    rows = cursor.execute(COLUMNS, [relation.oid]).fetchall()
    if relation.kind == "v":
        yield "| column | type | meaning |\n|---|---|---|"
        yield from (f"| {row.name} | {row.type} | {_cell(row.meaning or '')} |" for row in rows)
        return
    yield "| column | type | may be NULL | meaning |\n|---|---|---|---|"
    for row in rows:
        refers = f"[{row.refers_to}](#{row.refers_to})".replace('"', "") + "." if row.refers_to else ""
        default = f"Default `{_short(row.default_)}`." if row.default_ and not row.generated else ""
        meaning = " ".join(part for part in (refers, row.meaning or "", default) if part)
        yield f"| {row.name} | {row.type} | {'' if row.required else 'yes'} | {_cell(meaning)} |"


def _refusal(row: Any) -> str:
    events = ", ".join(word for bit, word in EVENTS.items() if row.events & bit)
    what = f"{events} its fixed columns" if row.some_columns else events
    return f"- {WHO[row.guard]} may {what}: {row.instead}."


def _short(expression: str) -> str:
    """A default as people write it: 'queued'::order_status is queued."""
    return re.sub(r"^'(.*)'::[\w \"]+$", r"\1", expression) or "''"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tallydesk-schema-") as home:
        Path(home).chmod(0o711)
        server = EmbeddedServer(Path(home), tests=True)
        try:
            url = server.ensure()
            migrate.upgrade(url)
            with psycopg.connect(url, autocommit=True) as connection:
                tables = tables_text(connection)
        finally:
            server.stop("immediate")
    for path, text in ((SCHEMA, schema_text()), (TABLES, tables)):
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
