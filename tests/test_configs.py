"""Every YAML builds, every part goes with every algorithm, and every knob turns something."""

from __future__ import annotations

import copy
import fnmatch
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import compositions
import gymnasium
import old_pictures  # noqa: F401  registers an environment
import pytest
import screens  # noqa: F401  registers another
import yaml  # type: ignore[import-untyped]
from compositions import LISTING, TASKS, read
from conftest import built, composed, small, thinned

from trpo_cli.config.groups import CONF, PART_GROUPS, find_options
from trpo_cli.config.sections import is_title, parse_title
from trpo_cli.envs.registered import registered_ids
from trpo_cli.errors import ConfigError
from trpo_cli.parts.building import build_parts, root_settings

ALGORITHMS = find_options(CONF / "algo")
MUJOCO = [
    "Ant",
    "HalfCheetah",
    "Hopper",
    "Humanoid",
    "HumanoidStandup",
    "InvertedDoublePendulum",
    "InvertedPendulum",
    "Pusher",
    "Reacher",
    "Swimmer",
    "Walker2d",
]
SMALL = ("sampler.num_envs=2", "sampler.steps_per_iteration=64")


@pytest.mark.parametrize("env", thinned(4, TASKS))
def test_every_task_builds_and_plays(env: str) -> None:
    parts = built(f"env={env}", *SMALL)
    assert parts.task.id == env
    parts.sampler.collect(parts.policy)


def test_every_mujoco_task_that_gymnasium_makes_is_there() -> None:
    wanted = {f"{name}-{version}" for name in MUJOCO for version in ("v4", "v5")} - {"Pusher-v4"}
    assert wanted <= set(gymnasium.registry)
    assert wanted <= set(TASKS)


SHARING = {algo for algo in ALGORITHMS if composed(f"algo={algo}")["algo"]["_target_"].endswith("FirstOrder")}
EXACT, SEARCHES, CLONES = {"cpi", "monotone_pi"}, {"cem", "cma_es", "random_search"}, {"bc"}
SAMPLED = [algo for algo in ALGORITHMS if algo not in EXACT | SEARCHES | CLONES]


def iterates(*overrides: str) -> None:
    parts = built(*small(*overrides))
    first = parts.iterate(0.0).metrics
    assert parts.iterate(0.5).metrics.keys() == first.keys()


def reading(policy: str, critic: str | None = None) -> list[str]:
    """The choices, and a task with observations that both can read: small images for convolutions."""
    chosen = {"policy": policy} if critic is None else {"policy": policy, "critic": critic}
    choices = [f"{group}={option}" for group, option in chosen.items()]
    convolved = [f"{group}.convolutions=[[2,2,1]]" for group, option in chosen.items() if option.startswith("cnn")]
    if convolved:
        return [*choices, *convolved, "env=gym", "env.id=OldPictures-v0"]
    return [*choices, f"env={'FrozenLake-v1' if policy == 'tabular' else 'CartPole-v1'}"]


@pytest.mark.parametrize(
    ("policy", "critic", "algo"), thinned(53, find_options(CONF / "policy"), find_options(CONF / "critic"), SAMPLED)
)
def test_every_algorithm_takes_every_critic_and_policy(algo: str, critic: str, policy: str) -> None:
    if critic == "shared" and (algo not in SHARING or policy == "tabular"):
        pytest.skip("refused, as test_cli says")
    if policy == "tabular" and critic.startswith("cnn"):
        pytest.skip("no observation is an image and one of a finite set")
    iterates(f"algo={algo}", *reading(policy, critic))


@pytest.mark.parametrize(("policy", "algo"), thinned(3, find_options(CONF / "policy"), sorted(EXACT | SEARCHES)))
def test_methods_without_a_gradient_take_every_policy_they_can(algo: str, policy: str) -> None:
    if algo in EXACT and policy != "tabular":
        pytest.skip("refused, as test_tabular says")
    iterates(f"algo={algo}", *reading(policy))


@pytest.mark.parametrize(("policy", "sampler", "algo"), thinned(3, ["mlp", "tabular"], ["vine", "exact"], SAMPLED))
def test_every_algorithm_takes_every_sampler(algo: str, sampler: str, policy: str) -> None:
    parts = built(
        *small(f"algo={algo}", f"sampler={sampler}", f"policy={policy}", "env=FrozenLake-v1", "algo.gamma=0.9")
    )
    rows = [parts.iterate(0.0).metrics for _ in range(2)]
    assert rows[0].keys() == rows[1].keys()
    if sampler == "exact":
        assert rows[0]["trust_region/accepted"] == 1
        assert rows[0]["exact/true_change"] != 0


NEEDS = {  # what a part wants beside it
    "improvement": ("algo=cpi", "env=FrozenLake-v1"),
    "surrogate": ("algo=ppo", "env=CartPole-v1"),
    "surrogate/self_normalised": ("algo=trpo", "sampler=vine", "env=CartPole-v1"),
    "surrogate/full_action_sum": ("algo=trpo", "sampler=exact", "env=FrozenLake-v1"),
}


@pytest.mark.parametrize(
    "part",
    [str(path.relative_to(CONF / "algo").with_suffix("")) for path in (CONF / "algo").glob("*/**/*.yaml")],
)
def test_every_part_of_an_algorithm_builds(part: str) -> None:
    group, _, name = part.rpartition("/")
    needs = NEEDS.get(part, NEEDS.get(group, ("algo=trpo", "env=CartPole-v1")))
    built(*small(*needs), f"algo/{group}={name}").algorithm.iterate()


STORED = read(LISTING.read_text(encoding="utf-8"))
Section = tuple[str, str, dict[str, Any]]
FILES = {str(path.relative_to(CONF).with_suffix("")): path for path in CONF.glob("[!h]*/**/*.yaml")}
SECTIONS: list[Section] = [
    (name, title, body)
    for name, path in FILES.items()
    for title, body in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    if is_title(title)
]
OF_TASKS = [(name.removeprefix("tuned/"), *more) for name, *more in SECTIONS if name.startswith("tuned/")]


def covered(title: str, task: str) -> list[str]:
    """The rows of the listing in which a section has to hold."""
    groups = parse_title(title)
    sampler = groups.get("sampler", ["single_path"])[0]
    return [f"algo={algo} sampler={sampler} env={task}" for algo in groups["algo"]]


@pytest.mark.parametrize(("name", "title"), [(name, title) for name, title, _ in SECTIONS])
def test_the_title_of_every_section_names_options(name: str, title: str) -> None:
    for group, names in parse_title(title).items():
        known = registered_ids() if group == "env" else find_options(CONF / group)
        assert all(fnmatch.filter(known, pattern) for pattern in names)


@pytest.mark.parametrize(("task", "title", "body"), OF_TASKS)
def test_everything_that_is_tuned_differs(task: str, title: str, body: dict[str, Any]) -> None:
    """A section that changes nothing would be a dead one."""
    pairs = [
        (STORED[one], STORED[other]) for one, other in zip(covered(title, task), covered(title, TASKS[0]), strict=True)
    ]
    assert any(one[key] == value != other[key] for one, other in pairs for key, value in compositions.leaves(body))


@pytest.mark.parametrize(("task", "title"), [(task, title) for task, title, _ in OF_TASKS])
def test_what_is_tuned_is_composed_as_the_listing_says(task: str, title: str) -> None:
    choices = covered(title, task)[0]
    assert compositions.settings(choices) == STORED[choices]


@pytest.mark.slow
@pytest.mark.parametrize("title", compositions.TITLES)
def test_everything_is_composed_as_the_listing_says(title: str) -> None:
    for choices in (title, *(choices for _, choices in compositions.elsewhere(title))):
        assert compositions.settings(choices) == STORED[choices], choices


def test_the_listing_is_what_the_script_writes() -> None:
    assert compositions.written(STORED) == LISTING.read_text(encoding="utf-8")


TUNED = sorted({(algo, task) for task, title, _ in OF_TASKS for algo in parse_title(title)["algo"]})


@pytest.mark.parametrize("choices", thinned(3, TUNED))
def test_every_tuned_run_builds(choices: tuple[str, str]) -> None:
    algo, env = choices
    built(f"algo={algo}", f"env={env}", "sampler=single_path", "sampler.num_envs=2")


def test_a_directory_of_the_user_s_adds_tuned_settings(tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    section = "algo:\n    damping: 0.7\n"
    (tmp_path / "tuned" / "Pendulum-v1.yaml").write_text(f"algo=tr* env=Pendulum-v1:\n  {section}")
    (tmp_path / "tuned" / "Hopper-v4.yaml").write_text(f"algo=cem,vpg_adam,trpo_max_kl:\n  {section}")
    ours = ("--config-dir", str(tmp_path))
    assert composed("env=Pendulum-v1", options=ours)["algo"]["damping"] == 0.7
    assert composed("env=Pendulum-v1", "algo.damping=0.5", options=ours)["algo"]["damping"] == 0.5
    assert composed("env=Pendulum-v1", "algo=npg", options=ours)["algo"]["damping"] == 0.1
    assert composed("algo=trpo_max_kl", options=ours)["algo"]["damping"] == 0.7
    assert composed(options=ours) == composed()


MISTAKEN = {
    "algo=trop:\n  seed: 1\n": "'algo=trop': algo: no option 'trop'; did you mean 'trpo'?",
    "algo=trpo sampler=v*,singel_path:\n  seed: 1\n": "'algo=trpo sampler=v*,singel_path': sampler: no option "
    "'singel_path'; did you mean 'single_path'?",
    "algo=trop*:\n  seed: 1\n": "'algo=trop*': algo: no option 'trop*'; did you mean 'trpo'?",
    "algo/advantge=gae:\n  seed: 1\n": "'algo/advantge=gae': algo/advantge: no such group; did you mean 'algo/adv",
    "seed: 1\n": "'seed': tuned settings depend on the method; write them under a section such as algo=trpo:",
    "defaults: [algo: npg]\n": "'defaults': tuned settings choose no options of groups",
    "algos=trpo:\n  seed: 1\n": "'algos=trpo': the title of a section is one or more GROUP=OPTION,OPTION",
    "algo=trpo sampler:\n  seed: 1\n": "'algo=trpo sampler': the title of a section",
    "algo=trpo,:\n  seed: 1\n": "'algo=trpo,': the title of a section",
    "algo=trpo: 5\n": "'algo=trpo': a section holds settings, KEY: VALUE, and chooses no options",
    "algo=trpo:\n  defaults: [mine]\n": "'algo=trpo': a section holds settings",
}


@pytest.mark.parametrize("text", MISTAKEN)
def test_a_mistaken_section_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "Pendulum-v1.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(f"Pendulum-v1.yaml, line 1, column 1: {MISTAKEN[text]}")):
        composed("env=Pendulum-v1", options=("--config-dir", str(tmp_path)))


@pytest.mark.parametrize("name", ["sampler/mine", "policy/mine", "env/mine", "algo/advantage/mine"])
def test_a_section_that_nothing_would_select_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("a: 1\nalgo=trpo:\n  seed: 1\n")
    with pytest.raises(ConfigError, match=r"mine.yaml, line 2, column 1: 'algo=trpo': only options of algo and experi"):
        composed(name.replace("/mine", "=mine"), options=("--config-dir", str(tmp_path)))


def test_a_title_may_name_the_user_s_own_algorithm(tmp_path: Path) -> None:
    for name, text in {
        "algo/mine": "defaults: [trpo, _self_]\n",
        "tuned/Pendulum-v1": "algo=mine:\n  seed: 7\n",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.yaml").write_text(text)
    assert composed("algo=mine", "env=Pendulum-v1", options=("--config-dir", str(tmp_path)))["seed"] == 7


def test_what_an_option_builds_on_lends_its_sections(tmp_path: Path) -> None:
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text("defaults: [a2c, _self_]\nsampler=*:\n  sampler: {num_envs: 8}\n")
    sampler = composed("algo=mine", options=("--config-dir", str(tmp_path)))["sampler"]
    assert (sampler["num_envs"], sampler["steps_per_iteration"]) == (8, 80)


PLAYED = sorted({task for algo, task in TUNED if algo == "npg"})


@pytest.mark.parametrize("env", PLAYED)
def test_npg_differs_from_trpo_by_the_step_alone(env: str) -> None:
    """But for the exception that has a reason of its own in the YAML."""
    trpo, npg = (STORED[f"algo={algo} sampler=single_path env={env}"] for algo in ("trpo", "npg"))
    others = {key for key, _ in trpo.items() ^ npg.items() if not key.startswith("algo.step.")}
    assert others == ({"algo.fvp_fraction"} if env == "Ant-v4" else set())
    assert trpo != npg


@pytest.mark.parametrize("env", thinned(2, PLAYED))
def test_first_order_methods_play_a_tuned_task_as_trpo_does(env: str) -> None:
    """But for the exceptions that have a reason of their own in the YAML."""
    trpo, ppo, vpg = (composed(f"algo={algo}", f"env={env}") for algo in ("trpo", "ppo", "vpg"))
    assert trpo["algo"]["gamma"] == ppo["algo"]["gamma"] == vpg["algo"]["gamma"]
    assert trpo["sampler"] == ppo["sampler"]
    assert (trpo["sampler"] == vpg["sampler"]) == (env != "InvertedDoublePendulum-v4")
    assert ppo["policy"] == vpg["policy"]
    assert (trpo["policy"] == ppo["policy"]) == (env != "Humanoid-v4")
    assert (trpo["algo"]["advantage"] == ppo["algo"]["advantage"]) == (env != "Walker2d-v4")


def test_what_is_tuned_for_a_task_stays_out_of_the_papers_comparison() -> None:
    tuned, paper = composed("env=Swimmer-v4"), composed("experiment=paper/swimmer")
    assert tuned["algo"]["delta"] != paper["algo"]["delta"] == composed("env=CartPole-v1")["algo"]["delta"]
    vine = composed("env=Swimmer-v4", "sampler=vine")
    assert vine["sampler"] == composed("sampler=vine")["sampler"]


@pytest.mark.parametrize("env", ["PongNoFrameskip-v4", "Pong-v4", "MinAtar/Breakout-v1"])
def test_games_have_settings_for_each_method(env: str) -> None:
    ppo, plain = composed("algo=ppo", f"env={env}"), composed("algo=ppo", "env=CartPole-v1")
    natural, other = (composed(f"algo={algo}", f"env={env}")["algo"]["entropy_coefficient"] for algo in ("npg", "a2c"))
    assert (natural, other) == (0.1 if env.startswith("MinAtar") else 0.01, 0.01)
    assert ppo["algo"]["epochs"] < plain["algo"]["epochs"]
    assert ppo["algo"]["advantage"]["lam"] < plain["algo"]["advantage"]["lam"]
    assert (ppo["algo"]["surrogate"]["clip"] == 0.1) == env.startswith("Pong")
    assert composed("algo=ppo", f"env={env}", "algo.epochs=9")["algo"]["epochs"] == 9
    assert composed("algo=trpo", f"env={env}", "critic=zero")["critic"].keys() == {"_target_"}


EXPERIMENTS = [
    str(path.relative_to(CONF / "experiment").with_suffix(""))
    for path in (CONF / "experiment").rglob("*.yaml")
    if path.stem != "base"
]


MANY_GAMES = ("paper/atari", "paper/atari_vine")


@pytest.mark.parametrize(
    "experiment",
    [pytest.param(name, marks=[pytest.mark.slow] if name in MANY_GAMES else []) for name in EXPERIMENTS],
)
def test_every_experiment_builds(experiment: str) -> None:
    assert composed(f"experiment={experiment}") != composed()
    built(f"experiment={experiment}", "sampler.num_threads=1")


def test_what_is_said_for_one_sampler_holds() -> None:
    others = [(name, title, body) for name, title, body in SECTIONS if name.startswith(("algo/", "experiment/"))]
    for name, title, body in others:
        option = (name.replace("/", "=", 1),) if not name.endswith("/base") else ("experiment=paper/swimmer",)
        groups = {group: names[0] for group, names in parse_title(title).items()}
        if "*" in groups.get("env", ""):
            groups["env"] = fnmatch.filter(registered_ids(), groups["env"])[0]
        choice = (*option, *(f"{group}={name}" for group, name in groups.items()))
        node = dict(compositions.leaves(composed(*choice)))
        assert dict(compositions.leaves(body)).items() <= node.items()
        built(*choice, *(("sampler.num_envs=2", "sampler.num_threads=1") if "atari" in name else ()))


@pytest.mark.parametrize(
    ("experiment", "algo"),
    thinned(
        5,
        [name for name in EXPERIMENTS if name.startswith("paper/") and "atari" not in name],  # those of its table 1
        ["trpo", "trpo_vine", "npg_fixed", "trpo_empirical_fisher", "trpo_max_kl", "cem", "cma_es", "rwr"],
    ),
)
def test_every_method_of_the_paper_builds(experiment: str, algo: str) -> None:
    built(f"experiment={experiment}", f"algo={algo}", f"sampler.num_envs={2 if algo in SEARCHES else 10}")


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        elif key not in ("_target_", "_partial_"):
            yield (*path, key)


REWARDS = ("normalize_reward", "reward_clip", "sign_reward")
CHANGES: dict[str, Any] = {  # where "something else" is not simply another number
    "activation": "relu",
    "hidden_sizes": [8],
    "encoder_sizes": [8],
    "id": "Pendulum-v1",
    "kwargs": {"forward_reward_weight": 3.0},
    "max_episode_steps": 5,
    "minibatch_size": 16,
    "steps_per_iteration": 256,
    "cg_iterations": 2,
    "target_kl": 1e-9,
    "max_gradient_norm": 1e-3,
    "cg_tolerance": 0.9,
    "shrink": 0.2,
    "max_backtracks": 0,
    "observation_clip": 0.01,
    "wrappers": ["TimeAwareObservation"],
    "observe": [0, 2],
    "hide": [1],
    "reward_clip": 1e-3,
    "num_envs": 4,
    "fvp_fraction": 0.2,
    "damping": 5.0,
    "proposal": "policy",
    "branch_length": 2,
    "elite_fraction": 0.5,
    "top_directions": 1,
    "largest_full": 0,
    "kl_penalty": 100.0,
    "log_info": ["x_position"],
    "kl_penalty_target": 100.0,
    "shape": [8, 8, 3],
    "convolutions": [[3, 3, 2]],
    "resize": [10, 8],
    "frame_skip": 2,
    "repeat_action_probability": 0.5,
}
NOT_HERE = {  # what is tested elsewhere: it shows only when something fails, or never
    "max_rejected": "test_cli",
    "damping_retries": "test_trust_region",
    "vectorization": "test_make: results do not depend on it",
    "num_threads": "test_make: results do not depend on it",
    "step_timeout": "test_workers",
    "rescale_action": "test_spaces: these bounds are -1 and 1",
}
BASES = (
    ("env=Hopper-v4", "algo=trpo", "env.normalize_reward=true", "algo.delta=2"),  # where the line search has to shrink
    ("env=Hopper-v4", "algo=npg_fixed", "critic=linear", "policy=multi_input"),
    ("env=Hopper-v4", "algo=ppo", "algo.schedule.learning_rate=constant", "algo.learning_rate=0.03", "algo.epochs=2"),
    ("env=Hopper-v4", "algo=vpg_adam", "critic=shared", "algo.epochs=2"),
    ("env=Hopper-v4", "algo=trpo", "algo/advantage=n_step", "critic=zero", "algo.delta=2"),
    ("env=Hopper-v4", "algo=trpo_vine", "critic=multi_input", "env.normalize_reward=true", "algo.delta=2"),
    ("env=Hopper-v4", "algo=ppo_penalty", "algo.learning_rate=0.01", "algo.schedule.learning_rate=constant"),
    ("env=Hopper-v4", "algo=rwr", "algo.schedule.learning_rate=constant"),
    ("env=Hopper-v4", "algo=cem", "policy=linear"),
    ("env=Hopper-v4", "algo=cma_es", "policy=linear"),
    ("env=Hopper-v4", "algo=random_search", "policy=linear", "algo.top_directions=3"),
    ("env=FrozenLake-v1", "algo=trpo_max_kl", "sampler=exact", "algo.gamma=0.9"),
    ("env=FrozenLake-v1", "algo=cpi"),
)
CNN = ("policy=cnn", "policy.convolutions=[[4,3,2]]", "policy.hidden_sizes=[8]")
ON_IMAGES = (
    ("env=gym", "env.id=Screens-v0", "env.kwargs.shape=[12,12,3]", *CNN, "critic=cnn", "critic.convolutions=[[4,3,2]]"),
    ("env=BreakoutNoFrameskip-v4", "env.resize=[12,10]", "algo=ppo", "critic=shared", *CNN),
)
ALL_BASES = (*BASES, *ON_IMAGES)
FOR_IMAGES = ("env.grey", "env.resize")
HAVE_NO_SAY = {  # by choice of the base
    (1, "algo.delta"): "a fixed multiplier knows no radius",
    (1, "algo.schedule.delta"): "a fixed multiplier knows no radius",
    **{(base, "env.reward_clip"): "rewards are not normalised" for base in (1, 2, 3, 4, 6, 7)},
    **{(base, f"env.{key}"): "whole episodes compare raw returns" for base in (8, 9, 10) for key in REWARDS},
    (5, "sampler.proposal"): "test_vine: actions are continuous here",
    **{(base, "algo.kl_penalty_target"): "there is no penalty to adapt" for base in (2, 3, 7)},
    **{(base, "policy.activation"): "there are no hidden layers" for base in (8, 9, 10)},
    (11, "algo.advantage.lam"): "advantages are exact",
    (11, "algo.fvp_fraction"): "refused: all states are known",
    (11, "algo.discount_states"): "rho is discounted already",
    (11, "algo.damping"): "a table's Fisher matrix is diagonal where it counts",
}
KNOBS = [
    (base, ".".join(path))
    for base, overrides in enumerate(BASES)
    for path in leaves({key: composed(*overrides)[key] for key in PART_GROUPS})
    if path[-1] not in NOT_HERE
    and (base, ".".join(path)) not in HAVE_NO_SAY
    and not ("sampler=exact" in overrides and path[0] == "env")
    and not ("algo=cpi" in overrides and path[0] == "env")
    and ".".join(path) not in FOR_IMAGES
]
ON_VECTORS = {knob for _, knob in KNOBS}
KNOBS += [
    (base, ".".join(path))
    for base, overrides in enumerate(ON_IMAGES, len(BASES))
    for path in leaves({key: composed(*overrides)[key] for key in PART_GROUPS})
    if path[-1] not in NOT_HERE and ".".join(path) not in ON_VECTORS
]


def another(value: Any) -> Any:
    """A different value of the same type, in the same range."""
    if isinstance(value, bool):
        return not value
    return 2 * value if isinstance(value, int) else 0.5 * value or 0.3


def outcome(node: dict[str, Any]) -> tuple[Any, ...]:
    """Everything that three iterations leave behind, but for the clock."""
    settings = root_settings(node)
    parts = build_parts(node, settings)
    done = [parts.iterate(i / 2) for i in range(3)]
    rows = [{key: value for key, value in each.metrics.items() if not key.startswith("schedule/")} for each in done]
    numbers = [number for each, row in zip(done, rows, strict=True) for number in (each.env_steps, *row.values())]
    return (*numbers, *(p.sum().item() for module in (parts.policy, parts.critic) for p in module.parameters()))


def changeable(node: dict[str, Any], knob: str) -> tuple[dict[str, Any], dict[str, Any], str, Any]:
    """A copy of a configuration, the part of it that has the knob, the last name of that, and another value."""
    copied = copy.deepcopy(node)
    *path, key = knob.split(".")
    holder = functools.reduce(dict.__getitem__, path, copied)
    value = "late" if path[-1] == "schedule" else CHANGES[key] if key in CHANGES else another(holder[key])
    return copied, holder, key, value


MOVING = [
    (base, knob)
    for base, knob in KNOBS
    if knob.startswith(("algo.", "critic."))
    and type(functools.reduce(dict.__getitem__, knob.split("."), composed(*ALL_BASES[base]))) in (int, float)
    and (base, knob) != (4, "algo.step.shrink")  # where only the first step is too long
]
STILL = ("elite_fraction", "initial_std", "largest_full", "population_size")  # of searches, only when they begin
STILL_HERE = {(6, "algo.kl_penalty")}  # it is adapted


@pytest.mark.slow
@pytest.mark.parametrize(("base", "knob"), MOVING)
def test_every_number_can_follow_a_schedule(base: int, knob: str) -> None:
    node = composed(*small(*ALL_BASES[base]))
    moved, holder, key, value = changeable(node, knob)
    holder.setdefault("schedule", {})[key] = ["step", [0.25, value]]
    if key in STILL or (base, knob) in STILL_HERE:
        with pytest.raises(ConfigError, match=f"{key} can follow no schedule"):
            outcome(moved)
    else:
        assert outcome(moved) != outcome(node)


@pytest.mark.slow
@pytest.mark.parametrize(("base", "knob"), KNOBS)
def test_every_knob_turns_something(base: int, knob: str) -> None:
    node = composed(*small(*ALL_BASES[base]))
    changed, holder, key, value = changeable(node, knob)
    holder[key] = value
    assert outcome(node) == outcome(node)
    assert outcome(changed) != outcome(node)
