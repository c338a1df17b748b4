"""Every command at a moment at which it makes no sense: what it says, with which code, and that nothing changes."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.command import Command
from tests.support.servers import Database

MOVED = {
    "move_columns": {
        "table": "account",
        "to": "contact",
        "key": {"id": "id"},
        "columns": ["phone"],
        "create": {},
    }
}


def test_each_command_at_the_wrong_moment(database: Database, tmp_path: Path) -> None:
    database.execute(
        "CREATE TABLE account (id int PRIMARY KEY, phone text); INSERT INTO account SELECT g, 'p' || g FROM generate_series(1, 9) g"
    )
    zdm = Command(database.dsn, tmp_path)
    gates = {"soak": "0s", "old_version_unused": "off"}
    file = zdm.write({"id": "m", "operations": [MOVED], "gates": gates})

    def refused(*words: str, code: int = 2) -> str:
        answer = zdm(*words)
        assert answer.code == code, answer.text
        assert "Traceback" not in answer.text
        return answer.err

    assert "Run `zdm init`" in refused("status")
    zdm("init").done()
    for words in (
        ("verify", "m"),
        ("rollback", "m"),
        ("pause", "m"),
        ("approve", "m", "cleanup"),
        ("fence", "m"),
    ):
        told = refused(*words)
        assert "There is no migration m in the catalog" in told
        assert "Nothing was changed" in told

    zdm("advance", file).done()
    assert "only after switchover; the rollout is prepared" in refused("fence", "m")
    assert "preparation of m is done: there is nothing to approve" in refused("approve", "m", "preparation")
    # Rows that are still to be made are not called a difference.
    assert "9 rows of m are not filled yet\n`zdm advance m` fills them" in refused("verify", "m", code=1)
    zdm("pause", "m").done()
    assert "`zdm resume m` lets it go on" in refused("advance", "m", code=3)
    zdm("resume", "m").done()
    way_back = zdm("rollback", "m", "--dry-run").done().out
    assert 'BEFORE INSERT OR UPDATE OR DELETE ON "public"."contact"' in way_back
    assert way_back.index("BEFORE TRUNCATE") < way_back.index('DROP TABLE IF EXISTS "public"."contact"')
    zdm("rollback", "m").done()
    assert "rolled back already" in refused("rollback", "m", "--dry-run")
    for words in (("verify", "m"), ("backfill", "m"), ("fence", "m"), ("pause", "m"), ("rollback", "m")):
        told = refused(*words)
        assert "rolled back" in told
        assert "Nothing was changed" in told
    assert "`zdm advance --restart`" in refused("advance", "m")

    zdm("advance", file, "--restart", "--until", "cleanup", "-q").done()
    for words in (("verify", "m"), ("backfill", "m"), ("fence", "m"), ("pause", "m"), ("rollback", "m")):
        told = refused(*words)
        assert "complete" in told
        assert "Nothing was changed" in told
    assert "cleanup of m is done: there is nothing to approve" in refused("approve", "m", "cleanup")
    assert "Nothing is left to do" in refused("advance", "m")
