"""The tree of what can be chosen: one section a room, checked as a whole."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "BudgetConfig",
    "Config",
    "EnvConfig",
    "FeedbackConfig",
    "JudgeConfig",
    "MixConfig",
    "PPOConfig",
    "PolicyConfig",
    "ResourcesConfig",
    "RewardModelConfig",
    "RunConfig",
]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
LOOPBACK = re.compile(r"^https?://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/|$)")


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class RunConfig(_Section):
    """One training run: its name, its folder, how long it goes on."""

    name: str = "run"
    """Folder of the run, below `dir`; letters, digits, '.', '_' and '-'."""
    dir: str = "runs"
    """Folder that holds runs."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seeds everything that is drawn."""
    total_steps: PositiveInt = 1_000_000
    """Environment steps of the whole run, all phases."""
    checkpoint_every_s: PositiveFloat = 120.0
    """Seconds between checkpoints; one is always written at a phase's end, at the end and on Ctrl-C."""
    keep_checkpoints: PositiveInt = 2
    """Periodic checkpoints kept; phase ends are always kept."""
    evaluate_episodes: NonNegativeInt = 2_000
    """Episodes of each final evaluation; 0: none."""
    evaluate_every_steps: NonNegativeInt = 0
    """Steps between evaluations while training, on the side; 0: only at phase ends."""

    @field_validator("name")
    @classmethod
    def _name_stays_in_its_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise ValueError("must be up to 100 letters, digits, '.', '_' or '-', not starting with '.' or '-'")
        return name


class EnvConfig(_Section):
    """The world."""

    id: str = "rlaif_ray/Homegrid-v0"
    """Gymnasium id, or a name given to `register_env`."""
    num_envs: PositiveInt = 256
    """Environments stepped side by side in all, shared out over the runners."""
    options: dict[str, Any] = {}
    """Keyword arguments of the world, e.g. {starts: train}."""
    evaluate_options: dict[str, dict[str, Any]] = {}
    """Named sets of options (put over `options`) that final evaluations run on, e.g. {heldout: {starts: heldout}}."""


class PolicyConfig(_Section):
    """The policy network."""

    network: str = "mlp"
    """`mlp`, `cnn`, `egocentric` (grids), or an import path "package.module:Class" of an RLModule."""
    hidden: tuple[PositiveInt, ...] = (256, 256)
    """Widths of the dense layers."""


class PPOConfig(_Section):
    """RLlib's PPO; the names are its own where it has one."""

    train_batch_size: PositiveInt = 8_192
    """Steps learned from in one iteration, over all runners."""
    minibatch_size: PositiveInt = 1_024
    """Steps of one gradient step."""
    num_epochs: PositiveInt = 4
    """Passes over each batch."""
    lr: PositiveFloat = 1e-3
    """Learning rate (Adam) at step 0."""
    lr_final: NonNegativeFloat = 1e-4
    """Learning rate at `run.total_steps`; linear in between."""
    gamma: Fraction = 0.99
    """Discount of a reward one step later."""
    lambda_: Fraction = 0.95
    """Of generalised advantage estimation: 0 trusts the critic, 1 the returns."""
    clip_param: PositiveFloat = 0.2
    """How far the ratio of new to old action probability may count from 1."""
    vf_clip_param: PositiveFloat = 10.0
    """Largest squared error of the critic that counts."""
    vf_loss_coeff: NonNegativeFloat = 0.5
    """Weight of the critic's loss."""
    entropy_coeff: NonNegativeFloat = 0.03
    """Bonus for a policy that keeps trying, at step 0."""
    entropy_coeff_final: NonNegativeFloat = 0.003
    """The same at `run.total_steps`; linear in between."""
    grad_clip: PositiveFloat = 0.5
    """Largest global norm of a gradient."""


class FeedbackConfig(_Section):
    """What is asked, when, and what becomes of late answers."""

    fraction: Fraction = 0.1
    """Share of finished episodes that is asked about, budget allowing."""
    labels_per_iteration: NonNegativeInt = 0
    """At most so many questions an iteration, which spreads a small budget over the run; 0: no limit."""
    start_step: NonNegativeInt = 0
    """Environment steps before the first question."""
    stop_step: NonNegativeInt = 0
    """Environment steps after which nothing more is asked; 0: never."""
    select: Literal["uniform"] = "uniform"
    """Which of the finished episodes are asked about."""
    late: Literal["rm", "defer", "wait"] = "rm"
    """A verdict that hasn't come: `rm`: score it now; `defer`: keep the episode's last part back; `wait` for it."""
    defer_iterations: PositiveInt = 16
    """Deadline of `late: defer`, iterations; then the reward model's score."""
    wait_s: PositiveFloat = 30.0
    """Deadline of `late: wait`, seconds an iteration."""
    pool_actors: PositiveInt = 1
    """Ray actors that draw, encode and ask."""
    concurrency: PositiveInt = 64
    """Questions in flight, of everything that shares the store."""
    store: str = ""
    """SQLite file of labels and spending; empty: labels.sqlite in the run's folder. Several runs may share one."""
    keep_frames_mb: NonNegativeInt = 0
    """Megabytes of the pictures that were sent to keep in the store, the newest; 0: they are redrawn when needed."""


class JudgeConfig(_Section):
    """Who is asked, and how."""

    kind: Literal["builtin", "chat", "decisions"] = "builtin"
    """`builtin`: the pixel-reading judge shipped here, as-if prices; `chat`: an OpenAI-compatible endpoint;
    `decisions`: one that answers typed questions with probabilities (soft labels)."""
    base_url: str = "https://api.openai.com/v1"
    """Where a `chat` judge answers; on loopback it needs no key and costs 0."""
    model: str = "gpt-4o-mini-2024-07-18"
    """Dated model snapshot; part of what identifies a question."""
    profile: str = "gpt-4o-mini-2024"
    """Profile of errors, latency and as-if price of the `builtin` judge, or a path to a profile's YAML."""
    prompt: str = "homegrid-align"
    """Shipped prompt, or a path to a prompt file."""
    constitution: str = ""
    """Shipped constitution (household-robot) or a path to a file of principles, one drawn for each question; empty:
    none. The prompt needs the field {principle}."""
    orders: Literal["both", "random"] = "both"
    """A preference is asked in both orders, where disagreement is a tie, or in one that is drawn."""
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
    replay: Literal["prefer", "only", "off"] = "prefer"
    """Stored answers: used first; used only (anything else is an error); not used."""

    @property
    def local(self) -> bool:
        """True where the judge is on this machine: no key, price 0 unless given."""
        return self.kind == "builtin" or LOOPBACK.match(self.base_url) is not None

    @field_validator("base_url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        if not re.match(r"^https?://[^\s/]+", url):
            raise ValueError("must start with http:// or https:// and name a host")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str) -> str:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("must be the NAME of an environment variable, not a key")
        return name


class BudgetConfig(_Section):
    """Caps that are never exceeded, over everything that shares the store or over this run alone; none: no cap."""

    usd: NonNegativeFloat | None = None
    """US dollars."""
    labels: NonNegativeInt | None = None
    """Billed questions, abstentions included."""
    tokens: NonNegativeInt | None = None
    """Tokens, input and output together."""
    run_usd: NonNegativeFloat | None = None
    """US dollars that this run alone may spend."""
    run_labels: NonNegativeInt | None = None
    """Billed questions of this run alone."""
    run_tokens: NonNegativeInt | None = None
    """Tokens of this run alone."""
    schedule: Literal["none", "uniform", "front-loaded", "hyperbolic"] = "none"
    """How the caps open over the steps on which is asked: `none`: all at once; `uniform`; early and less and less
    (`front-loaded`); early, with a tail to the end (`hyperbolic`)."""


class RewardModelConfig(_Section):
    """The network that learns to judge."""

    net: Literal["event-max", "cnn-lstm"] = "event-max"
    """`event-max` finds an event anywhere in an episode; `cnn-lstm` also reads order."""
    ensemble: PositiveInt = 1
    """Members, each on its own bootstrap sample; the belief is their mean."""
    channels: PositiveInt = 32
    """Convolution channels."""
    hidden: PositiveInt = 64
    """Width of the head (`event-max`) or of the LSTM."""
    lr: PositiveFloat = 1e-2
    """Learning rate of a fit."""
    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay of a fit."""
    epochs: PositiveInt = 60
    """Passes over the labels in one fit."""
    batch_size: PositiveInt = 64
    """Labels of one gradient step."""
    holdout: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """Share of labels never trained on."""
    min_labels: PositiveInt = 40
    """Labels before the first fit."""
    retrain_every: PositiveInt = 20
    """New labels before another fit."""
    gate_accuracy: Fraction = 0.85
    """Balanced held-out accuracy (plain where a class is missing) from which its scores count."""
    pace: Literal["auto", "go", "wait"] = "auto"
    """Until the gate opens: `go` on on the task reward or `wait` for labels; auto: wait if the judge is remote."""


class MixConfig(_Section):
    """What reward an episode is learned from."""

    source: Literal["none", "direct", "distilled", "hybrid"] = "none"
    """Whose feedback is mixed in."""
    weight: NonNegativeFloat = 1.0
    """Weight of the feedback reward beside the task reward, fully ramped up."""
    start_step: NonNegativeInt = 0
    """Environment steps of the task-only phase before."""
    ramp_steps: NonNegativeInt = 0
    """Steps over which the weight then rises from 0, linearly."""
    credit: Literal["terminal", "potential", "redistribute"] = "redistribute"
    """Where in an episode the feedback reward is paid."""
    unjudged: Literal["rm", "task", "drop"] = "rm"
    """An episode without a verdict gets: the reward model's score, the task reward only, or is not learned from."""


class ResourcesConfig(_Section):
    """What of the machine or cluster is used."""

    env_runners: NonNegativeInt = 1
    """Remote rollout actors; 0: the driver acts itself."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where policy and reward model learn; auto: a GPU if there is one."""
    learner_threads: NonNegativeInt = 0
    """Threads of the local learner; 0: as many as there are cores."""
    object_store_mb: PositiveInt = 512
    """Ray's object store, where this command starts Ray itself."""
    address: str = ""
    """Ray cluster to join ("auto"); empty: Ray is started on this machine."""


class Config(_Section):
    """Everything that can be chosen for one run."""

    run: RunConfig = RunConfig()
    env: EnvConfig = EnvConfig()
    policy: PolicyConfig = PolicyConfig()
    ppo: PPOConfig = PPOConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    judge: JudgeConfig = JudgeConfig()
    budget: BudgetConfig = BudgetConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    mix: MixConfig = MixConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @property
    def asks(self) -> bool:
        """Whether this run puts questions to a judge."""
        return self.mix.source != "none"

    @property
    def uses_reward_model(self) -> bool:
        return self.mix.source in ("distilled", "hybrid")

    @property
    def pace(self) -> Literal["go", "wait"]:
        """`reward_model.pace` with `auto` resolved."""
        if self.reward_model.pace == "auto":
            return "go" if self.judge.local else "wait"
        return self.reward_model.pace

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Config:
        if self.ppo.minibatch_size > self.ppo.train_batch_size:
            raise ValueError(
                f"ppo.minibatch_size: got {self.ppo.minibatch_size}, allowed are 1 to ppo.train_batch_size "
                f"({self.ppo.train_batch_size})"
            )
        if self.ppo.train_batch_size % self.env.num_envs:
            raise ValueError(
                f"ppo.train_batch_size: got {self.ppo.train_batch_size}, allowed are multiples of env.num_envs "
                f"({self.env.num_envs})"
            )
        runners = max(1, self.resources.env_runners)
        if self.env.num_envs % runners:
            raise ValueError(
                f"env.num_envs: got {self.env.num_envs}, allowed are multiples of resources.env_runners ({runners})"
            )
        if self.mix.source == "direct" and self.mix.credit != "terminal":
            raise ValueError(
                f"mix.credit: got {self.mix.credit!r}, allowed with mix.source 'direct' is 'terminal' (the others need "
                "a reward model's belief; use source 'hybrid')"
            )
        if self.mix.source == "direct" and self.mix.unjudged == "rm":
            raise ValueError(
                "mix.unjudged: got 'rm', allowed with mix.source 'direct' are 'task', 'drop' (there is no reward model)"
            )
        if self.mix.source == "distilled" and self.mix.unjudged != "rm":
            raise ValueError(
                f"mix.unjudged: got {self.mix.unjudged!r}, allowed with mix.source 'distilled' is 'rm' (it scores "
                "every episode)"
            )
        if self.mix.source != "none" and self.mix.start_step >= self.run.total_steps:
            raise ValueError(
                f"mix.start_step: got {self.mix.start_step}, allowed are 0 to below run.total_steps "
                f"({self.run.total_steps})"
            )
        return self
