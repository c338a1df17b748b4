"""A mapping of one row to many that records elements which their row cannot hold, instead of refusing them.

An element that is recorded (`zdm.sql.records`) is none of those that the row says: it is left out wherever elements are compared with their row, or
joined, and the old side leaves it alone unless it says an element of the same key. What is recorded of a row's elements is written under that row's lock,
and a row of which something was recorded, or forgotten, has a new version, so that an older snapshot meets it.

Which of several elements have no form depends on the others. Those that are there stay; the one that was written last is tried with them.
"""

from __future__ import annotations

from psycopg import sql

from zdm.sql.element_rows import as_stored, belongs, same_element, split, unlike
from zdm.sql.element_sync import ElementObjects
from zdm.sql.identifiers import all_of, column, comma
from zdm.sql.records import CONFLICTS, RECORDS, entry, granted, of_mapping, record_key, recorded
from zdm.sql.row_objects import Function, equal, failed, key_text, pinned, plain_keys

_MANY, _ELEMENT = "zdm_m", "zdm_e"


class RecordedElements(ElementObjects):
    """Everything that watches one of the two sides, and keeps the record."""

    @property
    def functions(self) -> tuple[Function, ...]:
        found = super().functions
        if self.side == self.elements.one:
            return found
        at = next(i for i, f in enumerate(found) if f.name == self._named(self._purpose))
        return (*found[:at], super()._settle_one("hold_old"), *found[at:])

    def owner(self) -> sql.Composed:
        return granted(self.table, super().owner())

    @property
    def _purpose(self) -> str:
        return f"settle_{self.elements.one}"

    @property
    def _when_updated(self) -> sql.Composable:
        # What is recorded is the whole row.
        return sql.SQL("pg_catalog.record_image_ne(old, new)")

    @property
    def _settings(self) -> sql.Composable:
        return super()._settings if plain_keys(self.many.key_types) else pinned()

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _element(self, alias: str) -> sql.Composable:
        """The key of an element, as it is recorded."""
        return record_key(self.mapping, alias)

    def _entry(self, key: sql.Composable) -> sql.Composable:
        return entry(self.mapping, self.rollout, key)

    def _recorded(self, alias: str) -> sql.Composable:
        return recorded(self.mapping, self.rollout, alias)

    @property
    def _of_mapping(self) -> sql.Composable:
        return of_mapping(self.mapping, self.rollout)

    @property
    def _table(self) -> tuple[sql.Composable, sql.Composable]:
        return sql.Literal(self.many.table.schema_), sql.Literal(self.many.table.name)

    def _going(self, alias: str) -> list[sql.Composable]:
        return [sql.SQL("NOT {}").format(self._recorded(alias))]

    def _over(self) -> sql.Composable:
        """What is recorded gives way to an element of the same key that the row says; what it held is kept as what lost."""
        mapping = self.mapping
        kept = comma(
            part
            for number, c in enumerate(self.elements.columns)
            for part in (sql.Literal(c.name), as_stored(number, c, _ELEMENT))
        )
        both = sql.SQL("{} AS zdm_m, ({}) AS zdm_e").format(self.tables["many"], split(mapping, "zdm_row"))
        same = all_of([belongs(mapping, _MANY, "zdm_at"), same_element(mapping, _MANY, _ELEMENT)])
        return sql.SQL(
            "        INSERT INTO {conflicts} (rollout, schema_name, table_name, key, won, lost, kept, reason)\n"
            "        SELECT {rollout}, {schema}, {table}, {key}, 'old', pg_catalog.to_jsonb(zdm_m), pg_catalog.jsonb_build_object({kept}),\n"
            "          'the row had no old form, until the old version said one of the same key' FROM {both} WHERE {same} AND {unlike} AND {recorded};\n"
            "        DELETE FROM {records} AS zdm_f USING {both} WHERE {of} AND {same} AND zdm_f.key OPERATOR(pg_catalog.=) {element};"
        ).format(
            conflicts=CONFLICTS,
            rollout=sql.Literal(self.rollout),
            schema=self._table[0],
            table=self._table[1],
            key=key_text(self.many, _MANY),
            kept=kept,
            both=both,
            same=same,
            unlike=unlike(mapping, _MANY, _ELEMENT),
            recorded=self._recorded(_MANY),
            records=RECORDS,
            of=self._of_mapping,
            element=self._element(_MANY),
        )

    # --- functions ----------------------------------------------------------------------------------------------------

    @property
    def _takes_written(self) -> sql.Composable:
        return sql.SQL("{}, pg_catalog.jsonb").format(self._takes)

    def _settle_one(self, purpose: str = "") -> Function:
        del purpose
        pieces = self._of_one()
        keys = [sql.Identifier(f"zdm_a{number}") for number, _ in enumerate(self.one.key_types)]
        order = [name for name in (self.elements.order, *self.elements.key) if name is not None]
        return self._made(
            self._purpose,
            "element_record",
            self._takes_written,
            **{name: pieces[name] for name in ("one", "many", "arguments", "guard", "own_key", "match")},
            all=self.others,
            failure=failed(self.mapping, self.rollout, self.one, "zdm_row"),
            hold=self._called("hold_old"),
            keys=comma(keys),
            forget_written=self._entry(sql.SQL("zdm_written")),
            forget=self._entry(sql.SQL("zdm_key")),
            records=RECORDS,
            of=self._of_mapping,
            recording=sql.SQL(
                "INSERT INTO {} AS zdm_f (rollout, mapping, schema_name, table_name, key, new_row, sqlstate, reason)\n"
                "        SELECT {}, {}, {}, {}, {}, pg_catalog.to_jsonb(zdm_m), zdm_state, zdm_reason"
            ).format(
                RECORDS,
                sql.Literal(self.rollout),
                sql.Literal(self.mapping.number),
                *self._table,
                self._element(_MANY),
            ),
            element=self._element(_MANY),
            recorded=self._recorded(_MANY),
            order=comma(column(name, _MANY) for name in dict.fromkeys(order)),
        )

    def _on_many(self) -> dict[str, sql.Composable]:
        """As without a record; and what is recorded follows its element, under the lock of the row that it had until then."""
        settle = self._called(self._purpose)
        new, old = self._of_element("new"), self._of_element("old")
        locked = sql.SQL("    PERFORM FROM {} AS zdm_s WHERE {} FOR NO KEY UPDATE;\n").format(
            self.tables["one"], equal(self.one.key, "zdm_s", self.elements.of, "old")
        )
        return {
            "inserted": sql.SQL("    PERFORM {}({}, 'insert', {});").format(
                settle, new, self._element("new")
            ),
            "updated": sql.SQL(
                "{locked}    IF {renamed} THEN\n      DELETE {taken};\n    END IF;\n"
                "    UPDATE {records} AS zdm_f SET key = {now}, new_row = pg_catalog.to_jsonb(NEW) WHERE {of} AND zdm_f.key OPERATOR(pg_catalog.=) {was};\n"
                "    IF FOUND THEN\n      PERFORM {settle}({new}, 'alone', {now});\n    ELSIF {changed} THEN\n      IF {moved} THEN\n"
                "        PERFORM {settle}({old}, 'follow');\n      END IF;\n      PERFORM {settle}({new}, 'update', {now});\n    END IF;"
            ).format(
                locked=locked,
                renamed=self._changed(self.many.key),
                taken=self._entry(self._element("new")),
                records=RECORDS,
                now=self._element("new"),
                was=self._element("old"),
                of=self._of_mapping,
                changed=self._changed(self._reads),
                moved=self._changed(self.elements.of),
                settle=settle,
                old=old,
                new=new,
            ),
            "deleted": sql.SQL(
                "{locked}    DELETE {was};\n    IF FOUND THEN\n      PERFORM {settle}({old}, 'alone');\n    ELSE\n"
                "      PERFORM {settle}({old}, 'follow');\n    END IF;"
            ).format(locked=locked, was=self._entry(self._element("old")), settle=settle, old=old),
            "truncated": sql.SQL("    DELETE FROM {} AS zdm_f WHERE {};\n{}").format(
                RECORDS, self._of_mapping, super()._on_many()["truncated"]
            ),
        }
