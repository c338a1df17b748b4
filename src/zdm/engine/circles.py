"""Mappings of one table that wait for each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zdm.errors import Problem
from zdm.model.mapping import ColumnGroup
from zdm.operations.shape import TableShape


def refused_circles(shape: TableShape, groups: Sequence[ColumnGroup]) -> Iterator[Problem]:
    """Mappings of one table that read each other's columns: no trigger could say which of them comes first."""
    for circle in _circles(groups):
        told = ", and ".join(
            f"`{way}` of {group.name} reads what `{other_way}` of {other.name} writes"
            for (group, way), (other, other_way) in zip(circle, [*circle[1:], circle[0]], strict=True)
        )
        yield Problem(
            f"mappings of {shape.name} read each other's columns in a circle: {told}",
            shape.groups[circle[0][0].number].operation,
            "Let one of the expressions do without the other's column, or map the columns together in one operation.",
            "mapping-circle",
        )


def _circles(groups: Sequence[ColumnGroup]) -> list[list[tuple[ColumnGroup, str]]]:
    """Derivations that wait for each other: `up` of one group reads an old column that `down` of another writes, and so on round.

    A group is derived in one direction at a time, so it is at most once in a circle. Each circle is told once.
    """
    found: dict[frozenset[int], list[tuple[ColumnGroup, str]]] = {}

    def reads(group: ColumnGroup, way: str) -> list[tuple[ColumnGroup, str]]:
        wanted = set(group.reads_of_up if way == "up" else group.reads_of_down)
        other_way = "down" if way == "up" else "up"
        return [
            (other, other_way)
            for other in groups
            if other.number != group.number
            and wanted
            & (
                {old.name for old in other.old if old.down is not None}
                if way == "up"
                else {new.name for new in other.new if new.up is not None}
            )
        ]

    def walk(path: list[tuple[ColumnGroup, str]]) -> None:
        for following in reads(*path[-1]):
            if following[0].number == path[0][0].number and following[1] == path[0][1]:
                found.setdefault(frozenset(group.number for group, _ in path), path)
            elif following[0].number not in {group.number for group, _ in path}:
                walk([*path, following])

    for group in groups:
        walk([(group, "up")])
    return list(found.values())
