"""`python -m rl.report RUN_DIR`: write (again) the report of a run."""

from __future__ import annotations

import sys

from conf.errors import UserError
from rl.report.page import write_report

USAGE = "usage: python -m rl.report RUN_DIR    (for example runs/latest)"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        asked = arguments[:1] in (["-h"], ["--help"])
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        print(write_report(arguments[0]))
    except UserError as error:
        print(f"raythink: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
