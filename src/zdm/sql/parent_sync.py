"""The functions and triggers of a mapping of many to one: values of the source, a link, and a shared parent found by its natural key.

Three tables are watched: the source (`old`), the links (`new`) and the parents (`parent`). ``settle_new`` makes the links of a row of
the source hold what its values say, ``settle_old`` the other way round, for the source's row of one link. All who write links of one
row of the source hold its lock.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.expression import Expression
from zdm.model.names import QualifiedName
from zdm.model.row_mapping import PARENT, ParentSide, RowMapping, UnusedParents
from zdm.sql import records
from zdm.sql.identifiers import (
    SCHEMA,
    all_of,
    column,
    comma,
    differs,
    key_type,
    qualified_name,
    type_name,
    without_length,
)
from zdm.sql.parent_conditions import (
    PARENT_ALIAS,
    back,
    clearing,
    compared_as,
    follows,
    is_called,
    links,
    refers,
    same_natural,
    variable,
    wants,
)
from zdm.sql.row_objects import (
    RAISED,
    Function,
    Objects,
    Side,
    Trigger,
    equal,
    failed,
    name_of,
    record_failure,
    referring,
    same_key,
    truncated,
)
from zdm.sql.rows import render
from zdm.sql.templates import load

_SOURCE, _LINK = "zdm_s", "zdm_l"


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side."""
    purposes = {
        "old": ("on_old", "settle_new", "find", "same"),
        "new": ("on_new", "settle_old", "wanted", "late"),
        "parent": ("on_parent",),
    }
    found = (*purposes[side], *(("hold_old",) if side == "new" and mapping.records else ()))
    return [name_of(mapping, rollout, purpose) for purpose in found]


def wanted_by(mapping: RowMapping, rollout: int) -> sql.Identifier:
    """The function that says whether a row of the source has a parent; true for one that raises."""
    return sql.Identifier(SCHEMA, name_of(mapping, rollout, "wanted"))


class ParentObjects(Objects):
    """Everything that watches one of the three tables."""

    def __init__(self, mapping: RowMapping, parent: ParentSide, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        self.parent = parent
        self.names = {
            "source": qualified_name(mapping.old.table),
            "link": qualified_name(mapping.new.table),
            "parent": qualified_name(parent.table),
        }
        # Where links are read that count.
        self.counted = records.counted(mapping, rollout) if mapping.records else self.names["link"]
        self.others = sql.Literal(f"{mapping.number}:new:*")

    @property
    def functions(self) -> tuple[Function, ...]:
        if self.side == "old":
            return (self._find(), self._same(), self._settle_new(), self._on())
        if self.side == "new":
            return (self._wanted(), self._settle_old(), self._late(), self._on())
        return (self._on(),)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        on = self._named(f"on_{self.side}")
        found = [
            self._trigger("update", "UPDATE", on, self._when_updated),
            self._trigger("delete", "DELETE", on),
            self._statement_trigger(on),
        ]
        if self.side != "parent":
            found.insert(0, self._trigger("insert", "INSERT", on))
        if self.side == "new":
            late = self._named("late")
            # A link that follows from the old value needs no second look.
            unlike = sql.SQL("pg_catalog.current_setting('zdm.row', true) IS DISTINCT FROM {}").format(
                self._guard(self.mine.key, "new")
            )
            found += [
                self._trigger("late_insert", "INSERT", late, unlike, late=True),
                self._trigger("late_update", "UPDATE", late, self._changed(self.mine.key), late=True),
            ]
        return tuple(found)

    @property
    def _when_updated(self) -> sql.Composable:
        """Which updates are mirrored."""
        return self._changed(self._reads)

    @property
    def _reads(self) -> tuple[str, ...]:
        mapping, parent = self.mapping, self.parent
        backwards = [name for c in mapping.old.columns for name in c.value.columns]
        if self.side == "old":
            found = [*mapping.old.key, *(c.name for c in mapping.old.columns)]
            found += [name for value in parent.key_values for name in value.columns]
            found += [name for name in backwards if not name.startswith(PARENT)]
            found += mapping.where.columns if mapping.where is not None else ()
        elif self.side == "new":
            found = [*mapping.new.key, *parent.reference]
        else:
            found = [*parent.key, *parent.identity]
            found += [name.removeprefix(PARENT) for name in backwards if name.startswith(PARENT)]
        return tuple(dict.fromkeys(found))

    @property
    def _expressions(self) -> list[Expression]:
        old = self.mapping.old.columns
        found = [*self.parent.key_values, *(c.value for c in old)]
        found += [c.cleared for c in old if c.cleared is not None]
        return [*found, *((self.mapping.where,) if self.mapping.where is not None else ())]

    # --- functions ------------------------------------------------------------------------------------------------------

    def _named(self, purpose: str) -> str:
        return name_of(self.mapping, self.rollout, purpose)

    def _called(self, purpose: str) -> sql.Identifier:
        return sql.Identifier(SCHEMA, self._named(purpose))

    def _made(
        self, purpose: str, template: str, takes: sql.Composable, /, **pieces: sql.Composable
    ) -> Function:
        definition = self._definition(template, function=self._called(purpose), **pieces)
        return Function(self._named(purpose), takes, definition, self._label(template, definition))

    def _guard(self, names: tuple[str, ...], alias: str) -> sql.Composable:
        """The row of the source, as `zdm.row` names it while it is mirrored either way."""
        return sql.SQL("pg_catalog.concat_ws(':', {}, ROW({})::pg_catalog.text)").format(
            sql.Literal(f"{self.mapping.number}:row"), comma(column(name, alias) for name in names)
        )

    def _find(self) -> Function:
        parent = self.parent
        arguments = comma(key_type(type_) for type_ in parent.key_types)
        values = [sql.SQL("${}").format(sql.Literal(n)) for n in range(1, len(parent.key) + 1)]
        named = ", ".join(parent.key)
        return self._made(
            "find",
            "parent_find",
            arguments,
            arguments=arguments,
            parent=self.names["parent"],
            same=is_called(parent, values),
            columns=comma(column(name) for name in parent.key),
            values=comma(values),
            made=is_called(parent, values, "zdm_parent"),
            other=sql.Literal(
                f"{named} of a new row of {parent.table} would be another value: a trigger or its type changes it"
            ),
            hidden=sql.Literal(
                f"a row of {parent.table} can neither be found by {named} nor made: another one is taken for equal by its unique "
                "constraint, or a trigger or a policy hides it"
            ),
        )

    def _wanted(self) -> Function:
        return self._made(
            "wanted",
            "parent_wanted",
            self.names["source"],
            source=self.names["source"],
            wanted=wants(self.mapping, self.parent, "zdm_row"),
        )

    def _same(self) -> Function:
        mapping, parent = self.mapping, self.parent
        return self._made(
            "same",
            "parent_same",
            sql.SQL("{0}, {0}").format(self.names["source"]),
            source=self.names["source"],
            before=wants(mapping, parent, "zdm_was"),
            after=wants(mapping, parent, "zdm_row"),
            same=all_of(
                sql.SQL("NOT {}").format(
                    differs(
                        compared_as(render(value, "zdm_was"), type_),
                        compared_as(render(value, "zdm_row"), type_),
                        comparison,
                        without_length(type_),
                    )
                )
                for type_, value, comparison in zip(
                    parent.key_types, parent.key_values, parent.comparisons, strict=True
                )
            ),
        )

    def _settle_new(self) -> Function:
        mapping, parent = self.mapping, self.parent
        identity = comma(column(name, "zdm_parent") for name in parent.identity)
        released: sql.Composable = sql.SQL("        NULL;")
        if parent.unused is UnusedParents.REMOVE:
            released = load("parent_released").fill(
                parent=self.names["parent"],
                link=self.names["link"],
                of_link=refers(parent, "zdm_before", PARENT_ALIAS),
                users=refers(parent, _LINK, PARENT_ALIAS),
                filled=self._filled(mapping.id),
                kept=self._spreading(mapping.new.table),
            )
        forget = sql.SQL("  DELETE {};").format(failed(mapping, self.rollout, mapping.old, "zdm_at"))
        return self._made(
            "settle_new",
            "parent_settle_new",
            sql.SQL("{0}, {0}, pg_catalog.text").format(self.names["source"]),
            **self.names,
            declare=self._variables,
            guard=self._guard(mapping.old.key, "zdm_at"),
            all=self.others,
            own_key=same_key(mapping.old, _SOURCE, "zdm_at"),
            key_same=same_key(mapping.old, "zdm_at", "zdm_was"),
            same=self._called("same"),
            wanted=wanted_by(mapping, self.rollout),
            compute=self._compute("zdm_row"),
            probe_compute=self._compute("zdm_was"),
            agree=self._agree(forget),
            find=self._found,
            linked=links(mapping, _LINK, "zdm_at"),
            link_columns=comma(column(name) for name in (*mapping.new.key, *parent.reference)),
            link_values=comma([*(column(name, "zdm_at") for name in mapping.old.key), identity]),
            was_values=comma([*(column(name, "zdm_was") for name in mapping.old.key), identity]),
            same_parent=refers(parent, _LINK, "zdm_parent"),
            going=all_of(self._going),
            taken=self._taken(),
            released=released,
            fail=record_failure(mapping, self.rollout, mapping.old, "zdm_at"),
            forget=forget,
        )

    @property
    def _going(self) -> list[sql.Composable]:
        """Conditions over a link that a row of the source no longer says: it goes, unless the row itself is gone."""
        return []

    def _taken(self) -> sql.Composable:
        """What comes before a row of the source is linked."""
        return sql.SQL("")

    def _spreading(self, table: QualifiedName) -> sql.Composable:
        """A foreign key to the parent that changes or removes rows with it, but for the mapping's own of a table, as FROM and WHERE."""
        return sql.SQL(
            "FROM pg_catalog.pg_trigger AS zdm_t JOIN pg_catalog.pg_constraint AS zdm_c ON zdm_c.oid OPERATOR(pg_catalog.=) zdm_t.tgconstraint"
            " WHERE zdm_t.tgrelid OPERATOR(pg_catalog.=) {parent}::pg_catalog.regclass"
            " AND zdm_c.confrelid OPERATOR(pg_catalog.=) zdm_t.tgrelid AND zdm_c.confdeltype OPERATOR(pg_catalog.=) ANY ('{{c,n,d}}')"
            " AND NOT (zdm_c.conrelid OPERATOR(pg_catalog.=) {table}::pg_catalog.regclass AND zdm_c.conname OPERATOR(pg_catalog.=) {key})"
        ).format(
            parent=sql.Literal(self.names["parent"].as_string(None)),
            table=sql.Literal(qualified_name(table).as_string(None)),
            key=sql.Literal(self.parent.foreign_key),
        )

    @property
    def _variables(self) -> sql.Composable:
        """Declarations of what `_compute` assigns."""
        return sql.SQL("\n").join(
            sql.SQL("  {} {};").format(variable(number), type_name(type_))
            for number, type_ in enumerate(self.parent.key_types)
        )

    @property
    def _found(self) -> sql.Composable:
        """The parent of what was computed, made if there is none."""
        return sql.SQL("{}({})").format(
            self._called("find"), comma(variable(number) for number, _ in enumerate(self.parent.key))
        )

    @property
    def _is_called(self) -> sql.Composable:
        """A condition over the parent: it has the natural key that was computed."""
        return is_called(self.parent, [variable(number) for number, _ in enumerate(self.parent.key)])

    def _compute(self, alias: str) -> sql.Composable:
        """The natural key by a row of the source; nothing is written."""
        lines: list[sql.Composable] = []
        for number, (name, value) in enumerate(zip(self.parent.key, self.parent.key_values, strict=True)):
            message = f"{name} of {self.parent.table} would be NULL, and must not be"
            lines.append(sql.SQL("      {} := {};").format(variable(number), render(value, alias)))
            lines.append(
                sql.SQL(
                    "      IF {} IS NULL THEN\n        RAISE not_null_violation USING MESSAGE = {};\n      END IF;"
                ).format(variable(number), sql.Literal(message))
            )
        return sql.SQL("\n").join(lines)

    def _agree(self, forget: sql.Composable) -> sql.Composable:
        return sql.SQL(
            "      BEGIN\n"
            "        PERFORM FROM {link} AS zdm_l JOIN {parent} AS zdm_p ON {refers} WHERE {linked} AND {follows}\n"
            "          AND NOT EXISTS (SELECT FROM {link} AS zdm_x WHERE {others} AND NOT {same});\n"
            "      EXCEPTION\n{raised}        WHEN OTHERS THEN PERFORM WHERE false;\n      END;\n"
            "      IF FOUND THEN\n{forget}\n        RETURN true;\n      END IF;"
        ).format(
            link=self.counted,
            parent=self.names["parent"],
            refers=refers(self.parent, _LINK, PARENT_ALIAS),
            linked=links(self.mapping, _LINK, "zdm_at"),
            follows=follows(self.mapping, self.parent, "zdm_row", PARENT_ALIAS),
            others=links(self.mapping, "zdm_x", "zdm_at"),
            same=equal(self.parent.reference, "zdm_x", self.parent.reference, _LINK),
            raised=RAISED,
            forget=forget,
        )

    def _settle_old(self, purpose: str = "settle_old") -> Function:
        mapping, parent = self.mapping, self.parent
        return self._made(
            purpose,
            "parent_settle_old",
            sql.SQL("{}, pg_catalog.text").format(self.names["link"]),
            **self.names,
            counted=self.counted,
            guard=self._guard(mapping.new.key, "zdm_at"),
            all=self.others,
            source_of=equal(mapping.old.key, _SOURCE, mapping.new.key, "zdm_at"),
            links_of=same_key(mapping.new, _LINK, "zdm_at"),
            joined=refers(parent, _LINK, PARENT_ALIAS),
            agree=follows(mapping, parent, "zdm_row", PARENT_ALIAS),
            wanted=wanted_by(mapping, self.rollout),
            failure=failed(mapping, self.rollout, mapping.old, "zdm_row"),
            referring=referring(mapping.new, mapping.old),
            belongs=same_natural(mapping, parent, "zdm_row", "zdm_parent", held=False),
            stranger=sql.Literal(
                f"the row %s of {mapping.old.table} and its row of {parent.table} do not belong together: they differ in "
                f"{', '.join(parent.key)}, which the old version could not hold"
            ),
            parent_text=sql.Literal(f"there is no such row in {parent.table}"),
            assign=comma(
                sql.SQL("{} = {}").format(column(c.name), back(c.value, _SOURCE, "zdm_parent"))
                for c in mapping.old.columns
            ),
            clear=clearing(mapping.old, _SOURCE),
            names=sql.Literal(", ".join(c.name for c in mapping.old.columns)),
        )

    def _late(self) -> Function:
        mapping = self.mapping
        return self._made(
            "late",
            "parent_late",
            sql.SQL(""),
            settings=self._settings,
            link=self.names["link"],
            counted=self.counted,
            links_of=same_key(mapping.new, _LINK, "zdm_at"),
            settle=self._called("settle_old"),
            message=sql.SQL("pg_catalog.format({}, {})").format(
                sql.Literal(f"%s would have several rows of {mapping.new.table}: the old version holds one"),
                self._guard(mapping.new.key, "zdm_at"),
            ),
        )

    def _on(self) -> Function:
        lines = {"old": self._on_source, "new": self._on_link, "parent": self._on_parent}[self.side]()
        return self._made(
            f"on_{self.side}",
            "parent_trigger",
            sql.SQL(""),
            settings=self._settings,
            source=self.names["source"],
            link=self.names["link"],
            **lines,
        )

    def _on_source(self) -> dict[str, sql.Composable]:
        mapping, settle = self.mapping, self._called("settle_new")
        moved = self._guarded(
            sql.SQL("UPDATE {} AS zdm_l SET {} WHERE {}").format(
                self.names["link"],
                comma(
                    sql.SQL("{} = {}").format(column(link), column(own, "new"))
                    for link, own in zip(mapping.new.key, mapping.old.key, strict=True)
                ),
                links(mapping, _LINK, "old"),
            )
        )
        return {
            "inserted": sql.SQL("    PERFORM {}(NEW, zdm_none, 'insert');").format(settle),
            "updated": sql.SQL("    IF {} THEN\n{}\n    END IF;\n    PERFORM {}(NEW, OLD, 'update');").format(
                self._changed(mapping.old.key), moved, settle
            ),
            "deleted": sql.SQL("    PERFORM {}(OLD, OLD, 'delete');").format(settle),
            "truncated": sql.SQL(
                "{}\n    DELETE FROM zdm.sync_failures WHERE rollout = {} AND group_name = {};"
            ).format(
                truncated(self.names["link"], self.others),
                sql.Literal(self.rollout),
                sql.Literal(str(mapping.id)),
            ),
        }

    def _on_link(self) -> dict[str, sql.Composable]:
        settle = self._called("settle_old")
        emptied = sql.SQL("UPDATE {} AS zdm_s SET {} WHERE {}(zdm_s)").format(
            self.names["source"], clearing(self.mapping.old, _SOURCE), wanted_by(self.mapping, self.rollout)
        )
        return {
            "inserted": sql.SQL("    PERFORM {}(NEW, 'insert');").format(settle),
            "updated": sql.SQL(
                "    IF {} THEN\n      PERFORM {}(OLD, 'follow');\n    END IF;\n    PERFORM {}(NEW, 'update');"
            ).format(self._changed(self.mapping.new.key), settle, settle),
            "deleted": sql.SQL("    PERFORM {}(OLD, 'follow');").format(settle),
            # Every row's own trigger finds it without a link, and agrees.
            "truncated": sql.SQL("    {};").format(emptied),
        }

    def _on_parent(self) -> dict[str, sql.Composable]:
        parent = self.parent
        of_new, of_old = (refers(parent, _LINK, alias) for alias in ("new", "old"))
        moved = self._guarded(
            sql.SQL("UPDATE {} AS zdm_l SET {} WHERE {}").format(
                self.names["link"],
                comma(
                    sql.SQL("{} = {}").format(column(link), column(own, "new"))
                    for link, own in zip(parent.reference, parent.identity, strict=True)
                ),
                of_old,
            )
        )
        return {
            "inserted": sql.SQL("    NULL;"),
            "updated": sql.SQL(
                "    IF {} THEN\n{}\n    END IF;\n"
                "    FOR zdm_link IN SELECT zdm_l.* FROM {} AS zdm_l WHERE {} ORDER BY {} LOOP\n"
                "      PERFORM {}(zdm_link, 'follow');\n    END LOOP;\n{}"
            ).format(
                self._changed(parent.identity),
                moved,
                self.names["link"],
                of_new,
                comma(column(name, _LINK) for name in self.mapping.new.key),
                self._called("settle_old"),
                self._unseen(
                    sql.SQL("        PERFORM pg_catalog.set_config('zdm.row', {}, true);").format(self.others)
                ),
            ),
            "deleted": sql.SQL("    DELETE FROM {} AS zdm_l WHERE {};").format(self.names["link"], of_old),
            "truncated": sql.SQL("    DELETE FROM {};").format(self.names["link"]),
        }

    def _unseen(self, let_go: sql.Composable) -> sql.Composable:
        """What raises 40001 if a row has the parent that is renamed, and the snapshot does not see it."""
        parent = self.parent
        return load("parent_unseen").fill(
            parent=self.names["parent"],
            let_go=let_go,
            same=equal(parent.identity, PARENT_ALIAS, parent.identity, "new"),
            key=sql.Literal(parent.foreign_key),
        )

    def _guarded(self, statement: sql.Composable) -> sql.Composable:
        """A statement whose writes of links mean nothing new."""
        return sql.SQL(
            "      PERFORM pg_catalog.set_config('zdm.row', {}, true);\n      {};\n"
            "      PERFORM pg_catalog.set_config('zdm.row', zdm_guard, true);"
        ).format(self.others, statement)


def settling(mapping: RowMapping, rollout: int, side: Side, alias: str) -> sql.Composed:
    """The call that makes `side` hold what the row of the other side, under this alias, says."""
    function = sql.Identifier(SCHEMA, name_of(mapping, rollout, f"settle_{side}"))
    if side == "new":
        source = qualified_name(mapping.old.table)
        return sql.SQL("{f}(ROW({a}.*)::{t}, NULL::{t}, 'repair')").format(
            f=function, a=sql.Identifier(alias), t=source
        )
    return sql.SQL("{}(ROW({}.*)::{}, 'repair')").format(
        function, sql.Identifier(alias), qualified_name(mapping.new.table)
    )


def finding(mapping: RowMapping, parent: ParentSide, rollout: int, alias: str) -> sql.Composed:
    """The call that finds, or makes, the parent of a row of the source."""
    values = comma(
        compared_as(render(value, alias), type_)
        for value, type_ in zip(parent.key_values, parent.key_types, strict=True)
    )
    return sql.SQL("{}({})").format(sql.Identifier(SCHEMA, name_of(mapping, rollout, "find")), values)
