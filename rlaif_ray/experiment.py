"""One training run, from its config to its summary: check, build, train in phases, checkpoint, evaluate, sum up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif_ray import envs
from rlaif_ray.checkpoints import check_checkpoint, checkpoint_config, drop_after, newest_up_to, prune, write_checkpoint
from rlaif_ray.config import Config, dump_config, load_config
from rlaif_ray.course import DRAIN_S, EVALUATION_SEED, Course
from rlaif_ray.errors import CheckpointError, ConfigError, StoreError, UnknownNameError
from rlaif_ray.evaluation import Stopped, World, evaluate_policy, write_gifs
from rlaif_ray.machine import PeakMemory
from rlaif_ray.networks import ActorCritic, Policy, load_policy, spec_for
from rlaif_ray.placement import cluster_address, reserved
from rlaif_ray.runlog import RunLog, plain
from rlaif_ray.surroundings import judge_serving, quiet, ray_running
from rlaif_ray.types import EpisodeRenderer, EpisodeTeller
from rlaif_ray.warm_start import check_earlier, first_policy
from rlaif_ray.watch import MOST_ROLLBACKS, Watch

__all__ = ["RunOutcome", "evaluate", "preflight", "train"]

Monitor = Callable[[dict[str, Any]], None]
GIFS = 4  # starts shown before and after; the first that the seed gives, not chosen
LOG = "log.txt"


@dataclass(frozen=True)
class RunOutcome:
    """How a run ended. ``exit_code``: 0 done or stopped cleanly, 1 failed or no feedback was learned."""

    path: Path
    summary: dict[str, Any]
    exit_code: int


# ------------------------------------------------------------------------------------------------ before


def preflight(config: Config) -> None:
    """Everything that can be known to be wrong before Ray is started or a cent is spent.

    Raises ConfigError and its kinds, JudgeError and its kinds.
    """
    from rlaif_ray.columns import ColumnSampler

    spec = envs.env_spec(config.env.id)
    for options in ({}, *config.env.evaluate_options.values()):
        env = envs.make_vec(config.env.id, 1, {**config.env.options, **options})
        ColumnSampler(env)
        _check_network(config, env)
        obs_shape = env.single_observation_space.shape or ()
        env.close()
    check_earlier(config, obs_shape)
    if config.resources.device == "cuda" and not cluster_address(config):  # a cluster is looked at when it is joined
        from rlaif_ray.ppo_config import wants_gpu

        wants_gpu(config)
    if config.asks:
        if spec.renderer is None:
            raise ConfigError(
                f"env.id: got {config.env.id!r}, which can't draw its episodes; allowed with mix.source "
                f"{config.mix.source!r} are worlds registered with a renderer"
            )
        if any(member.kind == "builtin" for member in config.judge.members) and not spec.reader:
            raise ConfigError(
                f"judge.kind: got 'builtin' for {config.env.id!r}, which has no reader of its pictures; allowed: 'chat'"
            )
        _check_caption(config, spec.renderer(dict(config.env.options)))
        _check_judge(config)


def _check_caption(config: Config, renderer: EpisodeRenderer) -> None:
    """The world can tell its episodes in the wording that is asked for."""
    wording = config.judge.caption
    wordings = renderer.wordings if isinstance(renderer, EpisodeTeller) else ()
    if wording and wording not in wordings:
        raise UnknownNameError(f"wording of a caption of {config.env.id} (judge.caption)", wording, wordings)


def _check_judge(config: Config) -> None:
    """The prompt, the profile, the model file or the endpoint, its key, its model and its price."""
    from rlaif_ray.feedback.builtin.profile import load_profile
    from rlaif_ray.feedback.check import ping
    from rlaif_ray.feedback.jury import check_words
    from rlaif_ray.feedback.local.model import find_model
    from rlaif_ray.feedback.question import words_of_run

    prompt, _ = words_of_run(config)
    check_words(config.judge, prompt)
    for member in config.judge.members:
        if member.kind == "builtin":
            load_profile(member.profile)  # it is started with the run
        elif member.gguf:
            find_model(member.gguf, member.mmproj)  # likewise
        else:
            ping(config.model_copy(update={"judge": member}))


def _check_network(config: Config, env: Any) -> None:
    if ":" in config.policy.network:  # an RLModule of the user's own; RLlib builds it
        from rlaif_ray.policy import module_spec

        module_spec(config.policy)
        first_policy(config)
    else:
        spec = spec_for(config.policy, env.single_observation_space, env.single_action_space)
        ActorCritic(spec)
        first_policy(config, spec)


# ------------------------------------------------------------------------------------------------ train


def train(
    config: Config,
    *,
    resume: Path | None = None,
    monitor: Monitor | None = None,
    stop: Callable[[], bool] | None = None,
    say: Callable[[str], None] | None = None,
) -> RunOutcome:
    """Run to ``run.total_steps``, or until ``stop()``; go on from ``resume`` (a run's folder) where given. A long wait
    for room on a cluster is told to ``say``.

    Raises ConfigError, CheckpointError and JudgeError before anything has started, KeyboardInterrupt where ``stop()``
    says so before that.
    """
    path, checkpoint = Path(config.run.dir) / config.run.name, None
    if resume is not None:
        path, checkpoint = _to_resume(resume)
        config = _resumed_config(path, config)
    elif (path / "config.yaml").exists():
        raise ConfigError(
            f"run.name: got {config.run.name!r}, but {str(path)!r} holds a run already; go on with `--resume {path}` "
            "or choose another --run.name"
        )
    preflight(config)
    path = path.absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / LOG).touch()
    except OSError as error:
        raise ConfigError(f"run.dir: got {config.run.dir!r}, which can't be written: {error.strerror}") from None
    if config.asks:
        _check_store(config, path)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        stack.enter_context(quiet(path / LOG))
        judged = stack.enter_context(judge_serving(config))
        stop = stop or (lambda: False)
        _go_on_unless(stop)
        stack.enter_context(ray_running(config))
        _go_on_unless(stop)
        if cluster_address(config):
            stack.enter_context(reserved(config, stop, say or (lambda _: None)))
        return _Run(judged, path, monitor or (lambda _: None), stop, memory, dump_config(config)).go(checkpoint)


def _go_on_unless(stop: Callable[[], bool]) -> None:
    """Nothing has begun yet, so there is nothing to keep."""
    if stop():
        raise KeyboardInterrupt


def _check_store(config: Config, run: Path) -> None:
    """Open (or make) the label store once: what is wrong with it is told now."""
    from rlaif_ray.feedback.store import LabelStore

    try:
        LabelStore(config.feedback.store or run / "labels.sqlite").close()
    except StoreError as error:
        raise ConfigError(f"feedback.store: got {config.feedback.store!r}, which can't be used: {error}") from None


def _to_resume(resume: Path) -> tuple[Path, Path | None]:
    """The run's folder and its newest checkpoint; None where it was killed before its first: its labels are kept."""
    if (resume / LOG).is_file() and not any((resume / "checkpoints").glob("[!.]*")):
        return resume, None
    checkpoint, facts = check_checkpoint(resume)
    if facts.get("policy_only"):
        raise CheckpointError(
            f"checkpoint {str(checkpoint)!r} holds a policy alone, of a sweep's trial: it goes on with its sweep "
            "(rlaif-ray sweep ... --resume)"
        )
    return checkpoint.parents[1], checkpoint  # also where a checkpoint of the run is named


def _resumed_config(run: Path, config: Config) -> Config:
    """The run's own config; only where and how long it runs may differ."""
    stored = load_config(str(run / "config.yaml"))
    steps = max(stored.run.total_steps, config.run.total_steps if config.run.name == stored.run.name else 0)
    return stored.model_copy(update={"run": stored.run.model_copy(update={"total_steps": steps})})


class _Run:
    """One run in this process: the loop around its course, with checkpoints, the log and the monitor."""

    def __init__(
        self, config: Config, path: Path, monitor: Monitor, stop: Callable[[], bool], memory: PeakMemory, given: str
    ) -> None:
        self.config, self.path, self.monitor, self.stop, self.memory = config, path, monitor, stop, memory
        self.given = given  # the config in YAML, without the address of a judge that is started for this run

    def go(self, checkpoint: Path | None) -> RunOutcome:
        began = self.saved_at = time.monotonic()
        self.algorithm = self._build()
        self.course = Course(
            self.config, self.path, self.algorithm, stop=self.stop, phase_ended=lambda n: self._checkpoint(f"phase-{n}")
        )
        self.course.began = began
        # Only now is it a run, to be gone on with: whatever failed before leaves its name free.
        (self.path / "config.yaml").write_text(self.given)
        self.log = RunLog(self.path, self.config)
        try:
            self._restore(checkpoint)
            with contextlib.suppress(Stopped):
                self._train()
            if not self.stop():
                self.algorithm.loop.drain(DRAIN_S)
            self._checkpoint(f"step-{self.algorithm.steps:09d}")
            self.algorithm.loop.close()  # what is still out is written off now, and counts in the summary
            return self._finish(self._summary(self.course.status()))
        except BaseException:
            self.course.write_failed(self._summary)
            raise
        finally:
            self.log.close()
            self.algorithm.stop()

    def _build(self) -> Any:
        from rlaif_ray.ppo import FeedbackPPO
        from rlaif_ray.ppo_config import FeedbackPPOConfig

        ppo = FeedbackPPOConfig.from_config(self.config)
        ppo.run_path = str(self.path)
        algorithm = FeedbackPPO(ppo)
        algorithm.stop_requested = self.stop
        return algorithm

    def _restore(self, checkpoint: Path | None) -> None:
        if checkpoint is None:
            self.algorithm.take_up_labels()
            return
        _, facts = check_checkpoint(checkpoint)
        self.algorithm.load_checkpoint(str(checkpoint))
        self.course.go_on_from(facts)

    # ------------------------------------------------------------------------------------------ the loop

    def _train(self) -> None:
        while not self.course.over and not self.stop():
            row = plain(self.algorithm.train()) | {"wall_s": self.course.wall_s()}
            self._go_back_if_gamed()
            try:
                self.course.look(row)
                if time.monotonic() - self.saved_at > self.config.run.checkpoint_every_s:
                    self._checkpoint(f"step-{self.algorithm.steps:09d}")
            finally:
                self.log.write(row)
            pool = self.algorithm.loop.pool
            notices = pool.notices() if pool else []
            self.monitor(row | {"notices": [*notices, *(f"Goodhart watch, {a}" for a in self.watch.alarms[-1:])]})
        if not self.stop():
            self.course.end_task_only()

    @property
    def watch(self) -> Watch:
        watch: Watch = self.algorithm.loop.watch
        return watch

    def _go_back_if_gamed(self) -> None:
        """To the last checkpoint up to the estimated onset of broken promises, policy and reward model together; the
        verdicts since then stay paid for and are learned from. Where there is none, the run ends."""
        until = self.watch.to_go_back_to
        if until is None:
            return
        target = newest_up_to(self.path / "checkpoints", until) if self.watch.rollbacks < MOST_ROLLBACKS else None
        if target is None:
            self.watch.give_up()
            return
        left = self.watch.state()
        _, facts = check_checkpoint(target)
        self.algorithm.load_checkpoint(str(target))
        self.watch.gone_back(left)
        self.course.phases = list(facts["phases"])
        self._checkpoint(f"step-{self.algorithm.steps:09d}")  # whoever resumes goes on from here
        drop_after(self.path / "checkpoints", self.algorithm.steps)

    def _checkpoint(self, name: str) -> None:
        facts = self.course.facts()
        write_checkpoint(self.path / "checkpoints", name, self.config, self.algorithm.save_checkpoint, facts)
        prune(self.path / "checkpoints", "step-", self.config.run.keep_checkpoints, self.watch.onset)
        self.saved_at = time.monotonic()

    # ------------------------------------------------------------------------------------------ the end

    def _finish(self, summary: dict[str, Any]) -> RunOutcome:
        self.course.finish(summary, self._gifs)
        summary["peak_memory_gb"] = self.memory.peak_gb()
        self.course.write(summary)
        return RunOutcome(self.path, summary, 1 if summary["status"] == "no_feedback_learned" else 0)

    def _gifs(self, policy: Policy | None) -> None:
        world = self.course.world(next(iter(self.config.env.evaluate_options.values()), {}))
        before = self.path / "checkpoints" / "phase-task"
        for name, one in (("before", load_policy(before) if before.exists() else None), ("after", policy)):
            if one is not None:
                write_gifs(one, world, GIFS, self.path / "media", name=name, seed=EVALUATION_SEED)

    def _summary(self, status: str) -> dict[str, Any]:
        return self.course.summary(status) | {"peak_memory_gb": self.memory.peak_gb()}


# ------------------------------------------------------------------------------------------------ evaluate


def evaluate(
    checkpoint: Path,
    *,
    episodes: int = 2_000,
    options: Mapping[str, Any] | None = None,
    deterministic: bool = False,
    seed: int = EVALUATION_SEED,
) -> dict[str, Any]:
    """True outcomes of a checkpoint's policy (of a run's newest where given a run). Needs no Ray.

    Raises CheckpointError, ConfigError.
    """
    if episodes < 1:
        raise ConfigError(f"episodes: got {episodes}, allowed are 1 or more")
    if not 0 <= seed < 2**32:
        raise ConfigError(f"seed: got {seed}, allowed are 0 to {2**32 - 1}")
    folder, _ = check_checkpoint(checkpoint)
    config = checkpoint_config(folder)
    if not (folder / "policy.pt").exists():
        raise CheckpointError(f"checkpoint {str(folder)!r} holds a network of the user's own; evaluate it with RLlib")
    policy = load_policy(folder)
    world = World(config.env.id, {**config.env.options, **(options or {})})
    return evaluate_policy(policy, world, episodes, deterministic=deterministic, seed=seed)
