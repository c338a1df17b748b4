"""The user's views and materialized views over replaced columns are made anew beside the old ones, and take their names.

A view cannot be given columns of other types, nor does the server let go of a column that a view reads. So the closure of
all views over a replaced column (views upon views, in order) is made anew over the successors, with options, defaults,
triggers, rules, comments and indexes; then, in one short transaction, they get the rights of the old ones, the old ones
go, and the new ones take their names. The table is not locked for any of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from zdm.db.dependants.clones import CannotFollowError, Clones
from zdm.db.session import Connection, execute_one, fetch_value, transaction
from zdm.errors import Problem
from zdm.model.names import QualifiedName, fit, qualified
from zdm.model.requests import RecreatedView, RecreateRequest, Recreation
from zdm.sql.templates import dollar_quoted

_CLOSURE = """
WITH RECURSIVE reads (view, source) AS (
  SELECT DISTINCT r.ev_class, p.refobjid FROM pg_depend p
  JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid AND r.rulename = '_RETURN'
  JOIN pg_class v ON v.oid = r.ev_class
  WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid <> r.ev_class AND r.ev_class::regclass::text <> ALL (%(own)s)
), found (view) AS (
  SELECT r.ev_class FROM pg_depend p
  JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid
  JOIN pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
  JOIN pg_attribute a ON p.refclassid = 'pg_class'::regclass AND a.attrelid = p.refobjid AND a.attnum = p.refobjsubid
  JOIN pg_class t ON t.oid = p.refobjid JOIN pg_namespace n ON n.oid = t.relnamespace
  JOIN ROWS FROM (unnest(%(schemas)s::text[]), unnest(%(tables)s::text[]), unnest(%(columns)s::text[]))
    AS w (s, t, c) ON w.s = n.nspname AND w.t = t.relname AND w.c = a.attname
  WHERE r.ev_class::regclass::text <> ALL (%(own)s) AND v.oid <> t.oid
  UNION
  SELECT d.view FROM found f JOIN reads d ON d.source = f.view
)
SELECT f.view::int8 AS oid, n.nspname AS schema, c.relname AS name, c.relkind = 'm' AS materialized, c.relispopulated AS populated,
  pg_get_userbyid(c.relowner) AS owner, pg_has_role(c.relowner, 'USAGE') AS ours,
  has_schema_privilege(c.relowner, c.relnamespace, 'CREATE') AS may_own,
  coalesce(c.reloptions, '{}') AS options, obj_description(c.oid, 'pg_class') AS comment,
  (SELECT amname FROM pg_am WHERE oid = c.relam) AS method, (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace) AS place,
  array(SELECT d.source::int8 FROM reads d WHERE d.view = f.view) AS sources,
  (SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'comment', col_description(c.oid, a.attnum),
     'statistics', nullif(a.attstattarget, -1), 'options', a.attoptions, 'compression', a.attcompression,
     'storage', CASE WHEN c.relkind = 'm' AND a.attstorage <> y.typstorage THEN a.attstorage END) ORDER BY a.attnum)
   FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns
FROM found f JOIN pg_class c ON c.oid = f.view JOIN pg_namespace n ON n.oid = c.relnamespace
ORDER BY n.nspname, c.relname
"""

# Everything else that hangs on the views and would go with them, or keep them from going.
_OTHERS = """
SELECT DISTINCT p.refobjid::int8, pg_describe_object(p.classid, p.objid, p.objsubid)
FROM (
  SELECT p.classid, p.objid, p.objsubid, coalesce(y.typrelid, p.refobjid) AS refobjid, p.deptype
  FROM pg_depend p LEFT JOIN pg_type e ON p.refclassid = 'pg_type'::regclass AND e.oid = p.refobjid
  LEFT JOIN pg_type y ON y.oid = CASE WHEN e.typelem <> 0 THEN e.typelem ELSE e.oid END
  WHERE p.refclassid = 'pg_class'::regclass AND p.refobjid = ANY (%(views)s::oid[]) OR y.typrelid = ANY (%(views)s::oid[])
  UNION ALL
  SELECT p.refclassid, p.refobjid, 0, p.objid, p.deptype FROM pg_depend p
  WHERE p.classid = 'pg_class'::regclass AND p.objid = ANY (%(views)s::oid[]) AND p.deptype IN ('e', 'x')
  UNION ALL
  SELECT 'pg_class'::regclass, l.objoid, l.objsubid, l.objoid, 'n' FROM pg_seclabel l
  WHERE l.classoid = 'pg_class'::regclass AND l.objoid = ANY (%(views)s::oid[])
) AS p
LEFT JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid
LEFT JOIN pg_trigger g ON p.classid = 'pg_trigger'::regclass AND g.oid = p.objid
LEFT JOIN pg_class i ON p.classid = 'pg_class'::regclass AND i.oid = p.objid
WHERE coalesce(r.ev_class <> ALL (%(views)s::oid[]), true) AND coalesce(g.tgrelid <> ALL (%(views)s::oid[]), true)
  AND coalesce(i.relkind NOT IN ('i', 't'), true) AND p.classid <> 'pg_attrdef'::regclass
  AND NOT (p.classid = 'pg_type'::regclass AND p.deptype = 'i')
ORDER BY 1, 2
"""

_PARTS = """
SELECT 'trigger' AS kind, g.tgname::text AS name, pg_get_triggerdef(g.oid, true) AS definition,
  obj_description(g.oid, 'pg_trigger') AS comment
FROM pg_trigger g WHERE g.tgrelid = %(view)s AND NOT g.tgisinternal
UNION ALL
SELECT 'rule', r.rulename::text, pg_get_ruledef(r.oid, true), obj_description(r.oid, 'pg_rewrite')
FROM pg_rewrite r WHERE r.ev_class = %(view)s AND r.rulename <> '_RETURN'
ORDER BY 1, 2
"""

_DEFAULTS = """
SELECT a.attname, pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d
JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = %s ORDER BY a.attnum
"""

_INDEXES = """
SELECT x.relname, i.indisunique, i.indisclustered, obj_description(x.oid, 'pg_class'), pg_get_indexdef(x.oid),
  format('CREATE %%sINDEX %%I ON %%I.%%I ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, n.nspname, v.relname)
FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class v ON v.oid = i.indrelid
JOIN pg_namespace n ON n.oid = v.relnamespace WHERE i.indrelid = %s ORDER BY x.relname
"""

_STORAGE = {"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}
_COMPRESSION = {"p": "pglz", "l": "lz4"}


@dataclass(slots=True)
class _View:
    """One view of the closure: the row of `_CLOSURE`, and what was read of it before anything was made."""

    facts: Mapping[str, Any]
    definition: str = ""
    parts: list[tuple[str, str, str, str | None]] = field(default_factory=list)
    defaults: list[tuple[str, str]] = field(default_factory=list)

    @property
    def name(self) -> QualifiedName:
        return qualified(self.facts["schema"], self.facts["name"])

    @property
    def beside(self) -> QualifiedName:
        return qualified(self.facts["schema"], fit(f"_zdm_{self.facts['name']}"))

    @property
    def kind(self) -> sql.SQL:
        return sql.SQL("MATERIALIZED VIEW" if self.facts["materialized"] else "VIEW")


def recreate(conn: Connection, request: RecreateRequest | None) -> tuple[Recreation, list[Problem]]:
    """How every view over a replaced column is made anew; what cannot be is named. Nothing is left in the database."""
    if request is None:
        return Recreation(), []
    views: list[_View] = []
    with transaction(conn, rollback=True):
        views = _closure(conn, request)
        problems = _unfit(conn, views, request)
        if not views or problems:
            return Recreation(), problems
        try:
            return _Anew(conn, request, views).recreation(), []
        except CannotFollowError as error:
            why = str(error)
        except psycopg.Error as error:
            if error.sqlstate is None or error.sqlstate[:2] in {"08", "57", "58", "XX"}:
                raise
            why = (error.diag.message_primary or str(error)).strip()
    names = ", ".join(str(view.name) for view in views)
    return Recreation(), [
        Problem(
            f"the views over replaced columns ({names}) cannot be made anew: {why}",
            where=request.where,
            remedy="Drop the one that cannot be, or write it without the column, before the rollout; create it again after "
            "cleanup.",
            rule="cannot-be-carried",
        )
    ]


def _closure(conn: Connection, request: RecreateRequest) -> list[_View]:
    """The views over replaced columns and the views over those, each after the ones it reads."""
    columns = [(r.table.schema_, r.table.name, c.old) for r in request.replaced for c in r.columns]
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            _CLOSURE,
            {
                "own": list(request.own),
                "schemas": [schema for schema, _, _ in columns],
                "tables": [table for _, table, _ in columns],
                "columns": [column for _, _, column in columns],
            },
        ).fetchall()
    left = {row["oid"]: row for row in rows}
    ordered: list[_View] = []
    while left:
        ready = [oid for oid, row in left.items() if not left.keys() & set(row["sources"])]
        ordered += [_View(left.pop(oid)) for oid in ready]
    return ordered


def _unfit(conn: Connection, views: Sequence[_View], request: RecreateRequest) -> list[Problem]:
    """What keeps a view from being dropped and made anew, by name."""
    found: list[tuple[str, str]] = []
    for view in views:
        owner = view.facts["owner"]
        if not view.facts["ours"]:
            found.append(
                (
                    f"the view {view.name} belongs to {owner}, and the connected role is not a member of it",
                    f"GRANT {owner} to the connected role, or drop the view before the rollout.",
                )
            )
        elif not view.facts["may_own"]:
            found.append(
                (
                    f"the view {view.name} belongs to {owner}, who may not create anything in its schema",
                    f"GRANT CREATE ON SCHEMA {view.facts['schema']} TO {owner} until cleanup is done.",
                )
            )
    names = {view.facts["oid"]: view.name for view in views}
    rows = conn.execute(_OTHERS, {"views": list(names)}).fetchall() if views else []
    found += [
        (
            f"the view {names[oid]} cannot be made anew, because of {what}",
            "Drop what hangs on the view before the rollout, and create it again after cleanup.",
        )
        for oid, what in rows
    ]
    return [Problem(what, request.where, remedy, "dependent-object") for what, remedy in found]


class _Anew:
    """The views made on copies of the tables, and what the server says of them there."""

    def __init__(self, conn: Connection, request: RecreateRequest, views: Sequence[_View]) -> None:
        self.conn, self.request, self.views = conn, request, views
        bare = [view.facts["name"] for view in views] + [r.table.name for r in request.replaced]
        for name in bare:
            if bare.count(name) > 1:
                raise CannotFollowError(f"two of what takes part are called {name}, in different schemas")

    def recreation(self) -> Recreation:
        """Everything, spelled."""
        indexes = {view.name: self._indexes(view) for view in self.views}
        clones = Clones.of(
            self.conn, self.request.replaced, schemas=[view.facts["schema"] for view in self.views]
        )
        for view in self.views:
            view.definition = self._value("SELECT pg_get_viewdef(%s::oid)", view.facts["oid"]).removesuffix(
                ";"
            )
            view.parts = self._rows(_PARTS, {"view": view.facts["oid"]})
            view.defaults = self._rows(_DEFAULTS, (view.facts["oid"],))
        clones.reading_copies()
        for view in self.views:
            self._make_copy(view)
        self._check_copies()
        clones.rename(self.request.replaced)
        for view in self.views:
            self.conn.execute(
                sql.SQL("ALTER VIEW {} RENAME TO {}").format(
                    sql.Identifier("pg_temp", view.name.name), sql.Identifier(view.beside.name)
                )
            )
        made = []
        for view in self.views:
            copy = self._value(
                "SELECT c.oid::int8 FROM pg_class c WHERE c.relname = %s AND c.relnamespace = pg_my_temp_schema()",
                view.beside.name,
            )
            view.definition = self._value("SELECT pg_get_viewdef(%s::oid)", copy).removesuffix(";")
            view.parts = self._rows(_PARTS, {"view": copy}, comments=[p[3] for p in view.parts])
            made.append(self._spelled(view, clones, indexes[view.name]))
        return Recreation(views=tuple(made), change=tuple(self._change(indexes)))

    def _value(self, query: str, *parameters: Any) -> Any:
        return fetch_value(self.conn, sql.SQL(query), parameters)

    def _rows(self, query: str, parameters: Any, comments: Sequence[str | None] = ()) -> list[Any]:
        rows = self.conn.execute(query.encode(), parameters).fetchall()
        if not comments:
            return list(rows)
        return [(*row[:3], comment) for row, comment in zip(rows, comments, strict=True)]

    def _make_copy(self, view: _View) -> None:
        execute_one(
            self.conn,
            sql.SQL("CREATE TEMPORARY VIEW {} ({}) AS {}").format(
                sql.Identifier(view.name.name), _columns(view), sql.SQL(view.definition)
            ),
        )
        for _, _, definition, _ in view.parts:
            execute_one(self.conn, sql.SQL(definition))

    def _check_copies(self) -> None:
        """A name that is found in another schema first was spelled in full, and the copy would read the original."""
        originals = [view.facts["oid"] for view in self.views] + [
            self._value(
                "SELECT c.oid::int8 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname = %s AND c.relname = %s",
                r.table.schema_,
                r.table.name,
            )
            for r in self.request.replaced
        ]
        row = self.conn.execute(
            "SELECT v.relname, p.refobjid::regclass::text FROM pg_depend p"
            " JOIN pg_rewrite r ON p.classid = 'pg_rewrite'::regclass AND r.oid = p.objid JOIN pg_class v ON v.oid = r.ev_class"
            " WHERE v.relnamespace = pg_my_temp_schema() AND p.refclassid = 'pg_class'::regclass AND p.refobjid = ANY (%s::oid[])",
            (originals,),
        ).fetchone()
        if row is not None:
            raise CannotFollowError(f"what {row[0]} calls {row[1]} is hidden by something of the same name")

    def _spelled(self, view: _View, clones: Clones, indexes: Sequence[_Index]) -> RecreatedView:
        facts, beside = view.facts, _identifier(view.beside)
        options = [option.partition("=") for option in facts["options"]]
        words: list[sql.Composable] = [sql.SQL("CREATE {} {} ({})").format(view.kind, beside, _columns(view))]
        if facts["materialized"] and facts["method"] is not None:
            words.append(sql.SQL("USING {}").format(sql.Identifier(facts["method"])))
        if options:
            settings = sql.SQL(", ").join(
                sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(value))
                for name, _, value in options
            )
            words.append(sql.SQL("WITH ({})").format(settings))
        if facts["place"] is not None:
            words.append(sql.SQL("TABLESPACE {}").format(sql.Identifier(facts["place"])))
        words.append(sql.SQL("AS {}").format(sql.SQL(view.definition)))
        if facts["materialized"]:
            words.append(sql.SQL("WITH NO DATA"))
        make: list[sql.Composable] = [sql.SQL(" ").join(words)]
        make += [
            sql.SQL("ALTER VIEW {} ALTER COLUMN {} SET DEFAULT {}").format(
                beside, sql.Identifier(column), sql.SQL(default)
            )
            for column, default in view.defaults
        ]
        for kind, name, definition, comment in view.parts:
            make.append(sql.SQL(definition))
            if comment is not None:
                make.append(
                    sql.SQL("COMMENT ON {} {} ON {} IS {}").format(
                        sql.SQL(kind.upper()), sql.Identifier(name), beside, sql.Literal(comment)
                    )
                )
        make += _attributes(view)
        make.append(
            sql.SQL("ALTER {} {} OWNER TO {}").format(view.kind, beside, sql.Identifier(facts["owner"]))
        )
        fill = None
        if facts["materialized"] and facts["populated"]:
            fill = (
                _text(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(beside)),
                _text(
                    sql.SQL(
                        "SELECT coalesce((SELECT relispopulated FROM pg_catalog.pg_class"
                        " WHERE oid = pg_catalog.to_regclass({})), false)"
                    ).format(sql.Literal(_text(beside)))
                ),
            )
        return RecreatedView(
            name=view.name,
            beside=view.beside,
            materialized=facts["materialized"],
            make=clones.under_path(*map(_text, make)),
            fill=fill,
            indexes=tuple(index.build(view) for index in indexes),
        )

    def _indexes(self, view: _View) -> list[_Index]:
        rows = self.conn.execute(_INDEXES, (view.facts["oid"],)).fetchall()
        found = [_Index(row[0], row[1], row[2], row[3], row[4].removeprefix(row[5])) for row in rows]
        for index, row in zip(found, rows, strict=True):
            if index.body == row[4]:
                raise CannotFollowError(
                    f"the definition of the index {index.name} is not understood: {row[4]}"
                )
        return found

    def _change(self, indexes: Mapping[QualifiedName, Sequence[_Index]]) -> Iterable[str]:
        """Rights from the old to the new, the old ones dropped, the names taken over."""
        for view in self.views:
            yield _text(
                dollar_quoted(
                    "view_rights",
                    old=sql.Literal(_text(_identifier(view.name))),
                    new=sql.Literal(_text(_identifier(view.beside))),
                )
            )
        for view in reversed(self.views):
            yield _text(sql.SQL("DROP {} {}").format(view.kind, _identifier(view.name)))
        for view in self.views:
            yield _text(
                sql.SQL("ALTER {} {} RENAME TO {}").format(
                    view.kind, _identifier(view.beside), sql.Identifier(view.name.name)
                )
            )
            for index in indexes[view.name]:
                yield from index.rename(view)


@dataclass(frozen=True, slots=True)
class _Index:
    """An index of a materialized view. Its definition is over the view's columns, whose names stay."""

    name: str
    unique: bool
    clustered: bool
    comment: str | None
    body: str

    def build(self, view: _View) -> tuple[str, str]:
        """The statement that builds it, and the query that tells whether it stands."""
        beside = sql.Identifier(fit(f"_zdm_{self.name}"))
        statement = sql.SQL("CREATE {}INDEX {} ON {} {}").format(
            sql.SQL("UNIQUE " if self.unique else ""), beside, _identifier(view.beside), sql.SQL(self.body)
        )
        there = sql.SQL("SELECT pg_catalog.to_regclass({}) IS NOT NULL").format(
            sql.Literal(_text(sql.Identifier(view.name.schema_, fit(f"_zdm_{self.name}"))))
        )
        return _text(statement), _text(there)

    def rename(self, view: _View) -> Iterable[str]:
        """It takes the old one's name, comment and mark, once the old one is gone."""
        schema = view.name.schema_
        yield _text(
            sql.SQL("ALTER INDEX {} RENAME TO {}").format(
                sql.Identifier(schema, fit(f"_zdm_{self.name}")), sql.Identifier(self.name)
            )
        )
        if self.comment is not None:
            yield _text(
                sql.SQL("COMMENT ON INDEX {} IS {}").format(
                    sql.Identifier(schema, self.name), sql.Literal(self.comment)
                )
            )
        if self.clustered:
            yield _text(
                sql.SQL("ALTER MATERIALIZED VIEW {} CLUSTER ON {}").format(
                    _identifier(view.name), sql.Identifier(self.name)
                )
            )


def _attributes(view: _View) -> list[sql.Composable]:
    """Comments, and what the columns of a materialized view have beside their types."""
    beside = _identifier(view.beside)
    found: list[sql.Composable] = []
    if view.facts["comment"] is not None:
        found.append(
            sql.SQL("COMMENT ON {} {} IS {}").format(view.kind, beside, sql.Literal(view.facts["comment"]))
        )
    for column in view.facts["columns"]:
        name = sql.Identifier(column["name"])
        if column["comment"] is not None:
            found.append(
                sql.SQL("COMMENT ON COLUMN {}.{} IS {}").format(beside, name, sql.Literal(column["comment"]))
            )
        if not view.facts["materialized"]:
            continue
        settings: list[sql.Composable] = []
        if column["statistics"] is not None:
            settings.append(sql.SQL("SET STATISTICS {}").format(sql.Literal(column["statistics"])))
        for option in column["options"] or ():
            key, _, value = option.partition("=")
            settings.append(sql.SQL("SET ({} = {})").format(sql.Identifier(key), sql.Literal(value)))
        if column["storage"]:
            settings.append(sql.SQL("SET STORAGE {}").format(sql.SQL(_STORAGE[column["storage"]])))
        if column["compression"] in _COMPRESSION:
            settings.append(
                sql.SQL("SET COMPRESSION {}").format(sql.SQL(_COMPRESSION[column["compression"]]))
            )
        found += [
            sql.SQL("ALTER MATERIALIZED VIEW {} ALTER COLUMN {} {}").format(beside, name, setting)
            for setting in settings
        ]
    return found


def _columns(view: _View) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(column["name"]) for column in view.facts["columns"])


def _identifier(name: QualifiedName) -> sql.Identifier:
    return sql.Identifier(name.schema_, name.name)


def _text(statement: sql.Composable) -> str:
    return statement.as_string(None)
