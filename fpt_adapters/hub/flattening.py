"""Flattening Python modules into fewer files that hold the wanted definitions and everything that they need."""

import ast
import functools
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .trimming import Name, Route, Statement, imported_file, lines_without_comments, trim

WIDTH = 119  # of a line


@dataclass(eq=False)
class Module:
    """A module, read for export."""

    path: Path
    own: dict[str, Name] = field(default_factory=dict)  # imports from this package, by their names here
    others: dict[str, str] = field(default_factory=dict)  # imports from other packages: name -> import line
    effects: list[str] = field(default_factory=list)  # those of `own` that are imported only for the import's effect
    statements: list[Statement] = field(default_factory=list)
    in_pieces: set[str] = field(default_factory=set)  # classes of which only the used methods are exported

    @functools.cached_property
    def defined(self) -> dict[str, Statement]:
        """Each statement under every name that it defines."""
        return {name: statement for statement in self.statements for name in statement.names}


class Flattener:
    """Collects what some definitions need, and writes it as flat files. `title`: the docstring of each file."""

    def __init__(self, route: Route, title: str):
        self._route, self._title = route, title
        self._modules: dict[Path, Module] = {}
        self._kept: set[Statement] = set()
        self._pieces: list[tuple[Module, Statement]] = []  # methods that are exported only if used, with their modules
        self._mentioned: set[str] = set()  # names of attributes in the kept statements

    def add(self, path: Path, name: str) -> None:
        """Export the definition `name` of a file, and everything that it needs."""
        waiting = [(path, name)]
        while waiting:
            path, name = waiting.pop()
            module = self._module(path)
            if name in module.own:
                waiting.append(module.own[name])
            elif name in module.defined:
                waiting += self._keep(module, module.defined[name])

    def _keep(self, module: Module, statement: Statement) -> Iterator[Name]:
        """Keep a statement and the module's statements that define nothing; yields the names that these need."""
        for one in (statement, *(other for other in module.statements if not other.names)):
            if one not in self._kept:
                yield from self._note(module, one)
        while mentioned := [
            pair for pair in self._pieces if pair[1] not in self._kept and self._is_mentioned(pair[1])
        ]:
            for pair in mentioned:
                yield from self._note(*pair)

    def _note(self, module: Module, statement: Statement) -> Iterator[Name]:
        self._kept.add(statement)
        self._mentioned |= statement.attributes
        self._pieces += ((module, method) for method in statement.methods.values())
        yield from statement.imports
        yield from ((module.path, name) for name in (*statement.uses, *module.effects))

    def _is_mentioned(self, method: Statement) -> bool:
        return not self._mentioned.isdisjoint(method.names)

    # Reading

    def _module(self, path: Path) -> Module:
        if path not in self._modules:
            self._modules[path] = self._read(path)
        return self._modules[path]

    def _read(self, path: Path) -> Module:
        text = path.read_text(encoding="utf-8")
        tree, lines = ast.parse(text), lines_without_comments(text)
        module = Module(path)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for before, node in zip(tree.body, tree.body[1:], strict=False):  # the first is the docstring
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self._note_import(module, node, used)
            elif not _is_for_readers(node):
                pieces = isinstance(node, ast.ClassDef) and self._is_in_pieces(module, node)
                module.statements.append(trim(path, node, lines, before.end_lineno, module.own, self._route, pieces))
        return module

    def _is_in_pieces(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether only the used methods of a class are exported, by its own name or that of a base class."""
        for base in [base.id for base in node.bases if isinstance(base, ast.Name)]:
            path, name = self._origin(*module.own[base]) if base in module.own else (module.path, base)
            if name in (module if path == module.path else self._module(path)).in_pieces:
                module.in_pieces.add(node.name)
        if node.name in self._route.in_pieces:
            module.in_pieces.add(node.name)
        return node.name in module.in_pieces

    def _note_import(self, module: Module, node: ast.Import | ast.ImportFrom, used: set[str]) -> None:
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            if isinstance(node, ast.Import):
                module.others[name] = f"import {ast.unparse(alias)}"
            elif not node.level:
                module.others[name] = f"from {node.module} import {ast.unparse(alias)}"
            elif name in used:
                module.own[name] = (imported_file(module.path, node), alias.name)
            elif self._route.travels(imported_file(module.path, node)) is not False:
                module.own[name] = (imported_file(module.path, node), alias.name)
                module.effects.append(name)

    # Writing

    def files(self) -> dict[str, str]:
        """The flat files: file name -> text.

        Raises ValueError for a name that would have two meanings in one file, or is imported there as another.
        """
        flats: dict[str, list[Module]] = {}
        for module in self._in_order():
            flats.setdefault(self._route.flat_name(module.path), []).append(module)
        return {f"{name}.py": self._written(name, modules) for name, modules in sorted(flats.items())}

    def _in_order(self) -> list[Module]:
        """Modules with kept statements, each after those that it imports at its top."""
        done: dict[Path, Module] = {}

        def visit(module: Module) -> None:
            for path, _ in module.own.values():
                if path in self._modules and path not in done:
                    visit(self._modules[path])
            done[module.path] = module

        for _, module in sorted(self._modules.items()):
            visit(module)
        return [module for module in done.values() if self._kept.intersection(module.statements)]

    def _written(self, flat: str, modules: list[Module]) -> str:
        meanings: dict[str, str] = {}
        parts: list[str] = []
        for module in modules:
            kept = [one for one in module.statements if one in self._kept]
            for name, meaning in self._meanings(module, kept, flat).items():
                if meanings.setdefault(name, meaning) != meaning:
                    raise ValueError(f"{name} of {module.path} has another meaning in {flat}.py: rename one.")
            texts = ["\n".join([one.text, *(method.text for method in self._methods_of(one))]) for one in kept]
            parts += [f"\n\n# {module.path.name}", *(text for text in texts if text not in parts)]
        imports = [meaning for meaning in set(meanings.values()) if meaning.startswith(("import ", "from "))]
        text = "\n".join([f'"""{self._title}"""', *_grouped(imports), *parts, ""])
        return re.sub(r"\n\n\n+(?= )", "\n\n", re.sub(r"\n{4,}", "\n\n\n", text))

    def _methods_of(self, statement: Statement) -> list[Statement]:
        return [method for method in statement.methods.values() if method in self._kept]

    def _meanings(self, module: Module, kept: list[Statement], flat: str) -> dict[str, str]:
        """What each name that `kept` define or use stands for: its definition's text, or its import line."""
        meanings = {name: one.text.strip() for one in kept for name in one.names}
        using = [*kept, *(method for one in kept for method in self._methods_of(one))]
        for name in {*module.effects, *(name for one in using for name in one.uses)}:
            if name in module.others:
                meanings[name] = module.others[name]
            elif name in module.own:
                path, there = self._origin(*module.own[name])
                called = there if name == there else f"{there} as {name}"
                if self._route.flat_name(path) != flat:
                    meanings[name] = f"from .{self._route.flat_name(path)} import {called}"
                elif name != there:
                    raise ValueError(f"{module.path} imports {called}, and both are in {flat}.py: rename it there.")
        return meanings

    def _origin(self, path: Path, name: str) -> Name:
        """Where a name in `path` is defined, which may be in another file that `path` imports it from."""
        own = self._module(path).own
        return self._origin(*own[name]) if name in own else (path, name)


def _grouped(imports: Iterable[str]) -> list[str]:
    """Sorted import lines, one per module: the standard library first, other packages, relative imports last."""
    taken: dict[str, list[str]] = {}
    for line in sorted(imports):
        head, _, name = line.partition(" import ")
        taken.setdefault(head, []).append(name)
    groups: dict[int, list[str]] = {0: [], 1: [], 2: []}
    for head, names in taken.items():
        package = head.split()[1].partition(".")[0]
        line = f"{head} import {', '.join(names)}" if names[0] else head
        if len(line) > WIDTH:
            line = "\n    ".join([f"{head} import (", *(f"{name}," for name in names)]) + "\n)"
        groups[2 if not package else 0 if package in sys.stdlib_module_names else 1].append(line)
    return [line for group in groups.values() if group for line in ("", *group)]


def _is_for_readers(node: ast.stmt) -> bool:
    """Whether a statement is only for type checkers or `import *` (`if TYPE_CHECKING`, `__all__`)."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
