"""FeedbackPPOConfig: both ways to a Config, and a word why for what RLlib offers and columns can't do."""

import pytest
from ppo_runs import settings
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback

from rlaif_ray.config import load_config
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.policy import module_spec
from rlaif_ray.ppo_config import FeedbackPPOConfig


def test_a_config_comes_back_through_rllibs_as_it_went():
    given = load_config(
        "homegrid", {"resources.env_runners": 2, "run.seed": 5, "ppo.lr": 2e-3, "run.total_steps": 800_000}
    )
    back = FeedbackPPOConfig.from_config(given).to_config()
    for name in type(given).model_fields:
        if name != "env":
            assert getattr(back, name) == getattr(given, name), name
    assert (back.env.id, back.env.num_envs, back.env.options) == (given.env.id, given.env.num_envs, given.env.options)


def test_schedules_end_with_the_run_whenever_its_length_is_said():
    config = FeedbackPPOConfig().run(total_steps=5_000)
    assert config.lr[-1] == [5_000, 1e-4]
    assert config.entropy_coeff[-1][0] == 5_000
    own = FeedbackPPOConfig().training(lr=[[0, 0.1], [77, 0.2]], entropy_coeff=0.01).run(total_steps=5_000)
    assert own.lr == [[0, 0.1], [77, 0.2]]  # the user's own are left alone
    assert own.entropy_coeff == 0.01
    later = FeedbackPPOConfig().run(total_steps=5_000).run(total_steps=6_000)
    assert later.lr == [[0, 1e-3], [6_000, 1e-4]]


def connector(*_):
    return None


class OnTrain(RLlibCallback):
    def on_train_result(self, *, algorithm, result, **kwargs):
        result["seen"] = True


class OnEpisode(RLlibCallback):
    def on_episode_end(self, **kwargs):
        raise AssertionError("never called")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.env_runners(env_to_module_connector=connector), "env_to_module_connector.*as they are"),
        (lambda c: c.env_runners(module_to_env_connector=connector), "module_to_env_connector.*as they are"),
        (lambda c: c.training(learner_connector=connector), "learner_connector.*before the learner"),
        (lambda c: c.env_runners(observation_filter="MeanStdFilter"), "observation_filter: got 'MeanStdFilter'"),
        (lambda c: c.env_runners(batch_mode="complete_episodes"), "batch_mode.*survivors"),
        (lambda c: c.training(use_kl_loss=True), "use_kl_loss.*KL coefficient"),
        (lambda c: c.training(use_gae=False), "use_gae: got False"),
        (lambda c: c.training(use_critic=False), "use_critic: got False"),
        (lambda c: c.environment(clip_rewards=True), "clip_rewards: got True"),
        (lambda c: c.environment(normalize_actions=False), "normalize_actions: got False"),
        (lambda c: c.environment(clip_actions=True), "clip_actions: got True"),
        (lambda c: c.callbacks(on_episode_end=connector), "callbacks_on_episode_end.*on_train_result"),
        (lambda c: c.callbacks(OnEpisode), "OnEpisode.*on_episode_end.*on_train_result"),
        (lambda c: c.callbacks([OnTrain, OnEpisode]), "OnEpisode"),
        (lambda c: c.multi_agent(policies={"a", "b"}, policy_mapping_fn=connector), "several policies"),
        (lambda c: c.env_runners(num_envs_per_env_runner=7), r"train_batch_size.*multiples of env\.num_envs \(7\)"),
        (lambda c: c.training(minibatch_size=999), "minibatch_size.*999"),
    ],
)
def test_what_columns_can_not_do_is_refused_with_a_word_why(change, words):
    config = settings()
    config.validate()  # fine before
    change(config)
    with pytest.raises((ConfigError, ValueError), match=words) as caught:
        config.validate()
    assert isinstance(caught.value, ConfigError) or "RLlib" in str(type(caught.value)) or "minibatch" in words


def test_hooks_on_the_algorithm_are_fine():
    settings().callbacks(OnTrain).validate()
    settings().callbacks([OnTrain], on_train_result=connector).validate()


def test_mistakes_in_our_sections_are_told_where_they_are_made():
    with pytest.raises(ConfigError, match=r"feedback\.fracton.*did you mean 'fraction'"):
        settings().feedback(fracton=0.1)
    with pytest.raises(ConfigError, match=r"budget\.usd: got -1"):
        settings().budget(usd=-1)
    with pytest.raises(ConfigError, match=r"mix\.source: got 'hybird'.*did you mean 'hybrid'"):
        settings().reward_mix(source="hybird")
    with pytest.raises(UnknownNameError, match=r"'rlaif_ray/Homegird-v0'.*did you mean 'rlaif_ray/Homegrid-v0'"):
        settings(env="rlaif_ray/Homegird-v0")


@pytest.mark.parametrize(
    ("network", "error", "words"),
    [
        ("mpl", UnknownNameError, "did you mean 'mlp'"),
        ("no.such:Module", ConfigError, "can't be imported"),
        ("ppo_runs:Nothing", ConfigError, "can't be imported"),
        (":Module", ConfigError, "can't be imported"),
        ("ppo_runs:NoModule", ConfigError, "TorchRLModules that implement ValueFunctionAPI"),
        ("ppo_runs:settings", ConfigError, "TorchRLModules"),
    ],
)
def test_networks_that_are_none_are_told(network, error, words):
    with pytest.raises(error, match=words):
        module_spec(load_config({}, {"policy.network": network}).policy)


def test_a_search_space_over_our_sections_is_checked_when_a_trial_gets_its_values():
    config = settings().reward_mix(source="hybrid", weight=tune.grid_search([0.5, 1.0])).budget(labels=tune.choice([9]))
    space = config.to_dict()
    assert space["rlaif"]["mix"]["weight"] == {"grid_search": [0.5, 1.0]}
    space["rlaif"]["mix"]["weight"] = 0.5
    space["rlaif"]["budget"]["labels"] = 9
    whole = settings().update_from_dict(space).to_config()
    assert (whole.mix.weight, whole.budget.labels) == (0.5, 9)
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        settings().reward_mix(wieght=tune.grid_search([0.5]))


def test_copies_do_not_share_their_sections():
    one = settings().feedback(fraction=0.5)
    two = one.copy().feedback(fraction=0.25)
    assert (one.to_config().feedback.fraction, two.to_config().feedback.fraction) == (0.5, 0.25)
