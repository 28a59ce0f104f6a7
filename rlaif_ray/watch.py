"""Goodhart watch: does the reward model still promise what the judge gives? A pure state machine.

A policy that is paid by a reward model finds out where that is wrong. Then the model's belief about the policy's
episodes rises, and what the judge says of them does not. The watch compares the two on the same episodes: those asked
about at random, each with the belief of the version that paid it, which had not seen its verdict. It knows nothing
else, the truth least of all: it sees a reward model being gamed, not a judge that is.

The test. Of an audited episode, d = belief - verdict lies in [-1, 1], and a reward model that keeps its promises has
E[d | all before] <= TOLERANCE. For a bet b, e = 1 + b (d - TOLERANCE) then has expectation at most 1, and so has each
product of them: evidence R_t = (R_{t-1} + 1) e_t (Shiryaev-Roberts, over every start of a change) minus t is a
supermartingale, whatever the policy does meanwhile and however often one looks. Hence, by Doob's inequality,
P(evidence reaches ALARM within n audited episodes) <= n / ALARM. Several bets are averaged, which keeps the bound.
Waudby-Smith and Ramdas 2024 (arXiv:2010.09686); Shin, Ramdas and Rinaldo 2024 (arXiv:2203.03532).

The onset. Evidence comes late, so where a gap opened is estimated, in the steps at which the policies were made that
acted the audited episodes: ``onset``.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from rlaif_ray.config import WatchConfig
from rlaif_ray.types import Array

__all__ = ["ALARM", "BETS", "MARGIN", "MOST_ROLLBACKS", "TOLERANCE", "WINDOW", "Alarm", "Audited", "Watch", "onset"]

# Held-out calibration errors of versions that pass the gate are a few hundredths; a policy can live with a tenth.
TOLERANCE = 0.1
# At most one false alarm in so many audited episodes, on average, were every promise broken by all of the tolerance: in
# a run with 400 of them, at most four runs in ten (simulated: two), and none to speak of where promises are kept.
ALARM = 1_000.0
# Shares of the largest bet that no verdict can ruin, 1 / (1 + TOLERANCE): great ones see great gaps soon, small ones
# small gaps at all. A gap of 0.9 is seen after about 15 audited episodes, of 0.5 after 30, of 0.3 after 50.
BETS = np.array([0.2, 0.5, 0.85]) / (1.0 + TOLERANCE)
# An onset is the earliest start with so small a part of the best one's evidence. With none to spare (1) most are too
# late, and a run goes back to a policy that is gamed already; with 5 that is rare, and the training of some 60 audited
# episodes from before the gap is thrown away instead of that of 15, with 10 that of 80. docs/ASKING.md has the figures.
MARGIN = 5.0
HISTORY = 1_000  # audited episodes among which an onset is looked for; a gap that takes more to be seen is a small one
WINDOW = 50  # audited episodes that are shown as "lately"
MOST_ROLLBACKS = 2  # a run that is gamed a third time is gamed by the same policy again: it is stopped


@dataclass(frozen=True)
class Audited:
    """An episode that was asked about at random: what was promised of it, and what the judge gave."""

    step: int  # environment steps of the run when the policy that began it was made, as in a checkpoint of that policy
    belief: float  # of the version that paid it, at its end
    verdict: float


@dataclass(frozen=True)
class Alarm:
    """Evidence that promises are broken. Means are of audited episodes: before the onset, and since."""

    step: int  # environment steps when it was raised
    since: int  # steps at which the earliest policy was made that may have been gamed: ``onset``
    audited: int  # episodes since then
    belief: float
    verdict: float
    belief_before: float  # nan: none were audited before
    verdict_before: float
    evidence: float

    def __str__(self) -> str:
        return (
            f"step {self.step:,}: since step {self.since:,} the reward model has promised {self.belief:.0%} and the "
            f"judge approved {self.verdict:.0%} of {self.audited} episodes asked about at random"
        )


def onset(gap_N: Array, margin: float) -> int:
    """Index of the earliest episode with which promises may have begun to be broken.

    Of the middle bet, let S_k = sum of log e_i over i < k. A change at k has evidence exp(S_N - S_k), the likelihood
    ratio of the bet, which is greatest at the minimum of S: the maximum-likelihood change point of a cumulative sum
    (Page 1954; Hinkley 1971). Given back is the first k of the set exp(S_k - min S) <= margin: of the starts that have
    at least 1 / margin of the best one's evidence (confidence sets by likelihood ratio: Siegmund 1988). What has left
    the set never comes back, so that an onset moves forward only as episodes are added.

    Args:
        gap_N: belief - verdict in [-1, 1] of one audited episode or more, in the order in which they were acted.
        margin: at least 1, which gives the maximum-likelihood change point itself.
    """
    log_e = np.log1p(BETS[len(BETS) // 2] * (gap_N - TOLERANCE))
    before = np.concatenate([[0.0], np.cumsum(log_e)[:-1]])
    return int(np.argmax(before <= before.min() + np.log(margin)))


class Watch:
    """Takes audited episodes as they come; ``alarms`` are all that were raised."""

    def __init__(self, config: WatchConfig) -> None:
        self.config = config
        self.alarms: list[Alarm] = []
        self.rollbacks = 0
        self._heeded = 0  # alarms that something was done about
        self.stopped = False  # the run is to end
        self.audited = 0
        self._evidence = np.zeros(len(BETS))
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._heard: deque[Audited] = deque(maxlen=HISTORY)  # since the last alarm

    def take(self, audited: Iterable[Audited], step: int) -> Alarm | None:
        """Audited episodes whose verdicts came by this step; an alarm if they raise one."""
        raised = None
        for one in audited:
            self.audited += 1
            self._recent.append((one.belief, one.verdict))
            self._heard.append(one)
            factor = 1.0 + BETS * (one.belief - one.verdict - TOLERANCE)
            self._evidence = (self._evidence + 1.0) * factor
            if self.evidence >= ALARM:
                raised = self._raise(step)
        return raised

    @property
    def evidence(self) -> float:
        return float(self._evidence.mean())

    def _parted(self) -> tuple[list[Audited], list[Audited]]:
        """What was heard since the last alarm, as it was acted: before the present estimate of the onset, and since."""
        heard = sorted(self._heard, key=lambda one: one.step)
        k = onset(np.array([one.belief - one.verdict for one in heard]), MARGIN) if heard else 0
        return heard[:k], heard[k:]

    def _raise(self, step: int) -> Alarm:
        """Note an alarm, and begin anew: the next one needs evidence of its own."""
        before, since = self._parted()
        belief, verdict = _means(since)
        belief_before, verdict_before = _means(before)
        alarm = Alarm(
            step=step,
            since=since[0].step,
            audited=len(since),
            belief=belief,
            verdict=verdict,
            belief_before=belief_before,
            verdict_before=verdict_before,
            evidence=self.evidence,
        )
        self.alarms.append(alarm)
        self.stopped |= self.config.action == "stop"
        self._evidence = np.zeros(len(BETS))
        self._heard.clear()
        return alarm

    # ------------------------------------------------------------------------------------------ going back

    @property
    def onset(self) -> int | None:
        """Steps up to which a checkpoint would still be good, were there an alarm now; 0: nothing was audited yet.
        None: no checkpoint is ever gone back to."""
        if self.config.action != "rollback":
            return None
        _, since = self._parted()
        return since[0].step if since else 0

    @property
    def to_go_back_to(self) -> int | None:
        """Steps up to which a checkpoint is still good; None: there is no need for one."""
        if self.config.action != "rollback" or self.stopped or len(self.alarms) <= self._heeded:
            return None
        return self.alarms[-1].since

    def gone_back(self, before: Mapping[str, Any]) -> None:
        """The run has gone back to an earlier state; what was noted of the alarm stays. ``before``: ``state()`` of the
        moment it left."""
        self.alarms = [Alarm(**one) for one in before["alarms"]]
        self.rollbacks, self._heeded = before["rollbacks"] + 1, len(self.alarms)

    def give_up(self) -> None:
        """There is nowhere to go back to, or it was done often enough: end the run."""
        self.stopped = True

    # ------------------------------------------------------------------------------------------ look, go on

    def figures(self) -> dict[str, float]:
        """Of now: evidence (alarm at ``ALARM``), and means of the last ``WINDOW`` audited episodes, nan before any."""
        recent = np.array(self._recent) if self._recent else np.full((1, 2), np.nan)
        belief, verdict = recent.mean(0).tolist()
        return {
            "audited": float(self.audited),
            "evidence": self.evidence,
            "belief": belief,
            "verdict": verdict,
            "alarms": float(len(self.alarms)),
        }

    def summary(self) -> dict[str, Any]:
        """For a run's summary."""
        alarms = [asdict(alarm) for alarm in self.alarms]
        return {**self.figures(), "action": self.config.action, "rollbacks": self.rollbacks, "raised": alarms}

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        kept = ("rollbacks", "_heeded", "stopped", "audited", "_evidence", "_recent", "_heard")
        alarms = [asdict(alarm) for alarm in self.alarms]
        return copy.deepcopy({name: getattr(self, name) for name in kept}) | {"alarms": alarms}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``; nothing is restored from older checkpoints, which have none."""
        state = copy.deepcopy(_with_steps(state))
        for name, value in state.items():
            setattr(self, name, value)
        self.alarms = [Alarm(**one) for one in state.get("alarms", ())]


def _with_steps(state: Mapping[str, Any]) -> dict[str, Any]:
    """Older checkpoints don't say when an episode was acted, and hold the latest only: those heard since the last
    alarm are put where suspicion was taken to begin."""
    known = dict(state)
    if "_began" not in known:
        return known
    heard = int(known.pop("_before")[0] + known.pop("_since")[0])
    began, _ = known.pop("_began"), known.pop("_excursion")
    recent = list(known["_recent"])[-heard:] if heard else []
    return known | {"_heard": deque((Audited(began, *pair) for pair in recent), maxlen=HISTORY)}


def _means(audited: list[Audited]) -> tuple[float, float]:
    """Of beliefs and of verdicts; nan for none."""
    if not audited:
        return math.nan, math.nan
    return fmean(one.belief for one in audited), fmean(one.verdict for one in audited)
