"""Which lock a statement takes, and whether it is safe."""

from __future__ import annotations

import pytest

from zdm.model.step import Lock
from zdm.operations.lint import RULES, judge, split

REFUSED = {
    "create-index-blocks-writes": ["CREATE INDEX i ON t (a)", "create unique index i on t (a)"],
    "create-index-concurrently-in-sql": ["CREATE INDEX CONCURRENTLY i ON t (a)", "DROP INDEX CONCURRENTLY i"],
    "drop-index-blocks-reads": ["DROP INDEX i"],
    "change-type-rewrites": [
        "ALTER TABLE t ALTER COLUMN a TYPE int",
        'ALTER TABLE t ALTER "A" SET DATA TYPE text',
    ],
    "set-not-null-scan": ["ALTER TABLE s.t ALTER a SET NOT NULL"],
    "add-check-scan": [
        "ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0)",
        "ALTER TABLE t ADD CHECK (b = 'NOT VALID')",
    ],
    "add-foreign-key-scan": [
        "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u ON DELETE CASCADE",
        "ALTER TABLE t ADD COLUMN a int REFERENCES u",
    ],
    "add-unique-builds-index": [
        "ALTER TABLE t ADD CONSTRAINT u UNIQUE (a)",
        "ALTER TABLE t ADD PRIMARY KEY (a)",
    ],
    "add-column-rewrites": [
        "ALTER TABLE t ADD COLUMN u uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE t ADD id bigserial",
        "ALTER TABLE t ADD COLUMN g int GENERATED ALWAYS AS (a) STORED",
    ],
    "vacuum-full": ["VACUUM FULL t", "VACUUM (FULL, ANALYZE) t", "CLUSTER t"],
    "lock-table": ["LOCK TABLE t IN SHARE MODE"],
    "update-without-where": [
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "WITH x AS (SELECT 1) UPDATE t SET a = 1",
    ],
    "cascade": ["DROP VIEW v CASCADE", "ALTER TABLE t DROP CONSTRAINT c CASCADE"],
    "rename-breaks-old-code": ["ALTER TABLE t RENAME COLUMN a TO b", "ALTER TABLE t RENAME TO u"],
    "drop-column": ["ALTER TABLE t DROP COLUMN a", "ALTER TABLE t DROP a"],
    "drop-table": ["DROP TABLE t"],
    "several-actions": ["ALTER TABLE t ADD COLUMN a int, ADD COLUMN b numeric(1, 2)"],
    "transaction-control": ["COMMIT"],
    "session-setting": ["SET search_path = x"],
    "unknown-statement": ["DO $$ BEGIN END $$", "FROBNICATE t"],
}


@pytest.mark.parametrize("slug, statement", [(s, one) for s, many in REFUSED.items() for one in many])
def test_unsafe_statements_are_refused_with_the_safe_recipe(slug: str, statement: str) -> None:
    found = judge(statement)
    assert (found.rule.slug, found.safe) == (slug, False)
    assert found.rule.recipe


@pytest.mark.parametrize(
    "statement, lock, tables",
    [
        ("ALTER TABLE t ADD COLUMN a int DEFAULT 0 NOT NULL", Lock.ACCESS_EXCLUSIVE, ("t",)),
        ('ALTER TABLE ONLY "S"."T" ADD COLUMN a numeric(4, 2)', Lock.ACCESS_EXCLUSIVE, ('"S"."T"',)),
        ("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID", Lock.ACCESS_EXCLUSIVE, ("t",)),
        ("ALTER TABLE t VALIDATE CONSTRAINT c", Lock.SHARE_UPDATE_EXCLUSIVE, ("t",)),
        (
            "ALTER TABLE t ADD FOREIGN KEY (a) REFERENCES u ON DELETE CASCADE NOT VALID",
            Lock.SHARE_ROW_EXCLUSIVE,
            ("t",),
        ),
        ("UPDATE t SET a = 'x;y' WHERE id = 1", Lock.ROW_EXCLUSIVE, ("t",)),
        ("CREATE TRIGGER g BEFORE UPDATE ON s.t EXECUTE FUNCTION f()", Lock.SHARE_ROW_EXCLUSIVE, ("s.t",)),
        ("DROP TRIGGER IF EXISTS g ON t", Lock.ACCESS_EXCLUSIVE, ("t",)),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ UPDATE t SET a = 1; SELECT 1 $$", Lock.NONE, ()),
        ("COMMENT ON COLUMN s.t.a IS 'DROP TABLE t'", Lock.SHARE_UPDATE_EXCLUSIVE, ("s.t",)),
        ("GRANT SELECT ON t TO u -- DROP TABLE t", Lock.NONE, ()),
        ("ALTER TYPE mood ADD VALUE 'x'", Lock.NONE, ()),
    ],
)
def test_safe_statements_name_their_lock(statement: str, lock: Lock, tables: tuple[str, ...]) -> None:
    found = judge(statement)
    assert (found.safe, found.rule.lock, found.tables) == (True, lock, tables)


def test_statements_are_cut_only_where_they_end() -> None:
    assert split("select ';' ; select $$a;b$$; -- ;\n select 1") == [
        "select ';'",
        "select $$a;b$$",
        "select 1",
    ]
    with pytest.raises(ValueError, match="2 statements"):
        judge("select 1; select 2")


def test_rules_that_refuse_say_what_to_do_instead() -> None:
    for rule in RULES:
        assert bool(rule.refusal) == bool(rule.recipe), rule.slug
    assert len({rule.slug for rule in RULES}) == len(RULES)
