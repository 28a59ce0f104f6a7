"""The Homegrid study, in shards.

    scripts/reproduce/homegrid plan --measure            # minutes of each arm; which fit into 12 hours
    scripts/reproduce/homegrid run --hours 2             # the next unfinished ones; the same command goes on
    scripts/reproduce/homegrid run --arm online --seeds 0 1
    scripts/reproduce/homegrid run --jobs 2              # two at a time, each on one thread; their minutes don't count
    scripts/reproduce/homegrid report                    # docs/STUDY.md and every figure, from the stored results
    scripts/reproduce/homegrid figure cost-quality       # one figure

Results are one small JSON file a run, in benchmarks/study. --smoke runs the same chain in seconds a step, in a folder
of its own that no report of the study reads.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from homegrid_study.arms import Layout, Step, chosen, steps_of
from homegrid_study.hours import HOURS, Planned, measure_speeds, plan, planned, write_plan
from rlaif_ray.errors import RlaifError


def main() -> int:
    options = parse()
    layout = Layout.of(smoke=options.smoke, folder=options.folder)
    try:
        return int(COMMANDS[options.command](options, layout))
    except RlaifError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("figure", nargs="?", default="", help="of `figure`: its name; none: all")
    parser.add_argument("--arm", nargs="+", default=[], help="of `run`: arms, files of tune_configs/study, or keys")
    parser.add_argument("--seeds", nargs="+", type=int, default=[], help="of `run`")
    parser.add_argument("--hours", type=float, default=HOURS, help="of `run` and `plan`: at most so many (12)")
    parser.add_argument("--jobs", type=int, default=1, help="of `run`: so many at a time, each on one thread (1)")
    parser.add_argument("--measure", action="store_true", help="of `plan`: measure steps a second first")
    parser.add_argument("--smoke", action="store_true", help="a minute's chain that never enters the study")
    parser.add_argument("--folder", type=Path, default=None, help="of a smoke run")
    options = parser.parse_args()
    if options.hours <= 0:
        parser.error(f"--hours: got {options.hours:g}, allowed are numbers above 0")
    if options.jobs < 1:
        parser.error(f"--jobs: got {options.jobs}, allowed are 1 and up")
    if options.folder is not None and not options.smoke:
        parser.error("--folder: goes with --smoke; the study's own places are fixed")
    return options


def do_plan(options: argparse.Namespace, layout: Layout) -> int:
    """Minutes by arm, and what fits."""
    if options.measure:
        measure_speeds(layout)
    rows = plan(steps_of(layout), layout, options.hours)
    write_plan(rows, layout, options.hours)
    for line in by_arm(rows):
        print(line)
    print(f"written: {layout.plan}")
    return 0


def by_arm(rows: tuple[Planned, ...]) -> list[str]:
    """One line an arm, and the sum."""
    lines, total = [], 0.0
    names = list(dict.fromkeys((row.key.partition("/")[0], row.arm) for row in rows))
    for study, arm in names:
        some = [row for row in rows if row.key.startswith(f"{study}/") and row.arm == arm]
        fitting = [row for row in some if row.fits]
        total += sum(row.minutes for row in fitting)
        done = sum(row.finished for row in some)
        lines.append(f"{study + '/' + arm:34} {len(fitting)} of {len(some)} seeds fit, {done} done, "
                     f"{some[0].minutes:6.1f} min each ({some[0].basis})")  # fmt: skip
    return [*lines, f"{total / 60:.1f} hours in all"]


def do_run(options: argparse.Namespace, layout: Layout) -> int:
    """The next unfinished steps, until the time is up; 1 where one failed."""
    from homegrid_study.shards import run_shard

    steps = steps_of(layout)
    wanted = chosen(steps, options.arm, options.seeds)
    if not options.arm and layout.plan.is_file():
        wanted = planned(wanted, layout)
    done = run_shard(wanted, layout, options.hours, lambda line: print(line, flush=True), options.jobs)
    print(f"{len(done['finished'])} finished, {len(done['failed'])} failed, {len(done['left'])} left")
    return 1 if done["failed"] else 0


def do_status(options: argparse.Namespace, layout: Layout) -> int:
    """One line a step."""
    for step in steps_of(layout):
        print(f"{standing(step):20} {step.key}")
    return 0


def standing(step: Step) -> str:
    """In words."""
    if step.finished:
        return "finished"
    if step.stored is not None:
        return "of other settings"
    return "begun" if step.folder.exists() else "-"


def do_report(options: argparse.Namespace, layout: Layout) -> int:
    """STUDY.md and its figures."""
    from homegrid_study.page import write_page

    print(f"written: {write_page(layout)}")
    return 0


def do_figure(options: argparse.Namespace, layout: Layout) -> int:
    """One figure, or all."""
    from homegrid_study.figures import write_figures

    for path in write_figures(layout, options.figure):
        print(f"written: {path}")
    return 0


COMMANDS = {"plan": do_plan, "run": do_run, "report": do_report, "figure": do_figure, "status": do_status}

if __name__ == "__main__":
    raise SystemExit(main())
