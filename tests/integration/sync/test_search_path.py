"""The sync means the same whatever search_path its caller has."""

from __future__ import annotations

import pytest

from tests.integration.sync.scenarios import PARSED, ROUNDED, TRIMMED, UNFILLED
from tests.integration.sync.stage import Stage
from tests.support import on_all_versions
from tests.support.servers import Database

pytestmark = on_all_versions

_EVIL = """
CREATE SCHEMA evil;
CREATE FUNCTION evil.round(numeric) RETURNS numeric LANGUAGE sql AS 'SELECT -1::numeric';
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil'::text $$;
CREATE FUNCTION evil.btrim(text) RETURNS text LANGUAGE sql AS $$ SELECT 'evil'::text $$;
CREATE FUNCTION evil.strpos(text, text) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$ SELECT ''::text $$;
CREATE FUNCTION evil.record_image_ne(record, record) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN false; END';
CREATE FUNCTION evil.no(int, int) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION evil.zero(int, int) RETURNS int LANGUAGE sql AS 'SELECT 0';
CREATE OPERATOR evil.= (FUNCTION = evil.no, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.<> (FUNCTION = evil.no, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.> (FUNCTION = evil.no, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.>= (FUNCTION = evil.no, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.& (FUNCTION = evil.zero, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.| (FUNCTION = evil.zero, LEFTARG = int, RIGHTARG = int);
CREATE OPERATOR evil.- (FUNCTION = evil.zero, LEFTARG = int, RIGHTARG = int);
CREATE TYPE evil.text AS (x int);
CREATE DOMAIN evil.record AS int;
CREATE TABLE evil.t (id int, a int);
CREATE SCHEMA our_pg_catalog;
"""

PATHS = (
    "''",
    "evil",
    "evil, pg_catalog",
    "evil, pg_catalog, public",
    "pg_catalog, evil",
    "our_pg_catalog, public",
)


@pytest.mark.parametrize("path", PATHS)
def test_rounded(database: Database, path: str) -> None:
    database.execute(_EVIL)
    s = Stage.set(database, UNFILLED)
    with database.connect() as app:
        app.execute(f"SET search_path = {path}".encode())
        app.execute("UPDATE public.t SET a = 9 WHERE id OPERATOR(pg_catalog.=) 1")
        app.execute("INSERT INTO public.t (id, a) VALUES (4, 4)")
        app.execute("INSERT INTO public.t (id, _c) VALUES (5, 5.4)")
        app.execute("UPDATE public.t SET _c = 6.4 WHERE id OPERATOR(pg_catalog.=) 4")
        app.execute("UPDATE public.t SET o = 'y'")
        ((found,),) = app.execute("SELECT pg_catalog.current_setting('search_path')").fetchall()
        assert found == ("" if path == "''" else path) or found == '""'
    s.has(1, a=9, _c=9)
    s.has(4, a=6, _c=6.4, new_last=[0])
    s.has(5, a=5, _c=5.4, new_last=[0])
    s.agrees()


@pytest.mark.parametrize("path", PATHS)
def test_trimmed_and_parsed(database: Database, path: str) -> None:
    database.execute(_EVIL)
    s = Stage.set(database, TRIMMED)
    with database.connect(autocommit=True) as app:
        app.execute(f"SET search_path = {path}".encode())
        app.execute("INSERT INTO public.t (id, a) VALUES (1, ' Blue')")
        app.execute("UPDATE public.t SET a = ' Red', _c = 'red'")
    s.has(1, a=" Red", _c="red", new_last=[])
    s.agrees()


@pytest.mark.parametrize("path", PATHS)
def test_failures_are_recorded(database: Database, path: str) -> None:
    database.execute(_EVIL)
    s = Stage.set(database, PARSED)
    with database.connect(autocommit=True) as app:
        app.execute(f"SET search_path = {path}".encode())
        app.execute("UPDATE public.t SET o = 'y'")
    assert s.failures() == [({"id": 2}, "g", "22P02")]


def test_installed_under_a_hostile_path(database: Database) -> None:
    database.execute(_EVIL)
    s = Stage.set(database, ROUNDED, install=False)
    s.connection.execute("SET search_path = evil, pg_catalog")
    s.install()
    s.connection.execute("SET search_path = public")
    s.old("INSERT INTO t VALUES (1, 5)")
    s.old("UPDATE t SET a = 6")
    s.new("UPDATE t SET a = 7.4")
    s.has(1, a=7, _c=7.4)
    s.agrees()


def test_the_path_is_restored_within_a_transaction(database: Database) -> None:
    database.execute(_EVIL)
    Stage.set(database, ROUNDED)
    with database.connect() as app:
        app.execute("SET search_path = evil, pg_catalog")
        app.commit()
        app.execute("INSERT INTO public.t (id, a) VALUES (1, 1)")
        app.rollback()
        ((found,),) = app.execute("SELECT pg_catalog.current_setting('search_path')").fetchall()
        assert found == "evil, pg_catalog"
        app.execute("SET search_path = public, evil, pg_catalog")
        app.execute("INSERT INTO t (id, a) VALUES (1, 1)")
        app.commit()
        ((found,),) = app.execute("SELECT pg_catalog.current_setting('search_path')").fetchall()
        assert found == "public, evil, pg_catalog"
