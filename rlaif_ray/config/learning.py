"""Learning: the policy, PPO, the reward model, and what reward is learned from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlaif_ray.config.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

__all__ = ["MixConfig", "PPOConfig", "PolicyConfig", "RewardModelConfig"]


class PolicyConfig(Section):
    """The policy network."""

    network: str = "mlp"
    """`mlp`, `cnn`, `egocentric` (grids), or an import path "package.module:Class" of an RLModule."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Widths of the dense layers."""


class PPOConfig(Section):
    """RLlib's PPO; the names are its own where it has one."""

    train_batch_size: PositiveInt = 8_192
    """Steps learned from in one iteration, over all runners."""
    minibatch_size: PositiveInt = 1_024
    """Steps of one gradient step."""
    num_epochs: PositiveInt = 4
    """Passes over each batch."""
    lr: PositiveFloat = 1e-3
    """Learning rate (Adam) at step 0."""
    lr_final: NonNegativeFloat = 1e-4
    """Learning rate at `run.total_steps`; linear in between."""
    gamma: Fraction = 0.99
    """Discount of a reward one step later."""
    lambda_: Fraction = 0.95
    """Of generalised advantage estimation: 0 trusts the critic, 1 the returns."""
    clip_param: PositiveFloat = 0.2
    """How far the ratio of new to old action probability may count from 1."""
    vf_clip_param: PositiveFloat = 10.0
    """Largest squared error of the critic that counts."""
    vf_loss_coeff: NonNegativeFloat = 0.5
    """Weight of the critic's loss."""
    entropy_coeff: NonNegativeFloat = 0.03
    """Bonus for a policy that keeps trying, at step 0."""
    entropy_coeff_final: NonNegativeFloat = 0.003
    """The same at `run.total_steps`; linear in between."""
    grad_clip: PositiveFloat = 0.5
    """Largest global norm of a gradient."""


class RewardModelConfig(Section):
    """The network that learns to judge."""

    net: Literal["event-max", "cnn-lstm"] = "event-max"
    """`event-max` finds an event anywhere in an episode; `cnn-lstm` also reads order."""
    ensemble: PositiveInt = 1
    """Members, each on its own bootstrap sample; the belief is their mean."""
    channels: PositiveInt = 32
    """Convolution channels."""
    hidden: PositiveInt = 64
    """Width of the head (`event-max`) or of the LSTM."""
    lr: PositiveFloat = 1e-2
    """Learning rate of a fit."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of a fit."""
    epochs: PositiveInt = 60
    """Passes over the labels in one fit."""
    batch_size: PositiveInt = 64
    """Labels of one gradient step."""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of labels never trained on."""
    min_labels: PositiveInt = 40
    """Labels before the first fit."""
    retrain_every: PositiveInt = 20
    """New labels before another fit."""
    gate_accuracy: Fraction = 0.85
    """Balanced held-out accuracy (plain where a class is missing) from which its scores count."""
    pace: Literal["auto", "go", "wait"] = "auto"
    """Until the gate opens: `go` on on the task reward or `wait` for labels; auto: wait if the judge is remote."""


class MixConfig(Section):
    """What reward an episode is learned from."""

    source: Literal["none", "direct", "distilled", "hybrid"] = "none"
    """Whose feedback is mixed in."""
    weight: NonNegativeFloat = 1.0
    """Weight of the feedback reward beside the task reward, fully ramped up."""
    start_step: NonNegativeInt = 0
    """Environment steps of the task-only phase before."""
    ramp_steps: NonNegativeInt = 0
    """Steps over which the weight then rises from 0, linearly."""
    credit: Literal["terminal", "potential", "redistribute"] = "redistribute"
    """Where in an episode the feedback reward is paid."""
    unjudged: Literal["rm", "task", "drop"] = "rm"
    """An episode without a verdict gets: the reward model's score, the task reward only, or is not learned from."""
