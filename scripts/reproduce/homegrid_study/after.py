"""What comes after a step's own process: its evaluations, or the audit, written down as its result.

    python -m homegrid_study.after KEY --settings DIGEST [--smoke --folder FOLDER]

A process of its own: steps that run side by side are measured side by side, and one that is killed touches no other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from homegrid_study.arms import AUDITED, Layout, Step, steps_of
from homegrid_study.measure import measured, tidy, write_result
from homegrid_study.processes import CHANGED, ends_with_parent
from homegrid_study.settings import digest
from homegrid_study.shards import Clock

__all__ = ["write_down"]


def write_down(step: Step) -> None:
    """The result, last of all; then checkpoints that nobody will look at again go."""
    clock = Clock.of(step)
    if step.kind == "audit":
        from homegrid_study.rewards import audit

        found = audit(step)
    else:
        found = measured(step, clock.seconds, clock.jobs)
    write_result(step, found | Clock.of(step).figures)  # whoever began this process has gone on counting
    if step.kind != "audit" and step.study != AUDITED:  # whose policies of all ages are audited, if need be again
        tidy(step.folder)


if __name__ == "__main__":
    ends_with_parent()
    parser = argparse.ArgumentParser()
    parser.add_argument("key")
    parser.add_argument("--settings", required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    layout = Layout.of(smoke=options.smoke, folder=options.folder)
    found = next((step for step in steps_of(layout) if step.key == options.key), None)
    if found is None or digest(found.settings) != options.settings:
        sys.exit(CHANGED)
    write_down(found)
