"""The tests of the rules can fail: each mechanism taken out makes the scene fail that is about it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import psycopg
import pytest

from tests.integration.sync.scenarios import BY_NAME
from tests.integration.sync.stage import Rewrite, Stage
from tests.support.servers import Database


@dataclass(frozen=True)
class Mutant:
    """One mechanism taken out: `pattern` replaced in the statements whose text has `within`."""

    scene: str
    what: str
    within: str
    pattern: str
    replacement: str

    def rewrite(self, applied: list[str]) -> Rewrite:
        def change(statement: str) -> str:
            if self.within not in statement:
                return statement
            changed = re.sub(self.pattern, self.replacement, statement)
            if changed != statement:
                applied.append(changed)
            return changed

        return change


def without(scene: str, trigger: str) -> Mutant:
    """A trigger that never fires."""
    return Mutant(scene, f"without {trigger}", f'TRIGGER "{trigger}" ', r"WHEN \(", "WHEN (false AND ")


_REFUSAL = r"RAISE EXCEPTION USING [\s\S]*?COLUMN = '[^']*';"

MUTANTS = (
    Mutant("unrelated_update_settles", "unfilled rows ignored", '"~zdm_4_settle" ', r'OLD\."_zdm_state" IS NULL', "false"),
    Mutant("unchanged_rewrite_settles", "unfilled rows ignored", '"~zdm_4_settle" ', r'OLD\."_zdm_state" IS NULL', "false"),
    Mutant("old_write_settles", "never fires", '"~zdm_4_settle" ', r"WHEN \(", "WHEN (false AND "),
    Mutant("old_write_follows", "rule 2", "_settle", r"zdm_d0 := 1;(?=\s+ELSIF \(\(zdm_was)", "zdm_d0 := 3;"),
    Mutant("new_write_follows", "rule 3", "_settle", r'NEW\."a" := \(round[^;]*;', "NULL;"),
    Mutant("new_write_that_fits_keeps_the_old", "agreement", "_settle", "IF zdm_agree THEN zdm_d0", "IF false THEN zdm_d0"),
    Mutant("both_written_disagree_is_refused", "refusal", "_both", _REFUSAL, "NULL;"),
    without("both_written_disagree_is_refused", "~zdm_2_new_0"),
    without("both_written_disagree_is_refused", "~zdm_3_both_0"),
    Mutant("new_write_that_fits_keeps_the_old", "agreement by up", "_both", r'zdm_try\."_c" := [^;]*;', 'zdm_try."_c" := 0;'),
    Mutant("both_written_agree_by_down", "agreement by down", "_both", r'zdm_try\."a" := [^;]*;', 'zdm_try."a" := 0;'),
    Mutant("both_written_old_wins", "policy", "_both", r"& \( ?-5\)|OPERATOR\(pg_catalog\.&\) \( ?-5\)", ""),
    Mutant("what_up_reads_changes", "what up reads", '"~zdm_4_settle" ', r'pg_catalog\.record_image_ne\(ROW\(NEW\."rate"\), [^)]*\)\)', "false"),
    Mutant("what_down_reads_changes", "what down reads", "_settle", "zdm_d0 := 4;", "zdm_d0 := 0;"),
    Mutant("what_down_reads_makes_it_raise", "down is not caught", "_settle", r"WHEN OTHERS THEN\s+zdm_failed := true;\s+NEW\.\"amount\"[^;]*;", "WHEN OTHERS THEN RAISE;"),
    Mutant("groups_are_settled_apart", "derives again", "_settle", "zdm_d1 := [34];", "zdm_d1 := 1;"),
    Mutant("null_on_an_unfilled_row_is_refused", "refusal", "_settle", _REFUSAL, "NULL;"),
    without("null_on_an_unfilled_row_is_refused", "~zdm_3_both_0"),
    Mutant("part_of_an_unfilled_group_is_refused", "refusal", "_settle", _REFUSAL, "NULL;"),
    Mutant("up_raises_and_the_write_goes_through", "not caught", "_settle", r"WHEN OTHERS THEN\s+zdm_failed := true;", "WHEN OTHERS THEN RAISE; zdm_failed := true;"),
    Mutant("up_raises_and_the_write_goes_through", "not caught", "_insert", r"WHEN OTHERS THEN\s+zdm_failed := true;", "WHEN OTHERS THEN RAISE; zdm_failed := true;"),
    *(without("up_raises_and_the_write_goes_through", f"~zdm_5_failed_{event}") for event in ("insert", "update", "delete")),
    Mutant("up_raises_and_the_write_goes_through", "TRUNCATE", "_failed", "TG_OP = 'TRUNCATE' THEN", "TG_OP = 'TRUNCATE' THEN RETURN NULL;"),
    Mutant("failed_row_is_not_overwritten_by_a_rewrite", "rewrite taken for a write", "_settle", r'AND \(OLD\."_zdm_state" IS NULL OR .*\) THEN', "THEN"),
    Mutant("too_long_is_never_cut", "cast instead of assignment", "_settle", r'NEW\."_c" := \(NEW\."a"\)', 'NEW."_c" := NEW."a"::varchar(3)'),
    Mutant("too_long_is_never_cut", "cast instead of assignment", "_both", r'zdm_try\."_c" := \(NEW\."a"\)', 'zdm_try."_c" := NEW."a"::varchar(3)'),
    Mutant("down_raises_and_the_write_is_refused", "down swallowed", "_settle", r'NEW\."a" := \(round[^;]*;', r'BEGIN NEW."a" := (round(NEW."_c")::integer); EXCEPTION WHEN OTHERS THEN NULL; END;'),
    Mutant("promised_null_is_a_failure", "NULL accepted", "_settle", r'IF \(NEW\."_c" IS NULL\) THEN', "IF false THEN"),
    Mutant("promised_null_is_a_failure", "NULL accepted", "_insert", r'IF \(NEW\."_c" IS NULL\) THEN', "IF false THEN"),
    Mutant("added_column_follows_until_it_is_written", "not owned", "_settle", r"zdm_bits := zdm_bits OPERATOR\(pg_catalog\.\|\) 4;", "NULL;"),
    Mutant("added_column_refuses_null_on_an_unfilled_row", "refusal", "_settle", _REFUSAL, "NULL;"),
    Mutant("dropped_column_is_filled_for_new_rows", "rule 11", "_insert", "zdm_d0 := 2;", "zdm_d0 := 0;"),
    Mutant("dropped_column_is_filled_for_new_rows", "not given back", "_settle", r"AND NOT .*legacy.* THEN", "THEN"),
    Mutant("explicit_null_is_not_an_omission", "the view's marker", "_insert", r"COALESCE\(NEW\.\"_zdm_state\" OPERATOR\(pg_catalog\.=\) -1, false\)", "false"),
    Mutant("insert_by_either_side", "new origin", "_insert", "zdm_d0 := 2;", "zdm_d0 := 1;"),
    without("unfilled_groups_are_judged_apart", "~zdm_2_new_1"),
    Mutant("groups_are_settled_apart", "one bit for all", "_settle", r"pg_catalog\.\|\) 8;", "pg_catalog.|) 4;"),
    without("writing_the_marker_changes_nothing", "~zdm_1_marker"),
    without("trigger_that_changes_the_old_column", "~zdm_2_new_0"),
    Mutant("trigger_that_changes_the_new_column", "who was named", "_settle", r"AND \(\(\(zdm_named.* THEN", "THEN"),
)  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.scene}-{m.what}")
def test_mutant_is_found(database: Database, mutant: Mutant) -> None:
    scene = BY_NAME[mutant.scene]
    applied: list[str] = []
    stage = Stage.set(database, scene.design, rewrite=mutant.rewrite(applied))
    assert applied, "the mutation changed nothing"
    with pytest.raises((AssertionError, psycopg.Error)):
        scene.play(stage)


# --- naive triggers ---------------------------------------------------------------------------------------------------

_BY_VALUE = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW._c IS NULL THEN NEW._c := NEW.a; ELSE NEW.a := round(NEW._c); END IF;
  ELSIF NEW.a IS DISTINCT FROM OLD.a THEN NEW._c := NEW.a;
  ELSIF NEW._c IS DISTINCT FROM OLD._c THEN NEW.a := round(NEW._c);
  END IF;
  NEW._zdm_state := 1;
  RETURN NEW;
END $$
"""

_BY_SEARCH_PATH = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('search_path') LIKE 'after%' THEN NEW.a := round(NEW._c); ELSE NEW._c := NEW.a; END IF;
  NEW._zdm_state := 1;
  RETURN NEW;
END $$
"""

_BY_COLUMN = """
CREATE FUNCTION naive() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    IF NEW._c IS NULL THEN NEW._c := NEW.a; ELSE NEW.a := round(NEW._c); END IF;
  ELSIF TG_ARGV[0] = 'old' THEN NEW._c := NEW.a;
  ELSE NEW.a := round(NEW._c);
  END IF;
  NEW._zdm_state := 1;
  RETURN NEW;
END $$
"""

_ANY = 'CREATE TRIGGER "~naive" BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION naive()'
_NAMED = (
    "CREATE TRIGGER \"~naive\" BEFORE INSERT OR UPDATE OF a ON t FOR EACH ROW EXECUTE FUNCTION naive('old')",
    "CREATE TRIGGER \"~naive2\" BEFORE UPDATE OF _c ON t FOR EACH ROW EXECUTE FUNCTION naive('new')",
)

NAIVE = {
    "by value": (_BY_VALUE, _ANY),
    "by search_path": (_BY_SEARCH_PATH, _ANY),
    "by column": (_BY_COLUMN, *_NAMED),
}


@pytest.mark.parametrize(
    "kind, scene",
    [
        ("by value", "unchanged_rewrite_settles"),
        ("by value", "trigger_that_changes_the_old_column"),
        ("by value", "both_written_disagree_is_refused"),
        ("by value", "null_on_an_unfilled_row_is_refused"),
        ("by search_path", "unchanged_rewrite_keeps_a_lossy_value"),
        ("by search_path", "insert_by_either_side"),
        ("by search_path", "both_written_disagree_is_refused"),
        ("by column", "unrelated_update_settles"),
        ("by column", "unchanged_rewrite_keeps_a_lossy_value"),
        ("by column", "both_written_disagree_is_refused"),
    ],
)
def test_naive_trigger_fails(database: Database, kind: str, scene: str) -> None:
    played = BY_NAME[scene]
    stage = Stage.set(database, played.design, install=False)
    for statement in NAIVE[kind]:
        stage.run(statement)
    with pytest.raises((AssertionError, psycopg.Error)):
        played.play(stage)
