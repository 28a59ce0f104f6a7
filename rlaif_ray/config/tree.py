"""The whole tree, and what must fit together in it."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from rlaif_ray.config.asking import BudgetConfig, FeedbackConfig, JudgeConfig
from rlaif_ray.config.learning import MixConfig, PolicyConfig, PPOConfig, RewardModelConfig, WatchConfig
from rlaif_ray.config.running import EnvConfig, ResourcesConfig, RunConfig
from rlaif_ray.config.section import Section
from rlaif_ray.errors import ConfigError

__all__ = ["Config"]


class Config(Section):
    """Everything that can be chosen for one run."""

    run: RunConfig = RunConfig()
    env: EnvConfig = EnvConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    judge: JudgeConfig = JudgeConfig()
    budget: BudgetConfig = BudgetConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    mix: MixConfig = MixConfig()
    watch: WatchConfig = WatchConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @property
    def asks(self) -> bool:
        """Whether this run puts questions to a judge."""
        return self.mix.source != "none"

    @property
    def uses_reward_model(self) -> bool:
        return self.mix.source in ("distilled", "hybrid")

    @property
    def pace(self) -> Literal["go", "wait"]:
        """`reward_model.pace` with `auto` resolved."""
        if self.reward_model.pace == "auto":
            return "go" if self.judge.local else "wait"
        return self.reward_model.pace

    @model_validator(mode="after")
    def _judges_fit_together(self) -> Config:
        judge, cascade = self.judge, self.judge.cascade
        if judge.panel and cascade is not None:
            raise ValueError("judge.panel: got one with a judge.cascade too, allowed is one of the two")
        if len(judge.panel) == 1:
            raise ValueError("judge.panel: got 1 judge, allowed are none (one judge) or 2 and more")
        try:
            members = judge.members
        except ConfigError as error:
            raise ValueError(str(error)) from None
        if cascade is None:
            return self
        if cascade.when == ("unsure",) and members[0].kind == "chat":
            raise ValueError(
                "judge.cascade.when: got 'unsure' with a cheap judge of kind 'chat', which gives no probability; "
                "allowed are cheap judges of other kinds, 'order-disagrees' and 'rm-disagrees'"
            )
        ensemble = self.reward_model.ensemble if self.uses_reward_model else 0
        if "rm-disagrees" in cascade.when and ensemble < 2:
            raise ValueError(
                f"judge.cascade.when: got 'rm-disagrees' with an ensemble of {ensemble}, allowed with a "
                "reward_model.ensemble of 2 and more (and mix.source 'distilled' or 'hybrid')"
            )
        return self

    @model_validator(mode="after")
    def _feedback_is_wanted(self) -> Config:
        if self.reward_model.labels and not self.uses_reward_model:
            raise ValueError(
                f"reward_model.labels: got {self.reward_model.labels!r} with mix.source {self.mix.source!r}, allowed "
                "with 'distilled' and 'hybrid'"
            )
        if self.run.feedback_episodes and self.mix.source == "none":
            raise ValueError(
                f"run.feedback_episodes: got {self.run.feedback_episodes} with mix.source 'none', allowed is 0 (there "
                "is no feedback phase)"
            )
        return self

    @model_validator(mode="after")
    def _selection_fits(self) -> Config:
        select, unjudged = self.feedback.select, self.mix.unjudged
        if self.mix.source == "direct" and select in ("uncertain", "disagreement", "stratified"):
            raise ValueError(
                f"feedback.select: got {select!r}, allowed with mix.source 'direct' are 'uniform', 'newest' (the "
                "others go by what a reward model says)"
            )
        if self.asks and select == "disagreement" and self.reward_model.ensemble < 2:
            raise ValueError(
                f"feedback.select: got 'disagreement' with a reward_model.ensemble of {self.reward_model.ensemble}, "
                "allowed with one of 2 and more; 'uncertain' goes by one net's belief"
            )
        if self.asks and unjudged == "reweight" and self.feedback.late == "rm":
            raise ValueError(
                "mix.unjudged: got 'reweight' with feedback.late 'rm', allowed with 'defer' and 'wait': a verdict that "
                "comes too late would pay for none of the episodes that it stands for"
            )
        return self

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Config:
        if self.ppo.minibatch_size > self.ppo.train_batch_size:
            raise ValueError(
                f"ppo.minibatch_size: got {self.ppo.minibatch_size}, allowed are 1 to ppo.train_batch_size "
                f"({self.ppo.train_batch_size})"
            )
        if self.ppo.train_batch_size % self.env.num_envs:
            raise ValueError(
                f"ppo.train_batch_size: got {self.ppo.train_batch_size}, allowed are multiples of env.num_envs "
                f"({self.env.num_envs})"
            )
        runners = max(1, self.resources.env_runners)
        if self.env.num_envs % runners:
            raise ValueError(
                f"env.num_envs: got {self.env.num_envs}, allowed are multiples of resources.env_runners ({runners})"
            )
        if self.mix.source == "direct" and self.mix.credit != "terminal":
            raise ValueError(
                f"mix.credit: got {self.mix.credit!r}, allowed with mix.source 'direct' is 'terminal' (the others need "
                "a reward model's belief; use source 'hybrid')"
            )
        if self.mix.source == "direct" and self.mix.unjudged == "rm":
            raise ValueError(
                "mix.unjudged: got 'rm', allowed with mix.source 'direct' are 'task', 'drop', 'reweight' (there is no "
                "reward model)"
            )
        if self.mix.source == "distilled" and self.mix.unjudged != "rm":
            raise ValueError(
                f"mix.unjudged: got {self.mix.unjudged!r}, allowed with mix.source 'distilled' is 'rm' (it scores "
                "every episode)"
            )
        self._check_what_needs_a_reward_model()
        if self.mix.source != "none" and self.mix.start_step >= self.run.total_steps:
            raise ValueError(
                f"mix.start_step: got {self.mix.start_step}, allowed are 0 to below run.total_steps "
                f"({self.run.total_steps})"
            )
        return self

    def _check_what_needs_a_reward_model(self) -> None:
        """Raises ValueError for what can't be where no belief is."""
        mix, policy = self.mix, self.policy
        if policy.critic_belief and ":" in policy.network:
            raise ValueError(
                f"policy.critic_belief: got true with policy.network {policy.network!r}, allowed with the networks "
                "shipped here (one of your own has its own critic)"
            )
        needing = {
            "watch.action": (self.watch.action != "report", repr(self.watch.action)),
            "mix.normalise": (mix.normalise, "true"),
            "mix.weight_schedule": (mix.weight_schedule == "gated", "'gated'"),
            "policy.critic_belief": (policy.critic_belief, "true"),
        }
        for name, (is_set, shown) in needing.items():
            if is_set and mix.source in ("none", "direct"):
                raise ValueError(
                    f"{name}: got {shown} with mix.source {mix.source!r}, allowed with 'distilled' and 'hybrid' (it "
                    "needs a reward model)"
                )
        if mix.weight_schedule == "gated" and self.reward_model.gate_accuracy >= 1:
            raise ValueError(
                "mix.weight_schedule: got 'gated' with reward_model.gate_accuracy 1, allowed are gates below 1 "
                "(nothing is above that one)"
            )
