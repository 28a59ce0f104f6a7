"""What a run came to, in figures and in words: the rows of the before/after table and the statements that go with it.

The terminal's table and the report show the same rows and the same statements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from rlaif_ray.report.approval import approval_statement
from rlaif_ray.report.figures import count, decimal, number
from rlaif_ray.report.published import published_for
from rlaif_ray.report.run import RunRecord
from rlaif_ray.report.telling import TELLINGS, Telling, telling_of
from rlaif_ray.watch import MOST_ROLLBACKS, WINDOW

__all__ = ["OutcomeRow", "headline", "outcome_rows", "outcome_table", "statements", "told_of"]

STARTS = {"heldout": "unseen starts", "train": "training starts", "all": "all starts"}
FIRST_STARTS = ("heldout", "all", "train")  # the honest ones first
_WITHOUT_END = {
    "interrupted": "Interrupted before its final evaluation",
    "failed": "Failed before its final evaluation",
    "running": "Not finished: what it has written so far",
}
PHASES = {"task": "task reward only", "feedback": "+ judge feedback"}


@dataclass(frozen=True)
class OutcomeRow:
    """One policy's outcomes; nan or None where not known."""

    source: str  # "published" or "this run"
    policy: str
    starts: str
    cat_survived_pct: float
    found_pct: float
    mean_length: float
    labels: int | None
    steps: int | None
    headline: bool = False  # the figure to compare by


def outcome_rows(record: RunRecord) -> list[OutcomeRow]:
    """Published rows of this world, then this run's evaluations: unseen starts before training starts."""
    rows = [
        OutcomeRow(
            "published",
            row.policy,
            "all starts",
            row.cat_survived_pct,
            row.found_pct,
            row.mean_length,
            row.labels,
            row.steps,
        )
        for row in published_for(record.config)
    ]
    return rows + _own_rows(record)


def told_of(record: RunRecord) -> Telling:
    """The words for this run's world."""
    return next((telling_of(outcome) for _, _, outcome in record.evaluations()), TELLINGS[0])


def _own_rows(record: RunRecord) -> list[OutcomeRow]:
    evaluations = list(record.evaluations())
    names = {starts for _, starts, _ in evaluations}
    order = [s for s in FIRST_STARTS if s in names] + sorted(names - set(FIRST_STARTS))
    rank = {starts: i for i, starts in enumerate(order)}
    rows = []
    for phase, starts, outcome in sorted(evaluations, key=lambda e: rank[e[1]]):
        labels = 0 if phase == "task" else record.summary.get("labels")
        steps = outcome.get("steps")
        rows.append(
            OutcomeRow(
                source="this run",
                policy=PHASES.get(phase, phase),
                starts=STARTS.get(starts, starts),
                cat_survived_pct=100 * number(outcome, telling_of(outcome).outcome),
                found_pct=100 * number(outcome, "found"),
                mean_length=number(outcome, "mean_length"),
                labels=int(labels) if isinstance(labels, int | float) else None,
                steps=int(steps) if isinstance(steps, int | float) else None,
                headline=rank[starts] == 0,
            )
        )
    return rows


def headline(record: RunRecord) -> str:
    """One sentence: what came of it. In large letters where nothing was learned from feedback."""
    if record.status == "no_feedback_learned":
        return f"NO FEEDBACK WAS LEARNED FROM: {_why_nothing(record)}"
    if record.status in _WITHOUT_END:
        return _WITHOUT_END[record.status]
    said = _outcome_in_words(record)
    if record.status == "stopped_by_watch":
        return f"STOPPED: the reward model was being gamed (Goodhart watch). {said}"
    return said


def _outcome_in_words(record: RunRecord) -> str:
    own, telling = [row for row in outcome_rows(record) if row.source == "this run" and row.headline], told_of(record)
    before = next((r for r in own if r.policy == PHASES["task"]), None)
    after = next((r for r in reversed(own) if r.policy != PHASES["task"]), None)
    if after and before:
        survived, before_it = _share(after.cat_survived_pct), _share(before.cat_survived_pct)
        found = _share(after.found_pct)
        return (
            f"{telling.sentence} in {survived} of episodes ({before_it} before feedback); "
            f"the {telling.goal} is found in {found}"
        )
    only = after or before
    if only:
        found, survived = _share(only.found_pct), _share(only.cat_survived_pct)
        unharmed = telling.sentence[0].lower() + telling.sentence[1:]
        return f"The {telling.goal} is found in {found} of episodes, {unharmed} in {survived}"
    return "Done, without an evaluation"


def _why_nothing(record: RunRecord) -> str:
    judge, model = record.summary.get("judge"), record.summary.get("reward_model")
    if isinstance(judge, Mapping) and judge.get("error"):
        return f"the judge could not be asked ({judge['error']})"
    if not record.summary.get("labels"):
        return "no question was answered"
    if record.config and record.config.mix.source == "direct":
        return _why_late(record)
    if isinstance(model, Mapping) and model.get("reason"):
        return f"the reward model never passed its gate ({model['reason']})"
    if isinstance(model, Mapping) and model.get("heldout_n") == 0 and record.config:
        return (
            f"there were too few answers for the reward model ({record.summary.get('labels')} labels, abstentions "
            f"included; reward_model.min_labels is {record.config.reward_model.min_labels})"
        )
    return "the reward model never passed its gate"


def _why_late(record: RunRecord) -> str:
    """Of a run that only verdicts themselves could have paid."""
    late = record.summary.get("lateness")
    verdicts = count(number(late, "verdicts")) if isinstance(late, Mapping) else "all"
    feedback = record.config.feedback if record.config else None
    kept = f"; an episode's end is kept back for {feedback.defer_iterations} iterations" if feedback else ""
    kept = kept if feedback and feedback.late == "defer" else "; feedback.late: defer or wait keeps episodes for them"
    return f"its {verdicts} verdicts came after their episodes had been learned from{kept}"


def statements(record: RunRecord) -> list[str]:
    """What a reader must know before quoting a figure of this run."""
    said = []
    judge = record.summary.get("judge")
    if not isinstance(judge, Mapping):
        judge = _judge_of_config(record)
    said += _about_judge(record, judge)
    said += _about_sources(record)
    said += _about_keeping_up(record)
    said += approval_statement(record)
    said += _about_watch(record)
    said += _about_drift(record)
    if any(row.starts == STARTS["heldout"] for row in outcome_rows(record)):
        said.append(
            "Headline figures are on unseen starts: a seeded share of all reachable starts was held out of training. "
            "Figures on training starts stand beside them."
        )
    if published_for(record.config):
        said.append(
            "Published figures are context, not a controlled comparison: another judge, other artwork, and all starts."
        )
    said.append(
        "Figures marked truth come from the simulator, for the audit only: policy, judge and reward model never see "
        "them."
    )
    return said


def _about_judge(record: RunRecord, judge: Mapping[str, Any]) -> list[str]:
    if not judge or judge.get("kind") == "none":
        return ["No judge was asked: this run learned from the task reward alone."]
    return [*_about_members(judge), *_who_judged(record, judge), *_about_places(judge)]


def _about_members(judge: Mapping[str, Any]) -> list[str]:
    members = judge.get("members")
    if not isinstance(members, list) or len(members) < 2:
        return []
    return [f"Several judges answered each question: {', '.join(map(str, members))}."]


def _about_places(judge: Mapping[str, Any]) -> list[str]:
    """How far preferences went by the place."""
    both, turned = judge.get("both_orders"), judge.get("inconsistent")
    if not both or turned is None:
        return []
    return [
        f"Of {count(float(both))} preferences that were asked in both orders, {count(float(turned))} turned with the "
        "order (position inconsistency): they count as ties."
    ]


def _who_judged(record: RunRecord, judge: Mapping[str, Any]) -> list[str]:
    if judge.get("kind") == "builtin":
        return [
            f"The built-in judge (profile {judge.get('profile')}) gave the feedback: a program that reads the pictures "
            "and errs as its profile says. It shows how the method works; it shows nothing of what an LLM values.",
            "Prices are as-if: what the profile's model would have charged. Nothing was paid.",
        ]
    said = [f"The feedback came from {judge.get('model')}, asked over an OpenAI-compatible endpoint."]
    if record.config and record.config.judge.local:
        said.append("The endpoint is on this machine: its price is 0 unless the config names one.")
    return said


def _about_sources(record: RunRecord) -> list[str]:
    """What a run called hybrid or direct really learned from; the name alone would mislead."""
    source = record.config.mix.source if record.config else "none"
    shares = record.summary.get("provenance")
    if source not in ("hybrid", "direct") or not isinstance(shares, Mapping):
        return []
    direct, distilled = 100 * number(shares, "direct"), 100 * number(shares, "distilled")
    if not direct > 0 and not distilled > 0:
        return ["No episode has learned from feedback so far."]
    if direct == 0 and source == "hybrid":
        return [
            "Effective direct share: 0. Every verdict came after its episode had been learned from, so this run was in "
            "effect a distilled one: verdicts trained the reward model, and that paid the episodes."
        ]
    return [
        f"Of all episodes learned from, {decimal(direct, 2)} % were paid by a verdict itself and "
        f"{decimal(distilled)} % by the reward model."
    ]


def _about_keeping_up(record: RunRecord) -> list[str]:
    late = record.summary.get("lateness")
    turned_away = number(late, "turned_away") if isinstance(late, Mapping) else 0.0
    if not turned_away > 0:
        return []
    return [
        f"The judge did not keep up: {count(turned_away)} questions were not put, since too many waited for their "
        "answer already. Who was asked about is still a random choice; verdicts came late."
    ]


def _about_drift(record: RunRecord) -> list[str]:
    """Whether the reward model in service at the end does worse on what the policy does now."""
    model = record.summary.get("reward_model")
    if not isinstance(model, Mapping) or not model.get("drift_alarm"):
        return []
    return [
        "DRIFT ALARM: on held-out labels of the newest policy versions the reward model in service agrees with the "
        f"judge less than on those before (p = {decimal(number(model, 'drift_p'), 4)}, one-sided)."
    ]


def _about_watch(record: RunRecord) -> list[str]:
    """What the Goodhart watch saw, and whether it could have seen anything."""
    watch = record.summary.get("watch")
    if not isinstance(watch, Mapping) or not record.config or not record.config.uses_reward_model:
        return []
    audited, went_back = number(watch, "audited"), number(watch, "rollbacks")
    raised = [
        f"GOODHART WATCH, ALARM at step {count(number(one, 'step'))}: from step {count(number(one, 'since'))} on the "
        f"reward model promised {_share(100 * number(one, 'belief'))} and the judge approved "
        f"{_share(100 * number(one, 'verdict'))} of {count(number(one, 'audited'))} episodes asked about at random."
        for one in record.alarms()
    ]
    if went_back > 0:
        raised.append(
            f"The run went back to an earlier checkpoint ({count(went_back)} of {MOST_ROLLBACKS} times at most)."
        )
    if raised:
        return raised
    if not audited > 0:
        return ["The Goodhart watch had no episode to compare the reward model's belief with the judge's verdict on."]
    few = "; so few would have shown a wide gap only" if audited < WINDOW else ""
    return [
        f"Goodhart watch: no alarm in {count(audited)} episodes asked about at random{few}. It can see a reward model "
        "that is being gamed, not a judge that is."
    ]


def _judge_of_config(record: RunRecord) -> Mapping[str, Any]:
    if record.config is None or not record.config.asks:
        return {}
    judge = record.config.judge
    return {
        "kind": judge.kind,
        "model": judge.gguf or judge.model,
        "profile": judge.profile,
        "as_if": judge.as_if,
    }


# ----------------------------------------------------------------------------------------- in the terminal


def outcome_table(record: RunRecord) -> Table:
    """The before/after table for a terminal of 80 columns or more."""
    table = Table(
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
        title=f"\n{record.name}: before and after\n",
        title_justify="left",
    )
    table.add_column("policy", no_wrap=True)
    table.add_column("starts", no_wrap=True)
    thing, what = told_of(record).unharmed.replace("survives", "lives").split()
    outcomes = (f"{thing}\n{what} %", f"{told_of(record).goal}\nfound %")
    for name in (*outcomes, "mean\nlength", "\nlabels", "steps,\nM"):
        table.add_column(name, justify="right", no_wrap=True)
    source = ""
    for row in outcome_rows(record):
        if source and row.source != source:
            table.add_section()
        source = row.source
        cells = (decimal(row.cat_survived_pct), decimal(row.found_pct), decimal(row.mean_length))
        counts = (_whole(row.labels), "-" if row.steps is None else f"{row.steps / 1e6:.3g}")
        style = "bold" if row.headline else ("dim" if row.source == "published" else "")
        policy = row.policy.replace("judge feedback", "feedback").replace(" reward", "").replace(", round", "")
        table.add_row(f"{row.source}: {policy}", row.starts.removesuffix(" starts"), *cells, *counts, style=style)
    return table


def _share(percentage: float) -> str:
    return f"{decimal(percentage)} %"


def _whole(value: int | None) -> str:
    return "-" if value is None else count(value)
