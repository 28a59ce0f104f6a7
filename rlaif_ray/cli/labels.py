"""Commands on stored labels: ``labels stats | export | import | show | prune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlaif_ray.cli.labels_options import Export, Import, Prune, Show
from rlaif_ray.cli.options import Stats
from rlaif_ray.cli.output import only_json, print_json
from rlaif_ray.errors import ConfigError, RlaifError, StoreError, UnknownNameError
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.types import EpisodeRenderer, Label, Verdict

__all__ = ["export", "import_", "prune", "show", "stats"]

FORMATS = ("parquet", "jsonl")


@dataclass(frozen=True)
class _Place:
    """A store, and who can draw its episodes."""

    path: Path
    renderer: EpisodeRenderer | None


def stats(command: Stats) -> int:
    """Print what a run's label store holds, what was spent, and what the answers say of all episodes."""
    from rlaif_ray.feedback.estimate import approval_of
    from rlaif_ray.feedback.store import LabelStore

    with only_json(command.json), LabelStore(_find(command.run).path, readonly=True) as store:
        figures, found = asdict(store.stats()), approval_of(store.labels())
    if command.json:
        ends = {"approval": found.mean, "approval_low": found.low, "approval_high": found.high}
        figures |= {name: value if found.answers else None for name, value in ends.items()}
    _say(command.json, figures)
    if found.answers and not command.json:
        print(f"judge approves {found} of all episodes, estimated from {found.answers} answers")
    return 0


def export(command: Export) -> int:
    """Write labels as a data set."""
    if command.format not in FORMATS:
        raise UnknownNameError("value of --format", command.format, FORMATS)
    with only_json(command.json):
        from rlaif_ray.envs.media import contact_sheet
        from rlaif_ray.feedback.exchange import export_jsonl, export_parquet
        from rlaif_ray.feedback.store import LabelStore

        place = _find(command.where)
        out = Path(command.out) if command.out else place.path.parent / f"labels.{command.format}"
        with LabelStore(place.path, readonly=True) as store:
            if command.format == "jsonl":
                written = export_jsonl(store, out)
            else:
                written = export_parquet(store, out, renderer=place.renderer, sheet=contact_sheet)
    _say(command.json, {"file": str(out), "labels": written})
    return 0


def import_(command: Import) -> int:
    """Add a data set to a store."""
    if not Path(command.file).is_file():
        raise ConfigError(f"file {command.file!r}: no such file")
    with only_json(command.json):
        from rlaif_ray.feedback.exchange import import_jsonl, import_parquet
        from rlaif_ray.feedback.store import LabelStore

        with LabelStore(command.store) as store:
            take_in = import_jsonl if Path(command.file).suffix == ".jsonl" else import_parquet
            figures = asdict(take_in(store, Path(command.file)))
    _say(command.json, figures | {"store": command.store})
    return 0


def show(command: Show) -> int:
    """Print one label and draw it."""
    with only_json(command.json):
        from rlaif_ray.envs.media import contact_sheet
        from rlaif_ray.feedback.exchange import frames_for
        from rlaif_ray.feedback.store import LabelStore

        place = _find(command.where)
        out = Path(command.out) if command.out else place.path.parent / f"label-{command.label}.png"
        with LabelStore(place.path, readonly=True) as store:
            label = next((one for one in store.labels(after=command.label - 1, parts=True)), None)
            if label is None or label.label_id != command.label:
                raise StoreError(f"label store {place.path}: no label {command.label}")
            frames = frames_for(store, label, place.renderer)
        if frames:
            _write(out, contact_sheet(frames))
    _say(command.json, _about(label) | {"frames": len(frames), "sheet": str(out) if frames else None})
    return 0


def prune(command: Prune) -> int:
    """Make a store smaller."""
    if not 0.0 <= command.frames_mb < float("inf"):
        raise ConfigError(f"--frames-mb: got {command.frames_mb}, allowed are numbers from 0")
    from rlaif_ray.feedback.store import LabelStore

    with LabelStore(_find(command.where).path) as store:
        figures = asdict(store.prune(command.frames_mb))
    _say(command.json, figures)
    return 0


def _find(where: str) -> _Place:
    """The store that is meant: a file of its own, or a run's."""
    from rlaif_ray.report.judged import store_path
    from rlaif_ray.report.run import RunRecord, find_run

    if Path(where).is_file():
        return _Place(Path(where), _renderer("rlaif_ray/Homegrid-v0", {}))
    run = find_run(where)
    record = RunRecord.read(run)
    path = store_path(record)
    if not path.is_file():
        raise StoreError(f"run {str(run)!r} asked no judge: there is no label store {path}")
    env = record.config.env if record.config is not None else None
    return _Place(path, None if env is None else _renderer(env.id, dict(env.options)))


def _renderer(env_id: str, options: dict[str, Any]) -> EpisodeRenderer | None:
    from rlaif_ray.envs import env_spec

    try:
        make = env_spec(env_id).renderer
        return make(options) if make else None
    except RlaifError:  # a world registered by the user's own code, which isn't running here
        return None


def _about(label: Label) -> dict[str, Any]:
    outcome = label.outcome
    usage = outcome.usage
    if isinstance(outcome, Verdict):
        said: dict[str, Any] = {"value": outcome.value}
        said |= {"preference": outcome.preference} if outcome.preference else {}
        said |= {"description": outcome.description, "reasoning": outcome.reasoning}
    else:
        said = {"abstained": outcome.reason, "detail": outcome.detail}
    return {
        "label": label.label_id, "episode": label.episode_id,
        **({} if label.second_episode_id is None else {"second_episode": label.second_episode_id}),
        "policy_version": label.policy_version, "draw": label.draw,
        "inclusion_probability": label.inclusion_probability,
        "asked_at_step": label.asked_at_step, "judge": label.judge, **said, "text": outcome.text,
        "tokens": usage.input_tokens + usage.output_tokens, "cost_usd": usage.cost_usd, "latency_s": usage.latency_s,
        "attempts": usage.attempts, "replayed": label.replayed,
    }  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None


def _say(as_json: bool, figures: Mapping[str, Any]) -> None:
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        print(f"{name:14} {printable(str(value))}")
