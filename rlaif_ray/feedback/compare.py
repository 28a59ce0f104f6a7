"""Two prompts on the same episodes: how far does the wording decide?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlaif_ray.config import JudgeConfig
from rlaif_ray.errors import ConfigError
from rlaif_ray.feedback.ask import ask_all
from rlaif_ray.feedback.budget import Caps
from rlaif_ray.feedback.judge import Judge
from rlaif_ray.feedback.question import Asked, Questionnaire
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.types import Episode, EpisodeRenderer, Label, Verdict

__all__ = ["Comparison", "Side", "cohens_kappa", "compare_prompts", "compared"]


@dataclass(frozen=True)
class Side:
    """One prompt's answers."""

    prompt: str
    asked: int
    verdicts: int
    good: float  # share of verdicts above a half; nan without any
    usd: float
    replayed: int  # answered from the store, for nothing


@dataclass(frozen=True)
class Comparison:
    """Two prompts, over the episodes on which both gave a verdict."""

    sides: tuple[Side, Side]
    both: int
    agreement: float  # share on the same side of a half; nan without any
    kappa: float  # Cohen's: agreement beyond what their shares would give by chance; nan where that is undefined
    flips_to_bad: tuple[int, ...]  # episode ids that the first found good and the second bad
    flips_to_good: tuple[int, ...]


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> float:
    """(p_o - p_e) / (1 - p_e) with p_o the observed and p_e the chance agreement of two raters (Cohen, 1960).

    nan where both always say the same one thing, or nothing was rated. Raises ValueError: different lengths.
    """
    count = len(first)
    agreed = sum(a == b for a, b in zip(first, second, strict=True))
    if not count:
        return float("nan")
    yes = sum(first) / count, sum(second) / count
    chance = yes[0] * yes[1] + (1 - yes[0]) * (1 - yes[1])
    return float("nan") if chance == 1.0 else (agreed / count - chance) / (1 - chance)


def compared(
    prompts: tuple[str, str], episodes: Sequence[Episode], first: Sequence[Label | None], second: Sequence[Label | None]
) -> Comparison:
    """Put two lists of labels, about the same episodes, side by side."""
    pairs = [
        (episode.episode_id, a.value > 0.5, b.value > 0.5)
        for episode, a, b in zip(episodes, first, second, strict=True)
        if a is not None and b is not None and a.value is not None and b.value is not None
    ]
    one, other = [a for _, a, _ in pairs], [b for _, _, b in pairs]
    return Comparison(
        sides=(_side(prompts[0], first), _side(prompts[1], second)),
        both=len(pairs),
        agreement=sum(a == b for a, b in zip(one, other, strict=True)) / len(pairs) if pairs else float("nan"),
        kappa=cohens_kappa(one, other),
        flips_to_bad=tuple(number for number, a, b in pairs if a and not b),
        flips_to_good=tuple(number for number, a, b in pairs if b and not a),
    )


async def compare_prompts(
    judge: Judge,
    store: LabelStore,
    budget: Caps,
    episodes: Sequence[Episode],
    renderer: EpisodeRenderer,
    configs: tuple[JudgeConfig, JudgeConfig],
) -> Comparison:
    """Ask both configs' prompts about each episode; an answer that the store has costs nothing.

    Raises ConfigError: a prompt that compares two episodes, or no episodes. JudgeError, StoreError.
    """
    if not episodes:
        raise ConfigError("judge compare: got a store without episodes, expected at least one judged")
    answers = []
    for config in configs:
        questions = Questionnaire.of(config, renderer, judge.identity)
        asked = [Asked(questions.about(episode), episode, run_id="compare") for episode in episodes]
        answers.append(await ask_all(judge, store, budget, asked, config=config))
    return compared((configs[0].prompt, configs[1].prompt), episodes, answers[0], answers[1])


def _side(prompt: str, labels: Sequence[Label | None]) -> Side:
    there = [label for label in labels if label is not None]
    verdicts = [label.outcome for label in there if isinstance(label.outcome, Verdict)]
    return Side(
        prompt=prompt,
        asked=len(there),
        verdicts=len(verdicts),
        good=sum(verdict.value > 0.5 for verdict in verdicts) / len(verdicts) if verdicts else float("nan"),
        usd=sum(label.outcome.usage.cost_usd for label in there if not label.replayed),
        replayed=sum(label.replayed for label in there),
    )
