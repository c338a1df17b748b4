"""Lower layers never import higher ones, siblings never import each other, and no files of one layer import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "zdm"

#: From low to high; what stands on one line are siblings.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "errors",
        "resources",
        "model",
        "sql",
        "db",
        "catalog",
        "operations",
        "gates throttle backfill verify",
        "engine",
        "metrics devdb",
        "demo",
        "cli",
        # The package itself and `python -m zdm` may use everything.
        "__init__ __main__",
    )
)

RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def package_of(module: str) -> str | None:
    """The layer's name in a dotted module name, or None if it is not zdm's; ``zdm`` itself is ``__init__``."""
    top, _, rest = module.partition(".")
    if top != "zdm":
        return None
    return rest.partition(".")[0] or "__init__"


def imports(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str]]:
    """The line and the dotted name of every import, wherever in the file it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
            if base == "zdm":
                # `from zdm import db` means the package db, `from zdm import __version__` zdm itself.
                for alias in node.names:
                    yield node.lineno, f"zdm.{alias.name}" if alias.name in RANK else "zdm"
            else:
                yield node.lineno, base


def violations(path: Path, source: Path) -> list[str]:
    """What one file may not import, in words."""
    parts = ["zdm", *path.relative_to(source).with_suffix("").parts]
    is_package = parts[-1] == "__init__" and len(parts) > 2
    module = ".".join(parts[:-1] if is_package else parts)
    own = parts[1]
    if own not in RANK:
        return [f"{module}: the layer {own!r} is not in the list of layers"]
    found = []
    for line, name in imports(ast.parse(path.read_text(encoding="utf-8")), module, is_package=is_package):
        other = package_of(name)
        if other is None or other == own:
            continue
        # The version is a literal that reads nothing: everybody may ask for it.
        if other == "__init__":
            if name == "zdm" and imports_only_version(path, line):
                continue
            found.append(f"{module}:{line} imports {name}, the public face of everything")
        elif other not in RANK:
            found.append(f"{module}:{line} imports {name}, whose layer is not in the list")
        elif RANK[other] >= RANK[own]:
            kind = "its sibling" if RANK[other] == RANK[own] else "the higher layer"
            found.append(f"{module}:{line} imports {name}: {own} may not import {kind} {other}")
    return found


def imports_only_version(path: Path, line: int) -> bool:
    """Whether the import on this line asks for ``__version__`` and nothing else."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.lineno == line:
            return [alias.name for alias in node.names] == ["__version__"]
    return False


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_imports_go_down(path: Path) -> None:
    assert violations(path, SOURCE) == []


def test_every_layer_is_there() -> None:
    there = {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert there == RANK.keys()


@pytest.mark.parametrize(
    "file, text, said",
    [
        ("db/session.py", "from zdm.model import names\nimport zdm.errors\n", None),
        ("db/session.py", "from zdm.catalog import store\n", "higher layer catalog"),
        ("db/session.py", "import zdm.engine.executor\n", "higher layer engine"),
        ("db/session.py", "from zdm import cli\n", "higher layer cli"),
        ("db/session.py", "def f():\n    from ..catalog.store import x\n", "higher layer catalog"),
        ("db/__init__.py", "from .session import x\n", None),
        ("db/__init__.py", "from ..engine import x\n", "higher layer engine"),
        ("gates/soak.py", "from zdm.throttle import signals\n", "sibling throttle"),
        ("gates/soak.py", "from zdm.gates import base\n", None),
        ("engine/advance.py", "from zdm import __version__\n", None),
        ("engine/advance.py", "from zdm import Migration\n", "public face"),
        ("demo/run.py", "from zdm.devdb import DevServer\n", None),
        ("stray/x.py", "", "not in the list of layers"),
    ],
)
def test_the_walk_sees_what_it_should(tmp_path: Path, file: str, text: str, said: str | None) -> None:
    path = tmp_path / file
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    found = violations(path, tmp_path)
    assert [said in line for line in found] == [True] if said else found == []


def circle(source: Path) -> list[str]:
    """Files that import each other in a circle, by whatever import wherever it stands; none if there is none."""
    modules = {
        ".".join(["zdm", *path.relative_to(source).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in source.rglob("*.py")
    }
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = graph.setdefault(module, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names if alias.name in modules}
            elif isinstance(node, ast.ImportFrom) and node.module in modules:
                # A name of a package is one of its modules, or what its face hands on.
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inside & modules.keys() or {node.module}
    # Everybody may ask the package itself for its version.
    graph.pop("zdm", None)
    try:
        TopologicalSorter({name: found - {"zdm"} for name, found in graph.items()}).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_circle() -> None:
    assert circle(SOURCE) == []


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """Also one that an import inside a function hides from the interpreter."""
    for name, text in {
        "a": "from zdm.b import x",
        "b": "def f():\n    from zdm import c",
        "c": "import zdm.a",
    }.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "__init__.py").write_text("", encoding="utf-8")
    assert {"zdm.a", "zdm.b", "zdm.c"} == set(circle(tmp_path))
