"""What programs do, for telling which of them are the same answer where no ground truth is known.

A program is run on the inputs of the question's own examples (examples.py), which it must get right, and on inputs
derived from them: the examples with a value changed, or a palette of plain values where there is no example. Two
programs are alike if they agree wherever most programs that are not known to be wrong give a result at all: inputs
that most of them refuse, or types that fewer of them take than others, are not what the question means. All of it runs
in the sandbox.
"""

from __future__ import annotations

import ast
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.checkers.examples import CallTest, ProgramTest, PublicTest
from actors.checkers.plain import encode, same, same_output
from actors.checkers.tools import Tools
from actors.sandbox.result import RunResult

MAX_PROBES = 48  # calls, which share one process
MAX_RUNS = 3  # stdin inputs beyond the examples: each is a process
MAX_PROGRAM = 200_000  # characters
TAKEN = 0.8  # of the results that the best taken types of arguments have: fewer, and the types are not meant

_PALETTE: tuple[tuple[Any, ...], ...] = (
    (0, 1, 2, 7, 12, 31, -3),
    ([], [4], [3, 1, 2], [5, -2, 8, 8, 0, 31, 12], [1, 2, 3, 4]),
    ("", "a", "abc", "Level noon", "3 1 2"),
)


Input = tuple[str, str]
Outcome = tuple[str, Any]


@dataclass(frozen=True)
class Behaviour:
    """What one program did. `passed`: the question's examples (None: there are none, or that is not known).

    `outcomes` maps an input (the types of its arguments, its text) to ("value", encoded), ("printed", text) or
    ("error", kind); what hung has none. `form` is the program without its layout and comments.
    """

    form: str
    passed: bool | None = None
    reason: str = ""
    outcomes: Mapping[Input, Outcome] = field(default_factory=dict)


def form_of(program: str) -> str:
    """The syntax tree as text: equal for programs that differ in layout and comments. Raises SyntaxError."""
    if len(program) > MAX_PROGRAM:
        raise SyntaxError(f"program longer than {MAX_PROGRAM} characters")
    try:
        return ast.dump(ast.parse(program))
    except (ValueError, MemoryError, RecursionError) as failure:  # NULs, lone surrogates, nesting
        raise SyntaxError(str(failure) or type(failure).__name__) from failure


def observe(
    program: str,
    tests: Sequence[PublicTest],
    function: str | None,
    tools: Tools,
    budget_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> Behaviour:
    """Run a program on the examples and the derived inputs within `budget_s` seconds of wall-clock time.

    `function` is the one that the question names. What the sandbox fails at leaves `passed` None: not known.
    """
    try:
        form = form_of(program)
    except SyntaxError as failure:
        return Behaviour(program, False, f"SyntaxError: {failure}"[:200])
    called = [test for test in tests if isinstance(test, CallTest)]
    read = [test for test in tests if isinstance(test, ProgramTest)]
    target = None if read and not called else _target(program, called, function)
    try:
        if target is None:
            return _as_program(Behaviour(form), program, read, tools, clock() + budget_s, clock)
        return _as_function(Behaviour(form), program, target, called, tools, budget_s)
    except Exception as failure:  # the sandbox's own: nothing is known of the program
        return Behaviour(form, None, f"not run: {type(failure).__name__}: {failure}"[:300])


def agreement(behaviours: Sequence[Behaviour]) -> Callable[[Behaviour, Behaviour], bool]:
    """When two of these programs are alike: the same form, or the same outcomes on the inputs that count."""
    counted = _meant([b for b in behaviours if b.passed is not False] or behaviours)

    def alike(left: Behaviour, right: Behaviour) -> bool:
        if left.form == right.form:
            return True
        known = any(_has_result(left, key) for key in counted)
        return known and all(_same_outcome(left.outcomes.get(key), right.outcomes.get(key)) for key in counted)

    return alike


def _meant(sound: Sequence[Behaviour]) -> list[Input]:
    """The inputs that most of the programs give a result for, of the types that they take best."""
    results = Counter(key for b in sound for key in b.outcomes if _has_result(b, key))
    tried = Counter(types for types, _ in {key for b in sound for key in b.outcomes})
    share: Counter[str] = Counter()
    for (types, _), count in results.items():
        share[types] += count / tried[types]
    best = max(share.values(), default=0.0)
    return [key for key, count in results.items() if 2 * count > len(sound) and share[key[0]] >= TAKEN * best]


def _has_result(behaviour: Behaviour, key: Input) -> bool:
    return key in behaviour.outcomes and behaviour.outcomes[key][0] != "error"


def _same_outcome(left: Outcome | None, right: Outcome | None) -> bool:
    if left is None or right is None or left[0] != right[0]:
        return left is right
    match left[0]:
        case "value":
            return same(left[1], right[1], strict=False)
        case "printed":
            return same_output(left[1], right[1])
        case _:
            return left[1] == right[1]


# --- functions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """The function to call, and how many arguments it needs."""

    name: str
    arity: int


def _target(program: str, tests: Sequence[CallTest], asked: str | None) -> _Target | None:
    """The examples' function, else the one that the question names, else the program's last one."""
    arities = dict(_functions(ast.parse(program)))
    if tests:
        names = [test.function for test in tests]
        name = max(names, key=names.count)
        return _Target(name, arities.get(name, 1))
    name = asked if asked in arities else next(reversed(arities), None)
    return None if name is None else _Target(name, arities[name])


def _functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(name, arguments without a default) of the functions at the top level, and of Solution's methods before them."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "Solution":
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                    yield method.name, max(0, _required(method) - 1)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, _required(node)


def _required(node: ast.FunctionDef) -> int:
    return len(node.args.posonlyargs) + len(node.args.args) - len(node.args.defaults)


def _as_function(
    empty: Behaviour, program: str, target: _Target, tests: Sequence[CallTest], tools: Tools, budget_s: float
) -> Behaviour:
    """One process makes all the calls, the examples' first: what hangs later costs no example."""
    tests = [test for test in tests if test.function == target.name]
    known = {repr(test.args) for test in tests}
    probes = [args for args in (_changed(tests) if tests else _palette(target.arity)) if repr(args) not in known]
    calls = [test.args for test in tests] + probes[:MAX_PROBES]
    result = tools.run(
        program,
        timeout_s=min(tools.code_timeout_s, budget_s),
        memory_mb=tools.memory_mb,
        output_limit=tools.output_limit,
        function=target.name,
        args=[list(args) for args in calls],
    )
    outcomes: dict[Input, Outcome] = {}
    for index, args in enumerate(calls):
        key = ", ".join(type(value).__name__ for value in args), repr(args)
        if index in result.returned:
            outcomes[key] = ("value", result.returned[index])
        elif index in result.errors:
            outcomes[key] = ("error", result.errors[index].partition(":")[0])
    passed, reason = _judge_calls(tests, result)
    return Behaviour(empty.form, passed, reason, outcomes)


def _judge_calls(tests: Sequence[CallTest], result: RunResult) -> tuple[bool | None, str]:
    """(passed, reason) of the examples, which are the first calls of a run."""
    if not result.returned and not result.errors and result.status == "error" and result.exit_code > 0:
        return False, f"the program fails: {result.last_error}"
    for index, test in enumerate(tests):
        shown = f"{test.function}({', '.join(map(repr, test.args))})"[:100]
        if index in result.errors:
            return False, f"{shown}: {result.errors[index]}"[:300]
        if index not in result.returned:
            return _cut_off(result, shown)
        if not same(encode(test.expected), result.returned[index], strict=False):
            return False, f"{shown} is not {test.expected!r}"[:300]
    return (True, f"{len(tests)} examples passed") if tests else (None, "no examples in the question")


def _cut_off(result: RunResult, shown: str) -> tuple[bool | None, str]:
    """A time-out or a kill may be the machine's fault; any other end without a result is the program's."""
    if result.status == "timeout" or (result.exit_code < 0 and result.status != "output_limit"):
        return None, f"{shown}: not decided in time"
    return False, f"{shown}: {'output limit exceeded' if result.status == 'output_limit' else result.last_error}"


# --- programs -------------------------------------------------------------------------------------------------------


def _as_program(
    empty: Behaviour,
    program: str,
    tests: Sequence[ProgramTest],
    tools: Tools,
    deadline: float,
    clock: Callable[[], float],
) -> Behaviour:
    """A process for each example, then for a few changed ones."""
    outcomes: dict[Input, Outcome] = {}
    passed, reason = (True, f"{len(tests)} examples passed") if tests else (None, "no examples in the question")
    wanted = {test.stdin: test.stdout for test in tests}
    for stdin in [*wanted, *_changed_inputs(tests)]:
        remaining = deadline - clock()
        if remaining <= 0:
            if passed and stdin in wanted:
                passed, reason = None, "an example: not decided in time"
            break
        limits = {"memory_mb": tools.memory_mb, "output_limit": tools.output_limit}
        result = tools.run(program, stdin, timeout_s=min(tools.code_timeout_s, remaining), **limits)
        printed = result.stdout.decode(errors="replace")
        if result.status == "ok" and (printed.strip() or stdin in wanted):  # silence is no result
            outcomes["stdin", stdin] = ("printed", printed)
        elif result.status == "error" and result.exit_code > 0:
            outcomes["stdin", stdin] = ("error", result.last_error.partition(":")[0])
        if passed and stdin in wanted:
            if result.status != "ok":
                passed, reason = _cut_off(result, "an example")
            elif not same_output(wanted[stdin], printed):
                passed, reason = False, f"another output than the example's {wanted[stdin].strip()!r}"[:300]
    return Behaviour(empty.form, passed, reason, outcomes)


# --- derived inputs -------------------------------------------------------------------------------------------------


def _palette(arity: int) -> list[tuple[Any, ...]]:
    """Arguments for a function of which nothing is known: each position takes numbers, lists, and text.

    The kinds are combined for up to two arguments; beyond, all arguments are of one kind.
    """
    if arity == 0:
        return [()]
    kinds = itertools.product(_PALETTE, repeat=arity) if arity <= 2 else ([kind] * arity for kind in _PALETTE)
    columns = [[values[index:] + values[:index] for index, values in enumerate(choice)] for choice in kinds]
    per_kind = MAX_PROBES // len(columns)
    return [args for choice in columns for args in list(zip(*choice, strict=False))[:per_kind]]


def _changed(tests: Sequence[CallTest]) -> list[tuple[Any, ...]]:
    """The examples' arguments with one of them changed, in turn over the examples."""
    streams = [_variants(test.args) for test in tests]
    mixed = (args for row in itertools.zip_longest(*streams) for args in row if args is not None)
    seen = {repr(args): args for args in itertools.islice(mixed, 4 * MAX_PROBES)}
    return list(seen.values())


def _variants(args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    changes = [list(_neighbours(value)) for value in args]
    for row in itertools.zip_longest(*changes):  # the first change of every argument, then the second of every one
        for position, value in enumerate(row):
            if value is not None:
                yield (*args[:position], value, *args[position + 1 :])


def _neighbours(value: Any) -> Iterator[Any]:
    """Values of the same type near a value, the likeliest to be valid first."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, 2 * value + 3, max(0, value - 1), 1)
    elif isinstance(value, float):
        yield from (value + 0.5, 2 * value)
    elif isinstance(value, str):
        yield from (value[::-1], value + value, value[1:], value.swapcase())
    elif isinstance(value, (list, tuple)):
        yield from (value[::-1], value + value, value[1:])
        for position, item in enumerate(value[:2]):
            near = next(_neighbours(item), None)
            if near is not None:
                yield type(value)([*value[:position], near, *value[position + 1 :]])


def _changed_inputs(tests: Sequence[ProgramTest]) -> list[str]:
    """The examples' inputs with a number or a line changed; nothing at all for a program without examples."""
    if not tests:
        return [""]
    changed: list[str] = []
    for test in tests:
        numbers = list(re.finditer(r"(?<![\w.])\d{1,9}(?![\w.])", test.stdin))
        for number in numbers[-1:] + numbers[-2:-1]:
            changed.append(f"{test.stdin[: number.start()]}{int(number.group()) + 1}{test.stdin[number.end() :]}")
        if not numbers:
            changed.append("\n".join(line[::-1] for line in test.stdin.splitlines()) + "\n")
    known = {test.stdin for test in tests}
    return [stdin for stdin in dict.fromkeys(changed) if stdin not in known][:MAX_RUNS]
