"""trpo-export: files that other programs run act as the run itself, over every kind of space, or are not written."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Command, trained
from gymnasium import spaces
from test_acting import Counting
from torch import Tensor

import trpo_cli
from trpo_cli.envs.make import Task
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.envs.spaces import action_decoder, observation_encoder
from trpo_cli.models.policies import Policy
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.play.exported import FORMATS, Exported, collect_observations, export
from trpo_cli.play.trained import Trained

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'trpo-cli[export]' brings it")
SMALL = ("total_steps=512", "sampler.num_envs=4", "sampler.steps_per_iteration=256", "eval.every=0")
OBSERVED = (
    spaces.Box(-1.0, 1.0, (3,), np.float64),
    spaces.Box(-5.0, np.inf, ()),
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Discrete(4, start=1),
)
DONE = (
    spaces.Box(-0.5, 0.5, (2,)),
    spaces.Box(np.array([[-1.0, -np.inf]]), np.array([[0.1, 0.2]]), dtype=np.float64),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiBinary([2, 2]),
)


PAIRS = list(itertools.product(OBSERVED, DONE))


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose observations are normalised, and whose actions are clipped."""
    return trained(tmp_path_factory.mktemp("pendulum"), *SMALL, "env=Pendulum-v1")


def untrained(observation_space: spaces.Space[Any], action_space: spaces.Space[Any], normalised: bool) -> Trained:
    """A policy between two spaces, and a normaliser that has seen something."""
    spec, encode = observation_encoder(observation_space)
    distribution, _ = action_decoder(action_space, "Some-v0")
    sizes: dict[str, Any] = {"hidden_sizes": [8], "activation": "tanh", "output_gain": 1.0, "initial_log_std": 0.0}
    torch.manual_seed(0)
    policy, normalizer = MLPPolicy(spec, distribution, **sizes), ObservationNormalizer(spec, normalised, 10.0)
    normalizer.update(encode(several(observation_space)))
    task = Task("Some-v0", {}, None, normalised, False, 10.0, 10.0)
    return Trained(task, policy, normalizer, 0, (observation_space, action_space))


def several(space: spaces.Space[Any], count: int = 20) -> Any:
    space.seed(0)
    return np.stack([space.sample() for _ in range(count)])


@pytest.mark.parametrize(("number", "pair"), list(enumerate(PAIRS)))
def test_it_computes_what_the_run_does(number: int, pair: tuple[Any, Any], pendulum: Path) -> None:
    run = trpo_cli.LoadedRun(pendulum, untrained(*pair, normalised=number % 2 == 0))
    observations = several(pair[0])
    with torch.no_grad():
        found = Exported(run.trained)(torch.from_numpy(observations)).numpy()
    wanted = run.act(observations)
    assert all(pair[1].contains(action) for action in wanted)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found == pytest.approx(wanted, abs=3e-5)  # rounding, with inputs up to 255
    assert (number < 10) or len(np.unique(found, axis=0)) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_format_holds_every_kind_of_space(name: str, pair: tuple[Any, Any], pendulum: Path) -> None:
    run = trpo_cli.LoadedRun(pendulum, untrained(*pair, normalised=True))
    _, difference = export(run, name, several(pair[0]), tolerance=3e-5)
    assert difference == 0 or pair[1].dtype.kind == "f"


def test_the_command_writes_what_others_run(pendulum: Path, trpo_export: Command, tmp_path: Path) -> None:
    done = trpo_export(str(pendulum), "--onnx", "new/a.onnx", "--torchscript", "a.pt", "--pt2", "a.pt2")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{pendulum}: Pendulum-v1 after 512 steps\n")
    assert done.out.count("over 1,000 observations its actions are within ") == 3
    run = trpo_cli.load(pendulum)
    observations = collect_observations(run, 50)
    wanted = run.act(observations)

    session = onnxruntime.InferenceSession(tmp_path / "new" / "a.onnx")
    for rows in (slice(0, 50), slice(0, 1), slice(0, 7)):
        found = session.run(["action"], {"observation": observations[rows]})[0]
        assert found == pytest.approx(wanted[rows], abs=1e-6)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["env"], facts["env_steps"], facts["algo"]) == ("Pendulum-v1", "512", "trpo")
    assert facts["action_space"] == str(run.action_space)

    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.load"):
        script = torch.jit.load(tmp_path / "a.pt")
    program = torch.export.load(tmp_path / "a.pt2").module()
    for network in (script, program):
        assert network(torch.from_numpy(observations)).detach().numpy() == pytest.approx(wanted, abs=1e-6)
    for file in ("new/a.onnx", "a.pt", "a.pt2"):
        assert str(Path(trpo_cli.__file__).parent).encode() not in (tmp_path / file).read_bytes()

    for option in ("--onnx", "--torchscript", "--pt2"):
        assert trpo_export(str(pendulum), option, "a.pt").err == (
            f"error: {option}: a.pt exists already, and is not overwritten"
        )


def test_a_table_of_states_in_onnx(trpo_train: Command, trpo_export: Command, tmp_path: Path) -> None:
    """In float64, with a state as a number."""
    assert trpo_train("algo=monotone_pi", "env=FrozenLake-v1", "total_steps=3", "hydra.run.dir=run").status == 0
    assert trpo_export("run", "--onnx", "a.onnx").out.endswith(
        "over 1,000 observations its actions are those of the run\n"
    )
    found = onnxruntime.InferenceSession(tmp_path / "a.onnx").run(None, {"observation": np.arange(16)})[0]
    assert found.tolist() == trpo_cli.load(tmp_path / "run").act(np.arange(16)).tolist()


def test_a_file_that_acts_otherwise_is_not_written(
    pendulum: Path, trpo_export: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Exported.forward
    monkeypatch.setattr(Exported, "forward", lambda self, observation: forward(self, observation) + 2e-5)
    done = trpo_export(str(pendulum), "--torchscript", "a.pt")
    assert done.err == (
        "error: --torchscript: not written, since its actions differ from those of the run by 2e-05, "
        "which is more than --tolerance 1e-05"
    )
    assert list(tmp_path.iterdir()) == []
    assert "within 2e-05 of those" in trpo_export(str(pendulum), "--torchscript", "a.pt", "--tolerance", "1e-4").out


class Odd(Policy):
    """Acts by the sum over the batch, which no graph holds."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.distribution = policy.distribution

    def forward(self, observation: Tensor) -> Tensor:
        return observation[:, :2] * (2 if float(observation.sum()) > 0 else 3)


@pytest.mark.parametrize("name", ["torchscript", "pt2", pytest.param("onnx", marks=pytest.mark.slow)])
def test_policies_that_do_not_fit_are_refused(name: str, pendulum: Path) -> None:
    run = trpo_cli.load(pendulum)
    observations = np.ones((9, 3), np.float32)
    for kind, said in (
        (Counting, "policies with a memory cannot be exported"),
        (Odd, "this policy cannot be exported: "),
    ):
        odd = run.trained._replace(policy=kind(run.trained.policy))
        with pytest.raises(trpo_cli.UserError, match=f"--{name}: {said}"):
            export(trpo_cli.LoadedRun(pendulum, odd), name, observations)


def test_a_missing_package_is_named(pendulum: Path, trpo_export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            done = trpo_export("nowhere", "--onnx", "a.onnx")
        assert done.err.startswith(f"error: --onnx: {name} cannot be imported (")
        assert done.err.endswith("): pip install 'trpo-cli[export]'")


def test_a_mistake_is_told_before_any_work(pendulum: Path, trpo_export: Command) -> None:
    said = trpo_export(str(pendulum)).err
    assert said == "error: nothing to write: name a file, --onnx FILE.onnx or --torchscript FILE.pt or --pt2 FILE.pt2"
    assert trpo_export(str(pendulum), "--tolerance", "-1").err.startswith(
        "error: argument --tolerance: -1 is not a positive number"
    )
    assert "holds no checkpoint of step 7" in trpo_export(str(pendulum), "--pt2", "a.pt2", "--checkpoint", "7").err
    assert trpo_export(str(pendulum), "--onx", "a").err.startswith(
        "error: unrecognized arguments: --onx a; did you mean '--onnx'?"
    )
