"""What the learner is given, and RLlib's PPO learner with what it does around each minibatch made cheap; loss and
update are RLlib's own.

On small networks a minibatch takes some milliseconds, of which the stock learner spends a good part copying columns to
shuffle them, looking at each gradient twice for numbers that aren't finite and stepping Adam tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.torch_utils import clip_gradients
from torch import Tensor

from rlaif_ray.mixing import Mixed, generalized_advantages, standardize, with_belief
from rlaif_ray.policy import BELIEF
from rlaif_ray.types import Array, Fragment

__all__ = ["FeedbackPPOLearner", "flat_columns", "minibatch_rows"]


def flat_columns(mixed: Sequence[tuple[Fragment, Mixed]], gamma: float, lambda_: float) -> dict[str, Array]:
    """Fragments to one flat batch of what the loss needs, (B, ...) each, advantages standardised over all of it."""
    parts: dict[str, list[Array]] = {}
    for fragment, mix in mixed:
        f = with_belief(fragment, mix)
        advantage, target = generalized_advantages(f, mix.reward, gamma, lambda_)
        columns = {
            Columns.OBS: f.obs,
            Columns.ACTIONS: f.action,
            Columns.ACTION_LOGP: f.logp,
            Columns.ACTION_DIST_INPUTS: f.logits,
            Postprocessing.ADVANTAGES: advantage,
            Postprocessing.VALUE_TARGETS: target,
        }
        if mix.belief is not None:
            columns[BELIEF] = mix.belief
        for name, column in columns.items():
            parts.setdefault(name, []).append(column[mix.learn])
    flat = {name: np.concatenate(columns) for name, columns in parts.items()}
    if len(flat[Postprocessing.ADVANTAGES]):  # every step may have been dropped
        flat[Postprocessing.ADVANTAGES] = standardize(flat[Postprocessing.ADVANTAGES])
    return flat


class FeedbackPPOLearner(PPOTorchLearner):  # type: ignore[misc]
    """Columns go to the device once, observations are digested once (where the policy knows how), and minibatches are
    rows of them; Adam in one fused kernel; one look at all gradients together, RLlib's own careful way where that finds
    any that isn't finite."""

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        params = self.get_parameters(self._module[module_id])
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(params, fused=True),
            params=params,
            lr_or_lr_schedule=config.lr,
        )

    def _create_iterator_if_necessary(
        self,
        *,
        training_data: Any,
        num_total_minibatches: int = 0,
        num_epochs: int = 1,
        minibatch_size: int | None = None,
        shuffle_batch_per_epoch: bool = False,
        **kwargs: Any,
    ) -> Iterable[MultiAgentBatch]:
        batch = training_data.batch
        if not isinstance(batch, MultiAgentBatch) or len(batch.policy_batches) != 1 or not minibatch_size:
            return super()._create_iterator_if_necessary(  # type: ignore[no-any-return]
                training_data=training_data,
                num_total_minibatches=num_total_minibatches,
                num_epochs=num_epochs,
                minibatch_size=minibatch_size,
                shuffle_batch_per_epoch=shuffle_batch_per_epoch,
                **kwargs,
            )
        rows = minibatch_rows(
            len(next(iter(batch.policy_batches.values()))),
            minibatch_size,
            epochs=num_epochs,
            shuffle=shuffle_batch_per_epoch and num_epochs > 1,
            count=num_total_minibatches,
        )
        return self._minibatches(batch, rows)

    def _minibatches(self, batch: MultiAgentBatch, rows: Iterable[Tensor]) -> Iterator[MultiAgentBatch]:
        ((module_id, given),) = batch.policy_batches.items()
        columns = {name: self._there(torch.as_tensor(column)) for name, column in given.items()}
        digest = getattr(self.module[module_id].unwrapped(), "digest", None)
        if digest is not None and (digested := digest(columns[Columns.OBS])) is not None:
            columns = {name: column for name, column in columns.items() if name != Columns.OBS} | digested
        for which in rows:
            of = which.to(self._device)
            part = SampleBatch({name: column[of] for name, column in columns.items()})
            yield MultiAgentBatch({module_id: part}, batch.env_steps())

    def _there(self, column: Tensor) -> Tensor:
        """On the learner's device; from pinned memory where that is a GPU, so that copies overlap."""
        if self._device.type != "cuda":
            return column
        return column.pin_memory().to(self._device, non_blocking=True)

    @staticmethod
    def _get_clip_function() -> Any:
        return clip_together

    def apply_gradients(self, gradients_dict: dict[Any, torch.Tensor]) -> None:
        grads = [grad for grad in gradients_dict.values() if grad is not None]
        # A sum of norms is finite only if each gradient is.
        plain = self._grad_scalers is None and self._lr_scheduler_classes is None
        if not plain or not grads or not torch.stack(torch._foreach_norm(grads)).sum().isfinite():
            super().apply_gradients(gradients_dict)
            return
        for ref, grad in gradients_dict.items():
            self._params[ref].grad = grad
        for module_id, names in self._module_optimizers.items():
            for name in names:
                self.get_optimizer(module_id, name).step()


def clip_together(gradients_dict: dict[Any, Tensor], *, grad_clip: float, grad_clip_by: str) -> Tensor | None:
    """RLlib's ``clip_gradients``, all tensors together; where one isn't finite or another way is asked for, its own."""
    grads = [grad for grad in gradients_dict.values() if grad is not None]
    if grad_clip_by == "global_norm" and grads:
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
        if norm.isfinite():
            torch._foreach_mul_(grads, grad_clip / torch.clamp(norm + 1e-6, min=grad_clip))
            return norm
    clipped: Tensor | None = clip_gradients(gradients_dict, grad_clip=grad_clip, grad_clip_by=grad_clip_by)
    return clipped


def minibatch_rows(total: int, size: int, *, epochs: int, shuffle: bool, count: int = 0) -> Iterator[Tensor]:
    """Rows of each minibatch, (size,) int64: as RLlib cuts them, without copying what is cut.

    Epochs follow each other without a gap: a minibatch may hold the end of one and the beginning of the next. There are
    ``count`` minibatches, or (0) as many as bring every row in ``epochs`` times. The first epoch is taken in the order
    given (``FeedbackPPO`` has permuted it); the later ones are shuffled.
    """
    wanted = count or -(-epochs * total // size)
    left = torch.arange(total)
    for _ in range(wanted):
        while len(left) < size:
            left = torch.cat([left, torch.randperm(total) if shuffle else torch.arange(total)])
        yield left[:size]
        left = left[size:]
