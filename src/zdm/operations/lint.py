"""Which lock a statement takes, and whether it is safe on a table in use: a table of rules over the statement's words.

A rule is a pattern over them (`zdm.operations.words`); the first that matches speaks. What no rule knows is not called safe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zdm.model.step import Lock

if TYPE_CHECKING:
    from zdm.operations.words import Word

Hold = Literal["brief", "scan", "rewrite"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What is known of one shape of statement.

    Parameters
    ----------
    pattern: over the statement's words in capitals; a string is ``'?'``, a quoted name is ``"?"``.
    refusal: why it is unsafe on a table in use; empty if it is not.
    recipe: the safe way.
    """

    slug: str
    pattern: str
    lock: Lock
    hold: Hold = "brief"
    refusal: str = ""
    recipe: str = ""


_VOLATILE = r"(?:GEN_RANDOM_UUID|UUID_GENERATE_V\w+|UUIDV[47]|RANDOM|CLOCK_TIMESTAMP|TIMEOFDAY|NEXTVAL|STATEMENT_TIMESTAMP_V) \("
_NAME = r'(?:\w+|"\?")(?: \. (?:\w+|"\?"))*'

RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------ things nobody should do here
    Rule(
        "transaction-control",
        r"^(BEGIN|START TRANSACTION|COMMIT|END|ROLLBACK|ABORT|SAVEPOINT|RELEASE|PREPARE TRANSACTION)\b",
        Lock.NONE,
        refusal="transactions are zdm's own: each statement is recorded in the one it runs in",
        recipe="Leave it out.",
    ),
    Rule(
        "session-setting",
        r"^(SET|RESET|DISCARD|LISTEN|UNLISTEN|DEALLOCATE|DECLARE)\b",
        Lock.NONE,
        refusal="it changes the session, which other statements share",
        recipe="Qualify names instead of setting search_path; leave other settings to zdm.",
    ),
    Rule(
        "cascade",
        r"^(DROP|ALTER|TRUNCATE|REVOKE)\b.*(?<! ON DELETE)(?<! ON UPDATE) CASCADE\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="CASCADE drops what nobody named",
        recipe="Drop each dependent object by its name.",
    ),
    Rule(
        "vacuum-full",
        r"^(VACUUM \(?.*\bFULL\b|CLUSTER\b)",
        Lock.ACCESS_EXCLUSIVE,
        "rewrite",
        "it rewrites the table while nobody can read it",
        "Use pg_repack, or leave the space to plain VACUUM.",
    ),
    Rule(
        "not-in-transaction",
        r"^(VACUUM\b|CREATE DATABASE\b|DROP DATABASE\b|CREATE TABLESPACE\b|DROP TABLESPACE\b|ALTER SYSTEM\b|CALL\b)",
        Lock.SHARE_UPDATE_EXCLUSIVE,
        "scan",
        "it cannot run in a transaction, so zdm could not tell whether it ran",
        "Run it by hand, outside the migration.",
    ),
    Rule(
        "lock-table",
        r"^LOCK\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="a lock taken for its own sake stops everybody until the transaction ends",
        recipe="Leave it out: zdm takes what a statement needs, briefly and with retries.",
    ),
    Rule(
        "truncate",
        r"^TRUNCATE\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="it removes every row, and no rollback brings them back",
        recipe="Use drop_table, or delete in batches from the application.",
    ),
    Rule(
        "copy",
        r"^COPY\b",
        Lock.ROW_EXCLUSIVE,
        refusal="it needs a client's stream or a file of the server's",
        recipe="INSERT the rows.",
    ),
    # ---------------------------------------------------------------------------------------------------------- indexes
    Rule(
        "create-index-concurrently-in-sql",
        r"^(CREATE (UNIQUE )?INDEX|DROP INDEX|REINDEX|REFRESH MATERIALIZED VIEW)\b.*\bCONCURRENTLY\b|^DROP INDEX CONCURRENTLY",
        Lock.SHARE_UPDATE_EXCLUSIVE,
        "scan",
        "it cannot run in a transaction, so an aborted run has to be found and cleaned up",
        "Use create_index or drop_index, which do that.",
    ),
    Rule(
        "create-index-blocks-writes",
        r"^CREATE (UNIQUE )?INDEX\b",
        Lock.SHARE,
        "scan",
        "it stops every write until the index is built",
        "Use create_index, which builds it CONCURRENTLY.",
    ),
    Rule(
        "drop-index-blocks-reads",
        r"^DROP INDEX\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="it locks the table and waits for every query that uses it",
        recipe="Use drop_index, which drops it CONCURRENTLY.",
    ),
    Rule(
        "reindex-blocks-writes",
        r"^REINDEX\b",
        Lock.SHARE,
        "scan",
        "it stops every write until the index is built",
        "REINDEX CONCURRENTLY by hand, outside the migration.",
    ),
    # ----------------------------------------------------------------------------------------------------- alter table
    Rule(
        "change-type-rewrites",
        rf"^ALTER TABLE\b.*\bALTER (COLUMN )?{_NAME} (SET DATA )?TYPE\b",
        Lock.ACCESS_EXCLUSIVE,
        "rewrite",
        "it may rewrite the table while nobody can read it",
        "Use change_type, which fills a column of the new type beside the old one.",
    ),
    Rule(
        "set-not-null-scan",
        r"^ALTER TABLE\b.*\bSET NOT NULL\b",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "it reads the whole table while nobody else can",
        "Use set_not_null, which proves it first by a check that is NOT VALID, then validated.",
    ),
    Rule(
        "set-storage-place",
        r"^ALTER TABLE\b.*\b(SET (LOGGED|UNLOGGED|TABLESPACE|ACCESS METHOD|WITHOUT OIDS))\b",
        Lock.ACCESS_EXCLUSIVE,
        "rewrite",
        "it copies the whole table while nobody can use it",
        "Make a new table and move the rows.",
    ),
    Rule(
        "add-unique-builds-index",
        r"^ALTER TABLE\b.*\bADD (CONSTRAINT \S+ )?(UNIQUE|PRIMARY KEY)\b(?!.*\bUSING INDEX\b)",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "it builds an index while nobody can use the table",
        "Use add_unique, which builds the index CONCURRENTLY and then takes it as the constraint.",
    ),
    Rule(
        "add-exclusion-scan",
        r"^ALTER TABLE\b.*\bADD (CONSTRAINT \S+ )?EXCLUDE\b",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "it builds an index while nobody can use the table, and PostgreSQL has no other way",
        "Make a new table with the constraint and move the rows.",
    ),
    Rule(
        "add-foreign-key-scan",
        r"^ALTER TABLE\b.*\b(ADD (CONSTRAINT \S+ )?FOREIGN KEY\b(?!.*\bNOT VALID\b)|ADD (COLUMN )?.*\bREFERENCES\b(?!.*\bNOT VALID\b))",
        Lock.SHARE_ROW_EXCLUSIVE,
        "scan",
        "it stops writes to both tables until every row is looked up",
        "Use add_foreign_key, which adds it NOT VALID and validates it afterwards.",
    ),
    Rule(
        "add-check-scan",
        r"^ALTER TABLE\b.*\bADD (CONSTRAINT \S+ )?(CHECK|NOT NULL)\b(?!.*\bNOT VALID\b)",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "it reads the whole table while nobody else can",
        "Use add_check, which adds it NOT VALID and validates it afterwards.",
    ),
    Rule(
        "add-column-rewrites",
        rf"^ALTER TABLE\b.*\bADD (COLUMN )?.*(\bDEFAULT\b.*{_VOLATILE}|\b(SMALL|BIG)?SERIAL[248]?\b|\bGENERATED\b|\bAS IDENTITY\b)",
        Lock.ACCESS_EXCLUSIVE,
        "rewrite",
        "it rewrites the table while nobody can read it",
        "Use add_column, which fills the column row by row.",
    ),
    Rule(
        "add-column-with-constraint",
        r"^ALTER TABLE\b(.*\bADD (COLUMN )?(?!CONSTRAINT\b|CHECK\b|NOT NULL\b)\S.*\b(UNIQUE|PRIMARY KEY|CHECK)\b"
        r"|(?!.*\bDEFAULT\b).*\bADD (COLUMN )?(?!CONSTRAINT\b|CHECK\b|NOT NULL\b)\S.*\bNOT NULL\b)",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "its constraint is proved while nobody can use the table",
        "Use add_column, then add_check or add_unique.",
    ),
    Rule(
        "rename-breaks-old-code",
        r"^ALTER (TABLE|VIEW|MATERIALIZED VIEW|INDEX|SEQUENCE|TYPE|FUNCTION)\b.*\b(RENAME|SET SCHEMA)\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="code that uses the old name fails from that moment",
        recipe="Use rename_column or rename_table, which keep both names until cleanup.",
    ),
    Rule(
        "drop-column",
        r"^ALTER TABLE\b.*\bDROP (COLUMN\b|(?!CONSTRAINT|NOT|DEFAULT|EXPRESSION|IDENTITY)\w)",
        Lock.ACCESS_EXCLUSIVE,
        refusal="code that uses the column fails from that moment",
        recipe="Use drop_column, which drops it at cleanup.",
    ),
    Rule(
        "attach-partition",
        r"^ALTER TABLE\b.*\b(ATTACH|DETACH) PARTITION\b",
        Lock.SHARE_UPDATE_EXCLUSIVE,
        "scan",
        "it may read the partition, and the default partition, while nobody can use them",
        "Prove the bounds by a validated CHECK first, and attach by hand.",
    ),
    Rule(
        "validate-constraint", r"^ALTER TABLE\b.*\bVALIDATE CONSTRAINT\b", Lock.SHARE_UPDATE_EXCLUSIVE, "scan"
    ),
    Rule("set-statistics", r"^ALTER TABLE\b.*\bSET STATISTICS\b", Lock.SHARE_UPDATE_EXCLUSIVE),
    Rule("trigger-state", r"^ALTER TABLE\b.*\b(ENABLE|DISABLE)\b.*\bTRIGGER\b", Lock.SHARE_ROW_EXCLUSIVE),
    Rule(
        "add-foreign-key-not-valid",
        r"^ALTER TABLE\b.*\bFOREIGN KEY\b.*\bNOT VALID\b",
        Lock.SHARE_ROW_EXCLUSIVE,
    ),
    Rule("alter-table", r"^ALTER TABLE\b", Lock.ACCESS_EXCLUSIVE),
    # ------------------------------------------------------------------------------------------------------------ rows
    Rule(
        "update-without-where",
        r"^(WITH\b.*)?\b(UPDATE|DELETE FROM)\b(?!.*\bWHERE\b)",
        Lock.ROW_EXCLUSIVE,
        "rewrite",
        "it writes every row in one transaction, and holds their locks until it ends",
        "Use an operation with `up`, which fills rows in small batches.",
    ),
    Rule("insert-values", r"^INSERT\b", Lock.ROW_EXCLUSIVE),
    Rule("update-some-rows", r"^(UPDATE|DELETE|MERGE)\b", Lock.ROW_EXCLUSIVE),
    Rule("select", r"^(SELECT|VALUES|TABLE|EXPLAIN|SHOW)\b", Lock.ACCESS_SHARE),
    # --------------------------------------------------------------------------------------------------- other objects
    Rule(
        "create-table-with-foreign-key",
        r"^CREATE (UNLOGGED )?TABLE\b.*\bREFERENCES\b",
        Lock.SHARE_ROW_EXCLUSIVE,
        refusal="it locks the referenced table together with everything else in the transaction",
        recipe="Use create_table with foreign_keys, which adds them afterwards.",
    ),
    Rule(
        "create-partition",
        r"^CREATE (UNLOGGED )?TABLE\b.*\bPARTITION OF\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="it locks the partitioned table against everybody",
        recipe="Create the table on its own, then ATTACH PARTITION by hand.",
    ),
    Rule(
        "drop-table",
        r"^DROP (FOREIGN )?TABLE\b",
        Lock.ACCESS_EXCLUSIVE,
        refusal="it locks every referenced table too, and no rollback brings the rows back",
        recipe="Use drop_table, which drops the foreign keys one by one first.",
    ),
    Rule("drop-trigger", r"^DROP TRIGGER\b", Lock.ACCESS_EXCLUSIVE),
    Rule("create-trigger", r"^CREATE (OR REPLACE )?(CONSTRAINT )?TRIGGER\b", Lock.SHARE_ROW_EXCLUSIVE),
    Rule("policy", r"^(CREATE|ALTER|DROP) POLICY\b", Lock.ACCESS_EXCLUSIVE),
    Rule("rule", r"^(CREATE (OR REPLACE )?|ALTER |DROP )RULE\b", Lock.ACCESS_EXCLUSIVE),
    Rule("statistics", r"^(CREATE|ALTER|DROP) STATISTICS\b", Lock.SHARE_UPDATE_EXCLUSIVE),
    Rule(
        "refresh-matview",
        r"^REFRESH\b",
        Lock.ACCESS_EXCLUSIVE,
        "scan",
        "nobody can read the view until it is computed",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY by hand.",
    ),
    Rule("analyze", r"^ANALY[SZ]E\b", Lock.SHARE_UPDATE_EXCLUSIVE, "scan"),
    Rule("comment", r"^(COMMENT|SECURITY LABEL)\b", Lock.SHARE_UPDATE_EXCLUSIVE),
    Rule("grant", r"^(GRANT|REVOKE|ALTER DEFAULT PRIVILEGES|REASSIGN OWNED)\b", Lock.NONE),
    Rule(
        "create-object",
        r"^(CREATE|ALTER|DROP) (OR REPLACE )?((RECURSIVE |MATERIALIZED |TEMP |TEMPORARY |UNLOGGED )*"
        r"(TABLE|VIEW)|FUNCTION|PROCEDURE|ROUTINE|AGGREGATE|TYPE|DOMAIN|SEQUENCE|SCHEMA|EXTENSION|COLLATION|CAST|OPERATOR"
        r"|TEXT SEARCH|PUBLICATION|SERVER|FOREIGN DATA WRAPPER|USER MAPPING|EVENT TRIGGER|ROLE|GROUP|CONVERSION)\b",
        Lock.NONE,
    ),
)
"""In order: the first match decides."""

SEVERAL_ACTIONS = Rule(
    "several-actions",
    "",
    Lock.ACCESS_EXCLUSIVE,
    refusal="it does several things under one lock",
    recipe="Write one statement for each.",
)
UNKNOWN = Rule(
    "unknown-statement",
    "",
    Lock.ACCESS_EXCLUSIVE,
    refusal="zdm does not know this statement's locks",
    recipe="Use an operation, or declare `safe: true` with a `reason`.",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One statement, the rule that speaks about it, and the tables it locks as far as its words tell."""

    statement: str
    rule: Rule
    tables: tuple[str, ...] = ()

    @property
    def safe(self) -> bool:
        """Whether it may run on a table in use."""
        return not self.rule.refusal


def split(text: str) -> list[str]:
    """The statements of a text, without their semicolons. Raises ValueError if it cannot be read."""
    return [text[words[0].start : words[-1].end] for words in _statements(text)]


def judge(statement: str) -> Finding:
    """Which lock one statement takes, and whether it is safe. Raises ValueError if it is not exactly one statement."""
    found = _statements(statement)
    if len(found) != 1:
        raise ValueError(f"{statement!r} holds {len(found)} statements; one is needed")
    shapes = [word.shape for word in found[0]]
    text = " ".join(shapes)
    rule = next((r for r in RULES if re.search(r.pattern, text)), UNKNOWN)
    if not rule.refusal and text.startswith("ALTER TABLE ") and _has_top_level_comma(shapes):
        rule = SEVERAL_ACTIONS
    return Finding(statement.strip().rstrip(";").rstrip(), rule, _tables(found[0]))


def _statements(text: str) -> list[list[Word]]:
    from zdm.operations import words  # takes long to import, and few migrations hold SQL of their own

    return words.statements(text)


def _has_top_level_comma(shapes: Sequence[str]) -> bool:
    depth = 0
    for shape in shapes:
        depth += (shape == "(") - (shape == ")")
        if shape == "," and depth == 0:
            return True
    return False


_BEFORE_TABLE = re.compile(
    r"^(ALTER TABLE|DROP TABLE|UPDATE|DELETE FROM|INSERT INTO|MERGE INTO|LOCK|TRUNCATE|ANALYZE)( TABLE)?( IF EXISTS)?( ONLY)?$"
    r"|^(CREATE|DROP|ALTER|COMMENT)\b.*\b(TRIGGER|POLICY|INDEX|RULE)\b.* ON( ONLY)?$"
    r"|^COMMENT ON (TABLE|COLUMN)$"
)


def _tables(words: Sequence[Word]) -> tuple[str, ...]:
    """The table that the statement is about, as it is written; empty if its words do not tell."""
    shapes = [word.shape for word in words]
    best = 0
    for end in range(1, min(len(shapes), 16)):
        if _BEFORE_TABLE.match(" ".join(shapes[:end])):
            best = end
    if best == 0:
        return ()
    name, at = words[best].written, best + 1
    while at + 1 < len(words) and shapes[at] == ".":
        name, at = f"{name}.{words[at + 1].written}", at + 2
    if shapes[:3] == ["COMMENT", "ON", "COLUMN"]:
        name = name.rpartition(".")[0]
    return (name,) if name else ()
