"""The chain of migrations, on the database that serves the tests."""

from importlib import resources
from pathlib import Path

import psycopg
import pytest

from trader import migrate
from trader.errors import DatabaseError, InputError

ALEMBICS = {("r", "alembic_version"), ("i", "alembic_version_pkc")}


def test_the_template_is_at_the_newest_revision(database: str) -> None:
    assert migrate.current(database) == migrate.head()


def test_every_step_goes_back_and_forward_again(empty_database: str) -> None:
    for revision in migrate.revisions():
        before = _objects(empty_database)
        migrate.upgrade(empty_database, revision)
        after = _objects(empty_database)
        assert after - before, f"{revision} makes nothing"
        migrate.downgrade(empty_database, "-1")
        assert _objects(empty_database) - ALEMBICS == before - ALEMBICS, f"{revision} does not undo all that it did"
        migrate.upgrade(empty_database, revision)
        assert _objects(empty_database) == after
    migrate.downgrade(empty_database, "base")
    assert migrate.current(empty_database) is None


def test_two_at_once_both_succeed(empty_database: str) -> None:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(migrate.upgrade, [empty_database] * 2))
    assert migrate.current(empty_database) == migrate.head()


def test_an_unknown_revision_is_refused_with_the_known_ones(empty_database: str) -> None:
    with pytest.raises(InputError, match="0001_procrastinate"):
        migrate.upgrade(empty_database, "nonsense")


def test_a_database_from_the_future_is_refused(database: str, connection: psycopg.Connection) -> None:
    connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    with pytest.raises(DatabaseError, match="9999_later"):
        migrate.upgrade(database)


def test_a_database_that_is_not_there_is_one_sentence_without_the_password() -> None:
    with pytest.raises(DatabaseError) as caught:
        migrate.upgrade("postgresql://someone:hush@127.0.0.1:1/nothing")
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_copy_of_procrastinates_schema_is_that_of_the_installed_version() -> None:
    installed = (resources.files("procrastinate") / "sql" / "schema.sql").read_text()
    copied = Path(migrate.DIRECTORY, "sql", "0001_procrastinate.up.sql").read_text()
    assert copied == installed, "procrastinate's schema has changed: its own migration files go into one of ours"


def test_every_revision_has_its_two_files_and_no_file_is_left_over() -> None:
    wanted = {f"{name}.{way}.sql" for name in migrate.revisions() for way in ("up", "down")}
    assert {path.name for path in Path(migrate.DIRECTORY, "sql").glob("*.sql")} == wanted


def _objects(url: str) -> set[tuple[str, str]]:
    """Relations, columns, types, values, checks, functions, triggers, grants and comments of relations in public, by
    kind and full name.
    """
    query = """
        SELECT relkind::text, relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'type', typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
        UNION ALL
        SELECT 'value', enumtypid::regtype || ' ' || enumlabel FROM pg_enum
        UNION ALL
        SELECT 'column', a.attrelid::regclass || ' ' || a.attname
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
           AND c.relname <> 'alembic_version' AND a.attnum > 0 AND NOT a.attisdropped
        UNION ALL
        SELECT 'check', conrelid::regclass || ' ' || conname FROM pg_constraint
         WHERE connamespace = 'public'::regnamespace AND contype = 'c'
        UNION ALL
        SELECT 'function', oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        UNION ALL
        SELECT 'trigger', tgname || ' ' || tgrelid::regclass FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL
        SELECT 'grant', concat_ws(' ', c.relname, a.grantee::regrole, a.privilege_type)
          FROM pg_class c, aclexplode(c.relacl) a
         WHERE c.relnamespace = 'public'::regnamespace AND a.grantee <> c.relowner
        UNION ALL
        SELECT 'comment', concat_ws(' ', c.relname, a.attname, d.description)
          FROM pg_description d JOIN pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_class'::regclass
          LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.objsubid AND d.objsubid > 0
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v')
    """
    with psycopg.connect(url) as connection:
        return set(connection.execute(query).fetchall())
