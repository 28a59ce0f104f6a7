"""Learning: the policy, PPO, the reward model, and what reward is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlaif_ray.config.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section

__all__ = ["MixConfig", "PPOConfig", "PolicyConfig", "RewardModelConfig", "WatchConfig"]


class PolicyConfig(Section):
    """The policy network."""

    network: str = "mlp"
    """`mlp`; for grids also `cnn`, `egocentric`, `ego-allocentric`, `planning`; or an import path
    "package.module:Class" of an RLModule."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Widths of the dense layers."""
    critic_belief: bool = False
    """The critic, never the actor, is given the reward model's belief about the episode so far: what `terminal` will
    pay may hang on something that the observation shows no more."""


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
    """Passes over the labels in one fit, at most."""
    updates: NonNegativeInt = 400
    """Gradient steps of one fit, at most, in whole passes: thousands of labels need fewer passes. 0: as many as the
    passes take."""
    batch_size: PositiveInt = 64
    """Labels of one gradient step."""
    noise: Literal["none", "estimated"] = "none"
    """The judge's mistakes: not thought of, or their rates estimated from folds and undone in the loss. Only verdicts
    that claim certainty (0 or 1) can be flipped; a rating or probability in between is learned from as it is."""
    calibrate: Literal["temperature", "platt"] = "temperature"
    """How beliefs are fitted to the held-out labels: one `temperature` for all logits, or Platt's slope and offset.
    Classes weigh the same in a fit, so where few labels are bad beliefs lean towards it: below how often the judge
    really approves, which no temperature mends and an offset does. The watch compares beliefs with verdicts, and so
    sees sooner with `platt` that the judge approves less than was promised. The gate takes beliefs at their word too: a
    rare class that can't be told apart well falls below 1/2 less often then, and the balanced accuracy is lower. Of
    preferences there is no offset."""
    early_stop: Literal["training", "validation"] = "training"
    """What ends a fit early: the loss on the labels it learns from, or on an eighth of them that it doesn't."""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of labels never trained on. Where `feedback.select` prefers some episodes these are of the audit alone, and
    no more than all of it."""
    min_labels: PositiveInt = 40
    """Labels before the first fit."""
    retrain_every: PositiveInt = 20
    """New labels before another fit, at least."""
    retrain_growth: NonNegativeFloat = 0.1
    """Growth of the labels before another fit, as a share of those that the last one knew: all fits together then cost
    as much as some ten of the last. 0: after every `retrain_every`, whatever that costs."""
    gate_accuracy: Fraction = 0.85
    """Balanced held-out accuracy (plain where a class is missing) from which its scores count. It is agreement with the
    judge, whose own mistakes are in the held-out labels too, whatever `noise` says: of a judge that errs in 20 % of the
    good and of the bad, a perfect model agrees with some 80 %, and never passes 0.85. For such a judge set it lower;
    with `noise: estimated` the reason of a shut gate says what a perfect model would get."""
    labels: str = ""
    """Label store, or folder of a run or of `rlaif-ray label`, that it learns from before anything is asked; they are
    the store's to account for, not this run's. Empty: none."""
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
    weight_schedule: Literal["constant", "ramp", "gated"] = "ramp"
    """`ramp`: as `ramp_steps` says (0: at once); `constant`: no ramp; `gated`: the ramp, times how far the reward
    model's held-out accuracy is above its gate (1: it is never wrong)."""
    credit: Literal["terminal", "potential", "redistribute", "step"] = "redistribute"
    """Where in an episode the feedback reward is paid: at its end; as a potential's differences and at the end; as the
    belief's differences; or, in `step`, each state's own belief in the step that leads to it."""
    normalise: bool = False
    """Measure verdict and belief in standard deviations from the mean, both of the reward model's version over the
    labelled episodes; nothing is paid before there is a version."""
    combine: Literal["add", "gate"] = "add"
    """`add` the feedback to the task reward; or let it `gate` that: a success counts only with a yes, and the weight
    (at most 1) goes from the plain task reward to the gated one. For worlds that reward an episode's end alone."""
    gate_penalty: Fraction | None = None
    """A gated success pays 1 less this share of the steps taken in `gate_steps`; none: the world's own task reward."""
    gate_steps: PositiveInt | None = None
    """Steps of the world's time limit; goes with `gate_penalty`."""
    gate_truncated: NonNegativeFloat = 0.0
    """What a gated episode pays that was cut off by time and has a yes."""
    unjudged: Literal["rm", "task", "drop", "reweight"] = "rm"
    """An episode without a verdict gets: the reward model's score (`rm`), the task reward only (`task`), is not learned
    from (`drop`; what of it lay in earlier fragments was, with the task reward), or gets the task reward only while a
    verdict's feedback counts once for every episode that it stands for, one over its inclusion probability: as much as
    judging all would come to, on average (`reweight`)."""
    reweight_clip: Annotated[float, Field(ge=1.0)] = 100.0
    """Most episodes that a verdict may stand for with `reweight`; what that cuts off is reported."""

    @model_validator(mode="after")
    def _parts_fit_together(self) -> MixConfig:
        for reason in self._about_gate() if self.combine == "gate" else self._about_no_gate():
            raise ValueError(reason)
        if self.credit == "step" and self.unjudged != "rm":
            raise ValueError(
                f"mix.unjudged: got {self.unjudged!r}, allowed with mix.credit 'step' is 'rm' (it pays while an "
                "episode runs, before anybody knows whether it will be judged)"
            )
        if self.weight_schedule == "constant" and self.ramp_steps:
            raise ValueError(
                f"mix.ramp_steps: got {self.ramp_steps}, allowed with mix.weight_schedule 'constant' is 0 (or say "
                "'ramp')"
            )
        return self

    def _about_no_gate(self) -> Iterator[str]:
        for name, unset in (("gate_penalty", None), ("gate_steps", None), ("gate_truncated", 0.0)):
            if getattr(self, name) != unset:
                yield f"mix.{name}: got {getattr(self, name)}, allowed with mix.combine 'gate' only"

    def _about_gate(self) -> Iterator[str]:
        """What a gate can't be combined with: it pays at the end alone, by a yes or a no."""
        if self.credit != "terminal":
            yield (
                f"mix.credit: got {self.credit!r}, allowed with mix.combine 'gate' is 'terminal' (the gate is known "
                "when an episode ends, and multiplies what the task pays there)"
            )
        if self.normalise:
            yield "mix.normalise: got true, allowed with mix.combine 'gate' is false (a gate takes a yes or a no)"
        if self.weight > 1:
            yield f"mix.weight: got {self.weight}, allowed with mix.combine 'gate' are 0 to 1 (1: gated rewards alone)"
        if self.unjudged not in ("rm", "task", "drop"):
            yield f"mix.unjudged: got {self.unjudged!r}, allowed with mix.combine 'gate' are 'rm', 'task', 'drop'"
        if (self.gate_penalty is None) != (self.gate_steps is None):
            yield (
                f"mix.gate_penalty: got {self.gate_penalty} with mix.gate_steps {self.gate_steps}, allowed are both "
                "or neither"
            )


class WatchConfig(Section):
    """Whether the reward model goes on promising what the judge gives, on episodes asked about at random."""

    action: Literal["report", "stop", "rollback"] = "report"
    """On an alarm: say so in the report; `stop` the run there; or go back to the last checkpoint from before the gap
    seems to have opened (`rollback`, at most twice), with what the judge has said since."""
