"""The reward model as others see it: episodes in, beliefs out; its whole state a plain picklable dictionary."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, ShapeError
from rlaif_ray.products import one_thread
from rlaif_ray.reward_model import losses
from rlaif_ray.reward_model.apart import Marks
from rlaif_ray.reward_model.nets import SequenceNet, make_net
from rlaif_ray.types import Array, EpisodeBatch, Scale, Scores

__all__ = ["MODEL_FILE", "RewardModel"]

MODEL_FILE = "reward-model.npz"  # in a checkpoint's folder
FORMAT = 1
_ABOUT = "about.json"


class RewardModel:
    """An ensemble of K nets, one temperature and one offset: the belief that an episode, so far, would be approved.

    ``belief_t = mean_k sigmoid(logit_k(o_0 .. o_t) / temperature + offset)``; the offset is 0 but with Platt's scaling.
    """

    def __init__(
        self,
        config: RewardModelConfig,
        members: Sequence[SequenceNet],
        *,
        version: int = 0,
        temperature: float = 1.0,
        scale: Scale | None = None,
    ) -> None:
        self.config, self.members = config, tuple(net.eval() for net in members)
        self.version, self.temperature = version, temperature
        self.offset = 0.0
        self.scale = scale or Scale()
        self.trained_on = self.calibrated_on = frozenset()

    @classmethod
    def create(cls, config: RewardModelConfig, obs_shape: Sequence[int], seed: int) -> RewardModel:
        """Untrained, version 0. Raises ShapeError for observations that are neither (D,) nor (H, W, C)."""
        seeds = np.random.SeedSequence(seed).generate_state(config.ensemble)
        return cls(config, [make_net(config, tuple(obs_shape), int(s)) for s in seeds])

    @property
    def trained_on(self) -> frozenset[str]:
        """Marks (``apart.mark``) of the labels that it learned from; empty where nobody wrote them down. A label is in
        it that shares an episode with one of them."""
        return self._trained_on

    @trained_on.setter
    def trained_on(self, marks: frozenset[str]) -> None:
        self._trained_on = Marks(marks)

    @property
    def calibrated_on(self) -> frozenset[str]:
        """Likewise of those that its temperature was set by."""
        return self._calibrated_on

    @calibrated_on.setter
    def calibrated_on(self, marks: frozenset[str]) -> None:
        self._calibrated_on = Marks(marks)

    @property
    def obs_shape(self) -> tuple[int, ...]:
        return self.members[0].obs_shape

    def logits(self, obs: Array, obs_offsets: Array, device: str = "cpu") -> Array:
        """(S, *obs) packed observations -> (K, S) float32 logits of each member, before temperature and offset."""
        self._check(obs)
        if not len(obs):
            return np.zeros((len(self.members), 0), np.float32)
        with one_thread(), torch.inference_mode():
            logits = [net.to(device).logits(obs, obs_offsets).cpu().numpy() for net in self.members]
        return np.stack(logits)

    def _check(self, obs: Array) -> None:
        if obs.shape[1:] != self.obs_shape:
            raise ShapeError(f"reward model: got observations {obs.shape[1:]}, expected {self.obs_shape}")

    def going_on(
        self, obs: Array, obs_offsets: Array, known: Array, memories: Sequence[torch.Tensor]
    ) -> tuple[Array, list[torch.Tensor]]:
        """As ``logits``, of episodes that go on where ``known`` (E,): the first observation of such a one is the last
        that was seen before, and its row in each member's (E, M) memory is what was kept then. Returns (K, S) logits, 0
        at what was seen before, and the memories now."""
        self._check(obs)
        if not len(obs):
            return np.zeros((len(self.members), 0), np.float32), list(memories)
        with one_thread(), torch.inference_mode():
            both = [net.going_on(obs, obs_offsets, known, m) for net, m in zip(self.members, memories, strict=True)]
        return np.stack([logits.numpy() for logits, _ in both]), [memory for _, memory in both]

    def score(self, batch: EpisodeBatch, device: str = "cpu") -> Scores:
        """Belief at every observation of every episode, from that observation and those before it alone.

        Raises ShapeError where the observations aren't of the shape it was made for.
        """
        return self.scores_of(self.logits(batch.obs, batch.obs_offsets, device), batch)

    def scores_of(self, logits: Array, batch: EpisodeBatch) -> Scores:
        """What (K, S) logits of a batch's observations come to."""
        belief = losses.mean_belief(logits, self.temperature, self.offset)
        spread = losses.spread_of_beliefs(logits, self.temperature, self.offset) if len(logits) > 1 else None
        return Scores(belief, batch.obs_offsets, np.full(len(batch), self.version, np.int64), spread)

    def state(self) -> dict[str, Any]:
        """Plain numbers, strings and NumPy arrays on the CPU; ``from_state`` makes an equal model of it."""
        members = [{k: v.detach().cpu().numpy().copy() for k, v in net.state_dict().items()} for net in self.members]
        return {
            "format": FORMAT,
            "version": self.version,
            "temperature": self.temperature,
            "offset": self.offset,
            "scale": asdict(self.scale),
            "config": self.config.model_dump(mode="json"),
            "obs_shape": list(self.obs_shape),
            "members": members,
            "trained_on": sorted(self.trained_on),
            "calibrated_on": sorted(self.calibrated_on),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> RewardModel:
        """Raises CheckpointError for anything that ``state()`` didn't make."""
        try:
            if state["format"] != FORMAT:
                raise CheckpointError(f"reward model: got format {state['format']!r}, this version reads {FORMAT}")
            config = RewardModelConfig.model_validate(state["config"])
            members = [make_net(config, tuple(state["obs_shape"]), 0) for _ in state["members"]]
            for net, arrays in zip(members, state["members"], strict=True):
                net.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()})
            scale = Scale(**state.get("scale", {}))  # older states have none, nor what follows
            version, temperature = int(state["version"]), float(state["temperature"])
            model = cls(config, members, version=version, temperature=temperature, scale=scale)
            model.offset = float(state.get("offset", 0.0))
            model.trained_on = frozenset(map(str, state.get("trained_on", ())))
            model.calibrated_on = frozenset(map(str, state.get("calibrated_on", ())))
            return model
        except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"not a reward model's state: {type(error).__name__}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write it to one file: a ZIP of a JSON text and NumPy arrays, no code. Raises CheckpointError."""
        state = self.state()
        members = state.pop("members")
        try:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
                file.writestr(_ABOUT, json.dumps(state | {"members": len(members)}))
                for k, arrays in enumerate(members):
                    for name, array in arrays.items():
                        buffer = io.BytesIO()
                        np.save(buffer, array, allow_pickle=False)
                        file.writestr(f"{k}/{name}.npy", buffer.getvalue())
        except OSError as error:
            raise CheckpointError(f"reward model {str(path)!r}: {error.strerror or error}") from None

    @classmethod
    def load(cls, path: str | Path) -> RewardModel:
        """What ``save`` wrote. Raises CheckpointError for anything else."""
        try:
            with zipfile.ZipFile(path) as file:
                state = dict(json.loads(file.read(_ABOUT)))
                members: list[dict[str, Any]] = [{} for _ in range(state["members"])]
                for name in file.namelist():
                    if name != _ABOUT:
                        k, _, parameter = name.removesuffix(".npy").partition("/")
                        members[int(k)][parameter] = np.load(io.BytesIO(file.read(name)), allow_pickle=False)
        except OSError as error:
            raise CheckpointError(f"reward model {str(path)!r}: {error.strerror or error}") from None
        except (KeyError, TypeError, ValueError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"reward model {str(path)!r}: no file of a reward model ({error})") from None
        return cls.from_state(state | {"members": members})
