"""A trial: ``FeedbackPPO`` as Ray Tune's trainable, on the course of a single run, with a run's files in its folder."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ray.tune.result import DONE, SHOULD_CHECKPOINT, TRIAL_INFO

from rlaif_ray.checkpoints import seal, write_checkpoint
from rlaif_ray.config import Config, dump_config
from rlaif_ray.config.running import FINISHED
from rlaif_ray.course import DRAIN_S, Course
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.files import write_whole
from rlaif_ray.networks import save_policy
from rlaif_ray.placement import home_node
from rlaif_ray.ppo import FeedbackPPO
from rlaif_ray.ppo_config import FeedbackPPOConfig
from rlaif_ray.runlog import RunLog, plain
from rlaif_ray.sweep.labels import TrialLabels
from rlaif_ray.sweep.place import Place
from rlaif_ray.sweep.plan import Cell, suggested
from rlaif_ray.types import Judged

__all__ = ["Audit", "SweepTrial", "cell_of"]

COURSE = "course.json"
AUDIT_VERDICTS = 50  # newest verdicts that a trial's approval is the mean of: +- 7 points at one half
AUDIT_ITERATIONS = 10  # over which the task return is averaged
# RLlib's own accounts, some hundred figures a row: Tune keeps statistics of each figure of each trial in its state.
_LEFT_OUT = ("config", "env_runners", "env_runner_group", "fault_tolerance", "timers")


class Audit:
    """What a search may know of a trial: its task return and how the judge's newest verdicts went."""

    def __init__(self, *, compares: bool = False) -> None:
        self._compares = compares  # the judge chooses between two episodes, and approves of none
        self._returns: deque[float] = deque(maxlen=AUDIT_ITERATIONS)
        # How many of an iteration, what they say of all its episodes, and for how many they stand.
        self._verdicts: deque[tuple[float, float, float]] = deque()

    def take(self, row: Mapping[str, Any]) -> dict[str, float]:
        """An iteration's figures with this one: ``task_return``, ``approval`` (nan before a verdict), ``score``.

        ``score`` is their sum. Approval that nobody has given is none: without a verdict it counts as 0. Where a judge
        compares there is neither.
        """
        task_return = float(row.get("task", {}).get("episode_return_mean", math.nan))
        if math.isfinite(task_return):
            self._returns.append(task_return)
        feedback = row.get("feedback", {})
        if not self._compares and (stands_for := feedback.get("stands_for", feedback.get("verdicts", 0))) > 0:
            self._verdicts.append((feedback["verdicts"], feedback["approval_rate"], stands_for))
            while sum(n for n, _, _ in self._verdicts) - self._verdicts[0][0] >= AUDIT_VERDICTS:
                self._verdicts.popleft()
        return self.figures()

    def figures(self) -> dict[str, float]:
        count, standing = sum(n for n, _, _ in self._verdicts), sum(many for _, _, many in self._verdicts)
        approval = sum(many * mean for _, mean, many in self._verdicts) / standing if standing else math.nan
        task_return = sum(self._returns) / len(self._returns) if self._returns else math.nan
        score = (task_return if self._returns else 0.0) + (approval if count else 0.0)
        score = math.nan if self._compares else score
        return {"task_return": task_return, "approval": approval, "verdicts": float(count), "score": score}

    def state(self) -> dict[str, Any]:
        return {"returns": list(self._returns), "verdicts": list(self._verdicts)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._returns.extend(state["returns"])
        self._verdicts.extend((n, mean, *(many or [n])) for n, mean, *many in state["verdicts"])


def cell_of(place: Place, config: Mapping[str, Any], trial_id: str) -> Cell:
    """Which trial of the sweep Tune means.

    A member of a population takes its neighbour's whole config over, but not who it is: that is its trial's number.
    """
    point = dict(config.get("set") or {})
    if place.study.pbt is not None:
        member = place.cells[int(trial_id.rpartition("_")[2])]
        return Cell(member.name, member.arm, member.seed, point)
    if "cell" in config:
        return place.cells[int(config["cell"])]
    return suggested(place.study, point, int(config.get("__trial_index__", 0)))


class SweepTrial(FeedbackPPO):
    """Tune's config is ``{"folder": the sweep's, "cell": number of the planned trial, "set": {config key: value}}``."""

    def __init__(self, config: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        info = config.get(TRIAL_INFO)
        self.place = Place.read(Path(config["folder"]))
        self.cell = cell_of(self.place, config, info.trial_id if info is not None else "")
        self.given = self.place.config_of(self.cell)
        self.path = self.place.path_of(self.cell.name)
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / "config.yaml").write_text(dump_config(self.given))
        self.audit = Audit(compares=self.given.asks and load_prompt(self.given.judge.prompt).kind == "preference")
        self.inherited: dict[str, int] = {}  # runs it was cloned from -> their last label at that time
        self.ended = False
        self.fresh = True
        super().__init__(self._ppo_config(self.place.judged(self.given), self.path), *args, **kwargs)

    @classmethod
    def _ppo_config(cls, config: Config, path: Path) -> FeedbackPPOConfig:
        ppo = FeedbackPPOConfig.from_config(config)
        ppo.algo_class, ppo.run_path = cls, str(path)
        return ppo

    @classmethod
    def default_resource_request(cls, config: Mapping[str, Any]) -> Any:
        """A bundle for the learner's process and one for each runner, as RLlib counts them."""
        place = Place.read(Path(config["folder"]))
        cell = place.cells[0] if place.study.pbt is not None else cell_of(place, config, "")
        ppo = cls._ppo_config(place.config_of(cell), place.path_of(cell.name))
        return super().default_resource_request(ppo.to_dict())

    def _setup_logdir(self) -> None:
        """The trial's own folder, and no change of the working directory: paths in configs are the user's."""
        self._logdir = str(self.path)

    @property
    def run_id(self) -> str:
        """Unique in a store that several sweeps may share."""
        return f"{self.place.folder.name}/{self.cell.name}"

    @cached_property
    def labels(self) -> TrialLabels:
        """Of a trial that asks."""
        from rlaif_ray.feedback.actors import StoreHandle

        return TrialLabels(StoreHandle(self.store_path, node=home_node(self.config.home_node)), self.run_id)

    def setup(self, config: FeedbackPPOConfig) -> None:
        super().setup(config)
        self.course = Course(self.given, self.path, self, stop=lambda: False, phase_ended=self._keep)
        self.log = RunLog(self.path, self.given)
        self.saved_at = time.monotonic()
        if not (self.path / "trial.json").exists():
            self._note()

    # ------------------------------------------------------------------------------------------ one iteration

    def step(self) -> dict[str, Any]:
        """RLlib's iteration; then what is due on a run's course."""
        before = self._finished_before()
        if before is not None:
            self.ended = True
            return {"steps": before["steps"], "audit": before.get("audit", self.audit.figures()), DONE: True}
        if not self._iterations_since_restore:
            self._note()
        if self.fresh:
            self.take_up_labels()  # of a process that was killed before its first checkpoint
            self.fresh = False
        try:
            row = super().step()
            row["audit"] = self.audit.take(row)
            self.course.look(row)
            if self.course.over:
                row |= {DONE: True, "summary": self._end()}
        except Exception:
            # Whatever it is, of the libraries or a user's own world: the trial's record says what Tune is told. What
            # ends a process from outside (KeyboardInterrupt, SystemExit) is no failure of the trial.
            self.ended = True
            self.course.write_failed(self._summary)
            raise
        row = {key: value for key, value in row.items() if key not in _LEFT_OUT}
        row["wall_s"] = self.course.wall_s()
        if time.monotonic() - self.saved_at > self.given.run.checkpoint_every_s:
            row[SHOULD_CHECKPOINT] = True
        return row

    def log_result(self, result: dict[str, Any]) -> None:
        """Into the trial's own files, from its own process: nothing is lost when the sweep's is killed."""
        super().log_result(result)
        if "phase" in result:  # not of a trial that was finished before
            self.log.write(plain({key: value for key, value in result.items() if key != "summary"}))

    def get_auto_filled_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Without the whole config in every row: it stands in the trial's folder."""
        filled = super().get_auto_filled_metrics(*args, **kwargs)
        return {key: value for key, value in filled.items() if key != "config"}

    def _finished_before(self) -> dict[str, Any] | None:
        """The summary of a trial that ended just before the sweep was killed: it stays finished."""
        if self._iterations_since_restore:
            return None
        try:
            summary = json.loads((self.path / "summary.json").read_text())
        except (OSError, ValueError):
            return None
        return summary if summary.get("status") in FINISHED else None

    def _end(self) -> dict[str, Any]:
        """What a single run does when its steps are done."""
        self.course.end_task_only()
        self.loop.drain(DRAIN_S)
        self._keep("final")
        self.loop.close()
        summary = self._summary(self.course.status())
        self.course.finish(summary)
        self.ended = True
        return plain(summary)  # type: ignore[no-any-return]

    def _summary(self, status: str) -> dict[str, Any]:
        summary = self.course.summary(status)
        ours = {"arm": self.cell.arm, "smoke": self.place.smoke, "run_id": self.run_id, "audit": self.audit.figures()}
        return summary | ours | self._cost()

    def _cost(self) -> dict[str, Any]:
        """As if the trial stood alone: what it used, whoever paid for it. What it spent itself is beside it."""
        if not self.rlaif.asks:
            return {"stand_alone": {"usd": 0.0, "labels": 0}}
        used = self.labels.stand_alone(self.inherited)
        return {"stand_alone": {"usd": used.usd, "labels": used.labels}, "inherited": self.inherited}

    def _note(self) -> None:
        """``trial.json``: who it is and what was chosen for it, then and now."""
        file = self.path / "trial.json"
        history: list[dict[str, Any]] = []
        if file.exists():
            history = json.loads(file.read_text())["history"]
        now = {"steps": self.steps, "set": dict(self.cell.set)}
        if not history or history[-1]["set"] != now["set"]:
            history.append(now)
        facts = {"name": self.cell.name, "arm": self.cell.arm, "seed": self.cell.seed, "set": dict(self.cell.set)}
        write_whole(file, json.dumps(facts | {"smoke": self.place.smoke, "history": history}, indent=1) + "\n")

    # ------------------------------------------------------------------------------------------ state

    def _keep(self, name: str) -> None:
        """The policy of a phase's end, for ``evaluate``; what Tune resumes from is Tune's to keep."""
        policy = self.policy()
        if policy is None:
            return
        facts = self.course.facts() | {"policy_only": True}
        folder = self.path / "checkpoints"
        write_checkpoint(folder, f"phase-{name}", self.given, lambda at: save_policy(Path(at), policy.network), facts)

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        super().save_checkpoint(checkpoint_dir)
        self.saved_at = time.monotonic()
        facts = {
            "facts": self.course.facts(),
            "audit": self.audit.state(),
            "inherited": self.inherited,
            "run_id": self.run_id,
            "iteration": self._iteration,
            "last_label": self.labels.last() if self.rlaif.asks else 0,
        }
        (Path(checkpoint_dir) / COURSE).write_text(json.dumps(plain(facts)))
        seal(Path(checkpoint_dir), {"steps": self.steps})  # Tune copies it file by file: a kill tears the copy

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        kept = json.loads((Path(checkpoint_dir) / COURSE).read_text())
        self.inherited |= {run: int(last) for run, last in kept["inherited"].items()}
        if kept["run_id"] != self.run_id:
            self.inherited[kept["run_id"]] = int(kept["last_label"])
        self.fresh = False
        super().load_checkpoint(checkpoint_dir)
        self._iteration = kept["iteration"]  # Tune's own may be of an older one: see ``mend_checkpoint``
        self.audit.restore(kept["audit"])
        self.course.go_on_from(kept["facts"])

    def _stored_labels(self) -> list[Judged]:
        """Of this trial, and of those it was cloned from until then: their reward model is its own now."""
        found = super()._stored_labels()
        return found + self.labels.of_others(self.inherited) if self.inherited else found

    def cleanup(self) -> None:
        """Also where Tune ends the trial before its time: what it has come to is on record."""
        try:
            if hasattr(self, "course"):
                self.log.close()
                if not self.ended:
                    self.course.write(self._summary("stopped"))
        finally:
            super().cleanup()
