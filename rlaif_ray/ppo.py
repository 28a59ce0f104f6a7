"""``FeedbackPPO``: RLlib's PPO, learning from a task reward mixed with an LLM's feedback.

The learner, its loss, its checkpoints and Tune are RLlib's own. What differs is what goes in: columns from
``ColumnarEnvRunner`` instead of episode objects, with rewards and advantages ready made.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo import PPO
from ray.rllib.core import ALL_MODULES, COMPONENT_LEARNER_GROUP, DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    TIMERS,
)

from rlaif_ray import envs
from rlaif_ray.config import Config
from rlaif_ray.envs.registry import numeric_outcomes
from rlaif_ray.errors import ConfigError, EnvError
from rlaif_ray.fleet import Fleet, GiveBack, ScoreBy, forget_weights_version
from rlaif_ray.learner import flat_columns
from rlaif_ray.loop import FeedbackLoop
from rlaif_ray.mixing import Mixed
from rlaif_ray.networks import Policy, save_policy
from rlaif_ray.numbering import NumberAbove, Numbering
from rlaif_ray.placement import current, home_node
from rlaif_ray.policy import ActorCriticModule
from rlaif_ray.ppo_config import FeedbackPPOConfig
from rlaif_ray.rollout import runners_in
from rlaif_ray.tally import Timed
from rlaif_ray.types import Fragment, Rollout
from rlaif_ray.warm_start import EARLIER, SetPolicy, earlier_labels, first_policy, learn_from_earlier

__all__ = ["FeedbackPPO", "FeedbackPPOConfig"]

NO_ANSWER_S = 300.0  # a runner's start takes up to a minute on a busy machine


class FeedbackPPO(PPO):  # type: ignore[misc]
    """act -> ask -> learn to judge -> mix -> learn, once an iteration."""

    @classmethod
    def get_default_config(cls) -> FeedbackPPOConfig:
        return FeedbackPPOConfig(algo_class=cls)

    def _setup_logdir(self) -> None:
        """A single run has its folder already; Tune gives its trials theirs."""
        if self._storage is None and self.config.run_path:
            self._logdir = self.config.run_path
        else:
            super()._setup_logdir()

    def setup(self, config: FeedbackPPOConfig) -> None:
        """Build RLlib's parts, then wire the rooms together: the only place that knows them all."""
        self.rlaif: Config = config.to_config()
        torch.set_num_threads(self.rlaif.resources.threads)
        places = current()
        with runners_in(None if places is None else places.group):
            super().setup(config)
        self._fleet = Fleet(
            self.env_runner_group, timeout_s=self.config.sample_timeout_s, overlap=self.rlaif.resources.overlap
        )
        self._steps = 0
        self._carry: dict[str, np.ndarray[Any, Any]] = {}
        self._lost_steps = 0
        self._answered_at = time.monotonic()
        self._updated: set[str] = {DEFAULT_MODULE_ID}
        self._figures: dict[str, Any] = {}
        self._clock: dict[str, float] = {}
        self._rng = np.random.default_rng([self.rlaif.run.seed, 2])
        self._stored: Callable[[], list[Any]] = list  # verdicts of this run in the store, with their episodes
        self.loop = self._wire() if self.rlaif.asks else FeedbackLoop.silent(self.rlaif)
        self.loop.stopping = self.stopping
        self._numbering = Numbering(self.run_path)  # of an earlier process of this run, where there was one
        if self._numbering.policy >= 0:
            self._number_on()
        self.loop.skip(self._numbering.reward_model)

    def _number_on(self) -> None:
        """Hand the policy out, under a number that this run has not used."""
        self.learner_group.foreach_learner(NumberAbove(self._numbering.policy))
        self._fleet.hand_out(self.learner_group, self._updated)

    def _wire(self) -> FeedbackLoop:
        # Imported here: a run on the task reward alone needs neither HTTP clients nor the reward model's nets.
        from rlaif_ray.feedback.pool import FeedbackPool
        from rlaif_ray.feedback.select import choose
        from rlaif_ray.reward_model.actor import LocalRewardModel, RewardModelClient
        from rlaif_ray.reward_model.model import RewardModel

        config = self.rlaif
        drawing = None if self.config.env_is_callable else envs.env_spec(config.env.id).renderer
        if drawing is None:
            raise ConfigError(
                f"env.id: got {config.env.id!r}, which has no renderer for recorded states; allowed with "
                f"mix.source {config.mix.source!r} are worlds registered with one (see register_env)"
            )
        renderer = drawing(dict(config.env.options))
        home = home_node(self.config.home_node)
        pool = FeedbackPool(config, renderer=renderer, store_path=self.store_path, run_id=self.run_id, home=home)
        self._stored = pool.stored
        trainer = None
        if config.uses_reward_model:
            space = self.spaces[DEFAULT_MODULE_ID][0]
            # A learner elsewhere has its GPU to itself; this process must not take another that Ray may give away.
            device = "cuda" if self.config.num_gpus_per_learner and not self.config.num_learners else "cpu"
            # Without remote runners a run is to be the same twice: labels are fitted here, in turn, not as they come.
            learns = RewardModelClient if config.resources.env_runners else LocalRewardModel
            trainer = learns(
                config.reward_model,
                obs_shape=space.shape,
                seed=config.run.seed,
                device=device,
                audit_share=None if config.feedback.select == "uniform" else config.feedback.audit_share,
            )
        loads, compares = RewardModel.from_state, pool.compares
        return FeedbackLoop(config, pool, trainer, choose=choose, load=loads, compares=compares)

    @property
    def steps(self) -> int:
        """Environment steps sampled in this run's life."""
        return self._steps

    @property
    def lost_steps(self) -> int:
        """Steps that were sampled and never learned from: a runner died (its whole fragment is counted) or the run
        waited for the reward model's gate. Episodes cut short by a resumed run were learned from up to the cut."""
        return self._lost_steps

    @property
    def run_path(self) -> Path:
        return Path(self.logdir)

    @property
    def run_id(self) -> str:
        return self.trial_id if self.trial_id not in (None, "default") else self.rlaif.run.name

    @property
    def store_path(self) -> Path:
        return Path(self.rlaif.feedback.store or self.run_path / "labels.sqlite").absolute()

    # ------------------------------------------------------------------------------------------ one iteration

    def training_step(self) -> None:
        """Act, ask, learn to judge, mix, learn."""
        self._clock = {}
        if not self._steps:
            self._begin()
        rollouts = self._act()
        if not rollouts:
            self._figures.update(iteration_steps=0, steps_per_s=0.0)
            return
        with Timed(self._clock, "ask_s"):
            self.loop.ask(rollouts, self._steps)
            self.loop.learn_to_judge()
        if self._in_feedback_phase and self.loop.holding:
            with Timed(self._clock, "wait_s"):
                self._hold(rollouts)
        with Timed(self._clock, "score_s"):
            mixed = [(rollout.fragment, self.loop.mix(rollout, self._steps)) for rollout in rollouts]
            mixed += self.loop.release()
        self._fleet.go_ahead()
        with Timed(self._clock, "learn_s"):
            self._learn(flat_columns(mixed, self.config.gamma, self.config.lambda_))
        with Timed(self._clock, "sync_s"):
            self._fleet.hand_out(self.learner_group, self._updated)
            self._hand_out_reward_model(rollouts)
        self._look(rollouts, mixed)

    def _begin(self) -> None:
        """What the run begins with instead of nothing."""
        policy = first_policy(self.rlaif)
        if policy is not None:
            self.learner_group.foreach_learner(SetPolicy(policy, DEFAULT_MODULE_ID))
            self._fleet.hand_out(self.learner_group, self._updated)
        learn_from_earlier(self.loop, earlier_labels(self.rlaif), self.stopping)

    def _hand_out_reward_model(self, rollouts: Sequence[Rollout]) -> None:
        """Runners score what they sample, each beside the others, while the learner learns; one that hasn't the version
        in service, or was replaced meanwhile, is given it."""
        if any(r.scored_by != self.loop.version for r in rollouts):
            from rlaif_ray.reward_model.following import Followed

            self._fleet.tell(ScoreBy(Followed.serving, self.loop.in_service))

    @property
    def _in_feedback_phase(self) -> bool:
        return self.rlaif.asks and self._steps >= self.rlaif.mix.start_step

    def _act(self) -> list[Rollout]:
        """One fragment from every runner."""
        with Timed(self._clock, "sample_s"):
            results, lost = self._fleet.sample()
        self.metrics.aggregate([metrics for _, metrics in results], key=ENV_RUNNER_RESULTS)
        rollouts = [rollout for found, _ in results for rollout in found]
        self._steps += sum(r.env_steps() for r in rollouts)
        self._lost_steps += lost * self._fragment_steps  # a runner died, or ran out of time
        self._check_alive(bool(rollouts))
        if self.rlaif.asks and rollouts:
            self._numbering.note(policy=max(r.fragment.policy_version for r in rollouts))
        return rollouts

    @property
    def _fragment_steps(self) -> int:
        """Environment steps of one runner's fragment."""
        return int(self.config.get_rollout_fragment_length(1) * self.config.num_envs_per_env_runner)

    def _check_alive(self, answered: bool) -> None:
        """Dead runners are replaced; where none ever answers, going on would be going on for ever."""
        now = time.monotonic()
        if answered:
            self._answered_at = now
        elif now - self._answered_at > NO_ANSWER_S:
            raise EnvError(
                f"no environment runner has answered for {NO_ANSWER_S:.0f} s: each new one dies too; its error is in "
                "Ray's log"
            )

    def _hold(self, rollouts: list[Rollout]) -> None:
        """The feedback phase waits for the reward model's gate; nothing is learned from what is sampled here."""
        self.loop.hold(rollouts, self._steps)
        while self.loop.holding and not self.stopping():
            fresh = self._act()
            self._lost_steps += sum(r.env_steps() for r in fresh)
            self.loop.hold(fresh, self._steps)

    def stopping(self) -> bool:
        """Whether whoever runs this wants it to end; a long wait asks now and then."""
        stop = getattr(self, "stop_requested", None)
        return bool(stop and stop())

    def _learn(self, columns: dict[str, np.ndarray[Any, Any]]) -> None:
        """RLlib's own learner on ready columns.

        Learners in parallel must do the same number of updates: rows that don't share out evenly are carried over to
        the next iteration, and the number is given. It is the nearest whole one: parts of episodes that wait for a
        verdict make batches a little longer and shorter, and RLlib's rounding up would have each pay for the longer.
        RLlib does not shuffle the first epoch: the batch is permuted here.
        """
        if self._carry:
            columns = {name: np.concatenate([self._carry[name], column]) for name, column in columns.items()}
        learners = max(1, self.config.num_learners)
        count = len(columns[Columns.ACTIONS])
        order = self._rng.permutation(count)
        use = count - count % learners
        self._carry = {n: c[order[use:]] for n, c in columns.items()} if use < count else {}
        if not use:
            return
        batch = SampleBatch({name: column[order[:use]] for name, column in columns.items()})
        minibatches = round(use / learners * self.config.num_epochs / self.config.minibatch_size)
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            results = self.learner_group.update(
                batch=MultiAgentBatch({DEFAULT_MODULE_ID: batch}, env_steps=use),
                timesteps={NUM_ENV_STEPS_SAMPLED_LIFETIME: self._steps},
                num_epochs=self.config.num_epochs,
                minibatch_size=self.config.minibatch_size,
                shuffle_batch_per_epoch=self.config.shuffle_batch_per_epoch,
                num_total_minibatches=max(1, minibatches),
            )
        self.metrics.aggregate(results, key=LEARNER_RESULTS)
        self._updated = set(results[0].keys()) - {ALL_MODULES}

    # ------------------------------------------------------------------------------------------ look

    def _look(self, rollouts: Sequence[Rollout], mixed: Sequence[tuple[Fragment, Mixed]]) -> None:
        """Figures of this iteration. Truth is looked at here and goes nowhere but into the report."""
        lengths = np.concatenate([r.episodes.lengths for r in rollouts])
        returns = np.concatenate([r.episodes.task_return for r in rollouts])
        self._figures = {
            "task": {
                "episode_return_mean": _mean(returns),
                "episode_length_mean": _mean(lengths),
                "episodes": float(len(lengths)),
            },
            "truth": self._truth(rollouts),
            "policy_age": self._fleet.age,
            "reward": {
                # Of what is learned from, and once: a part kept back counts when it is released.
                "mean": _mean(np.concatenate([m.reward[m.learn] for _, m in mixed])),
                "feedback_mean": _mean(np.concatenate([m.feedback[m.learn] for _, m in mixed])),
            },
            **self.loop.end_iteration(self._steps),
            "time": {**self._clock, "iteration_s": sum(self._clock.values())},
        }
        self._numbering.note(reward_model=self.loop.newest_version)
        self._figures["iteration_steps"] = steps = sum(r.env_steps() for r in rollouts)
        self._figures["steps_per_s"] = steps / max(1e-9, sum(self._clock.values()))

    def _truth(self, rollouts: Sequence[Rollout]) -> dict[str, float]:
        outcomes = numeric_outcomes if self.config.env_is_callable else envs.env_spec(self.rlaif.env.id).outcomes
        found = [outcomes(r.truth) for r in rollouts if len(r.episodes)]
        names = [name for name in found[0] if all(name in one for one in found)] if found else []
        return {name: _mean(np.concatenate([o[name] for o in found])) for name in names}

    def step(self) -> dict[str, Any]:
        """RLlib's iteration, with our figures beside its own."""
        began = time.perf_counter()
        results: dict[str, Any] = super().step()
        results.update(self._figures)
        results.update(
            steps=self._steps,
            total_steps=self.rlaif.run.total_steps,
            phase="feedback" if self._in_feedback_phase else "task",
            iteration=self.iteration + 1,
            lost_steps=self._lost_steps,
            step_s=time.perf_counter() - began,
        )
        return results

    # ------------------------------------------------------------------------------------------ state

    def get_state(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(*args, **kwargs)
        runners = self.env_runner_group.foreach_env_runner(lambda r: (r.worker_index, r.random_state()))
        state["rlaif"] = {
            "steps": self._steps,
            "lost_steps": self._lost_steps,
            "rng": self._rng.bit_generator.state,
            "runners": dict(runners),
            "carry": self._carry,
            "loop": self.loop.state(),
            "store": str(self.store_path),
        }
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        if COMPONENT_LEARNER_GROUP in state:
            # RLlib's learner ignores older weights on a live algorithm; a rollback must not be a silent no-op. (From
            # a folder, the learner has been restored before this is called, weights and their version included.)
            self.learner_group.foreach_learner(forget_weights_version)
        super().set_state(state)
        ours = state.get("rlaif")
        if ours is None:
            return
        self._fleet.forget()
        self._number_on()
        self._steps, self._carry = ours["steps"], ours["carry"]
        self._rng.bit_generator.state = ours["rng"]
        self._lost_steps = ours["lost_steps"]
        self.env_runner_group.foreach_env_runner(GiveBack(ours["runners"]))
        self.loop.restore(ours["loop"], self._stored_labels(), self._numbering.reward_model, self._steps)
        self.loop.learn_from(earlier_labels(self.rlaif), EARLIER)

    def take_up_labels(self) -> None:
        """Learn from what the store has of this run: it was killed before its first checkpoint."""
        self.loop.take_up(self._stored_labels())

    def _stored_labels(self) -> list[Any]:
        """Every verdict of this run in the store: those that came after the checkpoint were paid for as well."""
        return self._stored()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        super().save_checkpoint(checkpoint_dir)
        module = self.get_learner_module()
        if isinstance(module, ActorCriticModule):
            save_policy(Path(checkpoint_dir), module.network)
        in_service = self.loop.in_service
        if in_service is not None:
            from rlaif_ray.reward_model.model import MODEL_FILE, RewardModel

            RewardModel.from_state(in_service).save(Path(checkpoint_dir) / MODEL_FILE)

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        """As RLlib's, also where it leads a live algorithm back, whose learner would ignore older weights."""
        self.learner_group.foreach_learner(forget_weights_version)
        super().load_checkpoint(checkpoint_dir)

    def policy(self) -> Policy | None:
        """A copy of the policy as it is now; None for a network of the user's own."""
        module = self.get_learner_module()
        return Policy(copy.deepcopy(module.network).cpu()) if isinstance(module, ActorCriticModule) else None

    def get_learner_module(self) -> Any:
        """The policy's RLModule with the learner's weights, on the CPU; None where it can't be had."""
        if self.learner_group.is_local:
            return self.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
        runner = self.env_runner_group.local_env_runner
        return None if runner is None else runner.module

    def cleanup(self) -> None:
        if hasattr(self, "loop"):
            self.loop.close()
        super().cleanup()


def _mean(values: np.ndarray[Any, Any]) -> float:
    return float(values.mean()) if len(values) else float("nan")
