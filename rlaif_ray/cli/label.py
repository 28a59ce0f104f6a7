"""``rlaif-ray label``: sample a data set, say what judging it may cost, judge it, and go on where it was stopped."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from rlaif_ray.cli.episodes import PolicyEpisodes, RandomEpisodes, StoredEpisodes
from rlaif_ray.cli.figures import find_checkpoint
from rlaif_ray.cli.label_view import LabelView
from rlaif_ray.cli.options import Label
from rlaif_ray.cli.output import only_json, print_json, text_console
from rlaif_ray.cli.sample import picture_px, renderer_of
from rlaif_ray.cli.train import StopSwitch
from rlaif_ray.config import Config, dump_config, load_config, preset_names
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.batches import Book
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.check import ping
from rlaif_ray.feedback.costs import estimate_cost
from rlaif_ray.feedback.dataset import DataSet
from rlaif_ray.feedback.framing import Framing
from rlaif_ray.feedback.judge import identity_of, judge_from, key_for, refuse_several
from rlaif_ray.feedback.offline import Ended, Tally, label_now, sample_ahead
from rlaif_ray.feedback.prices import batch_price, price_of
from rlaif_ray.feedback.question import Questionnaire, words_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.surroundings import judge_served
from rlaif_ray.types import Verdict

__all__ = ["label"]

_USUAL_EPISODES = 1_000
# Episodes whose lengths the estimate goes by.
_LOOKED_AT = 200

AnySource = RandomEpisodes | PolicyEpisodes | StoredEpisodes


@dataclass(frozen=True)
class _Plan:
    """What is to be labelled, by whom, and where it is kept."""

    config: Config
    source: AnySource
    wanted: int
    folder: Path

    @property
    def store(self) -> Path:
        return Path(self.config.feedback.store) if self.config.feedback.store else self.folder / "labels.sqlite"

    def run_id(self) -> str:
        """The data set and the way it is asked about: anything else is another one, in the same store."""
        judge, env = self.config.judge, self.config.env
        prompt, constitution = words_of(judge, one_episode=True)
        identity = identity_of(judge)
        parts = [
            self.source.key, env.id, env.options, self.config.run.seed, identity.name, identity.model,
            identity.settings, prompt.hash, constitution and constitution.principles, asdict(Framing.of(judge)),
        ]  # fmt: skip
        return f"label-{hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]}"


def label(command: Label) -> int:
    """Judge a data set; 0 also where the budget or the user ended it, 1 where not one verdict came of it."""
    if command.episodes < 0:
        raise ConfigError(f"--episodes: got {command.episodes}, allowed are 0 and up")
    if command.cancel and not command.batch:
        raise ConfigError("--cancel calls off batches: give it together with --batch")
    started = time.monotonic()
    with only_json(command.json):
        plan = _plan(command)
        _check(plan, batch=command.batch)
        console = text_console(stderr=command.json)
        status, figures = _labelled(plan, command, console)
    summary = {"status": status, **figures, "wall_s": time.monotonic() - started}
    if command.json:
        print_json(summary)
    else:
        for line in _told(summary):
            console.print(line, soft_wrap=True, highlight=False)
    return 1 if status == "done" and figures["abstained"] and not figures["verdicts"] else 0


# ------------------------------------------------------------------------------------------ before


def _plan(command: Label) -> _Plan:
    config, source, name = _source(command)
    labels = config.budget.labels
    budget: dict[str, Any] = {}
    if "budget.labels" not in command.overrides:
        budget["labels"] = None
    if config.judge.kind == "builtin" and "budget.usd" not in command.overrides:
        budget["usd"] = None
    name = command.overrides.get("run.name") or re.sub(r"[^A-Za-z0-9._-]", "_", f"{name}-labels")[-100:].lstrip(".-")
    config = config.model_copy(
        update={
            "run": config.run.model_copy(update={"name": name}),
            "budget": config.budget.model_copy(update=budget),
        }
    )
    return _Plan(config, source, command.episodes or labels or _USUAL_EPISODES, Path(config.run.dir) / name)


def _source(command: Label) -> tuple[Config, AnySource, str]:
    """The config, the episodes and a name for what ``command.source`` names."""
    text, path = command.source, Path(command.source)
    if text in preset_names() or path.suffix in (".yaml", ".yml"):
        config = load_config(text, command.overrides)
        return config, RandomEpisodes(config), path.stem
    if path.is_file():
        beside = path.parent / "config.yaml"
        config = load_config(str(beside) if beside.is_file() else "homegrid", command.overrides)
        return config, StoredEpisodes(path), path.stem if path.stem != "labels" else path.resolve().parent.name
    from rlaif_ray.checkpoints import check_checkpoint

    checkpoint, _ = check_checkpoint(find_checkpoint(text))
    config = load_config(str(checkpoint / "config.yaml"), command.overrides)
    return config, PolicyEpisodes(config, checkpoint, deterministic=command.deterministic), _run_name(checkpoint)


def _run_name(checkpoint: Path) -> str:
    """``runs/NAME/checkpoints/step-5`` -> ``NAME-step-5``."""
    return f"{checkpoint.parent.parent.name}-{checkpoint.name}"


def _check(plan: _Plan, *, batch: bool) -> None:
    """Whatever can be known to be wrong before anything is sampled. Raises ConfigError, MissingKeyError."""
    judge = plan.config.judge
    refuse_several(judge)
    words_of(judge, one_episode=True)
    renderer_of(plan.config)
    key_for(judge)
    price_of(judge)
    if batch:
        from rlaif_ray.feedback.batch import check_batched

        check_batched(judge)
    if (plan.folder / "result.json").exists():
        raise ConfigError(f"run.name: got {plan.folder.name!r}, whose folder holds a training run; choose another")


# ------------------------------------------------------------------------------------------ doing it


def _labelled(plan: _Plan, command: Label, console: Console) -> tuple[Ended, dict[str, Any]]:
    config = plan.config
    stop = StopSwitch("Stopping: nothing new is asked, what is under way is waited for. Ctrl-C again: at once.")
    if command.batch:
        stop = StopSwitch("Stopping: what is out stays out, the same command takes it in. Ctrl-C again: at once.")
    with judge_served(config) as ready:
        if config.judge.kind == "chat":
            ping(ready)
        _keep_config(plan)
        with LabelStore(plan.store) as store, LabelView(console, config.budget.usd) as view, stop.on_signals(view.say):
            data = DataSet(store, plan.run_id())
            store.open_run(data.run_id, Caps.of(config.budget))
            tally = Tally(data, plan.wanted, view.update)
            if not command.cancel:
                tally.wanted = sample_ahead(data, plan.source, plan.wanted, tally, stop)
            tally.before, tally.started = data.labelled(tally.wanted), time.monotonic()
            if not command.batch and Book(store, data.run_id).open():
                raise ConfigError(
                    f"{plan.store}: a batch of this data set is out; --batch goes on with it, --batch --cancel ends it"
                )
            for line in _estimated(plan, data, tally, batch=command.batch):
                view.say(line)
            status = asyncio.run(_asked(ready, data, tally, stop, command))
            return status, _figures(plan, data, tally)


async def _asked(ready: Config, data: DataSet, tally: Tally, stop: StopSwitch, command: Label) -> Ended:
    judge = judge_from(ready.judge, key_for(ready.judge))
    questions = Questionnaire.of(ready.judge, renderer_of(ready), judge.identity, seed=ready.run.seed)
    try:
        if not command.batch:
            return await label_now(judge, data, questions, ready, tally, stop)
        from rlaif_ray.feedback.batch import Batcher

        batcher = Batcher(judge, data, questions, ready, tally, stop)
        try:
            return await (batcher.cancel() if command.cancel else batcher.run())
        finally:
            await batcher.close()
    finally:
        await judge.close()


def _keep_config(plan: _Plan) -> None:
    """The folder looks like a run's to the commands on stored labels: they find world and store by it."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / "config.yaml").write_text(dump_config(plan.config))


# ------------------------------------------------------------------------------------------ in words


def _estimated(plan: _Plan, data: DataSet, tally: Tally, *, batch: bool) -> list[str]:
    """What the rest may cost, from the lengths of some of the episodes themselves."""
    todo = data.pending(tally.wanted)
    out = data.in_batches(tally.wanted)
    known = [f"{tally.before:,} labelled"] * bool(tally.before) + [f"{out:,} in batches"] * bool(out)
    beside = f" ({', '.join(known)})" if known else ""
    lines = [f"{tally.wanted:,} episodes of {plan.source.says}{beside}, in {plan.store}."]
    if not todo:
        return lines
    config, step = plan.config, max(1, len(todo) // _LOOKED_AT)
    some = [data.episode(number) for number in todo[::step]]
    lengths = [len(episode) for episode in some]
    found = estimate_cost(config, lengths, picture_px=picture_px(config, some[0]))
    price = batch_price(config.judge) if batch else found.price
    share = price.input_usd_per_mtok / found.price.input_usd_per_mtok if found.price.input_usd_per_mtok else 1.0
    each, count = share * found.usd_per_question, len(todo)
    as_if = " (as-if, nothing is paid)" if config.judge.kind == "builtin" else ""
    lines.append(
        f"Estimate: USD {each:.4f} a question at {sum(lengths) / len(lengths):.1f} steps, USD {each * count:,.2f} for "
        f"{count:,}{as_if}."
    )
    prices = f"{price.input_usd_per_mtok:g} / {price.output_usd_per_mtok:g}"
    lines.append(f"Price: USD {prices} per million tokens in / out ({price.source}).")
    if config.budget.usd is not None:
        lines.append(_within(config.budget.usd - data.store.account(Caps()).spent.usd, config.budget.usd, each))
    return lines


def _within(left_usd: float, cap_usd: float, each_usd: float) -> str:
    enough = f", enough for about {max(0.0, left_usd) / each_usd:,.0f} more" if each_usd else ""
    return f"Never more than budget.usd, {cap_usd:,.2f}{enough}."


def _figures(plan: _Plan, data: DataSet, tally: Tally) -> dict[str, Any]:
    """Counts of the whole data set, whichever command brought them; an episode counts by its newest label."""
    newest = {one.episode_id: one for one in data.store.labels(data.run_id) if one.episode_id < tally.wanted}
    verdicts = [one.outcome.value for one in newest.values() if isinstance(one.outcome, Verdict)]
    stats = data.store.stats(data.run_id)
    return {
        "folder": str(plan.folder), "store": str(plan.store), "data_set": data.run_id, "episodes": tally.wanted,
        "verdicts": len(verdicts), "good": sum(value > 0.5 for value in verdicts),
        "abstained": len(newest) - len(verdicts), "unasked": tally.wanted - len(newest),
        "in_batches": data.in_batches(tally.wanted), "labelled_now": tally.labelled, "replayed_now": tally.replayed,
        "spend_usd": stats.spend_usd, "reserved_usd": stats.reserved_usd, "cap_usd": plan.config.budget.usd,
    }  # fmt: skip


def _told(summary: dict[str, Any]) -> list[str]:
    """The end, in words."""
    ends = {
        "done": "All of it is labelled.",
        "budget": "The budget has no room for another question: raise budget.usd, and the same command goes on.",
        "interrupted": "Stopped. The same command goes on.",
        "in_flight": "A batch is out. The same command takes it in; --batch --cancel calls it off.",
        "cancelled": "The batches were called off; what was answered is kept. Without --cancel the command goes on.",
    }
    end = ends[summary["status"]]
    if summary["status"] == "done" and summary["unasked"]:
        end = "The rest is being asked about elsewhere: the same command goes on when that has been answered."
    verdicts, good = summary["verdicts"], summary["good"]
    share = f", {good / verdicts:.1%} of them good" if verdicts else ""
    return [
        f"{end} {verdicts:,} verdicts{share}; {summary['abstained']:,} abstained, "
        f"{summary['unasked']:,} without an answer; USD {summary['spend_usd']:,.4f}.",
        f"In {summary['store']}: rlaif-ray labels stats|export|show {summary['folder']}",
    ]
