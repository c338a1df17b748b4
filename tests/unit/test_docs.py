"""The documentation is held to the code: links, pages, commands, the picture of the phase machine, snippets."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import zdm
from zdm import errors
from zdm.cli.app import COMMANDS, group
from zdm.gates.base import Gate
from zdm.gates.registry import gates
from zdm.model.diagram import state_diagram
from zdm.model.phases import State, machine
from zdm.operations.base import Operation
from zdm.operations.lint import RULES, SEVERAL_ACTIONS, UNKNOWN, judge
from zdm.operations.registry import operations
from zdm.throttle.base import Signal, signals

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "zdm"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")],
    key=lambda path: path.relative_to(ROOT).as_posix(),
)
REFUSED = {rule.slug: rule for rule in (*RULES, SEVERAL_ACTIONS, UNKNOWN) if rule.refusal}
HOLDS = {
    "brief": "briefly",
    "scan": "for as long as reading the table takes",
    "rewrite": "for as long as rewriting the table takes",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def fences(text: str, language: str = "") -> list[str]:
    """The contents of a page's fenced blocks, of one language if it is given."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [body for name, body in found if not language or name == language]


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What the headings of a page can be linked by."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        kept = (c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
        found.add("".join(kept).replace(" ", "-"))
    return found


# ------------------------------------------------------------------------------------------------------------- links


def links(path: Path) -> list[str]:
    """The targets of a page's links that lead to files."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text_of(path))))
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def broken(path: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    found = []
    for target in links(path):
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and anchor not in anchors(text_of(file))):
            found.append(target)
    return found


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    assert broken(path) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One thing\n[a](page.md#one-thing) [b](none.md) [c](#two) [d](https://x.org)\n", encoding="utf-8"
    )
    assert broken(page) == ["none.md", "#two"]


def test_every_page_is_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        ahead += [
            (page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"
        ]
    assert [relative(page) for page in PAGES if page not in reached] == []


# ------------------------------------------------------------------------------------------------------------- pages


def strings(node: ast.expr) -> Iterator[str]:
    """The texts that an expression may give: of a literal, or of both ends of a condition."""
    match node:
        case ast.Constant(value=str(value)) if value:
            yield value
        case ast.IfExp(body=body, orelse=orelse):
            yield from strings(body)
            yield from strings(orelse)


def slugs_in(text: str) -> set[str]:
    """The slugs that a module names: rule= and naive=, defaults of such parameters, and the fourth argument where it is the rule."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg in {"rule", "naive"}:
                    found.update(strings(keyword.value))
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in {"Problem", "refuse"} and len(node.args) > 3:
                found.update(strings(node.args[3]))
        elif isinstance(node, ast.FunctionDef):
            positional = node.args.args[len(node.args.args) - len(node.args.defaults) :]
            for argument, default in zip(positional, node.args.defaults, strict=True):
                if argument.arg in {"rule", "naive"}:
                    found.update(strings(default))
    return found


def test_slugs_are_found_wherever_they_stand() -> None:
    assert slugs_in(
        "Problem('a', '', '', 'p')\nStep(naive='n' if x else '')\ndef f(rule: str = 'd'): ..."
    ) == {"p", "n", "d"}


def test_every_refusal_has_its_page_and_every_page_its_refusal() -> None:
    named = {slug for path in SOURCE.rglob("*.py") for slug in slugs_in(text_of(path))} | set(REFUSED)
    assert {path.stem for path in (DOCS / "refusals").glob("*.md")} == named


@pytest.mark.parametrize("slug", REFUSED)
def test_a_page_shows_a_statement_that_its_rule_refuses(slug: str) -> None:
    text = text_of(DOCS / "refusals" / f"{slug}.md")
    (statement,) = fences(text, "sql")
    assert judge(statement).rule.slug == slug
    rule = REFUSED[slug]
    if rule.lock.value != "none":
        assert f"Lock: `{rule.lock.sql}`, {HOLDS[rule.hold]}." in text


@pytest.mark.parametrize("path", sorted((DOCS / "refusals").glob("*.md")), ids=lambda path: path.stem)
def test_a_refusal_says_why_and_how_to_go_on(path: Path) -> None:
    headings = re.findall(r"^## (.+)$", text_of(path), re.MULTILINE)
    assert headings[0] == "The problem"
    assert headings[-1] == "Overriding it"
    assert {"What zdm does instead", "What to do"} & set(headings)


def test_everything_that_is_discovered_has_its_page() -> None:
    index = text_of(DOCS / "index.md")
    listed = text_of(DOCS / "cli.md")
    assert [kind for kind in operations() if f"(operations/{kind}.md)" not in index] == []
    assert {path.stem for path in (DOCS / "operations").glob("*.md")} == {*operations(), "README"}
    for definition in machine().definitions:
        for name in definition.gates:
            row = next(line for line in index.splitlines() if line.startswith(f"| [{name}](gates/{name}.md)"))
            assert definition.phase in row
    assert {path.stem for path in (DOCS / "gates").glob("*.md")} == set(gates())
    assert [name for name in gates() if f"(gates/{name}.md)" not in index] == []
    assert [signal.name for signal in signals() if f"| `{signal.name}` |" not in index] == []
    names = [name for names in COMMANDS.values() for name in names]
    assert [name for name in names if f"\n## zdm {name}\n" not in listed] == []
    for path in (DOCS / "refusals").glob("*.md"):
        assert f"(refusals/{path.name})" in index


# -------------------------------------------------------------------------------------------------------- the machine


def test_the_picture_is_the_machine() -> None:
    (shown,) = fences(text_of(DOCS / "state-machine.md"), "mermaid")
    assert shown.strip() == state_diagram(machine())


def test_the_diagram_has_an_arrow_for_each_move_and_no_other() -> None:
    arrows = re.findall(r"^    (\w+) --> (\w+): \S", state_diagram(machine()), re.MULTILINE)
    assert [(State(a), State(b)) for a, b in arrows] == list(machine().moves())


def test_the_runbook_knows_every_state() -> None:
    _, _, states = text_of(DOCS / "runbook.md").partition("## States")
    assert [state for state in State if f"`{state}`" not in states] == []


def test_the_errors_page_has_every_exception() -> None:
    text = text_of(DOCS / "errors.md")
    kinds = [v for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.ZdmError)]
    for kind in kinds:
        assert f"| `{kind.__name__}` | {kind.exit_code} |" in text
        assert f"{kind.__name__}\n" in fences(text, "text")[0]


# ------------------------------------------------------------------------------------------------------------ commands


def commands(path: Path) -> list[str]:
    """The ``zdm …`` command lines of a page's fenced blocks."""
    found = []
    for body in fences(text_of(path), "console") + fences(text_of(path), "sh"):
        for line in body.splitlines():
            match = re.match(r"(?:\$ )?(zdm( .*)?)$", line)
            if match and (line.startswith("$ ") or "$ " not in body):
                found.append(match[1].partition("  #")[0].partition(" > ")[0].strip())
    return found


def wrong(line: str) -> str:
    """Why a command line cannot be what it says; empty if it parses. Places such as ``MIGRATION`` count as values."""
    arguments = shlex.split(line)[1:]
    if not arguments or arguments[-1] == "…":
        arguments = [*arguments[:-1], "--help"]
    # With its settings: a command keeps the help option of the first context that asks for it.
    context = click.Context(group, info_name="zdm", **group.context_settings)
    try:
        name, command, rest = group.resolve_command(context, arguments)
        assert command is not None
        with command.make_context(name, rest, parent=context):
            return ""
    except click.exceptions.Exit:
        return ""
    except click.ClickException as error:
        return f"{line}: {error.format_message()}"


def mentioned(path: Path) -> list[str]:
    """What a page says of zdm's commands within its sentences, where parameters may be left out."""
    return re.findall(r"`zdm ([^`]+)`", prose(text_of(path)))


def unknown(words: str) -> list[str]:
    """What a mention names that there is not: the command, or one of its options."""
    name, *rest = words.split()
    if name.startswith("-") or name == "…":
        return []
    if name not in group.list_commands(click.Context(group)):
        return [name]
    command = group.get_command(click.Context(group), name)
    assert command is not None
    known = {
        option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)
    }
    return [word for word in rest if word.startswith("-") and word not in known | {"--help", "--version"}]


LINES = [(relative(path), line) for path in PAGES for line in dict.fromkeys(commands(path))]


@pytest.mark.parametrize("page, line", LINES, ids=[f"{page}: {line}" for page, line in LINES])
def test_a_command_that_is_shown_exists(page: str, line: str) -> None:
    assert wrong(line) == "", page


@pytest.mark.parametrize("line", ["zdm retreat x", "zdm advance x --quickly", "zdm approve x"])
def test_a_command_that_does_not_exist_is_seen(line: str) -> None:
    assert wrong(line) != ""


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_a_command_that_is_mentioned_exists(path: Path) -> None:
    assert [found for words in mentioned(path) for found in unknown(words)] == []


def test_a_mention_of_what_there_is_not_is_seen() -> None:
    assert unknown("retreat") == ["retreat"]
    assert unknown("advance --quickly --yes") == ["--quickly"]


# ----------------------------------------------------------------------------------------------------------- snippets


def snippet(heading: str) -> str:
    """The Python block below a heading of the contributing guide."""
    _, found, rest = text_of(ROOT / "CONTRIBUTING.md").partition(f"\n### {heading}\n")
    assert found, heading
    return fences(rest.partition("\n### ")[0], "python")[0]


@pytest.mark.parametrize(
    "heading, base, package",
    [
        ("An operation", Operation, "zdm.operations"),
        ("A gate", Gate, "zdm.gates"),
        ("A throttle signal", Signal, "zdm.throttle"),
    ],
)
def test_the_snippets_of_the_guide_define_what_they_say(heading: str, base: type, package: str) -> None:
    code = snippet(heading)
    (name,) = re.findall(r"^# src/(zdm/\w+/\w+)\.py$", code, re.MULTILINE)
    module = name.replace("/", ".")
    assert module.startswith(f"{package}.")
    # In a process of its own: a class that exists is found by discovery in this one.
    check = (
        "import sys, types, inspect, importlib\n"
        "module = types.ModuleType(sys.argv[1]); sys.modules[sys.argv[1]] = module\n"
        "exec(compile(sys.stdin.read(), 'CONTRIBUTING.md', 'exec'), vars(module))\n"
        "there, _, name = sys.argv[2].rpartition('.'); base = getattr(importlib.import_module(there), name)\n"
        "(made,) = [v for v in vars(module).values() if inspect.isclass(v) and issubclass(v, base) and v is not base]\n"
        "assert not inspect.isabstract(made), made.__abstractmethods__\n"
        "assert sys.argv[1].endswith('.' + getattr(made, 'kind', getattr(made, 'name', '')))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", check, module, f"{base.__module__}.{base.__qualname__}"],
        input=code,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr


def test_the_public_names_are_there_and_documented() -> None:
    text = text_of(DOCS / "python-api.md")
    for name in zdm.__all__:
        assert getattr(zdm, name) is not None
        assert f"`{name}`" in text, name
    assert set(dir(zdm)) == set(zdm.__all__)
    assert set(zdm.__all__) == {*zdm._FOUND, "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'Motor'"):
        _ = zdm.Motor


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, zdm; assert not [m for m in sys.modules if m.startswith(('zdm.', 'pydantic', 'psycopg'))]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
