"""Commands: ``rlaif-ray train | evaluate | report | judge serve | judge check | labels stats | doctor``.

Exit codes: 0 done, 1 failed, 2 wrong usage or config. Every error raised on purpose is one line on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlaif_ray.cli.options import Check, Command, Doctor, Evaluate, Report, Serve, Stats, Train, parse
from rlaif_ray.errors import ConfigError, RlaifError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        return 0 if command is None else _run(command)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RlaifError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1


def _run(command: Command) -> int:
    """Hand over to the command's module; each imports what it needs only when it is called."""
    match command:
        case Train():
            from rlaif_ray.cli.train import train

            return train(command)
        case Evaluate():
            from rlaif_ray.cli.figures import evaluate

            return evaluate(command)
        case Report():
            from rlaif_ray.cli.figures import report

            return report(command)
        case Stats():
            from rlaif_ray.cli.figures import stats

            return stats(command)
        case Serve():
            from rlaif_ray.cli.judge import serve

            return serve(command)
        case Check():
            from rlaif_ray.cli.judge import check

            return check(command)
        case Doctor():
            from rlaif_ray.cli.doctor import doctor

            return doctor(command)
