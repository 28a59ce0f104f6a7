"""Commands on reward models and stored labels: ``reward-model fit | evaluate``. They need no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from rlaif_ray.cli.figures import find_checkpoint
from rlaif_ray.cli.output import only_json, print_json, text_console
from rlaif_ray.cli.reward_model_options import Fit, Grade
from rlaif_ray.config import RewardModelConfig
from rlaif_ray.errors import CheckpointError, ConfigError, UnknownNameError

if TYPE_CHECKING:
    from rlaif_ray.cli.label_sources import PooledLabels
    from rlaif_ray.reward_model import RewardModel
    from rlaif_ray.reward_model.labelled import Labelled

__all__ = ["evaluate", "fit"]

CHOICES = {
    "net": ("event-max", "cnn-lstm"),
    "noise": ("none", "estimated"),
    "calibrate": ("temperature", "platt"),
    "early_stop": ("training", "validation"),
}


def fit(command: Fit) -> int:
    """Fit, grade on what was held out, and write the model; 1 where it is refused: graded all the same, not written."""
    given = _given(command)
    _check_out(Path(command.out))
    with only_json(command.json):
        from rlaif_ray.cli.label_sources import pooled
        from rlaif_ray.cli.reward_model_figures import figures_of
        from rlaif_ray.reward_model import RewardModelTrainer

        pool = pooled(command.labels, command.env)
        config = _config(pool.config, given)
        trainer = RewardModelTrainer(config, pool.obs_shape, command.seed)
        pool.teach(trainer)
        published = trainer.fit()
        _, held = trainer.parts()
        report, model, taken = published.report, trainer.candidate, trainer.served is not None
        if model is None or report.heldout_n == 0:
            raise ConfigError(f"labels: got {len(trainer)} distinct ones, which can't be fitted: {report.reason}")
        if taken:
            model.save(command.out)
        figures = figures_of(model, held, pool.truth)
        figures["gate"] |= {"passed": report.gate_open, "reason": report.reason}  # it also asks what was learned
        figures |= {
            "status": "published" if taken else "refused", "reason": report.reason,
            "file": command.out if taken else None, "labels": _counts(pool, len(trainer), held),
            "unused": trainer.labels.unused, "fit_s": report.fit_s, "loss": report.loss,
            "flips": {k.removeprefix("flip_"): v for k, v in report.extra.items() if k.startswith("flip_")},
        }  # fmt: skip
    _say(command.json, figures)
    return 0 if taken else 1


def evaluate(command: Grade) -> int:
    """Grade a model on the labels that it did not learn from."""
    with only_json(command.json):
        from rlaif_ray.cli.label_sources import pooled
        from rlaif_ray.cli.reward_model_figures import figures_of

        model = _model(command.model)
        pool = pooled(command.labels, command.env)
        known, unseen = _unseen(model, pool)
        figures = figures_of(model, unseen, pool.truth) | {"labels": _counts(pool, known, unseen)}
    _say(command.json, {"status": "evaluated", "file": command.model} | figures)
    return 0


def _given(command: Fit) -> dict[str, Any]:
    """What the command line says of the reward model. Raises UnknownNameError for a choice that isn't there."""
    for name, allowed in CHOICES.items():
        value = getattr(command, name)
        if value and value not in allowed:
            raise UnknownNameError(f"value of --{name.replace('_', '-')}", value, allowed)
    names = ("net", "ensemble", "noise", "calibrate", "early_stop", "epochs", "holdout")
    given = {name: getattr(command, name) for name in names if getattr(command, name)}
    return given | ({"updates": 0} if command.epochs else {})  # passes that were asked for are made


def _config(base: RewardModelConfig | None, given: dict[str, Any]) -> RewardModelConfig:
    """Raises ConfigError: a value that can't be."""
    try:
        return RewardModelConfig.model_validate((base or RewardModelConfig()).model_dump() | given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{name}: got {first['input']!r}: {first['msg'].lower()}") from None


def _check_out(out: Path) -> None:
    """Told before anything is fitted. Raises ConfigError."""
    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError(f"--out: got {str(out)!r}, expected a file in a folder that is there")


def _model(text: str) -> RewardModel:
    """The model in a file, or that of a checkpoint. Raises CheckpointError."""
    from rlaif_ray.reward_model import RewardModel

    if Path(text).is_file():
        return RewardModel.load(text)
    from rlaif_ray.checkpoints import check_checkpoint
    from rlaif_ray.reward_model.model import MODEL_FILE

    checkpoint, _ = check_checkpoint(find_checkpoint(text))
    if not (checkpoint / MODEL_FILE).is_file():
        raise CheckpointError(f"checkpoint {str(checkpoint)!r}: no reward model was in service when it was written")
    return RewardModel.load(checkpoint / MODEL_FILE)


def _unseen(model: RewardModel, pool: PooledLabels) -> tuple[int, list[Labelled]]:
    """How many distinct labels there are, and those to grade by: the model did not learn from them, and they were drawn
    from all alike. Raises ConfigError."""
    from rlaif_ray.reward_model.labelled import Labels, mark

    if pool.obs_shape != model.obs_shape:
        raise ConfigError(
            f"labels: got observations {pool.obs_shape}, this reward model was made for {model.obs_shape}"
        )
    labels = Labels(model.obs_shape, model.config.holdout)
    pool.teach(labels)
    known = labels.in_order()
    if model.trained_on:
        unseen = [one for one in known if mark(one.key) not in model.trained_on]
    else:  # written by an earlier version: what is held out is held out everywhere
        unseen = [one for one in known if one.held_out]
    fair = [one for one in unseen if labels.stands_for_all(one)]
    if not fair:
        chosen = f", and the other {len(unseen)} were asked about for what they are" if unseen else ""
        raise ConfigError(
            f"labels: the reward model learned from {'all' if not unseen else len(known) - len(unseen)} "
            f"of the {len(known)}{chosen}; none is left to grade it by"
        )
    return len(known), fair


def _counts(pool: PooledLabels, distinct: int, graded: Sequence[Labelled]) -> dict[str, int]:
    return {"verdicts": len(pool), "abstained": pool.abstained, "distinct": distinct, "graded": len(graded)}


def _say(as_json: bool, figures: dict[str, Any]) -> None:
    if as_json:
        print_json(figures)
        return
    console = text_console()
    for line in _lines(figures):
        console.print(line, soft_wrap=True, highlight=False)


def _lines(figures: dict[str, Any]) -> list[str]:
    from rlaif_ray.cli.reward_model_figures import told

    flips = figures.get("flips")
    unused = figures.get("unused")
    pairs = [f"not used           {unused:,} pairs that share an episode with one graded on"] if unused else []
    noise = [f"judge's mistakes   {flips['bad_as_good']:.1%} of bad called good, {flips['good_as_bad']:.1%} of good "
             "called bad (estimated)"] if flips else []  # fmt: skip
    return [*told(figures), *pairs, *noise, *_ending(figures)]


def _ending(figures: dict[str, Any]) -> list[str]:
    """What became of a fit."""
    if figures["status"] == "evaluated":
        return []
    written = figures["status"] == "published"
    return ["", f"Written to {figures['file']}." if written else f"Not written: {figures['reason']}."]
