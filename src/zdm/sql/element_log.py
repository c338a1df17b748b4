"""A mapping of one row to many that is synced by log: triggers that note of which key something was written, and what reconciles a key.

Names, besides the ``settle`` functions of `zdm.sql.element_sync`:

* ``log_<side>`` is what the triggers call, ``differ`` tells them whether a row says other elements than before;
* ``reconcile(key, side)`` brings a row and its elements to agree; ``move`` follows a row to another key, ``expand`` a TRUNCATE;
* ``work`` and ``last`` as in `zdm.sql.row_log`.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import ElementColumn, RowMapping, RowSide
from zdm.sql.element_rows import as_stored, belongs, elements_of, one_to_many, same_element, split, unlike
from zdm.sql.element_sync import ElementObjects
from zdm.sql.identifiers import all_of, column, comma, type_name
from zdm.sql.log_objects import CHANGES, Logged, keyed
from zdm.sql.row_objects import (
    Function,
    Side,
    Trigger,
    failed,
    key_text,
    name_of,
    pinned,
    plain_keys,
    record_failure,
    same_key,
    sides,
)
from zdm.sql.templates import load

_MANY, _ELEMENT = "zdm_m", "zdm_e"

_DECLARED = """\
  zdm_row {one};
  zdm_has pg_catalog.bool;
  zdm_latest pg_catalog.int8;
  zdm_one pg_catalog.int8;
  zdm_many pg_catalog.int8;
  zdm_gone pg_catalog.int8;
  zdm_ended pg_catalog.int8;
  zdm_emptied pg_catalog.bool;
  zdm_alone pg_catalog.bool;
  zdm_from pg_catalog.text;
  zdm_mine pg_catalog.text;"""


def function_names(mapping: RowMapping, rollout: int, side: Side) -> list[str]:
    """The functions that are made for one side, as `ElementLogObjects` makes them."""
    purposes = [f"log_{side}"]
    if side == "old":
        purposes += ["wanted", "agree", "differ", "settle_new", "reconcile", "move", "expand", "work", "last"]
        purposes += [] if mapping.one_way else ["settle_old"]
    else:
        purposes += ["gone"]
    return [name_of(mapping, rollout, purpose) for purpose in purposes]


def group(mapping: RowMapping) -> RowSide:
    """The many rows of one key, as if they were a row of it."""
    elements = one_to_many(mapping)
    many, one = mapping.side(elements.many), mapping.side(elements.one)
    return many.model_copy(update={"key": elements.of, "key_types": one.key_types})


class ElementLogObjects(Logged, ElementObjects):
    """Everything that notes the writes of one side; with the old side's, what brings both to agree."""

    def __init__(self, mapping: RowMapping, rollout: int, side: Side) -> None:
        super().__init__(mapping, rollout, side)
        types = {c.name: c.type for c in self.elements.columns}
        self._element_types = [types[name] for name in self.elements.key]
        self._group = group(mapping)
        self._one_side, self._many_side = sql.Literal(self.elements.one), sql.Literal(self.elements.many)

    @property
    def functions(self) -> tuple[Function, ...]:
        noting = self._log_one() if self.side == self.elements.one else self._log_many()
        if self.side == "new":
            return (noting, self._gone())
        shared = [self._wanted(), self._agree(), self._differ(), self._settle_many()]
        if not self.mapping.one_way:
            shared.append(self._settle_one())
        return (*shared, self._reconcile(), self._move(), self._expand(), self._work(), self._last(), noting)

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        log = self._named(f"log_{self.side}")
        # Of the list, what notes it asks whether it changed.
        changed = None if self.side == self.elements.one else self._changed(self._reads)
        made = [
            self._trigger("insert", "INSERT", log),
            self._trigger("update", "UPDATE", log, changed),
            self._trigger("delete", "DELETE", log),
            self._statement_trigger(log),
        ]
        return tuple(made if self.side == self.elements.one else [*self._taking_away(), *made])

    # --- what triggers call -------------------------------------------------------------------------------------------

    @property
    def _key_settings(self) -> sql.Composable:
        """A key's text is the same whoever writes it, and whoever reads it."""
        if plain_keys([*self.one.key_types, *self._element_types]):
            return self._settings
        return pinned()

    def _log_one(self) -> Function:
        row = self._guard(self._key("new"))

        def noted(arguments: str) -> sql.Composable:
            return sql.SQL("CASE WHEN {}({}) THEN NULL ELSE '{{}}'::pg_catalog.int4[] END").format(
                self._called("differ"), sql.SQL(arguments)
            )

        return self._logged(
            f"log_{self.side}",
            "log_trigger",
            "",
            settings=self._key_settings,
            changes=CHANGES,
            here=self._whose,
            mine=row,
            mine_before=self._guard(self._key("old")),
            all=self.others,
            key=key_text(self.one, "new"),
            key_before=key_text(self.one, "old"),
            changed=self._changed(self._reads),
            key_changed=self._changed(self.one.key),
            # The new application may insert the elements itself.
            inserted=noted("NEW, NEW, true"),
            updated=noted("OLD, NEW, false"),
            declare=sql.SQL(""),
            arrived=sql.SQL(""),
            left=sql.SQL(""),
            went=sql.SQL("NULL"),
            came_here=sql.SQL("false"),
            went_away=sql.SQL("false"),
        )

    def _differ(self) -> Function:
        def said(alias: str) -> sql.Composable:
            text = sql.SQL("ROW({})::pg_catalog.text").format(
                comma(column(f"zdm_c{number}", "zdm_q") for number, _ in enumerate(self.elements.columns))
            )
            return sql.SQL("(SELECT pg_catalog.array_agg({0} ORDER BY {0}) FROM ({1}) AS zdm_q)").format(
                text, split(self.mapping, alias)
            )

        return self._logged(
            "differ",
            "log_differ",
            sql.SQL("{0}, {0}, pg_catalog.bool").format(self.tables["one"]).as_string(None),
            one=self.tables["one"],
            said_before=said("zdm_before"),
            said_after=said("zdm_after"),
        )

    def _log_many(self) -> Function:
        elements = self.elements
        names = [c.name for c in elements.columns]
        names += elements.join.reads("many") if elements.join is not None else ()
        return self._logged(
            f"log_{self.side}",
            "log_many",
            "",
            settings=self._key_settings,
            changes=CHANGES,
            here=self._whose,
            group=self._guard(self._of_element("new")),
            group_before=self._guard(self._of_element("old")),
            all=self.others,
            key=key_text(self._group, "new"),
            key_before=key_text(self._group, "old"),
            element=self._element("new"),
            element_before=self._element("old"),
            moved=self._changed(elements.of),
            renamed=self._changed(elements.key),
            written=self._changed([n for n in dict.fromkeys(names) if n not in elements.of]),
            alone=load("log_unseen").fill(
                filled=self._filled(self.mapping.id),
                many=self.tables["many"],
                match=same_key(self._group, _MANY, "new"),
                own_key=same_key(self.many, "zdm_s", "new"),
                number=sql.Literal(str(self.mapping.number)),
                mine=self._guard(self._of_element("new")),
                not_filled=sql.Literal(f"the elements of the row %s are not filled yet in {self.many.table}"),
            ),
        )

    def _element(self, alias: str) -> sql.Composable:
        """What tells a row of the many apart, as the log has it."""
        return sql.SQL("ARRAY[{}]").format(
            comma(sql.SQL("{}::pg_catalog.text").format(column(name, alias)) for name in self.elements.key)
        )

    # --- what brings both sides to agree --------------------------------------------------------------------------------

    def _reconcile(self) -> Function:
        mapping = self.mapping
        keys = self._cast("zdm_key")
        several = [column(name, _MANY) for name in self.elements.key]
        lost_one = self._conflict(self.elements.many, self._held("zdm_row"), self._all("zdm_key"))
        settle_one: sql.Composable = sql.SQL("        NULL;")
        if not mapping.one_way:
            settle_one = sql.SQL("        PERFORM {}({}, 'update');").format(
                self._called(f"settle_{self.elements.one}"), comma(keys)
            )
        one_key = keyed(self.one, "zdm_s", "zdm_key")
        group = keyed(self._group, _MANY, "zdm_key")
        named = sql.SQL("\n").join(
            sql.SQL("        {} := {};").format(column(name, "zdm_row"), key)
            for name, key in zip(self.one.key, keys, strict=True)
        )
        return self._keyed(
            declare=_DECLARED,
            one=self.tables["one"],
            read=load("log_group_read").fill(
                **self.tables,
                one_side=self._one_side,
                many_side=self._many_side,
                one_key=one_key,
                named=named,
                group=group,
                order=comma(several),
                guard=self._guard(comma(keys)),
                changes=CHANGES,
                filter=self._here,
            ),
            bring=load("log_group").fill(
                many=self.tables["many"],
                one_side=self._one_side,
                group=group,
                agree=self._agrees("zdm_row"),
                decide=self._decide(),
                outlived=load("log_group_outlived").fill(
                    many=self.tables["many"],
                    group=group,
                    changes=CHANGES,
                    filter=self._here,
                    many_side=self._many_side,
                    element=self._element(_MANY),
                ),
                fill=self._fill(lost_one),
                settle_many=self._from_one(),
                settle_one=settle_one,
                lost_many=self._conflict(self.elements.one, self._all("zdm_key"), self._kept_one()),
                lost_one=lost_one,
            ),
            failure=sql.SQL(
                "        IF zdm_from OPERATOR(pg_catalog.=) {} THEN\n{}\n        ELSE\n{}\n        END IF;"
            ).format(
                self._one_side,
                record_failure(mapping, self.rollout, self.one, "zdm_row"),
                record_failure(mapping, self.rollout, self._group, "zdm_row", keys),
            ),
            forget=sql.SQL("      DELETE {};\n      DELETE {};").format(
                failed(mapping, self.rollout, self.one, "zdm_row"),
                failed(mapping, self.rollout, self._group, "zdm_row", keys),
            ),
        )

    def _decide(self) -> sql.Composable:
        if self.mapping.one_way:
            return sql.SQL("      zdm_from := {};").format(self._one_side)
        return load("log_group_decide").fill(one_side=self._one_side, many_side=self._many_side)

    def _fill(self, lost_one: sql.Composable) -> sql.Composable:
        mapping, elements = self.mapping, self.elements
        return load("log_group_fill").fill(
            many_side=self._many_side,
            columns=comma(column(name) for name in (*elements.of, *(c.name for c in elements.columns))),
            elements=elements_of(mapping, _ELEMENT),
            split=split(mapping, "zdm_row"),
            many=self.tables["many"],
            collides=all_of(
                [
                    belongs(mapping, _MANY, "zdm_row"),
                    same_element(mapping, _MANY, _ELEMENT),
                    unlike(mapping, _MANY, _ELEMENT),
                ]
            ),
            lost_one=lost_one,
            changes=CHANGES,
            filter=self._here,
            element=sql.SQL("ARRAY[{}]").format(
                comma(
                    sql.SQL("{}::pg_catalog.text").format(as_stored(number, c, _ELEMENT))
                    for number, c in self._key_columns
                )
            ),
            arbiter=comma(column(name) for name in self.many.key),
        )

    @property
    def _key_columns(self) -> list[tuple[int, ElementColumn]]:
        """The columns of the element's key in its order, with their numbers in `split`."""
        numbered = {c.name: (number, c) for number, c in enumerate(self.elements.columns)}
        return [numbered[name] for name in self.elements.key]

    def _from_one(self) -> sql.Composable:
        return load("log_group_settle").fill(
            settle_many=self._called(f"settle_{self.elements.many}"),
            failure=failed(self.mapping, self.rollout, self.one, "zdm_row"),
            changes=CHANGES,
            filter=self._here,
        )

    def _cast(self, key: str) -> list[sql.Composable]:
        """The values of a key that is an array of text."""
        return [
            sql.SQL("CAST({}[{}] AS {})").format(sql.SQL(key), sql.Literal(number), type_name(type_))
            for number, type_ in enumerate(self.one.key_types, 1)
        ]

    def _held(self, alias: str) -> sql.Composable:
        """What the one row holds, as jsonb."""
        pairs = comma(
            sql.SQL("{}, {}").format(sql.Literal(c.name), column(c.name, alias)) for c in self.elements.held
        )
        return sql.SQL("pg_catalog.jsonb_build_object({})").format(pairs)

    def _kept_one(self) -> sql.Composable:
        return sql.SQL("CASE WHEN zdm_has THEN {} END").format(self._held("zdm_row"))

    def _all(self, key: str) -> sql.Composable:
        """The many rows of a key, whole, as jsonb."""
        return sql.SQL(
            "(SELECT pg_catalog.jsonb_build_object({}, COALESCE(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(zdm_m.*) ORDER BY {}), '[]'))"
            " FROM {} AS zdm_m WHERE {})"
        ).format(
            sql.Literal(self.many.table.name),
            comma(column(name, _MANY) for name in self.elements.key),
            self.tables["many"],
            keyed(self._group, _MANY, key),
        )

    def _lost(self, side: Side) -> sql.Composable:
        if side == self.elements.many:
            return self._all("zdm_c.key")
        return sql.SQL("(SELECT {} FROM {} AS zdm_s WHERE {})").format(
            self._held("zdm_s"), self.tables["one"], keyed(self.one, "zdm_s", "zdm_c.key")
        )

    def _move(self) -> Function:
        return self._moved(
            load("log_group_move").fill(
                **self.tables,
                one_key=keyed(self.one, "zdm_s", "zdm_key"),
                one_was=keyed(self.one, "zdm_s", "zdm_was"),
                many_key=keyed(self._group, _MANY, "zdm_key"),
                many_was=keyed(self._group, "zdm_t", "zdm_was"),
                same_element=same_key(
                    self.many.model_copy(update={"key": self.elements.key}), _MANY, "zdm_t"
                ),
                assigned=comma(
                    sql.SQL("{} = {}").format(column(name), value)
                    for name, value in zip(self.elements.of, self._cast("zdm_key"), strict=True)
                ),
                all=self.others,
            ),
            load("log_group_move_noted").fill(
                one_side=self._one_side, many_side=self._many_side, changes=CHANGES, filter=self._here
            ),
            also=sql.SQL(", parts = CASE WHEN zdm_moved THEN zdm_c.parts END"),
        )

    def _expand(self) -> Function:
        gone: dict[Side, sql.Composable] = {
            self.elements.one: self._gone_of(
                self.elements.one,
                sql.SQL(
                    "SELECT DISTINCT {} FROM {} AS zdm_m WHERE NOT EXISTS (SELECT FROM {} AS zdm_o WHERE {})"
                ).format(
                    key_text(self._group, _MANY),
                    self.tables["many"],
                    self.tables["one"],
                    belongs(self.mapping, _MANY, "zdm_o"),
                ),
            ),
            self.elements.many: self._gone_of(
                self.elements.many,
                sql.SQL("SELECT {} FROM {} AS zdm_o WHERE {}(zdm_o)").format(
                    key_text(self.one, "zdm_o"), self.tables["one"], self._called("wanted")
                ),
            ),
        }
        return self._expanding(
            old_gone=gone["old"],
            new_gone=gone["new"],
        )

    def _gone_of(self, side: Side, keys: sql.Composable) -> sql.Composable:
        """What becomes a deletion for each of these keys."""
        if side not in sides(self.mapping):
            return sql.SQL("    NULL;")
        return sql.SQL(
            "    INSERT INTO {} (rollout, mapping, side, event, key, origin)\n"
            "    SELECT {}, {}, {}, 'delete', zdm_k.key, zdm_id FROM ({}) AS zdm_k (key);"
        ).format(
            CHANGES, sql.Literal(self.rollout), sql.Literal(self.mapping.number), sql.Literal(side), keys
        )
