"""Trimming one statement of a module for export: flat imports, no comments, nothing that is not exported.

The text is edited line by line, so that what is kept keeps its layout.
"""

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

Name = tuple[Path, str]  # a definition: its module's file, and its name there
Edit = tuple[int, int, list[str]]  # first and last line, counted from 1, and the lines that replace them
TRAVELS = "TRAVELS"  # the name of the constant that is true in exported code
COMMENT = "#"  # stands for a line that has only a comment
ANY_ARGUMENTS = ast.parse("lambda *args, **kwargs: None", mode="eval").body.args


@dataclass(frozen=True)
class Route:
    """Which modules are exported, and into which flat ones. Each module is known by its file.

    `flat_name(path)`: the name of its flat module. `travels(path)`: True, False, or None: then a module is exported if
    another one imports it at its top, and not if it is only imported inside a function. `missing`: the message of the
    error in place of what is not exported. `in_pieces`: names of classes of which, and of whose subclasses, only the
    methods are exported whose names are used somewhere.
    """

    flat_name: Callable[[Path], str]
    travels: Callable[[Path], bool | None]
    missing: str
    in_pieces: tuple[str, ...] = ()


@dataclass(eq=False)
class Statement:
    """One top-level statement of a module, trimmed."""

    text: str = ""
    names: set[str] = field(default_factory=set)  # names that it defines
    uses: set[str] = field(default_factory=set)  # names that it uses
    imports: list[Name] = field(default_factory=list)  # imports inside its functions
    attributes: set[str] = field(default_factory=set)  # names of attributes of any object
    methods: dict[str, "Statement"] = field(default_factory=dict)  # methods that are not in `text`, by name


class _Left(ast.Pass):
    """Replaces, in a tree, the rest of a block from an import of something that is not exported on."""


def trim(
    path: Path,
    node: ast.stmt,
    lines: list[str],
    above: int,
    own: dict[str, Name],
    route: Route,
    in_pieces: bool = False,
) -> Statement:
    """Trim the statement `node` of the module at `path`, whose text is `lines`; `node` is changed too.

    `above`: the number of the last line that is not blank before it. `own`: the module's top-level imports from its
    package. `in_pieces`: leave a class's methods out of its text, except those that Python itself calls.
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
    """The lines of a module without comments; a line that had only a comment is `COMMENT`."""
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
    """The names that a statement defines; none if it only has an effect."""
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
    """Remove the rows of a top-level dict that refer to something that is not exported."""
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
    """Make functions import from flat modules, and raise ImportError where they import what is not exported.

    Blocks of `if not TRAVELS:` are removed.
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
    """The lists of statements in `node`, outer ones first. What the caller removes from one is not visited."""
    for _, value in ast.iter_fields(node):
        if isinstance(value, list):
            if value and isinstance(value[0], ast.stmt):
                yield value
            for child in value:
                if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
                    yield from _blocks(child)


def _without_docstrings(node: ast.stmt, lines: list[str]) -> Iterator[Edit]:
    """Remove docstrings; a body with nothing else keeps its first line.

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
