"""trpo-export: files that other programs run act as the run itself, over every kind of space, or are not written."""

from __future__ import annotations

import contextlib
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
from test_joining import SPACE
from torch import Tensor

import trpo_cli
from trpo_cli.envs.joining import join
from trpo_cli.envs.make import Task
from trpo_cli.envs.normalize import ObservationNormalizer
from trpo_cli.envs.view import stack_spec
from trpo_cli.models.policies import Policy
from trpo_cli.models.policies.mlp import MLPPolicy
from trpo_cli.play.controller import Controller
from trpo_cli.play.exported import FORMATS, Examples, collect_examples, export, make_examples, to_inputs
from trpo_cli.play.given import Given
from trpo_cli.play.network import Exported
from trpo_cli.play.trained import Trained

onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'trpo-cli[export]' brings it")
SMALL = ("total_steps=512", "sampler.num_envs=4", "sampler.steps_per_iteration=256", "eval.every=0")
OBSERVED = (
    spaces.Box(-1.0, 1.0, (3,), np.float64),
    spaces.Box(-5.0, np.inf, ()),
    spaces.Box(0, 255, (4, 3, 2), np.uint8),
    spaces.Discrete(4, start=1),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    SPACE,
    spaces.Tuple((spaces.Box(0, 255, (2, 2), np.uint8), spaces.Discrete(3))),
)
DONE = (
    spaces.Box(-0.5, 0.5, (2,)),
    spaces.Box(np.array([[-1.0, -np.inf]]), np.array([[0.1, 0.2]]), dtype=np.float64),
    spaces.Box(np.float32([-30.0, 0.0]), np.float32([10.0, np.inf])),
    spaces.Discrete(3, start=-1),
    spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 0], [0, 2]]),
    spaces.MultiBinary([2, 2]),
)
CASES: list[tuple[Any, Any, dict[str, Any]]] = [
    *((*pair, {}) for pair in itertools.product(OBSERVED, DONE)),
    *(
        (observed, DONE[2], {"rescale_action": rescale})
        for observed in (OBSERVED[0], SPACE)
        for rescale in (True, "auto")
    ),
    *((observed, DONE[0], {"stack": 3}) for observed in OBSERVED),
    (OBSERVED[0], DONE[3], {"observe": [2, 0], "stack": 2}),
    (SPACE, DONE[2], {"hide": ["hand.cards", "turn.1", "place"], "rescale_action": "auto"}),
    (SPACE, DONE[4], {"observe": ["turn", 6], "stack": 2}),
]
BEGINS = [0] * 5 + [5] * 15  # where the episode of each of twenty observations begins


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose observations are normalised, and whose actions are clipped."""
    return trained(tmp_path_factory.mktemp("pendulum"), *SMALL, "env=Pendulum-v1")


def untrained(
    observed: spaces.Space[Any], done: spaces.Space[Any], normalised: bool, view: dict[str, Any], **network: Any
) -> Trained:
    """A policy between two spaces, and a normaliser that has seen something."""
    task, space = Task("Some-v0", {}, None, normalised, False, 10.0, 10.0, **view), join(observed)
    one, encode = task.make_encoder(space)
    spec, (distribution, _) = stack_spec(one, task.stack), task.make_decoder(done)
    sizes: dict[str, Any] = {"hidden_sizes": [8], "activation": "tanh", "output_gain": 1.0, "initial_log_std": 0.0}
    sizes |= {"encoder_sizes": [4] if spec.entries else None, **network}
    torch.manual_seed(0)
    policy = MLPPolicy(spec, distribution, **sizes)
    normalizer, given = ObservationNormalizer(spec, normalised, 10.0), Given(space)
    normalizer.update(encode(np.concatenate([given(one)[0] for one in several(observed, 24)])))
    return Trained(task, policy, normalizer, 0, (space, done))


def several(space: spaces.Space[Any], count: int = 20) -> list[Any]:
    space.seed(0)
    return [space.sample() for _ in range(count)]


def step_by_step(run: trpo_cli.LoadedRun, observations: list[Any]) -> Any:
    """The actions of the run, with a memory that is empty where episodes begin."""
    actions, memory = [], None
    for time, observation in enumerate(observations):
        action, memory = run.step(observation, None if BEGINS[time] == time else memory)
        actions.append(action)
    return np.array(actions)


@pytest.mark.parametrize(("number", "case"), list(enumerate(CASES)))
def test_it_computes_what_the_run_does(number: int, case: tuple[Any, Any, Any], pendulum: Path) -> None:
    observed, done, view = case
    run = trpo_cli.LoadedRun(pendulum, untrained(observed, done, number % 2 == 0, view))
    examples = make_examples(run, several(observed), BEGINS)
    with torch.no_grad():
        found = Exported(run.trained)(to_inputs(run, examples, torch.from_numpy)).numpy()
    wanted = step_by_step(run, several(observed))
    assert all(done.contains(action) for action in wanted)
    assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
    assert found == pytest.approx(wanted, abs=3e-5)  # rounding, with inputs up to 255
    assert len(np.unique(found, axis=0)) > 1 or isinstance(done, spaces.Discrete) or observed.shape == ()


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("case", [*CASES[:46:4], *CASES[46:]])
def test_every_format_holds_every_kind_of_space(name: str, case: tuple[Any, Any, Any], pendulum: Path) -> None:
    observed, done, view = case
    run = trpo_cli.LoadedRun(pendulum, untrained(observed, done, True, view))
    _, difference = export(run, name, make_examples(run, several(observed), BEGINS), tolerance=3e-5)
    assert difference == 0 or done.dtype.kind == "f"


@pytest.mark.parametrize("name", FORMATS)
def test_convolutions_are_in_every_format(name: str, pendulum: Path) -> None:
    observed, done = spaces.Box(0, 255, (6, 5, 3), np.uint8), DONE[0]
    run = trpo_cli.LoadedRun(
        pendulum, untrained(observed, done, False, {"stack": 3}, convolutions=[[4, 3, 2]], hidden_sizes=[8])
    )
    examples = make_examples(run, several(observed), BEGINS)
    assert examples.encoded.dtype == np.uint8
    _, difference = export(run, name, examples)
    assert 0 < difference < 1e-5


def test_a_file_has_an_input_for_each_entry(trpo_train: Command, trpo_export: Command, tmp_path: Path) -> None:
    view = ("env.hide=[inner.0]", "env.stack=2", "policy=multi_input", "env.normalize_observation=true")
    assert (
        trpo_train(*SMALL, "plugins=[probes]", "env=gym", "env.id=Probe/Several-v0", *view, "hydra.run.dir=run").status
        == 0
    )
    done = trpo_export("run", "--onnx", "a.onnx", "--torchscript", "a.pt", "--pt2", "a.pt2", "--plugins", "probes")
    assert (done.status, done.err) == (0, "")
    assert done.out.count("over 1,000 observations its actions are those of the run") == 3
    run = trpo_cli.load(tmp_path / "run", plugins=["probes"])
    examples = collect_examples(run, 9)
    actions, _ = Controller(run.trained).act(examples.encoded, np.zeros((9, 0), np.float32), None)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    shapes = {one.name: (one.type, one.shape[1:]) for one in session.get_inputs()}
    assert shapes == {
        "choice": ("tensor(int64)", [2]),
        "image": ("tensor(uint8)", [2, 2, 2, 1]),
        "inner.0": ("tensor(int8)", [2, 2, 1]),
        "inner.1": ("tensor(int64)", [2, 2]),
        "number": ("tensor(double)", [2, 1]),
    }
    assert session.run(["action"], examples.entries)[0].tolist() == actions.tolist()
    tensors = {name: torch.from_numpy(batch) for name, batch in examples.entries.items()}
    assert torch.export.load(tmp_path / "a.pt2").module()(tensors).tolist() == actions.tolist()
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.load"):
        assert torch.jit.load(tmp_path / "a.pt")(tensors).tolist() == actions.tolist()


def test_names_of_inputs(pendulum: Path) -> None:
    """An entry may be called as the output is; two of one name are refused."""
    twins = spaces.Dict({1: spaces.Discrete(2), "1": spaces.Discrete(3)})  # type: ignore[dict-item]
    run = trpo_cli.LoadedRun(pendulum, untrained(twins, DONE[0], False, {}))
    with pytest.raises(trpo_cli.UserError, match=r"two entries of the observations are called '1'"):
        make_examples(run, several(twins), BEGINS)
    action = spaces.Dict({"action": spaces.Box(-1.0, 1.0, (2,))})
    run = trpo_cli.LoadedRun(pendulum, untrained(action, DONE[0], False, {}))
    data, _ = export(run, "onnx", make_examples(run, several(action), BEGINS))
    assert [one.name for one in onnxruntime.InferenceSession(data).get_outputs()] == ["action_out"]


def test_the_command_writes_what_others_run(pendulum: Path, trpo_export: Command, tmp_path: Path) -> None:
    done = trpo_export(str(pendulum), "--onnx", "new/a.onnx", "--torchscript", "a.pt", "--pt2", "a.pt2")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"{pendulum}: Pendulum-v1 after 512 steps\n")
    assert done.out.count("over 1,000 observations its actions are within ") == 3
    run = trpo_cli.load(pendulum)
    observations = collect_examples(run, 50).entries["observation"]
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
            f"error: {option}: a.pt already exists and is not overwritten"
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
    examples = Examples({"observation": np.ones((9, 3), np.float32)}, np.ones((9, 3)))
    for kind, said in (
        (Counting, "policies with a memory cannot be exported"),
        (Odd, "this policy cannot be exported: "),
    ):
        odd = run.trained._replace(policy=kind(run.trained.policy))
        with pytest.raises(trpo_cli.UserError, match=f"--{name}: {said}"):
            export(trpo_cli.LoadedRun(pendulum, odd), name, examples)


def test_what_is_made_of_images_before_a_policy_reads_them_is_refused(pendulum: Path) -> None:
    image = spaces.Box(0, 255, (8, 6), np.uint8)
    for view, refused in (({"resize": [4, 3]}, True), ({"resize": [8, 6], "grey": True}, False)):
        run = trpo_cli.LoadedRun(pendulum, untrained(image, DONE[0], False, view))
        examples = make_examples(run, several(image), BEGINS)
        with pytest.raises(trpo_cli.UserError, match=r"env\.resize") if refused else contextlib.nullcontext():
            export(run, "torchscript", examples)


def test_a_missing_package_is_named(pendulum: Path, trpo_export: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)
            done = trpo_export("nowhere", "--onnx", "a.onnx")
        assert done.err == f"error: --onnx: {name} is not installed: pip install 'trpo-cli[export]'"


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
