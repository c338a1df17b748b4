"""SQLAlchemy sessions of both versions: objects that are loaded, changed and saved, also whole and out of date."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any, Final

import psycopg
from sqlalchemy import FetchedValue, Numeric, StaticPool, create_engine, select
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    make_transient_to_detached,
    mapped_column,
)
from sqlalchemy.orm.attributes import flag_modified

from tests.integration.traffic.stage import Statement, Traffic
from tests.support.servers import Database
from zdm.model.phases import State


class OldBase(DeclarativeBase):
    pass


class NewBase(DeclarativeBase):
    pass


class OldPerson(OldBase):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[int | None]
    name: Mapped[str] = mapped_column(server_default=FetchedValue())
    balance: Mapped[int] = mapped_column(server_default=FetchedValue())
    score: Mapped[int | None] = mapped_column(server_default=FetchedValue())
    note: Mapped[str | None] = mapped_column(server_default=FetchedValue())


class NewPerson(NewBase):
    __tablename__ = "people"
    id: Mapped[int] = mapped_column(primary_key=True)
    code: Mapped[int | None]
    first: Mapped[str] = mapped_column(server_default=FetchedValue())
    last: Mapped[str] = mapped_column(server_default=FetchedValue())
    balance: Mapped[Decimal] = mapped_column(Numeric(18, 2), server_default=FetchedValue())
    score: Mapped[Decimal | None] = mapped_column(Numeric(10, 1), server_default=FetchedValue())
    note: Mapped[str | None] = mapped_column(server_default=FetchedValue())


Person = Any
"""One of the two classes."""


@contextlib.contextmanager
def session_on(connection: psycopg.Connection[Any]) -> Iterator[Session]:
    """A session that commits at the end, on the application's one connection."""
    connection.autocommit = False
    engine = create_engine("postgresql+psycopg://", creator=lambda: connection, poolclass=StaticPool)
    try:
        with Session(engine) as session, session.begin():
            yield session
    finally:
        connection.rollback()
        connection.autocommit = True


def values(person: Any) -> tuple[Any, ...]:
    return tuple(getattr(person, column.key) for column in person.__table__.columns)


def working(person: Person, change: dict[str, Any], added: dict[str, Any]) -> Statement:
    """A unit of work as applications have them: new objects, defaults read back, one changed attribute, a merge, a removal."""

    def work(connection: psycopg.Connection[Any]) -> Sequence[tuple[Any, ...]]:
        with session_on(connection) as session:
            one = session.get_one(person, 1)
            for name, value in change.items():
                setattr(one, name, value)
            several = [person(**added), person(note=None), person(score=None)]
            session.add_all(several)
            session.flush()
            seen = [values(p) for p in several]
            session.expire_all()
            seen += [values(p) for p in (*several, one)]
            session.merge(person(id=2, **change))
            found = session.scalars(select(person).where(person.id == 3).with_for_update()).one()
            found.note = "locked"
            session.delete(several[1])
            session.flush()
            return [*seen, *(values(p) for p in session.scalars(select(person).order_by(person.id)))]

    return work


def saving(person: Person, row: dict[str, Any]) -> Statement:
    """Every column of a row is written, whether it changed or not: an object that somebody had held for long, or got from elsewhere."""

    def save(connection: psycopg.Connection[Any]) -> Sequence[tuple[Any, ...]]:
        with session_on(connection) as session:
            held = person(**row)
            make_transient_to_detached(held)
            session.add(held)
            for name in row.keys() - {"id"}:
                flag_modified(held, name)
            session.flush()
            session.expire(held)
            return [values(held)]

    return save


OLD_CHANGES: Final = ({"name": "Old Change"}, {"balance": 77}, {"score": None, "note": "old"})
NEW_CHANGES: Final = (
    {"last": "New-Change"},
    {"balance": Decimal("7.49")},
    {"score": None, "note": "new"},
    {"score": Decimal("2.5")},
)


def test_sessions_in_every_phase(database: Database) -> None:
    with Traffic(database) as traffic:
        for state in traffic.through():
            both = state in {State.MIGRATED, State.SWITCHED_OVER}
            if state is not State.COMPLETED:
                for change in OLD_CHANGES:
                    work = working(OldPerson, change, {"name": "Old Object", "code": None})
                    traffic.tell(traffic.old, work, state)
            if both or state is State.COMPLETED:
                for new_change in NEW_CHANGES:
                    work = working(NewPerson, new_change, {"first": "New", "last": "Object"})
                    traffic.tell(traffic.new, work, state)
            if not both:
                continue
            # An object that is out of date overwrites what the other version wrote since: as without a rollout, the last one wins.
            for id_ in (5, 6):
                old_row, new_row = traffic.row(id_, new=False), traffic.row(id_, new=True)
                traffic.tell(
                    traffic.new, f"UPDATE people SET first = 'Since', balance = 1.25 WHERE id = {id_}", state
                )
                traffic.tell(traffic.old, saving(OldPerson, old_row), state)
                traffic.tell(
                    traffic.old, f"UPDATE people SET name = 'Old Since', score = 9 WHERE id = {id_}", state
                )
                traffic.tell(traffic.new, saving(NewPerson, new_row), state)
                # One that is not leaves all as it is, also what the other side could not say.
                exact = {**traffic.row(id_, new=True), "balance": Decimal("3.33"), "score": Decimal("0.4")}
                traffic.tell(traffic.new, saving(NewPerson, exact), state)
                traffic.tell(traffic.old, saving(OldPerson, traffic.row(id_, new=False)), state)
                assert traffic.row(id_, new=True) == exact
                # And one attribute that changes takes along no other group.
                traffic.tell(
                    traffic.old,
                    saving(OldPerson, {**traffic.row(id_, new=False), "name": "Only This"}),
                    state,
                )
                assert traffic.row(id_, new=True) == {**exact, "first": "Only", "last": "This"}
