"""``rlaif-ray judge``: serve the built-in judge or a model file; put two questions to the configured one;
estimate before spending."""

from __future__ import annotations

import json
from dataclasses import asdict

from rlaif_ray import envs
from rlaif_ray.cli.options import Check, Serve
from rlaif_ray.cli.output import only_json, print_json
from rlaif_ray.cli.sample import Sample, picture_px, renderer_of, sample_episodes
from rlaif_ray.config import Config, JudgeConfig, load_config
from rlaif_ray.errors import ConfigError, UnknownNameError
from rlaif_ray.feedback.check import JudgeCheck, Probe, check_judge, estimate_cost
from rlaif_ray.feedback.judge import answers_decisions, model_name
from rlaif_ray.feedback.prices import price_of
from rlaif_ray.feedback.quoting import printable
from rlaif_ray.surroundings import judge_served

__all__ = ["check", "estimate", "serve"]


def serve(command: Serve) -> int:
    """Serve the built-in judge, or a model file, until Ctrl-C."""
    if not 0 <= command.port <= 65_535:
        raise ConfigError(f"--port: got {command.port}, allowed are 0 (any free one) to 65535")
    if command.gguf:
        from rlaif_ray.feedback.local.server import serve as serve_model

        serve_model(command.gguf, command.mmproj, port=command.port, threads=command.threads)
        return 0
    from rlaif_ray.feedback.builtin.server import serve as serve_judge

    serve_judge(command.profile, _reader(command.env), port=command.port, seed=command.seed)
    return 0


def check(command: Check) -> int:
    """Ask about a typical and a longest episode; exit code 1 where the judge can't be used as configured."""
    config = load_config(command.config or "homegrid", command.overrides)
    with only_json(command.json):
        renderer = renderer_of(config)
        sample = sample_episodes(config)
        with judge_served(config) as ready:
            each = [config.model_copy(update={"judge": member}) for member in ready.judge.members]
            found = [check_judge(one, sample.typical, sample.longest, renderer) for one in each]
    usable = all(one.usable for one in found)
    if command.json:
        listed = [{**asdict(one), "usable": one.usable} for one in found]
        print_json(listed[0] if len(listed) == 1 else {"judges": listed, "usable": usable})
    else:
        told = ["\n".join(_told(one, its)) for one, its in zip(found, each, strict=True)]
        print(printable("\n\n".join(told)))
    return 0 if usable else 1


def _reader(env: str) -> str:
    env_id, _, variant = env.partition(" ")
    try:
        options = dict(json.loads(variant or "{}"))
    except (TypeError, ValueError):
        raise ConfigError(f"--env: got {env!r}, expected an id, and after a space its options as JSON") from None
    spec = envs.env_spec(env_id)
    for name in options:
        if name not in spec.reader_options:
            raise UnknownNameError(f"--env: option of {env_id}", name, spec.reader_options)
    reader = spec.reader_for(options)
    if not reader:
        raise ConfigError(f"env.id: got {env_id!r}, whose pictures the built-in judge can't read; use a 'chat' judge")
    return reader


# ------------------------------------------------------------------------------------------ in words


def estimate(config: Config, sample: Sample) -> list[str]:
    """What the labels of a run may cost, told before anything is spent. Raises ConfigError: nobody knows the price."""
    size = picture_px(config, sample.typical)
    typical = estimate_cost(config, [sample.typical_length], picture_px=size)
    beginner = estimate_cost(config, sample.lengths, picture_px=size)
    cap = config.budget.usd
    labels = "no cap on labels" if config.budget.labels is None else f"{config.budget.labels:,} labels"
    whose = "published policies'" if sample.is_published else "a random walk's median"
    lines = [
        *(_priced(member) for member in config.judge.members),
        f"Estimate for {labels}: USD {typical.usd_per_question:.4f} a label for episodes of "
        f"{sample.typical_length} steps ({whose}), {beginner.usd_per_question:.4f} for those of an untrained policy.",
    ]
    if config.budget.labels is not None:
        lines.append(f"In all between USD {typical.usd:.2f} and {beginner.usd:.2f}.")
    lines.append("No cap on money: budget.usd is none." if cap is None else f"Never more than budget.usd, {cap:.2f}.")
    return lines


def _priced(judge: JudgeConfig) -> str:
    price = price_of(judge)
    return (
        f"Judge: {model_name(judge)} at {judge.base_url}, USD {price.input_usd_per_mtok:g} / "
        f"{price.output_usd_per_mtok:g} per million tokens in / out ({price.source})."
    )


def _told(found: JudgeCheck, config: Config) -> list[str]:
    as_if = " (nothing is paid)" if config.judge.kind == "builtin" else ""
    price = found.price
    rates = f"USD {price.input_usd_per_mtok:g} / {price.output_usd_per_mtok:g} per million tokens in / out"
    lines = [
        f"judge            {found.judge}",
        f"at               {'a server started for this check' if as_if else found.base_url}",
        f"price            {rates}, {price.source}{as_if}",
    ]
    for probe in found.probes:
        lines += _told_probe(probe)
    chats = config.judge.kind in ("builtin", "chat") and not answers_decisions(
        config.judge
    )  # the others are asked in one form alone
    schema = f"takes the schema      {_yes(found.takes_schema)}{'' if found.takes_schema else ' (asked for otherwise)'}"
    parameters = f"takes the parameters  {_yes(found.takes_parameters)} (what it doesn't take is left out)"
    lines += [
        "",
        *([schema] if chats else []),
        f"takes the pictures    {_yes(found.takes_images)}, {max(p.images for p in found.probes)} in one question",
        *([parameters] if chats else []),
        *(f"  it said: {note}" for note in found.notes),
        f"labels a minute       {found.labels_per_minute:,.0f}, held down by {found.limited_by}",
    ]
    if found.budget_labels is not None and found.budget_minutes is not None:
        lines.append(
            f"{f'{found.budget_labels:,} labels':20}  in {found.budget_minutes:,.1f} minutes if asked at once, for "
            f"USD {found.budget_usd or 0:.2f} if episodes are like these two (an estimate)"
        )
    lines += ["", "Ready to be asked." if found.usable else "NOT usable as configured."]
    return lines


def _told_probe(probe: Probe) -> list[str]:
    name = {"median": "a typical episode", "longest": "a longest episode"}[probe.name]
    if probe.answer.startswith("prefers"):
        name = {"median": "a typical episode, then a longest one", "longest": "the same two, swapped"}[probe.name]
    return [
        "",
        f"{name}: {probe.steps} steps, {probe.images} pictures",
        f"  answer         {probe.answer}",
        f"  what happens   {probe.description}",
        f"  why            {probe.reasoning}",
        f"  cost           {probe.input_tokens:,} + {probe.output_tokens:,} tokens, USD {probe.cost_usd:.5f}, "
        f"{probe.latency_s:.1f} s",
    ]


def _yes(taken: bool) -> str:
    return "yes" if taken else "NO"
