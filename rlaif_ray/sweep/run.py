"""Run a sweep: check every arm, start one judge, one store and one Ray for all trials, let Tune do the rest, sum up."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlaif_ray import experiment
from rlaif_ray.config import Config
from rlaif_ray.config.sweeping import METRICS, OF_APPROVALS, Study
from rlaif_ray.errors import ConfigError, StoreError
from rlaif_ray.files import write_whole
from rlaif_ray.machine import PeakMemory
from rlaif_ray.placement import Cluster
from rlaif_ray.surroundings import judge_serving, quiet, ray_running
from rlaif_ray.sweep.keeping import mend, mend_checkpoint
from rlaif_ray.sweep.place import TUNE, Place, is_sweep
from rlaif_ray.sweep.searching import check_extras, loggers_of, param_space, scheduler_of, searcher_of
from rlaif_ray.sweep.watching import Seen, Watch, looking_on

__all__ = ["SweepOutcome", "check_sweep", "sweep"]

LOG = "log.txt"
# Ctrl-C is heard by the command, which stops Tune cleanly; trials write their files themselves; the live view has the
# terminal.
_OF_TUNE = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
}
# A trial whose process was killed (out of memory, say) goes on from its checkpoint so often.
_MOST_FAILURES = 2
# A population's members load each other's checkpoints some time after they were written.
_KEPT, _KEPT_OF_POPULATION = 2, 6


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep ended. ``exit_code``: 0 done or stopped cleanly, 1 where a trial failed."""

    path: Path
    summary: dict[str, Any]
    exit_code: int


def check_sweep(place: Place) -> None:
    """All that can be known to be wrong before Ray is started or a cent is spent. Raises ConfigError, JudgeError."""
    check_extras(place.study)
    configs = _configs(place)
    asking = [config for config in configs if config.asks]
    if any(not config.judge.local for config in asking) and place.study.budget.usd is None:
        raise ConfigError("budget.usd: got none, but the judge costs money; a sweep needs a cap over all of its trials")
    if place.study.asha or place.study.search:
        _check_objective(place, len(asking) == len(configs))
    _check_approves(place.study, asking)
    seen: set[str] = set()
    for config in configs:
        parts = {"env", "policy", "judge", "resources"}
        alike = config.model_dump_json(include=parts, exclude={"judge": {"seed"}}) + str(
            (config.mix.source, config.watch.action, config.run.init, config.reward_model.labels)
        )
        if alike not in seen:  # arms differ in little of what is looked at here, and a judge is asked for it
            seen.add(alike)
            experiment.preflight(config)
    if asking:
        _check_store(place)


def _check_objective(place: Place, all_ask: bool) -> None:
    metric = place.study.metric
    if not all_ask and metric not in ("audit/task_return", "task/episode_return_mean"):
        raise ConfigError(
            f"metric: got {metric!r}, which needs a judge's verdicts, but mix.source is 'none' in some trial; allowed "
            "then are 'audit/task_return', 'task/episode_return_mean'"
        )


def _check_approves(study: Study, asking: Sequence[Config]) -> None:
    """A metric that is made of approvals goes with trials whose judge gives some."""
    from rlaif_ray.feedback.prompt import load_prompt

    if study.metric not in OF_APPROVALS:
        return
    drawn = study.search.space.get("judge.prompt", {}).get("choice", []) if study.search and asking else []
    for name in sorted({*(config.judge.prompt for config in asking), *map(str, drawn)}):
        if load_prompt(name).kind == "preference":
            allowed = ", ".join(repr(metric) for metric in METRICS if metric not in OF_APPROVALS)
            raise ConfigError(
                f"metric: got {study.metric!r}, which is made of approvals, with judge.prompt {name!r} of kind "
                f"'preference' in some trial; allowed then are {allowed} (a comparison approves of neither episode)"
            )


def _check_store(place: Place) -> None:
    from rlaif_ray.feedback.store import LabelStore

    try:
        LabelStore(place.store).close()
    except StoreError as error:
        raise ConfigError(f"feedback.store: got {str(place.store)!r}, which can't be used: {error}") from None


def sweep(
    place: Place,
    *,
    resume: bool = False,
    monitor: Callable[[Seen], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> SweepOutcome:
    """Run every trial to its end, or until ``stop()``; with ``resume`` go on with what was begun.

    Raises ConfigError and JudgeError before anything has started.
    """
    stop = stop or (lambda: False)
    if is_sweep(place.folder) and not resume:
        raise ConfigError(
            f"sweep {place.folder.name!r}: {str(place.folder)!r} holds a sweep already; go on with --resume or choose "
            "another --run.name"
        )
    _make_folder(place)
    check_sweep(place)
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(PeakMemory())
        stack.enter_context(quiet(place.folder / LOG))
        stack.enter_context(_judges(place))
        stack.enter_context(ray_running(_greediest(place)))
        _check_room(place)
        stack.enter_context(_store(place))
        if not resume:
            place.write()
        states = _States(monitor or (lambda _: None))
        stack.enter_context(looking_on(place, states, stop))
        failures = _tune(place)
        if stop():
            states.interrupted(place)
        return _outcome(place, failures, stopped=stop(), peak_gb=memory.peak_gb())


class _States:
    """Passes on what is seen, and remembers where each trial stands."""

    def __init__(self, monitor: Callable[[Seen], None]) -> None:
        self._monitor, self._of = monitor, dict[str, str]()

    def __call__(self, seen: Seen) -> None:
        self._of[seen.trial] = seen.state
        self._monitor(seen)

    def interrupted(self, place: Place) -> None:
        """Trials that Tune has stopped because it was: to themselves that looks like a schedule's early end."""
        for name in (name for name, state in self._of.items() if state == "running"):
            file = place.path_of(name) / "summary.json"
            summary = _read(file)
            if summary.get("status") == "stopped":
                write_whole(file, json.dumps(summary | {"status": "interrupted"}, indent=1) + "\n")


def _make_folder(place: Place) -> None:
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        (place.folder / LOG).touch()
    except OSError as error:
        raise ConfigError(
            f"run.dir: got {str(place.folder.parent)!r}, which can't be written: {error.strerror}"
        ) from None


def _configs(place: Place) -> list[Config]:
    return [place.config_of(cell) for cell in place.cells] or [place.base]


def _greediest(place: Place) -> Config:
    """Of all trials' configs, the one that needs most processes: Ray, started for it, has room for any."""
    return max(_configs(place), key=lambda config: config.resources.env_runners)


def _check_room(place: Place) -> None:
    """Tune would wait for ever for what the cluster will never have. Raises ConfigError."""
    need, cluster = _greediest(place).resources.env_runners + 1, Cluster.joined()
    if cluster.places < need:
        raise ConfigError(
            f"resources.env_runners: got {need - 1}, so that a trial takes {need} CPUs; the cluster has {cluster}: "
            "ask for fewer runners, or add nodes"
        )


@contextlib.contextmanager
def _judges(place: Place) -> Iterator[None]:
    """One built-in judge for each profile, for all trials: its rate limits are theirs together."""
    urls: dict[str, str] = {}
    configs = _configs(place)
    searched = (place.study.search.space if place.study.search else {}).get("judge.profile", {}).get("choice", [])
    for profile in searched:  # a searcher may choose any
        judge = place.base.judge.model_copy(update={"profile": profile})
        configs.append(place.base.model_copy(update={"judge": judge}))
    with contextlib.ExitStack() as stack:
        for config in configs:
            for member in config.judge.members if config.asks else ():
                if member.kind == "builtin" and member.profile not in urls:
                    alone = config.model_copy(update={"judge": member})
                    urls[member.profile] = stack.enter_context(judge_serving(alone)).judge.base_url
        place.tell_judges(urls)
        yield


@contextlib.contextmanager
def _store(place: Place) -> Iterator[None]:
    """The store's actor, made here and outside every trial: it is not to end with the trial that first asked."""
    if not any(config.asks for config in _configs(place)):
        yield
        return
    import ray

    from rlaif_ray.feedback.actors import StoreHandle
    from rlaif_ray.feedback.budget import Caps

    handle = StoreHandle(place.store, detached=True)
    handle.call("account", Caps())
    try:
        yield
    finally:
        handle.call("fold")
        ray.kill(handle.actor)


def _tune(place: Place) -> list[str]:
    """Run Tune to its end; what went wrong in the trials that failed."""
    from rlaif_ray.sweep.trial import SweepTrial

    os.environ.update(_OF_TUNE)
    tuner = _restored(place, SweepTrial) or _new(place, SweepTrial)
    results = tuner.fit()
    return [_last_line(error) for error in results.errors]


def _new(place: Place, trainable: Any) -> Any:
    from ray import tune

    searcher, samples = searcher_of(place.study)
    kept = _KEPT if place.study.pbt is None else _KEPT_OF_POPULATION
    return tune.Tuner(
        trainable,
        param_space=param_space(place),
        tune_config=tune.TuneConfig(num_samples=samples, search_alg=searcher, scheduler=scheduler_of(place.study)),
        run_config=tune.RunConfig(
            name=TUNE,
            storage_path=str(place.folder),
            callbacks=[Watch(place.folder), *loggers_of(place)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=kept, checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=_MOST_FAILURES),
            verbose=0,
        ),
    )


def _restored(place: Place, trainable: Any) -> Any:
    """The sweep as Tune left it; None where it was ended before Tune had written anything down."""
    from ray import tune

    path = place.folder / TUNE
    if not tune.Tuner.can_restore(str(path)) or not mend(path):
        return None
    tuner = tune.Tuner.restore(str(path), trainable, resume_unfinished=True, resume_errored=True)
    for trial in tuner.get_results():
        if trial.checkpoint is not None:
            mend_checkpoint(Path(trial.checkpoint.path))
    return tuner


def _outcome(place: Place, failures: Sequence[str], *, stopped: bool, peak_gb: float) -> SweepOutcome:
    counts = Counter(_read(path / "summary.json").get("status") for path in (place.folder / "trials").iterdir())
    planned = len(place.cells) or sum(counts.values())
    states = ("done", "no_feedback_learned", "stopped_by_watch", "stopped", "interrupted", "failed")
    summary = {
        "status": "interrupted" if stopped else ("failed" if failures else "done"),
        "name": place.folder.name,
        "smoke": place.smoke,
        "trials": planned,
        **{state: counts[state] for state in states},
        "not_run": max(0, planned - sum(counts[state] for state in states)),
        **_money(place),
        "errors": list(failures)[:10],
        "peak_memory_gb": peak_gb,
    }
    write_whole(place.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    return SweepOutcome(place.folder, summary, 1 if failures and not stopped else 0)


def _read(summary: Path) -> dict[str, Any]:
    """{} where it isn't there or is torn."""
    try:
        read = json.loads(summary.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}


def _money(place: Place) -> dict[str, Any]:
    """Cash: what was really spent by all trials together."""
    if not place.store.exists():
        return {"labels": 0, "spend_usd": 0.0, "cap_usd": place.study.budget.usd}
    from rlaif_ray.feedback.budget import Caps
    from rlaif_ray.feedback.store import LabelStore

    with LabelStore(place.store, readonly=True) as store:
        spent = store.account(Caps()).spent
    return {"labels": spent.labels, "spend_usd": spent.usd, "cap_usd": place.study.budget.usd}


def _last_line(error: BaseException) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
