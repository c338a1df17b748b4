"""A mapping of many to one, by links, that records links which the source's row cannot hold, instead of refusing them.

The old version holds one value, so of several links of a row one counts, and the others are recorded (`zdm.sql.records`): the one whose parent the row
holds stays. A link is recorded as well if its parent has no form in the row. What is recorded of a row's links is written under the row's lock, and the
row has a new version then, so that an older snapshot meets it.
"""

from __future__ import annotations

from psycopg import sql

from zdm.sql.identifiers import column, comma
from zdm.sql.parent_conditions import PARENT_ALIAS, follows, refers
from zdm.sql.parent_sync import ParentObjects
from zdm.sql.records import RECORDS, entry, granted, of_mapping, record_key, recorded
from zdm.sql.row_objects import Function, equal, failed, pinned, plain_keys, same_key

_SOURCE, _LINK = "zdm_s", "zdm_l"


class RecordedLinks(ParentObjects):
    """Everything that watches one of the three tables, and keeps the record."""

    @property
    def functions(self) -> tuple[Function, ...]:
        found = super().functions
        if self.side != "new":
            return found
        at = next(i for i, f in enumerate(found) if f.name == self._named("settle_old"))
        return (*found[:at], super()._settle_old("hold_old"), *found[at:])

    def owner(self) -> sql.Composed:
        return granted(self.table, super().owner())

    @property
    def _when_updated(self) -> sql.Composable:
        # What is recorded is the whole row.
        return (
            sql.SQL("pg_catalog.record_image_ne(old, new)") if self.side == "new" else super()._when_updated
        )

    @property
    def _settings(self) -> sql.Composable:
        types = (*self.mapping.new.key_types, *self.parent.identity_types)
        return super()._settings if plain_keys(types) else pinned()

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _key(self, alias: str) -> sql.Composable:
        return record_key(self.mapping, alias)

    def _entry(self, key: sql.Composable) -> sql.Composable:
        return entry(self.mapping, self.rollout, key)

    def _recorded(self, alias: str) -> sql.Composable:
        return recorded(self.mapping, self.rollout, alias)

    @property
    def _of_mapping(self) -> sql.Composable:
        return of_mapping(self.mapping, self.rollout)

    @property
    def _going(self) -> list[sql.Composable]:
        return [sql.SQL("NOT {}").format(self._recorded(_LINK))]

    def _taken(self) -> sql.Composable:
        """A link that was recorded, and that the source's row says, is none of those any more."""
        names = (*self.mapping.new.key, *self.parent.reference)
        values = [
            *(column(name, "zdm_at") for name in self.mapping.old.key),
            *(column(name, "zdm_parent") for name in self.parent.identity),
        ]
        key = sql.SQL("pg_catalog.jsonb_build_object({})").format(
            comma(
                part for name, value in zip(names, values, strict=True) for part in (sql.Literal(name), value)
            )
        )
        return sql.SQL("      DELETE {};").format(self._entry(key))

    # --- functions ----------------------------------------------------------------------------------------------------

    def _settle_old(self, purpose: str = "settle_old") -> Function:
        mapping, parent = self.mapping, self.parent
        first = mapping.old.key[0]
        table = mapping.new.table
        source_of = equal(mapping.old.key, _SOURCE, mapping.new.key, "zdm_at")
        return self._made(
            purpose,
            "link_record",
            sql.SQL("{}, pg_catalog.text").format(self.names["link"]),
            **self.names,
            counted=self.counted,
            guard=self._guard(mapping.new.key, "zdm_at"),
            all=self.others,
            source_of=source_of,
            links_of=same_key(mapping.new, _LINK, "zdm_at"),
            failure=failed(mapping, self.rollout, mapping.old, "zdm_row"),
            hold=self._called("hold_old"),
            own=self._key("zdm_at"),
            key=self._key(_LINK),
            forget_own=self._entry(sql.SQL("zdm_own")),
            forget=self._entry(self._key("zdm_link")),
            joined=refers(parent, _LINK, PARENT_ALIAS),
            agree=follows(mapping, parent, "zdm_row", PARENT_ALIAS),
            reference=comma(column(name, _LINK) for name in parent.reference),
            recorded=self._recorded(_LINK),
            records=RECORDS,
            of=self._of_mapping,
            link_key=self._key("zdm_link"),
            recording=sql.SQL(
                "INSERT INTO {} AS zdm_f (rollout, mapping, schema_name, table_name, key, new_row, sqlstate, reason)\n"
                "        SELECT {}, {}, {}, {}, {}, pg_catalog.to_jsonb(zdm_l)"
            ).format(
                RECORDS,
                sql.Literal(self.rollout),
                sql.Literal(mapping.number),
                sql.Literal(table.schema_),
                sql.Literal(table.name),
                self._key(_LINK),
            ),
            several=sql.Literal(
                f"{mapping.old.table} holds one value, and the row has another one by another row of {table}"
            ),
            touch=sql.SQL(
                "UPDATE {} AS zdm_s SET {} = {} WHERE {} AND zdm_s.xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid"
            ).format(self.names["source"], column(first), column(first, _SOURCE), source_of),
        )

    def _on_link(self) -> dict[str, sql.Composable]:
        """As without a record; and what is recorded follows its link, under the lock of the row that it was of until then."""
        settle, key = self._called("settle_old"), self.mapping.new.key
        locked = sql.SQL("    PERFORM FROM {} AS zdm_s WHERE {} FOR NO KEY UPDATE;\n").format(
            self.names["source"], equal(self.mapping.old.key, _SOURCE, key, "old")
        )
        base = super()._on_link()
        return {
            "inserted": base["inserted"],
            "updated": sql.SQL(
                "{locked}    IF {renamed} THEN\n      DELETE {taken};\n    END IF;\n"
                "    UPDATE {records} AS zdm_f SET key = {now}, new_row = pg_catalog.to_jsonb(NEW) WHERE {of} AND zdm_f.key OPERATOR(pg_catalog.=) {was};\n"
                "    IF FOUND OR {renamed} THEN\n      IF {moved} THEN\n        PERFORM {settle}(OLD, 'follow');\n      END IF;\n"
                "      PERFORM {settle}(NEW, 'update');\n    END IF;"
            ).format(
                locked=locked,
                renamed=self._changed((*key, *self.parent.reference)),
                taken=self._entry(self._key("new")),
                records=RECORDS,
                now=self._key("new"),
                was=self._key("old"),
                of=self._of_mapping,
                moved=self._changed(key),
                settle=settle,
            ),
            "deleted": sql.SQL("{}    DELETE {};\n{}").format(
                locked, self._entry(self._key("old")), base["deleted"]
            ),
            "truncated": sql.SQL("    DELETE FROM {} AS zdm_f WHERE {};\n{}").format(
                RECORDS, self._of_mapping, base["truncated"]
            ),
        }
