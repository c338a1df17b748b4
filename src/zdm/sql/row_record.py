"""A row mapping that records rows of the new side which the old one cannot hold, instead of refusing them.

What is recorded is kept in ``zdm.rows_without_old_form``, by the triggers and in the application's transaction. While a row is recorded there is no row
of the old side that would make it: none, one that holds nothing, or one that the mapping's filter leaves out. So

* ``settle_old`` tries, and records what raises; what the row had on the old side goes;
* ``settle_new`` leaves recorded rows alone unless the old side's row says something by now.

Both lock the row over there before they decide, and meet one that comes at the same moment by its key.
"""

from __future__ import annotations

from psycopg import sql

from zdm.model.row_mapping import Presence, SideKind
from zdm.sql import row_conditions, row_generator, row_write
from zdm.sql.identifiers import all_of, any_of, column, comma
from zdm.sql.records import CONFLICTS, MEETINGS, RECORDS, entry, granted, of_mapping, recorded
from zdm.sql.row_objects import Function, failure_key, key_text, pinned, plain_keys
from zdm.sql.rows import render
from zdm.sql.templates import load


class RecordObjects(row_generator.Generator):
    """Everything that mirrors the writes of one side, and keeps the record."""

    def owner(self) -> sql.Composed:
        return granted(self.table, super().owner())

    # --- when ---------------------------------------------------------------------------------------------------------

    @property
    def _meets(self) -> bool:
        """Whether a row of the old side may be there without one on the new side, so that the key of that one tells nothing."""
        return self.mapping.old.kind is SideKind.COLUMNS and self.mapping.presence is Presence.NEEDED

    @property
    def _when_inserted(self) -> sql.Composable:
        # A row that says nothing may meet a recorded one.
        return sql.SQL("true") if self.side == "old" and self._meets else super()._when_inserted

    @property
    def _when_updated(self) -> sql.Composable:
        # What is recorded is the whole row.
        return (
            sql.SQL("pg_catalog.record_image_ne(old, new)") if self.side == "new" else super()._when_updated
        )

    @property
    def _settings(self) -> sql.Composable:
        return super()._settings if plain_keys(self.mapping.new.key_types) else pinned()

    # --- pieces -------------------------------------------------------------------------------------------------------

    def _key(self, alias: str) -> sql.Composable:
        """The key of the new side's row, as it is recorded, over a row of this side."""
        if self.side == "new":
            return failure_key(self.mine, alias)
        pairs = [
            part
            for name, value in zip(self.yours.key, self.yours.key_values, strict=True)
            for part in (sql.Literal(name), render(value, alias))
        ]
        return sql.SQL("pg_catalog.jsonb_build_object({})").format(comma(pairs))

    def _recorded_by(self, alias: str) -> sql.Composed:
        return sql.SQL("EXISTS (SELECT {})").format(entry(self.mapping, self.rollout, self._key(alias)))

    def _held_whole(self, alias: str) -> sql.Composable:
        """What is recorded of the new side's row."""
        return sql.SQL("pg_catalog.to_jsonb({})").format(sql.Identifier(alias))

    @property
    def _match(self) -> sql.Composable:
        return row_conditions.match(self.yours, "zdm_t", "zdm_at")

    @property
    def _computed(self) -> list[sql.Composable]:
        return [sql.SQL("zdm_state IS NULL")] if self.side == "new" else []

    @property
    def _going(self) -> list[sql.Composable]:
        if self.side == "new":
            return super()._going
        return [sql.SQL("NOT {}").format(recorded(self.mapping, self.rollout, "zdm_t"))]

    def _forget(self, alias: str = "zdm_at") -> sql.Composable:
        return sql.SQL("      DELETE {};").format(entry(self.mapping, self.rollout, self._key(alias)))

    def _forget_failure(self) -> sql.Composable:
        if self.side == "new":
            return self._with_form()
        return sql.SQL("{}\n      IF zdm_over THEN\n  {}\n      END IF;").format(
            super()._forget_failure(), self._forget()
        )

    def _with_form(self) -> sql.Composable:
        """The row has an old form, or went. A row that it had there before was made anew, without what only that one knew."""
        if self.yours.kind is not SideKind.ROWS or self.yours.gone:
            return self._forget()
        return sql.SQL(
            "      WITH zdm_gone AS (DELETE {} RETURNING zdm_f.old_row)\n"
            "      INSERT INTO {} (rollout, schema_name, table_name, key, won, lost, reason)\n"
            "      SELECT {}, {}, {}, {}, 'new', old_row, 'the row had no old form for a while' FROM zdm_gone WHERE old_row IS NOT NULL;"
        ).format(
            entry(self.mapping, self.rollout, self._key("zdm_at")),
            CONFLICTS,
            *self._named,
            key_text(self.mine, "zdm_at"),
        )

    @property
    def _named(self) -> tuple[sql.Composable, ...]:
        table = self.mapping.new.table
        return sql.Literal(self.rollout), sql.Literal(table.schema_), sql.Literal(table.name)

    # --- functions ----------------------------------------------------------------------------------------------------

    def _settle(self) -> Function:
        return self._taking() if self.side == "old" else self._recording()

    def _recording(self) -> Function:
        """What makes the old side hold what the new side's row says, or records that it cannot."""
        rows = self.yours.kind is SideKind.ROWS
        if rows:
            taken = all_of(super()._going)
            go = self._go()
            write = sql.SQL("{}\n{}").format(self._keep(), self._upsert())
        else:
            taken = self._emptied_where()
            go = sql.SQL("      UPDATE {} AS zdm_t SET {} WHERE {} AND {};").format(
                self.target, self._emptied(), self._match, taken
            )
            write = sql.SQL("{}\n{}\n    IF NOT FOUND THEN\n{}\n    END IF;").format(
                self._keep(), self._fill(), self._unmapped()
            )
        record = sql.SQL(
            "      INSERT INTO {} AS zdm_f (rollout, mapping, schema_name, table_name, key, new_row, old_row, sqlstate, reason)\n"
            "      VALUES ({}, {}, {}, {}, {}, {}, zdm_was, zdm_state, zdm_reason)\n"
            "      ON CONFLICT (rollout, mapping, key) DO UPDATE SET new_row = EXCLUDED.new_row, sqlstate = EXCLUDED.sqlstate,\n"
            "        old_row = COALESCE(EXCLUDED.old_row, zdm_f.old_row), reason = EXCLUDED.reason, at = DEFAULT;"
        )
        rollout, schema, name = self._named
        return self._settling(
            "record_settle",
            lazy=self._lazily(),
            first=self._first(),
            taken=taken,
            meet=self._meeting(),
            note=self._noting(),
            write=write,
            go=go,
            record=record.format(
                RECORDS,
                rollout,
                sql.Literal(self.mapping.number),
                schema,
                name,
                self._key("zdm_at"),
                self._held_whole("zdm_row"),
            ),
            forget=self._with_form(),
        )

    def _taking(self) -> Function:
        """What makes the new side's row hold what the old side's row says, unless that has none and the other one is recorded."""
        return self._settling(
            "record_take",
            meet=self._asking(),
            recorded=self._recorded_by("zdm_at"),
            adopt=self._adopting(),
            silent=self._silent(),
            lazy=self._lazily(),
            write=sql.SQL("{}\n{}").format(self._keep(), self._upsert()),
            go=self._go(),
            settled=self._forget_failure(),
        )

    def _meeting(self) -> sql.Composable:
        """Wait for a row of the old side that is not seen, where its key on this side does not tell."""
        if not self._meets:
            return sql.SQL("")
        keys = comma(render(value, "zdm_at") for value in self.yours.key_values)
        values: sql.Composable = sql.SQL("SELECT {}").format(keys)
        if self.yours.required:
            # Values that some row has are such as the table takes.
            values = sql.SQL(
                "SELECT {}, {} FROM (SELECT) AS zdm_one LEFT JOIN (SELECT * FROM {} LIMIT 1) AS zdm_c ON true"
            ).format(keys, comma(column(name, "zdm_c") for name in self.yours.required), self.target)
        return load("record_meet").fill(
            silent=sql.SQL("({} OPERATOR(pg_catalog.||) '!')").format(self._guard_across("zdm_at")),
            target=self.target,
            columns=comma(column(name) for name in (*self.yours.key, *self.yours.required)),
            values=values,
            key=comma(column(name) for name in self.yours.key),
            notes=MEETINGS,
            bucket=self._bucket,
            match=self._match,
            settle=self._settle_name,
        )

    def _asking(self) -> sql.Composable:
        """Note a row of the old side that makes none over there, and wait for whoever records one of its key."""
        if not self._meets:
            return sql.SQL("")
        absent = sql.SQL(
            "zdm_found AND zdm_lazy AND NOT zdm_mirrored AND NOT ({} AND zdm_wanted) AND NOT EXISTS (SELECT FROM {} AS zdm_t WHERE {})"
        ).format(row_conditions.holds(self.mine, "zdm_row"), self.target, self._match)
        rollout, schema, name = self._named
        return load("record_ask").fill(
            asked=absent,
            note=self._note(),
            records=RECORDS,
            columns=sql.SQL("rollout, mapping, schema_name, table_name, key, new_row, sqlstate, reason"),
            values=comma(
                [
                    rollout,
                    sql.Literal(self.mapping.number),
                    schema,
                    name,
                    self._key("zdm_at"),
                    *map(sql.Literal, ("{}", "", "")),
                ]
            ),
        )

    def _noting(self) -> sql.Composable:
        """This side's row has gone, and the old side's stays without one."""
        if not self._meets:
            return sql.SQL("")
        return sql.SQL("    IF EXISTS (SELECT FROM {} AS zdm_t WHERE {}) THEN\n{}\n    END IF;").format(
            self.target, self._match, self._note()
        )

    def _note(self) -> sql.Composable:
        return load("note").fill(notes=MEETINGS, bucket=self._bucket)

    @property
    def _bucket(self) -> sql.Composable:
        """Where rows of this key are noted."""
        return sql.SQL(
            "(pg_catalog.jsonb_hash_extended({}, {}) OPERATOR(pg_catalog.&) 63)::pg_catalog.int4"
        ).format(self._key("zdm_at"), sql.Literal(self.rollout))

    def _outside(self, aliases: list[str]) -> sql.Composable:
        # One that is inserted may meet a recorded one.
        return super()._outside(aliases) if "old" in aliases else sql.SQL("      NULL;")

    @property
    def _unknown(self) -> list[sql.Composable]:
        return [sql.SQL("NOT {}").format(self._recorded_by("new"))]

    def _silent(self) -> sql.Composable:
        """A row that is inserted and says nothing has nothing to mirror; one over there may come of the same statement, whose trigger is next."""
        silent: list[sql.Composable] = [sql.SQL("NOT zdm_wanted")]
        if self._meets:
            silent.append(sql.SQL("NOT {}").format(row_conditions.holds(self.mine, "zdm_row")))
        return sql.SQL("  IF zdm_first AND zdm_found AND {} THEN\n    RETURN true;\n  END IF;").format(
            any_of(silent)
        )

    def _adopting(self) -> sql.Composable:
        if self.mine.kind is not SideKind.COLUMNS:
            return sql.SQL("")
        return load("record_adopt").fill(
            holds=row_conditions.holds(self.mine, "zdm_row"),
            target=self.target,
            match=self._match,
            settle=row_write.settle(self.mapping, self.rollout, "old"),
        )

    def _upsert(self) -> sql.Composable:
        if self.side == "new":
            return super()._upsert()
        side = self.yours
        update: sql.Composable = sql.SQL("      NULL;")
        if side.followed:
            assigned = comma(
                sql.SQL("{} = {}").format(column(c.name), value)
                for c, value in zip(side.columns, self._values, strict=True)
                if not c.once
            )
            update = sql.SQL("      UPDATE {} AS zdm_t SET {} WHERE {};").format(
                self.target, assigned, self._match
            )
        statement = load("record_write").fill(
            target=self.target,
            columns=row_conditions.insert_columns(side),
            values=comma([*(render(value, "zdm_row") for value in side.key_values), *self._values]),
            key=comma(column(name) for name in side.key),
            match=self._match,
            recorded=self._recorded_by("zdm_at"),
            adopt=self._adopting(),
            conflict=self._lost(),
            forget=self._forget(),
            update=update,
        )
        return self._recorded(statement) if side.guarded else statement

    def _lost(self) -> sql.Composable:
        """What the recorded row held is kept before it is written over."""
        kept = comma(
            part
            for c, value in zip(self.yours.columns, self._values, strict=True)
            if not c.once
            for part in (sql.Literal(c.name), value)
        )
        return sql.SQL(
            "          INSERT INTO {} (rollout, schema_name, table_name, key, won, lost, kept, reason)\n"
            "          SELECT {}, {}, {}, {}, 'old', pg_catalog.to_jsonb(zdm_t), pg_catalog.jsonb_build_object({}),\n"
            "            'the row had no old form, until the old version made one of the same key' FROM {} AS zdm_t WHERE {};"
        ).format(CONFLICTS, *self._named, key_text(self.yours, "zdm_t"), kept, self.target, self._match)

    def _unmapped(self) -> sql.Composable:
        return sql.SQL("      RAISE foreign_key_violation USING MESSAGE = {};").format(
            sql.Literal(f"there is no such row in {self.yours.table}")
        )

    def _move(self, row: str) -> sql.Composable:
        key = self._key("old")
        if self.side == "old":
            return sql.SQL("      IF NOT EXISTS (SELECT {}) THEN\n{}\n      END IF;").format(
                entry(self.mapping, self.rollout, key), super()._move(row)
            )
        renamed = sql.SQL(
            "      DELETE {};\n      UPDATE {} AS zdm_f SET key = {} WHERE {} AND zdm_f.key OPERATOR(pg_catalog.=) {};\n"
            "      IF NOT FOUND THEN\n{}\n      END IF;"
        )
        return renamed.format(
            entry(self.mapping, self.rollout, self._key(row)),
            RECORDS,
            self._key(row),
            of_mapping(self.mapping, self.rollout),
            key,
            super()._move(row),
        )

    def _truncate(self) -> sql.Composable:
        if self.side == "new":
            return sql.SQL("{}\n    DELETE FROM {} AS zdm_f WHERE {};").format(
                super()._truncate(), RECORDS, of_mapping(self.mapping, self.rollout)
            )
        return load("record_truncate").fill(
            target=self.target,
            guard=sql.Literal(f"{self.mapping.number}:new:*"),
            recorded=recorded(self.mapping, self.rollout, "zdm_t"),
        )
