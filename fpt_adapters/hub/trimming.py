"""One statement of a module, trimmed for the road: flat imports, no comments, and nothing of what stays at home.

It is done on the text, line by line: what is kept keeps its layout.
"""

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

Name = tuple[Path, str]  # of a definition: the module's file, and what it is called there
Edit = tuple[int, int, list[str]]  # of lines, counted from 1: the first, the last, and what they become
TRAVELS = "TRAVELS"  # the name of what is true in code that travels
COMMENT = "#"  # a line without more
ANY_ARGUMENTS = ast.parse("lambda *args, **kwargs: None", mode="eval").body.args


@dataclass(frozen=True)
class Route:
    """Which modules travel, and into which flat ones. Each is known by its file.

    `flat_name(path)`: what the flat module is called. `travels(path)`: True, False, or None where it goes by how a
    module is imported: those that are used at another's top travel, and those imported inside a function do not.
    `missing`: what the error says that stands for what does not travel. `in_pieces`: names of classes that say more
    than is needed: of them, and of what derives from them, only those methods travel whose name somebody mentions.
    """

    flat_name: Callable[[Path], str]
    travels: Callable[[Path], bool | None]
    missing: str
    in_pieces: tuple[str, ...] = ()


@dataclass(eq=False)
class Statement:
    """One statement of a module's top, as it travels."""

    text: str = ""
    names: set[str] = field(default_factory=set)  # that it defines
    uses: set[str] = field(default_factory=set)
    imports: list[Name] = field(default_factory=list)  # inside its functions
    attributes: set[str] = field(default_factory=set)  # whatever they are of
    methods: dict[str, "Statement"] = field(default_factory=dict)  # that are not in `text`, by name


class _Left(ast.Pass):
    """Stands in a tree for the rest of a block, which begins with an import of what stays at home."""


def trim(
    path: Path,
    node: ast.stmt,
    lines: list[str],
    above: int,
    own: dict[str, Name],
    route: Route,
    in_pieces: bool = False,
) -> Statement:
    """Trim the statement `node` of the module at `path`, which has the `lines`; its tree is changed too.

    `above`: how many lines end before the blank ones above it. `own`: what the module imports of its package at its
    top. `in_pieces`: of a class, leave the methods out of its text, but for those that Python calls.
    """
    statement = Statement(names=set(_defined(node)))
    edits = []
    if in_pieces:
        for before, method in [pair for pair in pairwise(node.body) if _is_piece(pair[1])]:
            statement.methods[method.name] = trim(path, method, lines, before.end_lineno, own, route)
            node.body.remove(method)
            edits.append((before.end_lineno + 1, method.end_lineno, []))
    edits += [*_without_rows(node, own, route), *_with_flat_imports(path, node, statement, route)]
    edits += _without_docstrings(node, lines)
    lines = lines[: node.end_lineno]
    for first, last, new in sorted(edits, reverse=True):
        lines[first - 1 : last] = new
    statement.text = "\n".join(line for line in lines[above:] if line is not COMMENT)
    statement.uses = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    statement.attributes = {one.attr for one in ast.walk(node) if isinstance(one, ast.Attribute)}
    return statement


def lines_without_comments(text: str) -> list[str]:
    """The lines of a module, of which those that held nothing but a comment are `COMMENT`."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip() or COMMENT
    return lines


def imported_file(path: Path, node: ast.ImportFrom) -> Path:
    """The file that `node`, a relative import in the file `path`, imports from."""
    return path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")


def _defined(node: ast.stmt) -> Iterator[str]:
    """The names that a statement defines; none for one that is there for what it does."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        yield node.name
    elif isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
    elif isinstance(node, ast.Try):
        yield from (a.asname or a.name for one in node.body if isinstance(one, ast.ImportFrom) for a in one.names)


def _is_piece(node: ast.stmt) -> bool:
    return isinstance(node, ast.FunctionDef) and not node.name.startswith("__")


def _without_rows(node: ast.stmt, own: dict[str, Name], route: Route) -> Iterator[Edit]:
    """Take the rows out of a dict at a module's top that name what stays at home."""
    if not (isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Dict)):
        return
    table, rows = node.value, list(zip(node.value.keys, node.value.values, strict=True))
    table.keys, table.values = [], []
    for key, value in rows:
        named = [own[one.id][0] for one in ast.walk(value) if isinstance(one, ast.Name) and one.id in own]
        if any(route.travels(path) is False for path in named):
            yield value.lineno, value.end_lineno, []
        else:
            table.keys.append(key)
            table.values.append(value)


def _with_flat_imports(path: Path, node: ast.stmt, statement: Statement, route: Route) -> Iterator[Edit]:
    """Have functions import from flat modules, and put an error in the place of what stays at home.

    What stands in `if not TRAVELS:` is taken out.
    """
    for block in _blocks(node):
        for inner in [one for one in block if isinstance(one, ast.If) and ast.unparse(one.test) == f"not {TRAVELS}"]:
            block.remove(inner)
            yield inner.lineno, inner.end_lineno, []
        for place, inner in enumerate(block):
            if not (isinstance(inner, ast.ImportFrom) and inner.level):
                continue
            target, indent = imported_file(path, inner), " " * inner.col_offset
            if not route.travels(target):
                last = block[-1].end_lineno
                block[place:] = [ast.copy_location(_Left(), inner)]
                yield inner.lineno, last, [f'{indent}raise ImportError("{route.missing}")']
                break
            statement.imports += [(target, alias.name) for alias in inner.names]
            flat, names = route.flat_name(target), ", ".join(ast.unparse(alias) for alias in inner.names)
            same = flat == route.flat_name(path)
            yield inner.lineno, inner.end_lineno, [] if same else [f"{indent}from .{flat} import {names}"]


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """The lists of statements in `node`, outer ones first. What the caller takes out of one is not looked into."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list):
            if value and isinstance(value[0], ast.stmt):
                yield value
            for child in value:
                if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                    yield from _blocks(child)


def _without_docstrings(node: ast.stmt, lines: list[str]) -> Iterator[Edit]:
    """Take out docstrings; where nothing else is in a body, its first line stays.

    A function of which only an error is left takes any arguments.
    """
    for inner in ast.walk(node):
        if not isinstance(inner, (ast.ClassDef, ast.FunctionDef)):
            continue
        docstring = inner.body[0] if ast.get_docstring(inner) is not None else None
        body = inner.body[1:] if docstring else inner.body
        if isinstance(inner, ast.FunctionDef) and body and isinstance(body[0], _Left):
            inner.args, inner.returns = ANY_ARGUMENTS, None
            yield inner.lineno, body[0].lineno - 1, [f"{' ' * inner.col_offset}def {inner.name}(*args, **kwargs):"]
        elif docstring and body:
            last = docstring.end_lineno
            while not lines[last].strip():
                last += 1
            yield docstring.lineno, last, []
        elif docstring and docstring.end_lineno > docstring.lineno:
            yield docstring.lineno, docstring.end_lineno, [lines[docstring.lineno - 1] + '"""']
