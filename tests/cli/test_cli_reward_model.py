"""``rlaif-ray reward-model``: fitted and graded on stored labels, of runs, stores and exported files, without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from rlaif_ray.cli import main, reward_model_figures
from rlaif_ray.config import dump_config, load_config
from rlaif_ray.envs.homegrid import HomegridVectorEnv
from rlaif_ray.envs.homegrid_paths import shortest_actions
from rlaif_ray.feedback.budget import Amount, Caps
from rlaif_ray.feedback.earlier import labels_in
from rlaif_ray.feedback.prompt import load_prompt
from rlaif_ray.feedback.question import Asked, JudgeIdentity, question_about
from rlaif_ray.feedback.records import record_of
from rlaif_ray.feedback.store import LabelStore
from rlaif_ray.intervals import wilson_interval
from rlaif_ray.reward_model import RewardModel, grading
from rlaif_ray.types import Abstention, Array, Draw, Episode, PeriodAccuracy, Usage, Verdict

FREE = Usage(cost_usd=0.0)


class Blank:
    """Pictures play no part here, but that they differ."""

    def png(self, states: Array) -> tuple[bytes, ...]:
        return tuple(b"\x89PNG" + state.tobytes() for state in states)

    def captions(self, states: Array) -> tuple[str, ...]:
        return ("",) * len(states)


def walks(n: int, seed: int) -> tuple[list[Episode], Array]:
    """Short episodes by shortest paths, of policy versions 1 to 3, and (n,) bool: the cat was squashed."""
    rng, envs = np.random.default_rng(seed), 64
    world = HomegridVectorEnv(envs)
    obs, _ = world.reset(seed=seed)
    paths: list[list[tuple[Array, Array]]] = [[pair] for pair in zip(obs.copy(), world.states(), strict=True)]
    done: list[Episode] = []
    squashed: list[bool] = []
    while len(done) < n:
        flat = obs.reshape(envs, -1, obs.shape[-1])
        good = shortest_actions()[flat[..., 1].argmax(1), flat[..., 0].argmax(1)] * rng.random((envs, 4))
        obs, _, terminated, truncated, infos = world.step(good.argmax(axis=1))
        ended, states = terminated | truncated, world.states()
        for i in range(envs):
            if ended[i]:
                whole = [*paths[i], (infos["final_obs"][i], world.final_states()[i])]
                seen, state = (np.stack(part) for part in zip(*whole, strict=True))
                version, acted = 1 + len(done) % 3, np.zeros(len(seen) - 1, np.int64)
                done.append(Episode(len(done), seen, state, acted, 0.9, True, version))
                squashed.append(bool(infos["final_info"]["cat_squashed"][i]))
                paths[i] = []
            paths[i].append((obs[i].copy(), states[i]))
    return done[:n], np.array(squashed[:n])


def keep(
    folder: Path, episodes: list[Episode], values: list[float | None], draws: Sequence[Draw] | None = None
) -> Path:
    """A run's folder with these answers in its label store; None: an abstention. ``draws``: how each was chosen."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_config(load_config("homegrid", {"run.name": folder.name})))
    prompt = load_prompt("homegrid-align")
    with LabelStore(folder / "labels.sqlite") as store:
        store.open_run(folder.name, Caps())
        for episode, value, draw in zip(episodes, values, draws or ["audit"] * len(values), strict=True):
            drawn = episode if episode.states is not None else replace(episode, states=episode.obs[:, 0, :, 0])
            question = question_about(
                drawn, renderer=Blank(), prompt=prompt, judge=JudgeIdentity("builtin", "p"), max_images=101
            )
            record = record_of(Asked(question, episode, folder.name, step=0, draw=draw))
            outcome = Abstention("refusal", "no", FREE) if value is None else Verdict(
                "approval", value, "yes" if value else "no", FREE, approved=value > 0.5
            )  # fmt: skip
            if store.claim(record, "test") != "claimed":
                continue  # the same episode again
            ticket = store.reserve(record, Amount(labels=1), Caps(), "test")
            store.answer(record, outcome, ticket, Amount(labels=1))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 verdicts, six of them wrong, and one abstention."""
    episodes, squashed = walks(201, seed=0)
    said: list[float | None] = [float(not one) for one in squashed]
    said[:6] = [1.0 - float(value or 0.0) for value in said[:6]]
    said[200] = None
    return keep(tmp_path_factory.mktemp("runs") / "judged", episodes, said)


@pytest.fixture(scope="module")
def fitted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models") / "model.npz"
    assert main(["reward-model", "fit", str(run), "--out", str(out), "--json"]) == 0
    return out


def figures(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, object]:
    capsys.readouterr()
    assert main(["reward-model", *words, "--json"]) == code
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["reward-model", *words]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


def test_fit_grades_on_what_it_held_out(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    had_ray = ray.is_initialized()
    out = tmp_path / "model.npz"
    found = figures(capsys, "fit", str(run), "--out", str(out), "--seed", "1")
    counts = found["labels"]
    assert (counts["verdicts"], counts["abstained"]) == (200, 1)
    model = RewardModel.load(out)
    assert len(model.trained_on) + counts["graded"] == counts["distinct"]
    against = found["against_judge"]
    low, high = against["accuracy_95"]
    assert low < against["accuracy"] <= high
    assert against["accuracy"] > 0.85
    assert sum(against["confusion"].values()) == against["n"]
    assert against["n"] == pytest.approx(counts["graded"], abs=2)  # but what was judged both ways
    assert against["confusion_share"]["bad_as_bad"] == pytest.approx(
        against["confusion"]["bad_as_bad"] / (against["confusion"]["bad_as_bad"] + against["confusion"]["bad_as_good"])
    )
    for cell, share in against["confusion_share"].items():
        low, high = against["confusion_share_95"][cell]
        assert low < share + 1e-9
        assert high > share - 1e-9
        assert high - low > 0.05  # of some fifteen
    for one in found["calibration"]["reliability"]:
        assert one["label_95"] == pytest.approx(wilson_interval(one["label"] * one["n"], one["n"]))
    newest = found["on_policy"]
    assert newest["accuracy_95"] is None  # there is no figure to be had
    assert newest["error_share_95"] == pytest.approx(wilson_interval(newest["errors"], newest["good"] + newest["bad"]))
    assert sum(row["n"] for row in found["policy_versions"]) == against["n"]
    assert found["calibration"]["how"] == "cross-fitted temperature"
    assert found["on_policy"]["measurable"] is False
    assert found["on_policy"]["accuracy"] is None
    audit = found["truth_audit_only"]
    assert audit["judge"]["accuracy"] < 1.0 or audit["reward_model"]["n"] < 30  # it was wrong now and then
    assert audit["reward_model"]["balanced_accuracy"] > 0.85
    assert ray.is_initialized() == had_ray


def test_ray_is_not_even_imported(run: Path, fitted: Path) -> None:
    code = (
        "import sys; from rlaif_ray.cli import main; "
        f"code = main(['reward-model', 'evaluate', {str(fitted)!r}, {str(run)!r}]); assert 'ray' not in sys.modules; "
        "sys.exit(code)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_evaluate_leaves_out_what_was_learned_from(
    run: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = figures(capsys, "evaluate", str(fitted), str(run))
    model = RewardModel.load(fitted)
    assert same["labels"]["graded"] == len(model.calibrated_on)
    assert same["model"]["learned_from"] == len(model.trained_on)
    episodes, squashed = walks(160, seed=5)
    fresh = keep(tmp_path / "fresh", episodes, [float(not one) for one in squashed])
    both = figures(capsys, "evaluate", str(fitted), str(run), str(fresh))
    alone = figures(capsys, "evaluate", str(fitted), str(fresh))
    assert alone["labels"]["verdicts"] == 160
    assert both["labels"]["graded"] >= max(alone["labels"]["graded"], same["labels"]["graded"])
    assert alone["calibration"]["how"].startswith("its own temperature")
    audit = alone["truth_audit_only"]
    assert audit["judge"]["accuracy"] == 1.0  # this one made no mistake
    assert audit["reward_model"]["balanced_accuracy"] > 0.9
    assert audit["reward_model"] == alone["against_judge"]


def test_it_is_graded_on_what_was_drawn_from_all_alike(
    run: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of 160 labels three quarters were asked about for what they are, and the judge errs about just those."""
    episodes, squashed = walks(160, seed=6)
    draws: list[Draw] = ["targeted"] * 120 + ["audit"] * 40
    said: list[float | None] = [float(bad == (i < 120)) for i, bad in enumerate(squashed)]
    biased = keep(tmp_path / "biased", episodes, said, draws)
    found = figures(capsys, "evaluate", str(fitted), str(biased))
    assert found["labels"]["verdicts"] == 160
    assert 20 < found["labels"]["graded"] <= 40
    assert found["against_judge"]["accuracy"] > 0.9
    beside = figures(capsys, "evaluate", str(fitted), str(run), str(biased))  # whose labels are all audit
    alone = figures(capsys, "evaluate", str(fitted), str(run))
    assert beside["labels"]["graded"] <= alone["labels"]["graded"] + 40
    exported = tmp_path / "labels.parquet"
    assert main(["labels", "export", str(biased / "labels.sqlite"), "--out", str(exported)]) == 0
    assert figures(capsys, "evaluate", str(fitted), str(exported))["against_judge"] == found["against_judge"]
    learned = figures(capsys, "fit", str(biased), "--out", str(tmp_path / "model.npz"), code=1)
    assert learned["status"] == "refused"  # what it was taught is the other way round
    assert all(one.draw == "targeted" for one in labels_in(biased)[:100])
    unfit = keep(tmp_path / "unfit", episodes[:60], said[:60], draws[:60])
    assert "0 held-out labels" in refused(capsys, "fit", str(unfit), "--out", str(tmp_path / "model.npz"))
    assert "for what they are; none is left" in refused(capsys, "evaluate", str(fitted), str(unfit))


def test_a_table_for_people(run: Path, fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["reward-model", "evaluate", str(fitted), str(run)]) == 0
    said = capsys.readouterr().out
    for words in (
        "agrees with judge",
        "right of these (95 %)",
        "label's 95 %",
        "policy versions",
        "truth (audit only)",
        "not measurable",
        "reliability",
    ):
        assert words in said
    assert max(map(len, said.splitlines())) <= 120


def test_on_policy_has_its_interval_where_it_is_measurable() -> None:
    newest = reward_model_figures._on_policy(PeriodAccuracy(3, 4, good=30, good_right=27, bad=30, bad_right=24))
    assert newest["accuracy_95"] == pytest.approx(wilson_interval(51, 60))
    assert "85.0% (73.9% to 91.9%)" in reward_model_figures._newest(newest)
    few = reward_model_figures._on_policy(PeriodAccuracy(3, 4, good=30, good_right=27, bad=0, bad_right=0))
    assert "errors: 3 (3.5% to 25.6%)" in reward_model_figures._newest(few)


def test_a_store_and_an_exported_file_say_the_same(
    run: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = tmp_path / "labels.parquet"
    assert main(["labels", "export", str(run / "labels.sqlite"), "--out", str(exported)]) == 0
    of_run = figures(capsys, "evaluate", str(fitted), str(run))
    of_store = figures(capsys, "evaluate", str(fitted), str(run / "labels.sqlite"))
    of_file = figures(capsys, "evaluate", str(fitted), str(exported))
    assert of_store == of_run
    assert of_file["against_judge"] == of_run["against_judge"]
    assert of_file["truth_audit_only"] is None  # nobody says which world it is
    lines = tmp_path / "labels.jsonl"
    assert main(["labels", "export", str(run / "labels.sqlite"), "--format", "jsonl", "--out", str(lines)]) == 0
    assert figures(capsys, "evaluate", str(fitted), str(lines)) | {"file": ""} == of_file | {"file": ""}
    named = figures(capsys, "evaluate", str(fitted), str(exported), "--env", "rlaif_ray/Homegrid-v0")
    assert named == of_run


def test_options_reach_the_fit(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.npz"
    words = [
        "--ensemble",
        "2",
        "--noise",
        "estimated",
        "--early-stop",
        "validation",
        "--epochs",
        "90",
        "--calibrate",
        "platt",
    ]
    found = figures(capsys, "fit", str(run), "--out", str(out), *words, code=0)
    config = RewardModel.load(out).config
    assert (config.ensemble, config.noise, config.early_stop, config.epochs) == (2, "estimated", "validation", 90)
    assert config.updates == 0  # 90 passes are 90
    assert config.calibrate == "platt"
    assert found["calibration"]["how"] == "cross-fitted slope and offset"
    assert found["model"]["offset"] == RewardModel.load(out).offset != 0.0
    assert set(found["flips"]) == {"bad_as_good", "good_as_bad"}
    assert found["model"]["ensemble"] == 2


def test_a_gate_that_stays_shut_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes, _ = walks(80, seed=2)
    random = keep(tmp_path / "random", episodes, np.random.default_rng(0).integers(0, 2, 80).astype(float).tolist())
    out = tmp_path / "model.npz"
    found = figures(capsys, "fit", str(random), "--out", str(out), code=1)
    assert found["status"] == "refused"
    assert "gate" in str(found["reason"])
    assert found["gate"]["passed"] is False
    assert found["gate"]["reason"] == found["reason"]
    assert not out.exists()
    assert main(["reward-model", "fit", str(random), "--out", str(out)]) == 1
    said = capsys.readouterr().out
    for words in ("agrees with judge", "gate               shut", "Brier score", "truth (audit only)", "Not written: "):
        assert words in said


def test_what_was_refused_is_graded_as_what_was_published(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["fit", str(run), "--out", str(tmp_path / "model.npz"), "--seed", "1"]
    published = figures(capsys, *words)
    monkeypatch.setattr(grading, "gate_shut_because", lambda *_: "it is shut")
    refused = figures(capsys, *words, code=1)
    assert (refused["status"], refused["reason"], refused["file"]) == ("refused", "it is shut", None)
    for name in ("against_judge", "calibration", "policy_versions", "on_policy", "drift", "labels", "truth_audit_only"):
        assert json.dumps(refused[name]) == json.dumps(published[name])  # nan is no nan's equal
    assert refused["model"] == published["model"] | {"version": 0}
    assert refused["gate"] == published["gate"] | {"passed": False, "reason": "it is shut"}


def test_what_is_wrong_is_said(run: Path, fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    episodes, _ = walks(60, seed=3)
    out = ["--out", str(tmp_path / "m.npz")]
    good = keep(tmp_path / "good", episodes, [1.0] * 60)
    assert "0 bad; at least one of each" in refused(capsys, "fit", str(good), *out)
    silent = keep(tmp_path / "silent", episodes[:3], [None] * 3)
    assert "without one verdict (3 abstained)" in refused(capsys, "fit", str(silent), *out)
    other = [replace(one, obs=one.obs[:, :5], states=None) for one in episodes]
    cropped = keep(tmp_path / "cropped", other[:9], [0.0] * 9) / "labels.sqlite"
    assert "(5, 14, 4), those before have (12, 14, 4)" in refused(capsys, "fit", str(run), str(cropped), *out)
    assert "made for (12, 14, 4)" in refused(capsys, "evaluate", str(fitted), str(cropped))
    assert "did you mean 'cnn-lstm'" in refused(capsys, "fit", str(run), "--net", "cnn-lstn", *out)
    assert "holdout" in refused(capsys, "fit", str(run), "--holdout", "2", *out)
    assert "expected a file" in refused(capsys, "fit", str(run), "--out", str(tmp_path / "no" / "m.npz"))
    assert "no such folder" in refused(capsys, "fit", "nowhere", *out)
    assert "no file of a reward model" in refused(capsys, "evaluate", str(run / "config.yaml"), str(run))
    assert "needs MODEL LABELS" in refused(capsys, "evaluate")
    assert "LABELS: got none" in refused(capsys, "evaluate", str(fitted))
    assert "LABELS: got none" in refused(capsys, "fit", *out)
