"""The house: an import never goes up a floor, what must stay light is, and files and functions stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOUSE = ("conf", "actors", "rl", "deployments", "benchmarks")
OURS = (*HOUSE, "main", "tests")
HEAVY = ("torch", "ray", "vllm", "transformers", "verl", "tensordict", "datasets")
MAX_FUNCTION, MAX_FILE = 60, 400

# What a room may import of ours, the most special room first. Every file is in the first room that fits it.
ROOMS = {
    "conf": ("conf",),
    "actors.messages": (),
    "actors.sandbox": ("conf", "actors.messages", "actors.sandbox"),
    "actors.checkers": ("conf", "actors.messages", "actors.sandbox", "actors.checkers"),
    "actors.engine": ("conf", "actors.messages", "actors.engine"),
    "actors": ("conf", "actors"),
    "rl": ("conf", "actors", "rl"),
    "deployments": ("conf", "actors", "deployments"),
    "main": ("conf", "actors", "rl", "deployments"),
    "benchmarks": ("conf", "actors", "rl", "deployments", "benchmarks"),
}
# Plug-ins of verl and of vLLM, imported by or just before these.
HEAVY_AT_IMPORT = ("actors.verl_cpu", "actors.engine.cpu_kernels")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def nodes(path: Path, kinds: tuple[type, ...]) -> list[ast.AST]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, kinds)]


IMPORTS = (ast.Import, ast.ImportFrom)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


FILES = [ROOT / "main.py", *(p for folder in HOUSE for p in sorted((ROOT / folder).rglob("*.py")))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def imported(node: ast.stmt, package: str) -> list[str]:
    """The modules that an import statement of a module in `package` names; `from a import b` may name a.b too."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    return [base, *(f"{base}.{alias.name}" for alias in node.names if _is_module(f"{base}.{alias.name}"))]


@cache
def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imports(path: Path, everywhere: bool = True) -> Iterator[tuple[int, str]]:
    """(line, module) of each import of a file; of those at its top level only unless `everywhere`."""
    name = module_of(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in nodes(path, IMPORTS) if everywhere else at_import(tree(path).body):
        if isinstance(node, IMPORTS):
            yield from ((node.lineno, module) for module in imported(node, package))


def at_import(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported: its own and those of its classes, ifs and tries."""
    for node in body:
        yield node
        if isinstance(node, FUNCTIONS) or _is_type_checking(node):
            continue
        for name in ("body", "orelse", "finalbody"):
            yield from at_import(getattr(node, name, []))
        for handler in getattr(node, "handlers", []):
            yield from at_import(handler.body)


def _is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def within(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms)


def shown(path: Path, line: int, module: str) -> str:
    return f"{path.relative_to(ROOT)}:{line} imports {module}"


# --- floors -------------------------------------------------------------------------------------------------------


def climbs(path: Path, room: str) -> list[str]:
    """The imports of ours that a file of `room` must not have. A package itself, as `actors`, holds nothing."""
    return [shown(path, line, module) for line, module in imports(path)
            if within(module, OURS) and not within(module, ROOMS[room])
            and not any(other.startswith(module + ".") for other in ROOMS[room])]


def room_of(path: Path) -> str:
    return next(room for room in ROOMS if within(module_of(path), (room,)))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_never_go_up_a_floor(room):
    files = [path for path in FILES if room_of(path) == room]
    assert files or room == "deployments"
    assert [found for path in files for found in climbs(path, room)] == []


def test_a_climb_is_noticed(tmp_path, monkeypatch):
    """The rule itself: each of these four breaks it, the fifth and sixth do not."""
    path = ROOT / "actors" / "checkers" / "none.py"
    source = ("import rl.trainer\nfrom actors import verifier\ndef f():\n    from .. import rollout\n"
              "    import main\n    import actors.messages\nfrom actors.checkers import wire\n"
              "from actors import messages")
    monkeypatch.setitem(globals(), "tree", lambda _: ast.parse(source))
    assert [found.rpartition(" ")[2] for found in climbs(path, "actors.checkers")] == [
        "rl.trainer", "actors.verifier", "actors.rollout", "main"]
    assert [module for _, module in imports(path, everywhere=False)] == [
        "rl.trainer", "actors", "actors.verifier", "actors.checkers", "actors.checkers.wire", "actors",
        "actors.messages"]


@pytest.mark.parametrize("room", ["actors.messages", "actors.checkers", "actors.sandbox", "conf"])
def test_what_must_run_without_ray_never_imports_it(room):
    files = [path for path in FILES if within(module_of(path), (room,))]
    assert [shown(p, *found) for p in files for found in imports(p) if within(found[1], ("ray",))] == []


def test_no_module_is_heavy_to_import():
    files, heavy = [path for path in FILES if module_of(path) not in HEAVY_AT_IMPORT], HEAVY + HEAVY_AT_IMPORT
    assert [shown(p, *found) for p in files for found in imports(p, everywhere=False) if within(found[1], heavy)] == []


# --- sizes --------------------------------------------------------------------------------------------------------


def test_functions_are_short():
    long = [f"{path.relative_to(ROOT)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
            for path in FILES + TESTS for node in nodes(path, FUNCTIONS)
            if node.end_lineno - node.lineno >= MAX_FUNCTION]
    assert long == []


def test_files_are_short():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
               for path in FILES + TESTS}
    assert {name: count for name, count in lengths.items() if count > MAX_FILE} == {}
