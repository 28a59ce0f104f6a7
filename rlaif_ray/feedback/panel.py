"""What several answers come to: a panel's votes, and whether a cascade's cheap judge was sure. Pure.

======================  =========================================================================
members' verdicts       the panel says
======================  =========================================================================
approvals               what most say; split evenly: an abstention
ratings                 the middle level
preferences             what most say; a tie where none has most
of half of them, less   an abstention, for the reason that most of the others gave
======================  =========================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rlaif_ray.config.asking import CascadeConfig
from rlaif_ray.feedback.preference import total_usage
from rlaif_ray.types import Abstention, Usage, Verdict

__all__ = ["doubtful", "voted"]


def voted(outcomes: Sequence[Verdict | Abstention], members: int) -> Verdict | Abstention:
    """What a panel of so many says; ``value`` and ``probability`` are the mean of the votes', usage is the sum.

    An approval that is split evenly, or a panel of which half or less gave a verdict, is an abstention.
    """
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    text = "\n".join(outcome.text for outcome in outcomes)
    usage = total_usage([outcome.usage for outcome in outcomes]) if outcomes else Usage(attempts=0)
    if 2 * len(verdicts) <= members:
        detail = f"{len(verdicts)} of {members} judges gave a verdict"
        reasons = Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Abstention))
        return Abstention(reasons.most_common(1)[0][0] if reasons else "unknown", detail, usage, text)
    value = sum(verdict.value for verdict in verdicts) / len(verdicts)
    if verdicts[0].kind == "approval":
        ayes = sum(bool(verdict.approved) for verdict in verdicts)
        if 2 * ayes == len(verdicts):
            return Abstention("unknown", f"the panel is split, {ayes} to {ayes}", usage, text)
        winner = next(v for v in verdicts if v.approved == (2 * ayes > len(verdicts)))
    elif verdicts[0].kind == "rating":
        winner = sorted(verdicts, key=lambda v: v.rating or 0)[len(verdicts) // 2]
    else:
        (preferred, most), *others = Counter(v.preference for v in verdicts).most_common()
        winner = next(v for v in verdicts if v.preference == preferred)
        if others and others[0][1] == most:
            winner = replace(winner, preference="tie")
    return replace(winner, value=value, probability=value, text=text, usage=usage)


def doubtful(said: Verdict | Abstention, cascade: CascadeConfig, *, turned: bool = False, spread: float = 0.0) -> bool:
    """Whether the strong judge is to be asked after the cheap one said this.

    ``turned``: the cheap one's preference turned with the order; ``spread``: standard deviation of the reward model's
    belief over its ensemble's members.
    """
    if isinstance(said, Abstention):
        return True
    unsure = said.probability is not None and abs(said.probability - 0.5) <= cascade.margin + 1e-12
    holds = {"unsure": unsure, "order-disagrees": turned, "rm-disagrees": spread >= cascade.spread}
    return any(holds[name] for name in cascade.when)
