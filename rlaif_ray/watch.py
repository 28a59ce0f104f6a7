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
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rlaif_ray.config import WatchConfig

__all__ = ["ALARM", "BETS", "MOST_ROLLBACKS", "TOLERANCE", "WINDOW", "Alarm", "Watch"]

# Held-out calibration errors of versions that pass the gate are a few hundredths; a policy can live with a tenth.
TOLERANCE = 0.1
# At most one false alarm in so many audited episodes, on average, were every promise broken by all of the tolerance; in
# a run with 100 of them, at most one run in ten, and far fewer where promises are kept (e < 1 on average).
ALARM = 1_000.0
# Shares of the largest bet that no verdict can ruin, 1 / (1 + TOLERANCE): great ones see great gaps soon, small ones
# small gaps at all. A gap of 0.9 is seen after about 15 audited episodes, of 0.5 after 30, of 0.3 after 50.
BETS = np.array([0.2, 0.5, 0.85]) / (1.0 + TOLERANCE)
WINDOW = 50  # audited episodes that are shown as "lately"
MOST_ROLLBACKS = 2  # a run that is gamed a third time is gamed by the same policy again: it is stopped


@dataclass(frozen=True)
class Alarm:
    """Evidence that promises are broken. Means are of audited episodes: before the change, and since."""

    step: int  # environment steps when it was raised
    since: int  # steps at which the gap seems to have opened
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
        self._before = np.zeros(3)  # episodes, sum of beliefs, sum of verdicts, before the present suspicion
        self._since = np.zeros(3)
        self._excursion, self._began = 1.0, 0  # evidence of the middle bet alone since it was last at its lowest

    def take(self, pairs: Iterable[tuple[float, float]], step: int) -> Alarm | None:
        """(belief, verdict) of audited episodes whose verdicts came by this step; an alarm if they raise one."""
        raised = None
        for belief, verdict in pairs:
            self.audited += 1
            self._recent.append((belief, verdict))
            factor = 1.0 + BETS * (belief - verdict - TOLERANCE)
            self._evidence = (self._evidence + 1.0) * factor
            self._follow(belief, verdict, float(factor[len(BETS) // 2]), step)
            if self.evidence >= ALARM:
                raised = self._raise(step)
        return raised

    @property
    def evidence(self) -> float:
        return float(self._evidence.mean())

    def _follow(self, belief: float, verdict: float, factor: float, step: int) -> None:
        """Since when there is suspicion: since the last time that a start later would have had more evidence."""
        if self._excursion <= 1.0:
            self._before += self._since
            self._since = np.zeros(3)
            self._excursion, self._began = 1.0, step
        self._since += (1.0, belief, verdict)
        self._excursion *= factor

    def _raise(self, step: int) -> Alarm:
        """Note an alarm, and begin anew: the next one needs evidence of its own."""
        audited, belief, verdict = self._since
        before = self._before / self._before[0] if self._before[0] else np.full(3, np.nan)
        alarm = Alarm(
            step=step,
            since=self._began,
            audited=int(audited),
            belief=float(belief / audited),
            verdict=float(verdict / audited),
            belief_before=float(before[1]),
            verdict_before=float(before[2]),
            evidence=self.evidence,
        )
        self.alarms.append(alarm)
        self.stopped |= self.config.action == "stop"
        self._evidence = np.zeros(len(BETS))
        self._before, self._since = np.zeros(3), np.zeros(3)
        self._excursion = 1.0
        return alarm

    # ------------------------------------------------------------------------------------------ going back

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
        kept = (
            "rollbacks",
            "_heeded",
            "stopped",
            "audited",
            "_evidence",
            "_recent",
            "_before",
            "_since",
            "_excursion",
            "_began",
        )
        alarms = [asdict(alarm) for alarm in self.alarms]
        return copy.deepcopy({name: getattr(self, name) for name in kept}) | {"alarms": alarms}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state()``; nothing is restored from older checkpoints, which have none."""
        for name, value in copy.deepcopy(dict(state)).items():
            setattr(self, name, value)
        self.alarms = [Alarm(**one) for one in state.get("alarms", ())]
