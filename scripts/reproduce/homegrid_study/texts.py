"""What the study's page says between its tables."""

from __future__ import annotations

__all__ = [
    "ABOUT_ALIKE",
    "ABOUT_ALL_STARTS",
    "ABOUT_ARMS",
    "ABOUT_AUDIT",
    "ABOUT_OUTCOMES",
    "ABOUT_PAIRED",
    "ABOUT_SHARES",
    "ABOUT_WORLDS",
    "HEAD",
]

HEAD = """\
# The Homegrid study

What is feedback from a judge worth, bought in different ways? Every arm stands in a file of `tune_configs/study/`,
every table and chart here is made from `benchmarks/study/` by one command; "What was found" and "Why" are written by
hand:

    scripts/reproduce/homegrid plan       # the hours
    scripts/reproduce/homegrid run        # the next unfinished runs; the same command goes on; --jobs N: N at a time
    scripts/reproduce/homegrid report     # this page and its figures; `figure NAME` makes one of them

The judge is the built-in one: a program that reads the pictures and errs as its profile says. It shows how the ways
of using feedback compare; it shows nothing of what an LLM values. Prices are as-if: nothing was paid. Every arm
learns from the judge's answers alone: the truth is used to evaluate, and to test reward models, nowhere else. {where}

* **Survives**: the robot never entered the cat's cell, whether or not it found the fruit. **Found**: it reached the
  fruit within 100 steps. **Length**: steps of an episode, those cut off at 100 among them.
* **Starts**: 2,175 places of robot, fruit and cat; 435 of them, drawn once, are held out of training, labels and
  tuning. From these the shortest ways have 9.6 steps in the mean, the shortest that spare the cat 10.8.
* **Labels** are the judge's answers that were bought. As-if money is what they would have cost at the prices of
  `gpt-4o-mini` (USD 0.15 and 0.60 for a million tokens in and out, 2,833 tokens a picture): some USD 0.005 a label.
  The published study tells of USD 20 for 10,000.
* **Direct**: a verdict pays the episode that it is about. **Distilled**: a reward model, taught by verdicts, pays.
  **Hybrid**: a verdict where there is one, else the reward model. **Online**: the judge is asked while the policy
  learns.
* **The accuracy gate**: a reward model pays nothing before it agrees with 85 % of held-out labels (balanced over both
  answers). The published procedure has no such gate. Another thing is the gated reward (`mix.combine: gate`), which
  is the published form of paying: a success counts only with a yes.
* Which settings each arm has, and which code it ran with, stands at the end. Runs with acting in processes of their
  own (`online`) don't repeat to the digit, others do with the same code on the same machine.
"""

ABOUT_OUTCOMES = """\
Interquartile means over seeds with 95 % stratified bootstrap intervals, and the worst seed; 10,000 episodes each,
from starts held out of training and labels, the same fifth for all seeds; the policy acts as it learned to
(stochastic).

* An interquartile mean leaves out the best and the worst of five seeds; of three it is the mean of all. Of so few
  seeds a bootstrap covers less than it says: 91 % of five, 74 % of three, where outcomes are normal. Gains, seed by
  seed, have Student's intervals.
* The policy network was mended because of results on these starts; `fold_1` below holds out others, which had been
  starts of training before.
* Labels, as-if money, steps and minutes are those of a run that stands alone, with all that it began with. A label is
  an answer that was bought: an episode exactly like one asked about before takes that answer again, at no price, and
  reward models learn once from episodes whose observations are alike: those of `published_1` from 4,000 to 7,600, not
  from 10,000; what is called 500 labels is 500 episodes asked about.
* Minutes are of training, from its first step to its last, without these evaluations: the mean of those that had the
  machine to themselves all the time, with their number where not all had ("alone"); where none had, of all, and how
  many runs shared the two cores ("at once"), which takes each of them longer: such minutes are not to be held against
  those of others. Who had the machine alone acted and fitted in processes beside the learner; who shared it did all
  in one, on one thread, and fitted between iterations.
* The published figures are context: another judge, other artwork, all starts. `published_1` and `_2` are our
  reproduction of that procedure under our judge, at the steps of the other arms, not at its own 1.3e7 a column;
  `open_500_1` and `_2` are the same with 500 labels and, as published, no accuracy gate; `published_500_1` and `_2`
  have 500 labels and that gate; `passes_500_1` and `_2` have 60 passes over the labels, as `online` takes, instead of
  15; `event_max_500_1` and `_2` have those and the net of `online`; `full_published_1` and `_2` have the published
  steps and a dense policy network (`mlp`), `event_max_mlp` is `online` with that network, at a twentieth of the
  steps. `direct` and the hybrids end before their learning rate and entropy bonus have come down to their last
  values.
* Intervals are over seeds. The 10,000 episodes of each come from the same 435 starts: hundredths of a point are one
  start or a few. Seeds pair what begins with the same task-only policy; `online` and what is like it begin from
  nothing, and under another setting a seed says little.

"""

ABOUT_SHARES = """\
All begin with the task-only policy of their seed and end after 20,000 feedback episodes. Answers are waited for, so
that the share asked about is the share learned from: the effective one is measured here. `direct` and
`distilled_terminal` pay at the end of an episode, the others as the belief changes. The judge answers at once in
these arms; of a run that waits for one that takes 3 to 6 s and is asked about nearly all, waiting is 290 of 317 s
(`benchmarks/late-wait.json`, `python scripts/bench/late.py wait`).
"""

ABOUT_ALL_STARTS = """\
Over all starts, as the published figures are: a fifth unseen, four fifths of training.

"""

ABOUT_WORLDS = """\
The same checkpoints, 10,000 episodes each; means over seeds. Besides, for comparison, the world that they were
trained in, from unseen starts and from those of training.
"""

ABOUT_AUDIT = """\
Against the truth: fitted to the labels of one run of `online`, tested on fresh episodes of that run's policies of all
ages, from unseen starts; 250 are every second of the 500. Gate: whether held-out accuracy was enough for a run to let
it count.

"""

ABOUT_PAIRED = """\
Verdict and score of the same judged episodes, against the truth; the score of the version that the episode began
under, and by which it was paid or would have been. Summed over seeds; the gain is by seed, with Student's interval,
as episodes are not independent: one exactly like an earlier one (15 % of `hybrid_25`'s) has the same verdict again,
which that version may have learned from.

"""

ABOUT_ALIKE = """\
Their evaluations agree to the last digit in every world: where a gated reward goes by a yes or a no, two reward models
that decide alike make the same run, and so do two that may not pay. Seeds of such arms are one piece of evidence, not
two.
"""

ABOUT_ARMS = """\
What is set otherwise than in `online`, in all arms of a file and in each; all settings stand in each result. A +
behind a commit: files differed from it; of results that were made before results and documents were left out of that,
as `online`'s, these alone may have.

"""
