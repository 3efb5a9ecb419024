"""Which code of the package another piece of code uses, definition by definition.

A notebook is to run again when code that it uses has changed, and only then: a changed figure of
another notebook must not train the detector again. So the package's files are taken apart into their
definitions (a function, a class, a constant), and those that a notebook reaches are followed through
imports, also through the re-exports of a room's `__init__.py`. Where a use cannot be told, such as a
module that is handed on as a value, the whole module counts. A module counts whole as well where a
text names it, since that is how a child process is started (`python -m cxr.dicom.isolated_child`), and
so does a file beside a module that a text names (a template). Comments and docstrings do not count.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from cxr.files import sha256

PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the package."""

_Target = tuple[str, str]  # module, and the name in it; "" for the module itself


def used_code(source: Path, package: Path = PACKAGE) -> dict[str, str]:
    """The definitions of the package that a file's code reaches.

    Args:
        source: A Python file: a notebook's text, or a module of the package.
        package: Folder of the package.

    Returns:
        Text of each definition by module and name, such as `cxr.plots.images:gallery`; statements that
        define nothing stand as `:run on import`, and of other files it is the content's hash.
    """
    source, name = source.resolve(), source.stem
    if source.is_relative_to(package):
        name = ".".join((package.name, *source.relative_to(package).with_suffix("").parts))
    search = _Search(package)
    search.take_all(_parse(source, name))
    search.follow_all()
    return search.found


def code_digest(source: Path, package: Path = PACKAGE) -> str:
    """Hash of the package's code that a file's code reaches, see `used_code`."""
    lines = (f"{name}\n{text}" for name, text in sorted(used_code(source, package).items()))
    return hashlib.sha256("\n\n".join(lines).encode()).hexdigest()


class _Module:
    """One file: its definitions, its imports, and what it does on being imported."""

    def __init__(self, path: Path, name: str, tree: ast.Module) -> None:
        self.path, self.name = path, name
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.on_import: list[ast.stmt] = []
        self.imports: dict[str, set[_Target]] = {}
        home = name if path.stem == "__init__" else name.rpartition(".")[0]
        for node in ast.walk(tree):
            for bound, target in _imported(node, home):
                self.imports.setdefault(bound, set()).add(target)
        for statement in tree.body:
            if isinstance(statement, ast.Import | ast.ImportFrom) or _is_text(statement):
                continue
            bound_names = _bound_names(statement)
            for bound in bound_names:
                self.definitions.setdefault(bound, []).append(statement)
            plain = ast.FunctionDef | ast.ClassDef | ast.Assign | ast.AnnAssign
            if not bound_names or not isinstance(statement, plain) or bound_names == {"_"}:
                self.on_import.append(statement)
        self.uses = {id(s): tuple(_uses(s)) for s in tree.body}
        used = {name for uses in self.uses.values() for name, _ in uses}
        self._texts: dict[int, str] = {}
        self.unused = set() if path.stem == "__init__" else set(self.imports) - used - {"annotations"}

    def text(self, statements: list[ast.stmt]) -> str:
        """Code of some statements without comments, docstrings and layout."""
        for statement in statements:
            if id(statement) not in self._texts:
                self._texts[id(statement)] = ast.unparse(_Bare().visit(copy.deepcopy(statement)))
        return "\n".join(self._texts[id(statement)] for statement in statements)


class _Search:
    """Follows uses from definition to definition."""

    def __init__(self, package: Path) -> None:
        self.package = package
        self.found: dict[str, str] = {}
        self._seen: set[tuple[str, str]] = set()
        self._waiting: list[tuple[_Module, ast.stmt]] = []

    def follow_all(self) -> None:
        """Go on until nothing new is found."""
        while self._waiting:
            self._follow(*self._waiting.pop())

    def take_all(self, module: _Module) -> None:
        """All of a module."""
        self._touch(module)
        for name in module.definitions:
            self._take(module, name)
        if module.path.stem != "__init__":
            for targets in module.imports.values():
                for target in targets:
                    if target[1] == "*":
                        self._whole(target[0])

    def _take(self, module: _Module, name: str) -> None:
        if (module.name, name) in self._seen:
            return
        self._seen.add((module.name, name))
        self._touch(module)
        statements = module.definitions[name]
        self._note(module, name, statements)
        self._waiting += [(module, statement) for statement in statements]

    def _touch(self, module: _Module) -> None:
        """What happens when a module is imported, whatever is used of it."""
        if (module.name, "") in self._seen:
            return
        self._seen.add((module.name, ""))
        if module.on_import:
            self._note(module, "run on import", module.on_import)
        self._waiting += [(module, statement) for statement in module.on_import]
        for name in module.unused:  # imported for what its import does
            for target, member in module.imports[name]:
                inner = f"{target}.{member}"
                self._whole(inner if self._module(inner) else target)

    def _note(self, module: _Module, name: str, statements: list[ast.stmt]) -> None:
        if module.name.startswith(self.package.name):
            self.found[f"{module.name}:{name}"] = module.text(statements)

    def _follow(self, module: _Module, statement: ast.stmt) -> None:
        for name, attributes in module.uses[id(statement)]:
            for target in module.imports.get(name, ()):
                self._resolve(target, attributes)
            if name in module.definitions:
                self._take(module, name)
        for node in ast.walk(statement):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                self._named_in_text(module, node.value)

    def _resolve(self, target: _Target, attributes: tuple[str, ...]) -> None:
        name, member = target
        if self._module(name) is None:  # another package
            return
        if member:
            attributes = (member, *attributes)
        if not attributes or attributes[0] == "*":
            self._whole(name)
            return
        module, first = self._module(name), attributes[0]
        assert module is not None
        if first in module.definitions:
            self._take(module, first)
        elif first in module.imports:
            self._touch(module)
            for onward in module.imports[first]:
                self._resolve(onward, attributes[1:])
        elif self._module(f"{name}.{first}") is not None:
            self._resolve((f"{name}.{first}", ""), attributes[1:])
        else:
            self._whole(name)

    def _whole(self, name: str) -> None:
        module = self._module(name)
        if module is not None and (name, "*") not in self._seen:
            self._seen.add((name, "*"))
            self.take_all(module)

    def _named_in_text(self, module: _Module, text: str) -> None:
        if len(text) > 100 or not re.fullmatch(r"[\w.-]*\w", text):
            return
        if text.startswith(f"{self.package.name}."):
            self._whole(text)
        if not module.name.startswith(f"{self.package.name}."):
            return  # a notebook's neighbours are no part of the package
        beside = module.path.with_name(f"{module.path.stem}{text}" if text.startswith(".") else text)
        if beside != module.path and beside.is_file():
            if beside.suffix == ".py":
                self._whole(f"{module.name.rpartition('.')[0]}.{beside.stem}")
            else:
                self.found[f"{module.name}:{beside.name}"] = sha256(beside)

    def _module(self, name: str) -> _Module | None:
        first, *rest = name.split(".")
        if first != self.package.name or not all(part.isidentifier() for part in rest):
            return None
        base = self.package.joinpath(*rest)
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                return _parse(path, name)
        return None


def _parse(path: Path, name: str) -> _Module:
    status = path.stat()
    return _parse_once(path, name, status.st_mtime_ns, status.st_size)


@cache
def _parse_once(path: Path, name: str, mtime_ns: int, size: int) -> _Module:
    """A module as it was at that time; parsing the package takes a second, and eight notebooks use it."""
    return _Module(path, name, ast.parse(path.read_text(encoding="utf-8"), filename=str(path)))


def _imported(node: ast.AST, home: str) -> Iterator[tuple[str, _Target]]:
    """Names that an import statement binds, each with what it stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield (
                (alias.asname, (alias.name, ""))
                if alias.asname
                else (
                    alias.name.split(".")[0],
                    (alias.name.split(".")[0], ""),
                )
            )
    elif isinstance(node, ast.ImportFrom):
        name = node.module or ""
        if node.level:
            name = importlib.util.resolve_name("." * node.level + name, home)
        for alias in node.names:
            yield alias.asname or alias.name, (name, alias.name)


def _bound_names(statement: ast.stmt) -> set[str]:
    """Names that a statement at a module's top gives a value to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def _uses(statement: ast.stmt) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names that a statement uses, each with the attributes asked of it: `a.b.c` is `a` with `b, c`."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        attributes: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            attributes.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            yield inner.id, tuple(reversed(attributes))
        else:
            waiting.extend(ast.iter_child_nodes(inner))


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, of a module or behind a constant."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


class _Bare(ast.NodeTransformer):
    """Takes the docstrings out."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Leave texts that stand alone out of every body."""
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)] or [ast.Pass()]  # type: ignore[attr-defined]
        return super().generic_visit(node)
