"""The network where nobody names one: by what an environment shows, found without cost where that is known."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from conftest import composed
from gymnasium import spaces

from trpo_cli.cli import fitting_network
from trpo_cli.cli.command_line import read
from trpo_cli.cli.search_path import compose_options
from trpo_cli.config.groups import CONF
from trpo_cli.config.sections import OF_MANY
from trpo_cli.envs.games import PACKAGES

MLP, CNN, SMALL = [64, 64], [512], [128]


class Screen(gymnasium.Env[Any, Any]):
    """Shows pixels; counts how many of it were made, and how many are open."""

    made: ClassVar[int] = 0
    open: ClassVar[int] = 0
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, side: int = 40, colours: int = 3, fails: bool = False, has_space: bool = True) -> None:
        type(self).made += 1
        if fails:
            raise RuntimeError("no screen")
        type(self).open += 1
        if has_space:
            self.observation_space = spaces.Box(0, 255, (side, side, colours), np.uint8)

    def close(self) -> None:
        type(self).open -= 1


@pytest.fixture(autouse=True)
def screens() -> Iterator[None]:
    known = {
        "Screen-v0": {},
        "Screen-v1": {"side": 12},
        "Screen-v2": {"fails": True},
        "Screen-v3": {"has_space": False},
        "Screen-v4": {"side": 2},
    }
    for id, kwargs in known.items():
        gymnasium.register(id, Screen, kwargs=kwargs)
    Screen.made = Screen.open = 0
    fitting_network._look.cache_clear()
    yield
    for id in known:
        del gymnasium.registry[id]


def networks(*overrides: str) -> list[Any]:
    node = composed(*overrides)
    return [node["policy"].get("hidden_sizes"), node["critic"].get("hidden_sizes")]


@pytest.mark.parametrize(
    ("id", "expected"),
    [("Screen-v0", CNN), ("Screen-v1", SMALL), ("Screen-v2", MLP), ("Screen-v3", MLP), ("Screen-v4", MLP)],
)
def test_an_unknown_environment_is_looked_at_once(id: str, expected: list[int]) -> None:
    """One that cannot be made, or has no space, is no failure here: that is told when its run begins."""
    assert networks(f"env={id}") == networks(f"env={id}", "algo=npg") == [expected, expected]
    assert (Screen.made, Screen.open) == (1, 0)


def test_known_ones_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting_network, "_look", None)
    assert networks("env=CartPole-v1", "seed=11") == networks("env=Pusher-v5", "seed=11") == [MLP, MLP]
    assert networks("env=CarRacing-v3") == [CNN, CNN]


def test_a_choice_of_the_user_or_of_another_option_wins() -> None:
    assert networks("env=CarRacing-v3", "policy=mlp") == [MLP, CNN]
    assert networks("env=CarRacing-v3", "sampler=vine") == [CNN, None]
    assert networks("env=CarRacing-v3", "policy=linear", "critic=zero") == [[], None]


def test_methods_with_one_loss_share_layers_on_images() -> None:
    for algo in ("ppo", "a2c", "ppo_penalty", "vpg_adam"):
        assert composed(f"algo={algo}", "env=CarRacing-v3")["critic"] == {
            "_target_": "trpo_cli.models.critics.SharedCritic",
            "coefficient": 0.5,
        }
    assert networks("algo=ppo", "env=CarRacing-v3", "critic=cnn") == [CNN, CNN]
    assert networks("algo=ppo", "env=CartPole-v1", "seed=11") == [MLP, MLP]
    assert networks("algo=rwr", "env=CarRacing-v3") == networks("algo=ppo", "env=CarRacing-v3", "sampler=vine")
    assert networks("algo=trpo_vine", "env=CarRacing-v3") == networks("algo=cem", "env=CarRacing-v3") == [CNN, None]


def test_what_was_chosen_is_said() -> None:
    node = {"choices": {"policy": "cnn_small", "critic": "shared"}, "env": {"id": "MinAtar/Breakout-v1"}}
    said = fitting_network.describe_fitting(node, [])
    assert said.startswith("policy=cnn_small and critic=shared, because MinAtar/Breakout-v1 shows images")
    assert said.endswith("critic=cnn_small has layers of its own")
    assert "critic" not in fitting_network.describe_fitting(node, ["critic=shared"])
    node["choices"]["policy"] = "cnn_nips"
    said = fitting_network.describe_fitting(node, ["policy=cnn_nips"])
    assert said == "critic=shared, because MinAtar/Breakout-v1 shows images; critic=cnn_nips has layers of its own"


def test_nothing_is_made_for_help_and_completion() -> None:
    assert compose_options(read(["env=Screen-v0"])) is not None
    assert Screen.made == 0


def test_packages_of_games_have_settings_in_sections() -> None:
    assert ("env/gym", *(f"env/{package.extra}" for package in PACKAGES)) == OF_MANY
    assert all((CONF / f"{name}.yaml").is_file() for name in OF_MANY)
