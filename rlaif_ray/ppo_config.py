"""``FeedbackPPOConfig``: RLlib's PPOConfig, with feedback, judge, budget, reward model and reward mix beside it.

>>> config = (
...     FeedbackPPOConfig()
...     .environment("rlaif_ray/Homegrid-v0", env_config={"starts": "train"})
...     .env_runners(num_env_runners=1, num_envs_per_env_runner=256)
...     .feedback(fraction=0.1)
...     .budget(labels=500)
...     .reward_model(net="event-max")
...     .reward_mix(source="hybrid", credit="redistribute")
... )  # doctest: +SKIP
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.registry import register_env as register_with_ray
from ray.tune.search.sample import Domain

from rlaif_ray import envs
from rlaif_ray.config import Config, PolicyConfig, deep_merge, validate
from rlaif_ray.config import PPOConfig as PPOSection
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.learner import FeedbackPPOLearner
from rlaif_ray.placement import Cluster, cluster_address, current
from rlaif_ray.policy import module_spec
from rlaif_ray.rollout import ColumnarEnvRunner

__all__ = ["FeedbackPPOConfig", "wants_gpu"]

SECTIONS = ("feedback", "judge", "budget", "reward_model", "mix", "watch", "run", "policy", "resources")
# RLlib settings that the columnar path never meets: silently ignoring one would be worse than refusing it.
EPISODE_HOOKS = ("on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end", "on_sample_end")
UNSUPPORTED: Mapping[str, tuple[Any, str]] = {
    "_env_to_module_connector": (None, "observations go from the world to the network as they are"),
    "_module_to_env_connector": (None, "actions go from the network to the world as they are"),
    "_learner_connector": (None, "advantages are computed on columns, before the learner"),
    "observation_filter": ("NoFilter", "observations go from the world to the network as they are"),
    "callbacks_on_episode_created": (None, "episodes are columns; use on_train_result"),
    "callbacks_on_episode_start": (None, "episodes are columns; use on_train_result"),
    "callbacks_on_episode_step": (None, "episodes are columns; use on_train_result"),
    "callbacks_on_episode_end": (None, "episodes are columns; use on_train_result"),
    "batch_mode": ("truncate_episodes", "batches of complete episodes would start with survivors and go stale"),
    "clip_rewards": (None, "rewards go to the learner as they are"),
    "normalize_actions": (True, "networks act in [-1, 1] and the world is given its own range"),
    "clip_actions": (False, "networks act in [-1, 1] and the world is given its own range"),
    "use_gae": (True, "advantages are generalised advantage estimates on columns"),
    "use_critic": (True, "advantages need the critic's values"),
    "use_kl_loss": (False, "RLlib does not save the adaptive KL coefficient with a checkpoint"),
}


class FeedbackPPOConfig(PPOConfig):  # type: ignore[misc]
    """RLlib's fluent config; what it adds is checked by ``rlaif_ray.config`` as soon as it is said."""

    def __init__(self, algo_class: type | None = None) -> None:
        if algo_class is None:
            from rlaif_ray.ppo import FeedbackPPO

            algo_class = FeedbackPPO
        super().__init__(algo_class=algo_class)
        self.rlaif: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
        self.run_path = ""  # the run's folder; empty: Tune's trial folder
        self.home_node = ""  # Ray's id of the node where the store's file is; empty: see placement.home_node
        self.env_id = ""  # the world as the user named it
        self.env_is_callable = False  # or made it
        self.env_runner_cls = ColumnarEnvRunner
        self.use_kl_loss = False
        # A runner's states need no merging, and the call that merges them waits behind a running sample().
        self.merge_env_runner_states = False
        self.broadcast_env_runner_states = False
        self.restart_failed_env_runners = True
        defaults = PPOSection()
        self.training(**_training_arguments(defaults, Config().run.total_steps))

    # ------------------------------------------------------------------------------------------ fluent sections

    def environment(self, env: Any = NotProvided, **kwargs: Any) -> FeedbackPPOConfig:
        """As RLlib's. ``env`` is a Gymnasium id, a name given to ``rlaif_ray.register_env``, or a callable
        ``context -> gymnasium.vector.VectorEnv`` (same-step autoreset) that is told ``num_envs``."""
        super().environment(env=env, **kwargs)
        if env is not NotProvided and env is not None:
            self._register_world(env)
        return self

    def feedback(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.FeedbackConfig``: fraction, select, late ..."""
        return self._say("feedback", options)

    def judge(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.JudgeConfig``: kind, base_url, model, profile, prompt ..."""
        return self._say("judge", options)

    def budget(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.BudgetConfig``: usd, labels, tokens."""
        return self._say("budget", options)

    def reward_model(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.RewardModelConfig``: net, ensemble, gate_accuracy ..."""
        return self._say("reward_model", options)

    def reward_mix(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.MixConfig``: source, weight, credit ..."""
        return self._say("mix", options)

    def watch(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.WatchConfig``: action."""
        return self._say("watch", options)

    def policy(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.PolicyConfig``: network, hidden."""
        return self._say("policy", options)

    def run(self, **options: Any) -> FeedbackPPOConfig:
        """Options of ``config.RunConfig``: total_steps ... Schedules that end with the run end with the new total."""
        before = self._total_steps()
        self._say("run", options)
        for name in ("lr", "entropy_coeff"):
            schedule = getattr(self, name)
            if isinstance(schedule, list) and schedule[-1][0] == before:
                setattr(self, name, [*schedule[:-1], [self._total_steps(), schedule[-1][1]]])
        return self

    def _total_steps(self) -> int:
        return int(self.rlaif["run"].get("total_steps", Config().run.total_steps))

    def _say(self, section: str, options: Mapping[str, Any]) -> FeedbackPPOConfig:
        self.rlaif = deep_merge(self.rlaif, {section: dict(options)})
        self._check_names()
        return self

    def _check_names(self) -> None:
        """Names and single values at once; what must fit together is checked by ``validate`` at the end."""
        for name, options in self.rlaif.items():
            kind: Any = Config.model_fields[name].annotation
            fixed = {key: value for key, value in options.items() if not _is_searched(value)}
            for unknown in options.keys() - kind.model_fields.keys():
                fixed[unknown] = None  # also where its values are searched
            try:
                kind.model_validate(fixed)
            except ValueError:
                validate({name: fixed})  # says the same in one line

    # ------------------------------------------------------------------------------------------ RLlib's hooks

    def update_from_dict(self, config_dict: Mapping[str, Any]) -> FeedbackPPOConfig:
        """As RLlib's, for Tune's search spaces; our sections are merged key by key and unknown keys are refused."""
        ours = {k: v for k, v in config_dict.items() if k in SECTIONS}
        rest = {k: v for k, v in config_dict.items() if k not in SECTIONS}
        # "__trial_info__" and the like are Tune's own; "class" comes with a pickled config.
        unknown = [k for k in rest if k not in self.keys() and not k.startswith("__") and k != "class"]
        translated = [k for k in unknown if self._translate_special_keys(k, warn_deprecated=False) not in self.keys()]
        if translated:
            raise UnknownNameError("config key", translated[0], [*SECTIONS, *self.keys()])
        super().update_from_dict(rest)  # first: it replaces our sections as a whole where they are among them
        for section, options in ours.items():
            self.run(**options) if section == "run" else self._say(section, options)
        if "env" in rest and rest["env"] is not None and not str(rest["env"]).startswith(_PREFIX):
            self._register_world(rest["env"])
        return self

    def get_default_learner_class(self) -> type:
        return FeedbackPPOLearner

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return module_spec(PolicyConfig.model_validate(self.rlaif["policy"]))

    def build_learner_group(self, *, placement_group: Any = None, **kwargs: Any) -> LearnerGroup:
        """As RLlib's, in the places reserved on a cluster where there are any."""
        places = current()
        group = placement_group or (None if places is None else places.group)
        return super().build_learner_group(placement_group=group, **kwargs)

    @property
    def _model_config_auto_includes(self) -> dict[str, Any]:
        policy = PolicyConfig.model_validate(self.rlaif["policy"]).model_dump(mode="json")
        return super()._model_config_auto_includes | {"policy": policy}  # type: ignore[no-any-return]

    def validate(self) -> None:
        if self.in_evaluation:  # RLlib derives this config from ours, with a batch mode of its own
            super().validate()
            return
        for name, (allowed, why) in UNSUPPORTED.items():
            got = getattr(self, name, allowed)
            if got != allowed and not (allowed is None and got in (None, [], ())):
                raise ConfigError(f"{name.lstrip('_')}: got {got!r}, allowed is {allowed!r}: {why}")
        if self.is_multi_agent:
            raise ConfigError("multi_agent: got several policies, allowed is one")
        self._check_callbacks()
        super().validate()
        self.to_config()

    def _check_callbacks(self) -> None:
        """A hook on episodes that would never be called is refused, not ignored."""
        given = self.callbacks_class if isinstance(self.callbacks_class, list | tuple) else [self.callbacks_class]
        for one, hook in itertools.product(given, EPISODE_HOOKS):
            if getattr(one, hook, None) is not getattr(RLlibCallback, hook):
                raise ConfigError(
                    f"callbacks_class: got {one!r} with {hook}, allowed are hooks on the algorithm: episodes are "
                    "columns; use on_train_result"
                )

    # ------------------------------------------------------------------------------------------ both ways

    def to_config(self) -> Config:
        """The whole as one checked ``Config``: our sections, and RLlib's own settings where it has them."""
        runners = max(1, self.num_env_runners)
        ppo = {
            "train_batch_size": self.total_train_batch_size,
            "minibatch_size": self.minibatch_size,
            "num_epochs": self.num_epochs,
            "lr": _first(self.lr),
            "lr_final": _last(self.lr),
            "gamma": self.gamma,
            "lambda_": self.lambda_,
            "clip_param": self.clip_param,
            "vf_clip_param": self.vf_clip_param,
            "vf_loss_coeff": self.vf_loss_coeff,
            "entropy_coeff": _first(self.entropy_coeff),
            "entropy_coeff_final": _last(self.entropy_coeff),
            "grad_clip": self.grad_clip or 1e9,
        }
        env = {"id": self.env_id or "custom", "num_envs": self.num_envs_per_env_runner * runners,
               "options": dict(self.env_config)}  # fmt: skip
        raw = {**copy.deepcopy(self.rlaif), "ppo": ppo, "env": env}
        raw["resources"] = {**raw["resources"], "env_runners": self.num_env_runners}
        raw["run"] = {"seed": self.seed or 0, **raw["run"]}
        return validate(raw)

    @classmethod
    def from_config(cls, config: Config) -> FeedbackPPOConfig:
        """The RLlib config of a ``Config``."""
        runners = config.resources.env_runners
        self = cls()
        self.rlaif = {name: getattr(config, name).model_dump(mode="json") for name in SECTIONS}
        self.environment(config.env.id, env_config=dict(config.env.options))
        self.env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=config.env.num_envs // max(1, runners),
            num_cpus_per_env_runner=1,
        )
        self.training(**_training_arguments(config.ppo, config.run.total_steps))
        places = current()
        if places is None:
            self.learners(num_learners=0, num_gpus_per_learner=int(wants_gpu(config)))
        else:  # on a cluster a GPU is where Ray has reserved one, perhaps on another node
            self.learners(num_learners=int(places.gpu), num_gpus_per_learner=int(places.gpu))
        self.debugging(seed=config.run.seed)
        return self

    def _register_world(self, env: str | Callable[[Any], Any]) -> None:
        self.env_is_callable = callable(env)
        if callable(env):
            self.env_id = getattr(env, "__qualname__", "custom")
            creator = env
        else:
            self.env_id = env.removeprefix(_PREFIX)
            envs.env_spec(self.env_id)  # raises UnknownNameError
            creator = _World(self.env_id)
        name = _PREFIX + self.env_id
        register_with_ray(name, creator)
        AlgorithmConfig.environment(self, env=name)


_PREFIX = "rlaif_ray:"


class _World:
    """Creator of a vector environment by id, as RLlib's registry wants one; picklable."""

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id

    def __call__(self, context: Mapping[str, Any]) -> Any:
        options = {k: v for k, v in context.items() if k != "num_envs"}
        return envs.make_vec(self.env_id, int(context["num_envs"]), options)


def _training_arguments(ppo: PPOSection, total_steps: int) -> dict[str, Any]:
    return {
        "train_batch_size_per_learner": ppo.train_batch_size,
        "minibatch_size": ppo.minibatch_size,
        "num_epochs": ppo.num_epochs,
        "lr": [[0, ppo.lr], [total_steps, ppo.lr_final]],
        "gamma": ppo.gamma,
        "lambda_": ppo.lambda_,
        "clip_param": ppo.clip_param,
        "vf_clip_param": ppo.vf_clip_param,
        "vf_loss_coeff": ppo.vf_loss_coeff,
        "entropy_coeff": [[0, ppo.entropy_coeff], [total_steps, ppo.entropy_coeff_final]],
        "grad_clip": ppo.grad_clip,
        "grad_clip_by": "global_norm",
        "use_kl_loss": False,
        "shuffle_batch_per_epoch": True,
    }


def _is_searched(value: Any) -> bool:
    """Whether Tune is to choose the value: a trial is given one, and checked then."""
    return isinstance(value, Domain) or (isinstance(value, Mapping) and set(value) == {"grid_search"})


def wants_gpu(config: Config) -> bool:
    """Whether the learner's process gets a GPU. Raises ConfigError where one is asked for and there is none.

    Left open, it is one of this node's: trials would else queue for a cluster's only one.
    """
    import torch

    available = torch.cuda.is_available()
    if config.resources.device == "cuda" and not available:
        if cluster_address(config) and ray.is_initialized() and Cluster.joined().gpus >= 1:
            return True
        raise ConfigError("resources.device: got 'cuda', allowed here are 'auto', 'cpu' (PyTorch sees no GPU)")
    return available and config.resources.device != "cpu"


def _first(schedule: Any) -> float:
    return float(schedule[0][1] if isinstance(schedule, list | tuple) else schedule)


def _last(schedule: Any) -> float:
    return float(schedule[-1][1] if isinstance(schedule, list | tuple) else schedule)
