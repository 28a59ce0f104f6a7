"""Stepping a vector environment into columns, and columns into whole episodes, without an object a step.

``ColumnSampler.sample(T)`` steps N environments T times and returns a ``Rollout``: the T x N fragment PPO learns from,
the episodes completed in it (whole, from their first observation), and the prefixes of those still running. Episodes
are put together by one gather of rows; no Python loop goes over steps or episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from rlaif_ray.errors import EnvError
from rlaif_ray.packed import env_major, interleave, join_batches, packed_ranges, take_episodes
from rlaif_ray.types import Array, EpisodeBatch, Fragment, PolicyVersion, Rollout, Truth, VectorWorld

__all__ = ["Acted", "Actor", "ColumnSampler", "run_episodes"]

ID_BITS = 40  # episodes one sampler can number: a million million


@dataclass(frozen=True)
class Acted:
    """What a policy answers to N observations."""

    action: Array  # (N, ...) in the network's own space: what is learned from
    to_world: Array  # (N, ...) as the world takes it
    logp: Array  # (N,)
    logits: Array  # (N, K)
    value: Array  # (N,), or (N, 2) of a critic that takes a belief


class Actor(Protocol):
    """What the sampler needs of a policy."""

    def act(self, obs: Array) -> Acted:
        """Observations (N, *obs) -> actions and what goes with them."""

    def values(self, obs: Array) -> Array:
        """Observations (M, *obs) -> (M,) float32, the critic's values; (M, 2) where it takes a belief."""


class ColumnSampler:
    """Steps one vector environment (same-step autoreset) with one actor; keeps what is open between fragments.

    Args:
        env: a ``gymnasium.vector.VectorEnv`` that resets in the step in which an episode ends.
        number: distinguishes this sampler's episode ids from any other's; below 2**23.
    """

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any], number: int = 0) -> None:
        mode = env.metadata.get("autoreset_mode")
        if mode != gym.vector.AutoresetMode.SAME_STEP:
            raise EnvError(f"vector environment {env}: autoreset_mode is {mode}, expected AutoresetMode.SAME_STEP")
        self.env = env
        self.N = env.num_envs
        self._world: VectorWorld | None = env.unwrapped if isinstance(env.unwrapped, VectorWorld) else None
        self._next_id = number << ID_BITS
        self._obs: Array | None = None
        self._open: EpisodeBatch

    # ------------------------------------------------------------------------------------------ sampling

    def reset(self, seed: int | None, policy_version: PolicyVersion = 0, options: Any = None) -> None:
        """Begin N new episodes; open ones are forgotten."""
        obs, _ = self.env.reset(seed=seed, options=options)
        self._obs = np.array(obs)
        N = self.N
        self._open = EpisodeBatch(
            episode_id=self._new_ids(N),
            obs=self._obs.copy(),
            states=self._states(),
            actions=np.zeros((0, *self._action_shape()), self._action_dtype()),
            obs_offsets=np.arange(N + 1, dtype=np.int64),
            task_return=np.zeros(N, np.float32),
            terminated=np.zeros(N, bool),
            complete=np.zeros(N, bool),
            policy_version=np.full(N, policy_version, np.int64),
        )

    def sample(self, T: int, actor: Actor, policy_version: PolicyVersion) -> Rollout:
        """Step T times. Episodes carry the version that took their first action."""
        columns = _Columns(T, self.N)
        for t in range(T):
            self._step(t, actor, columns)
        return self._assemble(columns, actor, policy_version)

    def _step(self, t: int, actor: Actor, columns: _Columns) -> None:
        obs = self._obs
        if obs is None:
            raise EnvError("sample() before reset()")
        acted = actor.act(obs)
        new_obs, reward, terminated, truncated, infos = self.env.step(acted.to_world)
        truncated = truncated & ~terminated
        columns.put(t, obs, acted, (reward, terminated, truncated), self._states())
        ended = terminated | truncated
        if ended.any():
            where = np.flatnonzero(ended)
            final = infos["final_obs"]
            rows = [np.asarray(final[n]) for n in where] if final.dtype == object else final[where]
            columns.end(
                t,
                where,
                np.array(rows),
                None if self._world is None else self._world.final_states()[where],
                {k: np.asarray(v)[where] for k, v in _numeric(infos.get("final_info", {})).items()},
            )
        self._obs = np.array(new_obs)

    # ------------------------------------------------------------------------------------------ assembling

    def _assemble(self, columns: _Columns, actor: Actor, version: PolicyVersion) -> Rollout:
        """Cut the columns into episodes. Rows are numbered env-major: row n * T + t is environment n at step t."""
        T, N = columns.T, self.N
        done_NT = (columns.terminated | columns.truncated).T
        ends = np.flatnonzero(done_NT) + 1  # env-major end rows of completed parts, ascending
        column_ends = np.arange(1, N + 1) * T
        # Every column also ends with an open part; it is empty where an episode ended in the last row.
        end = np.concatenate([ends, column_ends])
        is_open = np.concatenate([np.zeros(len(ends), bool), np.ones(N, bool)])
        order = np.lexsort((is_open, end))
        end, is_open = end[order], is_open[order]
        column = (end - 1) // T
        start = np.concatenate([[0], end[:-1]])
        first_in_column = np.concatenate([[True], column[1:] != column[:-1]])
        ids, versions, prefix_steps = self._identify(column, first_in_column, version)

        source = _Source(self._open, columns, self._obs_now(), self._states())
        tail = self._tails(columns, end, is_open, column, source)
        parts = _Parts(column, start, end, first_in_column, prefix_steps, tail, ids, versions)
        done = ~is_open
        episodes = source.gather(parts.where(done), columns, complete=True)
        opened = source.gather(parts.where(is_open), columns, complete=False)
        fragment = self._fragment(columns, actor, parts, version)
        self._open = opened
        order_of_ends = columns.order_of_ends()
        return Rollout(
            fragment=fragment,
            episodes=episodes,
            open=opened,
            truth=Truth(episodes.episode_id, {k: v[order_of_ends] for k, v in columns.facts().items()}),
            episode_cells=parts.where(done).cells(T),
            open_cells=parts.where(is_open).cells(T),
            runner=0,
        )

    def _identify(self, column: Array, first: Array, version: PolicyVersion) -> tuple[Array, Array, Array]:
        """Ids, versions and steps before this fragment: the first part of a column goes on the open episode."""
        P = len(column)
        ids, versions = np.empty(P, np.int64), np.full(P, version, np.int64)
        ids[first] = self._open.episode_id
        ids[~first] = self._new_ids(int((~first).sum()))
        begun = self._open.lengths > 0
        versions[first] = np.where(begun, self._open.policy_version, version)
        prefix_steps = np.zeros(P, np.int64)
        prefix_steps[first] = self._open.lengths
        return ids, versions, prefix_steps

    def _tails(self, columns: _Columns, end: Array, is_open: Array, column: Array, source: _Source) -> Array:
        """Row in the source of each part's last observation: a final observation, or the present one."""
        tail = np.empty(len(end), np.int64)
        tail[is_open] = source.present_at + column[is_open]
        tail[~is_open] = source.final_at + columns.order_of_ends()
        return tail

    def _fragment(self, columns: _Columns, actor: Actor, parts: _Parts, version: PolicyVersion) -> Fragment:
        T, N = columns.T, self.N
        next_value = np.zeros(columns.value.shape, np.float32)
        for (t, where), final_obs in zip(columns.ended, columns.final_obs, strict=True):
            cut = columns.truncated[t, where]
            if cut.any():
                next_value[t, where[cut]] = actor.values(final_obs[cut])
        running = ~(columns.terminated[-1] | columns.truncated[-1])
        if running.any():
            next_value[-1, running] = actor.values(self._obs_now()[running])
        ids = np.repeat(parts.ids, parts.end - parts.start).reshape(N, T).T
        step = packed_ranges(parts.prefix_steps, parts.end - parts.start).reshape(N, T).T
        return Fragment(
            obs=columns.obs,
            action=columns.action,
            task_reward=columns.reward,
            terminated=columns.terminated,
            truncated=columns.truncated,
            logp=columns.logp,
            logits=columns.logits,
            value=columns.value,
            next_value=next_value,
            episode_id=np.ascontiguousarray(ids),
            step=np.ascontiguousarray(step.astype(np.int32)),
            policy_version=version,
        )

    # ------------------------------------------------------------------------------------------ small things

    def _new_ids(self, count: int) -> Array:
        first = self._next_id
        self._next_id += count
        return np.arange(first, first + count, dtype=np.int64)

    def _states(self) -> Array | None:
        return None if self._world is None else np.array(self._world.states())

    def _obs_now(self) -> Array:
        if self._obs is None:
            raise EnvError("sample() before reset()")
        return self._obs

    def _action_shape(self) -> tuple[int, ...]:
        space = self.env.single_action_space
        return () if isinstance(space, gym.spaces.Discrete) else tuple(space.shape or ())

    def _action_dtype(self) -> type:
        return np.int64 if isinstance(self.env.single_action_space, gym.spaces.Discrete) else np.float32

    def counter(self) -> int:
        """Id the next episode will get; part of a checkpoint."""
        return self._next_id

    def set_counter(self, next_id: int) -> None:
        self._next_id = max(self._next_id, next_id)


class _Columns:
    """The T x N arrays being filled, and what ended when."""

    def __init__(self, T: int, N: int) -> None:
        self.T, self.N = T, N
        self._allocated = False
        self.ended: list[tuple[int, Array]] = []
        self.final_obs: list[Array] = []
        self.final_states: list[Array | None] = []
        self._facts: list[dict[str, Array]] = []

    def put(self, t: int, obs: Array, acted: Acted, came: tuple[Array, Array, Array], after: Array | None) -> None:
        """Row t: what was seen, what was done, what came of it (reward, terminated, truncated), states afterwards."""
        reward, terminated, truncated = came
        if not self._allocated:
            T, N = self.T, self.N
            self.obs = np.empty((T, *obs.shape), obs.dtype)
            self.action = np.empty((T, *acted.action.shape), acted.action.dtype)
            self.logits = np.empty((T, *acted.logits.shape), np.float32)
            self.reward, self.logp = (np.empty((T, N), np.float32) for _ in range(2))
            self.value = np.empty((T, *acted.value.shape), np.float32)
            self.terminated, self.truncated = np.empty((T, N), bool), np.empty((T, N), bool)
            self.states_after = None if after is None else np.empty((T, *after.shape), after.dtype)
            self._allocated = True
        self.obs[t], self.action[t], self.logits[t] = obs, acted.action, acted.logits
        self.logp[t], self.value[t], self.reward[t] = acted.logp, acted.value, reward
        self.terminated[t], self.truncated[t] = terminated, truncated
        if self.states_after is not None and after is not None:
            self.states_after[t] = after

    def end(self, t: int, where: Array, obs: Array, states: Array | None, facts: dict[str, Array]) -> None:
        self.ended.append((t, where))
        self.final_obs.append(obs)
        self.final_states.append(states)
        self._facts.append(facts)

    def order_of_ends(self) -> Array:
        """Permutation from the order in which episodes ended (by step) to env-major order (by column)."""
        if not self.ended:
            return np.zeros(0, np.int64)
        rows = np.concatenate([where * self.T + t for t, where in self.ended])
        return np.argsort(rows, kind="stable")

    def facts(self) -> Mapping[str, Array]:
        names = set.intersection(*(set(facts) for facts in self._facts)) if self._facts else set()
        return {name: np.concatenate([facts[name] for facts in self._facts]) for name in sorted(names)}


@dataclass(frozen=True)
class _Parts:
    """P parts of episodes in one fragment, env-major rows."""

    column: Array
    start: Array
    end: Array
    first: Array  # goes on the column's open episode
    prefix_steps: Array
    tail: Array  # source row of the last observation
    ids: Array
    versions: Array

    def where(self, mask: Array) -> _Parts:
        return _Parts(*(getattr(self, name)[mask] for name in self.__dataclass_fields__))

    def cells(self, T: int) -> Array:
        offset = self.column * T
        return np.stack([self.column, self.start - offset, self.end - offset], 1).astype(np.int64)


class _Source:
    """All rows an episode can be made of, end to end: open prefixes, the fragment env-major, finals, the present."""

    def __init__(self, opened: EpisodeBatch, columns: _Columns, present: Array, present_states: Array | None) -> None:
        T, N = columns.T, columns.N
        obs = [opened.obs, env_major(columns.obs), *columns.final_obs, present]
        self.obs = np.concatenate(obs)
        self.prefix_offsets = opened.obs_offsets
        self.fragment_at = len(opened.obs)
        self.final_at = self.fragment_at + T * N
        self.present_at = self.final_at + sum(map(len, columns.final_obs))
        self.actions = np.concatenate([opened.actions, env_major(columns.action)])
        self.reward = env_major(columns.reward)
        self.opened = opened
        self.states: Array | None = None
        if opened.states is not None and columns.states_after is not None and present_states is not None:
            finals = [s for s in columns.final_states if s is not None]
            # States come after a step; the one before it is the prefix's last, then the row above.
            before = np.concatenate([opened.states[opened.obs_offsets[1:] - 1][None], columns.states_after[:-1]])
            self.states = np.concatenate([opened.states, env_major(before), *finals, present_states])

    def gather(self, parts: _Parts, columns: _Columns, complete: bool) -> EpisodeBatch:
        P = len(parts.column)
        inside = parts.end - parts.start
        steps = parts.prefix_steps + inside
        # An open prefix ends with the observation the fragment begins with: take its steps, not its last row.
        obs_rows = packed_ranges(
            interleave(self.prefix_offsets[parts.column], self.fragment_at + parts.start, parts.tail),
            interleave(parts.prefix_steps, inside, np.ones(P, np.int64)),
        )
        prefix_actions_at = self.prefix_offsets[parts.column] - parts.column
        action_rows = packed_ranges(
            interleave(prefix_actions_at, len(self.opened.actions) + parts.start),
            interleave(parts.prefix_steps, inside),
        )
        cumulative = np.concatenate([[0.0], np.cumsum(self.reward, dtype=np.float64)])
        before = np.where(parts.first, self.opened.task_return[parts.column], 0.0)
        last = np.maximum(parts.end - 1, 0)
        return EpisodeBatch(
            episode_id=parts.ids,
            obs=self.obs[obs_rows],
            states=None if self.states is None else self.states[obs_rows],
            actions=self.actions[action_rows],
            obs_offsets=np.concatenate([[0], np.cumsum(steps + 1)]).astype(np.int64),
            task_return=(before + cumulative[parts.end] - cumulative[parts.start]).astype(np.float32),
            terminated=env_major(columns.terminated)[last] & complete,
            complete=np.full(P, complete),
            policy_version=parts.versions,
        )


def _numeric(info: Any) -> dict[str, Array]:
    """The per-environment numbers of a vector environment's final info; masks (``_name``) and the rest are left out."""
    if isinstance(info, np.ndarray):  # an array of dictionaries, as older vector environments give
        found = [i for i in info if i]
        names = [k for k, v in found[0].items() if np.isscalar(v)] if found else []
        return {k: np.array([(i or {}).get(k, np.nan) for i in info]) for k in names}
    return {
        k: np.asarray(v)
        for k, v in info.items()
        if not k.startswith("_") and np.asarray(v).ndim == 1 and np.asarray(v).dtype.kind in "biuf"
    }


# ------------------------------------------------------------------------------------------------ evaluation


def run_episodes(
    sampler: ColumnSampler, actor: Actor, episodes: int, *, seed: int | None, version: PolicyVersion = 0, T: int = 16
) -> list[Rollout]:
    """Rollouts that hold exactly ``episodes`` complete episodes, cut down so that no environment's short episodes
    crowd out another's long ones: each environment gives its first few (``episodes`` shared out evenly).

    Stopping when enough had *finished* would count survivors of a race, and short episodes win races.
    """
    quota = np.full(sampler.N, episodes // sampler.N)
    quota[: episodes % sampler.N] += 1
    sampler.reset(seed, version)
    given, kept = np.zeros(sampler.N, np.int64), []
    while (given < quota).any():
        rollout = sampler.sample(T, actor, version)
        column = rollout.episode_cells[:, 0]
        rank = np.arange(len(column)) - np.searchsorted(column, column)  # nth of its column in this rollout
        keep = np.flatnonzero(rank + given[column] < quota[column])
        given += np.bincount(column, minlength=sampler.N)
        kept.append(_cut_down(rollout, keep))
    return kept


def _cut_down(rollout: Rollout, keep: Array) -> Rollout:
    """The rollout with only the episodes at ``keep``; the fragment stays whole, its other steps count as open."""
    from dataclasses import replace

    left_out = np.setdiff1d(np.arange(len(rollout.episodes)), keep)
    extra = rollout.episode_cells[left_out]
    return replace(
        rollout,
        episodes=take_episodes(rollout.episodes, keep),
        truth=Truth(rollout.truth.episode_id[keep], {k: v[keep] for k, v in rollout.truth.facts.items()}),
        episode_cells=rollout.episode_cells[keep],
        open=join_batches([take_episodes(rollout.episodes, left_out), rollout.open]) if len(extra) else rollout.open,
        open_cells=np.concatenate([extra, rollout.open_cells]),
    )
