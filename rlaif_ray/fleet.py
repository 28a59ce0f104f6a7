"""The rollout actors as one turn of PPO sees them: one fragment from each, in step or one update ahead.

In step, runners sample while the learner waits, and the other way round. Ahead (``resources.overlap``), the next
fragments are asked for before the learner takes up these: what is learned from was acted by the policy of one update
ago, and PPO's ratio is taken against the probabilities stored with it. Weights handed out meanwhile wait in each
runner's queue behind its running fragment, so that a fragment never mixes policies and is never older than one update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rlaif_ray.types import Rollout

__all__ = ["Fleet", "GiveBack", "ScoreBy", "forget_weights_version"]

_TAG = "fragment"
_WEIGHTS = "set_state"  # RLlib's own tag


class Fleet:
    """Asks RLlib's group of runners for fragments.

    Args:
        group: RLlib's ``EnvRunnerGroup``.
        timeout_s: until a runner that doesn't answer is given up for this turn.
        overlap: sample one update ahead; without effect where the driver acts itself.
    """

    def __init__(self, group: Any, *, timeout_s: float | None, overlap: bool) -> None:
        self.group, self.timeout_s = group, timeout_s
        self.ahead = overlap and group.num_remote_env_runners() > 0
        self.age = 0  # updates made since the policy that acted the newest fragments; a late runner's are older
        self._since = 0

    def sample(self) -> tuple[list[tuple[list[Rollout], Any]], int]:
        """One fragment and its metrics from every runner that answers; how many fragments were lost with theirs."""
        group = self.group
        remote = group.num_remote_env_runners()
        if not self.ahead:
            results = group.foreach_env_runner(
                _sample_and_count, local_env_runner=remote == 0, timeout_seconds=self.timeout_s
            )
            return results, max(0, remote - len(results))
        self.go_ahead()
        self.age, self._since = self._since, 0
        asked = self._under_way
        results = [result for _, result in group.fetch_ready_async_reqs(tags=_TAG, timeout_seconds=self.timeout_s)]
        return results, max(0, asked - len(results) - self._under_way)

    def go_ahead(self) -> None:
        """Have every runner that is idle begin its next fragment; nothing is waited for."""
        if self.ahead:  # RLlib allows one request a runner: those that are busy are passed over
            self.group.foreach_env_runner_async(_sample_and_count, tag=_TAG)

    def hand_out(self, learner_group: Any, modules: set[str]) -> None:
        """Send the learner's weights to every runner."""
        # RLlib sends none to a runner whose receipt for the last ones hasn't been collected: ahead, that would be every
        # second time. The last ones were taken before the fragment that has just come, so there is nothing to wait for.
        if self.ahead:
            self.group.fetch_ready_async_reqs(tags=_WEIGHTS, timeout_seconds=self.timeout_s)
        self.group.sync_weights(from_worker_or_learner_group=learner_group, policies=modules, inference_only=False)
        self._since += self._under_way > 0

    def tell(self, what: Callable[[Any], None]) -> None:
        """Have every runner do this before its next fragment that isn't asked for yet; none elsewhere is waited for."""
        alone = self.group.num_remote_env_runners() == 0
        self.group.foreach_env_runner(what, local_env_runner=alone, timeout_seconds=0.0)

    def forget(self) -> None:
        """Drop what is under way: it was acted under weights that no longer count."""
        if self.ahead and self._under_way:
            self.group.fetch_ready_async_reqs(tags=_TAG, timeout_seconds=self.timeout_s)
        self._since = 0

    @property
    def _under_way(self) -> int:
        return int(self.group.num_in_flight_async_reqs(_TAG))


def _sample_and_count(runner: Any) -> tuple[list[Rollout], Any]:
    return runner.sample(), runner.get_metrics()


class ScoreBy:
    """Has each runner score by a version of the reward model: ``serve(state, what it scores by now)`` says how."""

    def __init__(self, serve: Callable[[Mapping[str, Any] | None, Any], Any], state: Mapping[str, Any] | None) -> None:
        self.serve, self.state = serve, state

    def __call__(self, runner: Any) -> None:
        runner.score_by(partial(self.serve, self.state))


class GiveBack:
    """Gives each runner its own generators back: Ray sends it to where the runners are."""

    def __init__(self, states: Mapping[int, dict[str, Any]]) -> None:
        self.states = states

    def __call__(self, runner: Any) -> None:
        runner.set_random_state(self.states.get(runner.worker_index, {}))


def forget_weights_version(learner: Any) -> None:
    """RLlib's learner takes older weights only where it knows of none: a rollback must not be a silent no-op."""
    learner._weights_seq_no = 0
