"""Where an iteration of FeedbackPPO goes, by the clock, from outside: its parts are timed where they are called."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from flops import product_gflops
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, SAMPLE_TIMER

from rlaif_ray import ppo

__all__ = ["PARTS", "Stopwatch"]

# In the order of an iteration. What is none of these is RLlib's own bookkeeping.
PARTS = ("sampling", "waiting", "asking", "scoring", "advantage", "batching", "learning", "weight sync", "the rest")


class Stopwatch:
    """Times the parts of one algorithm's iterations; its products tell what its threads could do at best.

    ``sampling`` is the time in which the driver samples, or waits for its runners to; what they take longer to answer
    than to sample is ``waiting``. Where runners sample ahead, their time lies beside the learner's and only what the
    driver waits for them counts: ``sampled beside`` has the rest.
    """

    def __init__(self, algorithm: Any) -> None:
        self.threads = torch.get_num_threads()
        self._ahead = bool(algorithm._fleet.ahead)
        self._remote = algorithm.env_runner_group.num_remote_env_runners() > 0
        self._spent: Counter[str] = Counter()
        self._plain: list[tuple[Any, str, Callable[..., Any]]] = []
        for owner, method, part in (
            (algorithm, "_act", "acting"),
            (algorithm.loop, "ask", "asking"),
            (algorithm.loop, "learn_to_judge", "asking"),
            (algorithm.loop, "mix", "scoring"),
            (algorithm.loop, "release", "scoring"),
            (ppo, "flat_columns", "advantage"),
            (algorithm, "_learn", "all learning"),
            (algorithm.learner_group, "update", "learning"),
            (algorithm._fleet, "hand_out", "weight sync"),
            (algorithm, "step", "iteration"),
        ):
            plain = getattr(owner, method)
            setattr(owner, method, self._timed(plain, part))
            self._plain.append((owner, method, plain))

    def _timed(self, plain: Callable[..., Any], part: str) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                self._spent[part] += time.perf_counter() - began

        return timed

    def stop(self) -> None:
        """Everything is called as before."""
        while self._plain:
            setattr(*self._plain.pop())

    def parts(self, row: dict[str, Any]) -> dict[str, float]:
        """Seconds of each part in the iteration that has just ended, and GFLOP/s of a large product beside it."""
        spent, self._spent = self._spent, Counter()
        sampled = float(row.get(ENV_RUNNER_RESULTS, {}).get(SAMPLE_TIMER, spent["acting"]))
        return {**split(spent, sampled, remote=self._remote, ahead=self._ahead), "learn_s": spent["learning"],
                "product_gflops": product_gflops(self.threads, repeats=5)}  # fmt: skip


def split(spent: Counter[str], sampled: float, *, remote: bool, ahead: bool) -> dict[str, float]:
    """What was spent where -> seconds of each of ``PARTS``, which add up to the iteration."""
    sampling = 0.0 if ahead else min(sampled, spent["acting"]) if remote else spent["acting"]
    parts = {
        "sampling": sampling,
        "waiting": spent["acting"] - sampling,
        "asking": spent["asking"],
        "scoring": spent["scoring"],
        "advantage": spent["advantage"],
        "batching": spent["all learning"] - spent["learning"],
        "learning": spent["learning"],
        "weight sync": spent["weight sync"],
    }
    parts["the rest"] = spent["iteration"] - sum(parts.values())
    return parts | ({"sampled beside": sampled} if ahead else {})
