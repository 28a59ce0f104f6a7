#!/usr/bin/env python
"""Where the Goodhart watch's rollback goes, and how often it cries wolf, on made-up verdicts: no run, no judge.

    python scripts/bench/onset.py [--runs 200] [--margins 5] [--seed 0]            # --margins 1 3 5 10: why it is 5

Rollback. Beliefs are drawn from Beta(9, 1); verdicts keep what they promise, or fall short of it by as much as a case
says, until after 80 iterations a gap opens, at once or along a line. Four episodes are audited in each iteration; their
verdicts come 8 iterations late and more (exponential, mean 2), so that they overtake each other. Checkpoints are
written every so many iterations, and kept as by a run with the default ``run.keep_checkpoints``, beside the one at the
beginning: the end of the task phase. Told of runs with an alarm after the change, which is where the gap passes the
watch's tolerance:

    alarm      iterations after the change, median
    late       alarms whose ``since`` is not before the change
    gamed      runs led back to a policy of after the change
    start      runs led back to the beginning, as nothing else from before ``since`` was kept
    lost       iterations before the change that are thrown away, median and 90th percentile
    kept       most checkpoints at a time

False alarms. Of runs with so many audited episodes and the same gap all the time: the share with an alarm.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, dataclass

import numpy as np

from rlaif_ray import watch
from rlaif_ray.checkpoints import around
from rlaif_ray.config import RunConfig, WatchConfig
from rlaif_ray.watch import ALARM, MARGIN, TOLERANCE, Audited, Watch

AUDITED = 4  # an iteration: about what 500 labels are over the 146 iterations of benchmarks/goodhart.json
LATE, SPREAD = 8, 2.0  # iterations
BEFORE, MOST = 80, 400  # iterations before the change, and until a run is given up
SPACINGS = (1, 10)  # iterations between checkpoints
KEEP = RunConfig().keep_checkpoints
GAPS = (0.0, 0.05, TOLERANCE)  # that raise no alarm that is a true one
LENGTHS = (100, 400)  # audited episodes


@dataclass(frozen=True)
class Case:
    """How a gap opens: by so much, over so many iterations, from what there was before."""

    name: str
    gap: float
    over: int = 1
    before: float = 0.0

    def at(self, iteration: int) -> float:
        since = iteration - BEFORE + 1
        return self.before if since <= 0 else max(self.before, self.gap * min(1.0, since / self.over))

    @property
    def change(self) -> int:
        return next(i for i in range(BEFORE, BEFORE + self.over) if self.at(i) > TOLERANCE)


CASES = (
    Case("0.2 at once", 0.2),
    Case("0.3 at once", 0.3),
    Case("0.5 at once", 0.5),
    Case("0.8 at once", 0.8),
    Case("0.3, from 0.05", 0.3, before=0.05),
    Case("0.5 over 25", 0.5, over=25),
    Case("0.5 over 100", 0.5, over=100),
)


@dataclass(frozen=True)
class Led:
    """A run that was led back, in iterations."""

    alarm: int
    since: int
    target: int
    kept: int  # most checkpoints at a time


def led_back(case: Case, spacing: int, seed: int) -> Led | None:
    """None: no alarm, or one before the change."""
    rng, looking = np.random.default_rng(seed), Watch(WatchConfig(action="rollback"))
    under_way: list[tuple[int, Audited]] = []
    checkpoints, most = [0], 1
    for i in range(BEFORE + MOST):
        under_way += [(i + LATE + int(rng.exponential(SPREAD)), one) for one in audits(rng, case.at(i), AUDITED, i)]
        come = [one for at, one in under_way if at <= i]
        under_way = [(at, one) for at, one in under_way if at > i]
        if looking.take(come, i):
            since = looking.alarms[0].since
            target = max(at for at in checkpoints if at <= since)
            return Led(i, since, target, most) if i >= case.change else None
        if (i + 1) % spacing == 0:
            checkpoints.append(i + 1)  # its policy acts in the next iteration
            kept = {0, *checkpoints[-KEEP:], *around(checkpoints, looking.onset or 0)}
            checkpoints, most = sorted(kept), max(most, len(kept))
    return None


def audits(rng: np.random.Generator, gap: float, count: int, step: int) -> list[Audited]:
    belief = rng.beta(9, 1, count)
    verdict = (rng.random(count) < np.clip(belief - gap, 0.0, 1.0)).astype(float)
    return [Audited(step, *both) for both in zip(belief.tolist(), verdict.tolist(), strict=True)]


def row(case: Case, spacing: int, seeds: range) -> str:
    found = [led for seed in seeds if (led := led_back(case, spacing, seed))]
    if not found:
        return f"{case.name:15} {spacing:7}   no alarm"
    alarm, since, target, kept = np.array([astuple(led) for led in found]).T
    lost = case.change - target
    return (
        f"{case.name:15} {spacing:7} {len(found):5} {np.median(alarm - case.change):6.0f} "
        f"{np.mean(since >= case.change):6.0%} {np.mean(target >= case.change):6.0%} {np.mean(target == 0):6.0%} "
        f"{np.median(lost):6.0f} {np.quantile(lost, 0.9):4.0f} {max(kept):5}"
    )


def cries_wolf(gap: float, length: int, seed: int) -> bool:
    looking = Watch(WatchConfig())
    return looking.take(audits(np.random.default_rng(seed), gap, length, 0), 0) is not None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="of each kind; of false alarms five times as many")
    parser.add_argument("--margins", type=float, nargs="+", default=[MARGIN])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    for margin in options.margins:
        watch.MARGIN = margin
        print(f"margin {margin:g}\ngap             every    runs  alarm   late  gamed  start   lost  90%  kept")
        for case in CASES:
            for spacing in SPACINGS:
                print(row(case, spacing, seeds), flush=True)
    many = range(options.seed, options.seed + 5 * options.runs)
    for length in LENGTHS:
        shares = ", ".join(f"{np.mean([cries_wolf(gap, length, s) for s in many]):.1%} at {gap:g}" for gap in GAPS)
        print(f"false alarms in {length} audited episodes (bound {length / ALARM:.0%}): {shares}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
