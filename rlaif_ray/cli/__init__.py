"""Commands: ``rlaif-ray train | sweep | evaluate | label | report | judge ... | labels ... |
reward-model ... | doctor``.

Exit codes: 0 done, 1 failed, 2 wrong usage or config. Every error raised on purpose is one line on standard error.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rlaif_ray.cli.labels_options import Export, Import, Prune, Show
from rlaif_ray.cli.options import (
    Check,
    Command,
    Compare,
    Cost,
    Doctor,
    Evaluate,
    Label,
    Report,
    Serve,
    Stats,
    Sweep,
    Train,
    parse,
)
from rlaif_ray.cli.reward_model_options import Fit, Grade
from rlaif_ray.errors import CheckpointError, ConfigError, JudgeError, RlaifError

__all__ = ["main"]

# What the user can mend before anything runs: a config, a path that is no checkpoint, a judge that isn't there.
WRONG_INPUT = (ConfigError, CheckpointError, JudgeError)
RUN_BY: dict[type[Any], str] = {
    Train: "rlaif_ray.cli.train:train",
    Sweep: "rlaif_ray.cli.sweep:sweep",
    Evaluate: "rlaif_ray.cli.figures:evaluate",
    Report: "rlaif_ray.cli.figures:report",
    Serve: "rlaif_ray.cli.judge:serve",
    Check: "rlaif_ray.cli.judge:check",
    Cost: "rlaif_ray.cli.costs:cost",
    Label: "rlaif_ray.cli.label:label",
    Compare: "rlaif_ray.cli.costs:compare",
    Stats: "rlaif_ray.cli.labels:stats",
    Export: "rlaif_ray.cli.labels:export",
    Import: "rlaif_ray.cli.labels:import_",
    Show: "rlaif_ray.cli.labels:show",
    Prune: "rlaif_ray.cli.labels:prune",
    Fit: "rlaif_ray.cli.reward_model:fit",
    Grade: "rlaif_ray.cli.reward_model:evaluate",
    Doctor: "rlaif_ray.cli.doctor:doctor",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        return 0 if command is None else _run(command)
    except RlaifError as error:
        from rlaif_ray.feedback.quoting import printable

        print(f"error: {printable(str(error))}", file=sys.stderr)  # it may hold what a server said
        return 2 if isinstance(error, WRONG_INPUT) else 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        sys.stderr.close()
        return 1


def _run(command: Command) -> int:
    """Hand over to the command's own function; its module, and all that it needs, is imported only now."""
    module, _, name = RUN_BY[type(command)].partition(":")
    run: Callable[[Command], int] = getattr(importlib.import_module(module), name)
    return run(command)
