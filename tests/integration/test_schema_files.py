"""The schema: the file to read is the one that the migrations make, every step goes back, and it explains itself."""

from collections import Counter
from pathlib import Path
from typing import Any

import psycopg

from scripts import schema
from trader import migrate

# Everything that a migration can make, as text; whatever differs between two databases shows in one of these.
CATALOG = {
    # Not its place (attnum): a column that a step drops comes back as the last one.
    "column": """
        SELECT c.relname, c.relkind, c.reloptions, a.attname, a.attnotnull,
               format_type(a.atttypid, a.atttypmod), a.attidentity, a.attgenerated,
               a.attstorage, a.attcompression, a.attcollation::regcollation,
               pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class')
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
         WHERE c.relnamespace = 'public'::regnamespace""",
    "constraint": """
        SELECT conrelid::regclass, contypid::regtype, conname, pg_get_constraintdef(oid), convalidated
          FROM pg_constraint WHERE connamespace = 'public'::regnamespace""",
    "index": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "view": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
    "function": """
        SELECT p.oid::regprocedure, CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END,
               obj_description(p.oid, 'pg_proc')
          FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace""",
    "trigger": "SELECT pg_get_triggerdef(oid), tgenabled FROM pg_trigger WHERE NOT tgisinternal",
    "type": """
        SELECT t.typname, t.typtype, format_type(t.typbasetype, t.typtypmod), obj_description(t.oid, 'pg_type'),
               (SELECT array_agg(enumlabel ORDER BY enumsortorder) FROM pg_enum WHERE enumtypid = t.oid)
          FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typelem = 0""",
    "sequence": """
        SELECT sequencename, data_type, start_value, increment_by FROM pg_sequences WHERE schemaname = 'public'""",
    "grant on a relation": """
        SELECT c.relname, x.grantee, x.privilege_type, x.is_grantable
          FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) x
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')""",
    "grant on a column": """
        SELECT c.relname, a.attname, x.grantee, x.privilege_type
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid, aclexplode(a.attacl) x
         WHERE c.relnamespace = 'public'::regnamespace""",
    "grant on a function": """
        SELECT p.oid::regprocedure, x.grantee, x.privilege_type
          FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x
         WHERE p.pronamespace = 'public'::regnamespace""",
    "grant on the schema": """
        SELECT n.nspname, x.grantee, x.privilege_type
          FROM pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) x
         WHERE n.nspname = 'public'""",
    "timeframe": "SELECT * FROM timeframe",
}

ALEMBICS = "alembic_version"

WITHOUT_COMMENT = """
SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
   AND a.attnum > 0 AND NOT a.attisdropped AND c.relname !~ '^(procrastinate|alembic)_'
   AND col_description(c.oid, a.attnum) IS NULL
   AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f' AND a.attnum = ANY(conkey))
"""

SPEAK_FOR_THEMSELVES = {
    "id",
    "name",
    "created_at",
    "started_at",
    "strategy",
    "strategy_id",
    "account",
    "market",
    "asset",
}
SPEAK_FOR_THEMSELVES |= {"held_asset", "timeframe", "task", "kind", "host"}
"""Numbers of rows, names of things: a comment would repeat the column's name."""


def catalog(url: str) -> Counter[tuple[str, ...]]:
    """Everything in the public schema except alembic's own table, one entry for each fact."""
    with psycopg.connect(url, autocommit=True) as connection:
        made = {row[0] for row in connection.execute("SELECT to_regclass('public.timeframe')::text")} != {None}
        rows: list[tuple[str, ...]] = []
        for kind, query in CATALOG.items():
            if kind != "timeframe" or made:
                rows += [(kind, *(str(value) for value in row)) for row in connection.execute(query).fetchall()]
    return Counter(row for row in rows if not any(ALEMBICS in value for value in row))


def test_the_file_to_read_makes_the_same_database_as_the_migrations(database: str, empty_database: str) -> None:
    foreign = Path(migrate.DIRECTORY, "sql", f"{schema.FOREIGN}.up.sql").read_text()
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(foreign)  # type: ignore[arg-type]
        connection.execute(schema.SCHEMA.read_text())  # type: ignore[arg-type]
    read, migrated = catalog(empty_database), catalog(database)
    assert read - migrated == Counter(), "only in migrations/schema.sql"
    assert migrated - read == Counter(), "only in the migrations"


def test_a_difference_would_be_seen(database: str, connection: psycopg.Connection[Any]) -> None:
    before = catalog(database)
    changes = (
        "COMMENT ON COLUMN asset.code IS 'something else'",
        "GRANT UPDATE (symbol) ON market TO tallydesk_reader",
        "ALTER TABLE strategy DROP CONSTRAINT a_stake_in_percent_is_at_most_100",
        "ALTER TABLE lane DISABLE TRIGGER lent",
        "GRANT EXECUTE ON FUNCTION ledger_post() TO PUBLIC",
        "ALTER TABLE balance RESET (fillfactor)",
    )
    for change in changes:
        connection.execute(change)
        after = catalog(database)
        assert after != before, change
        before = after


def test_up_down_and_up_again_is_the_same_and_down_leaves_nothing(empty_database: str) -> None:
    empty = catalog(empty_database)
    migrate.upgrade(empty_database)
    up = catalog(empty_database)
    migrate.downgrade(empty_database, "base")
    assert catalog(empty_database) == empty
    migrate.upgrade(empty_database)
    assert catalog(empty_database) == up


def test_each_step_down_undoes_that_step_wholly(empty_database: str) -> None:
    states = []
    for revision in migrate.revisions():
        states.append(catalog(empty_database))
        migrate.upgrade(empty_database, revision)
    for revision, before in zip(migrate.revisions()[::-1], states[::-1], strict=True):
        migrate.downgrade(empty_database, "-1")
        left = catalog(empty_database)
        assert (left - before, before - left) == (Counter(), Counter()), f"{revision} does not undo all that it did"


def test_the_documents_are_current(connection: psycopg.Connection[Any]) -> None:
    assert schema.SCHEMA.read_text() == schema.schema_text(), f"run {schema.COMMAND}"
    assert schema.TABLES.read_text() == schema.tables_text(connection), f"run {schema.COMMAND}"


def test_every_table_and_view_explains_itself(connection: psycopg.Connection[Any]) -> None:
    silent = [
        row.name
        for row in connection.cursor(row_factory=schema.namedtuple_row).execute(schema.RELATIONS)
        if not row.meaning
    ]
    assert silent == []


def test_every_column_that_does_not_speak_for_itself_is_explained(connection: psycopg.Connection[Any]) -> None:
    silent = {row[0] for row in connection.execute(WITHOUT_COMMENT)}
    assert {name for name in silent if name.partition(".")[2] not in SPEAK_FOR_THEMSELVES} == set()
