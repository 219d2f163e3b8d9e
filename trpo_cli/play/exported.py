"""A trained policy as one network, from raw observations to actions of the environment, in files of other programs."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from trpo_cli.envs.normalize import EPSILON
from trpo_cli.errors import EnvironmentFault, UserError
from trpo_cli.play.controller import Array, as_batch
from trpo_cli.play.loaded import LoadedRun
from trpo_cli.play.trained import Trained
from trpo_cli.run.directory import provenance
from trpo_cli.seeding import isolate_globals

INPUT, OUTPUT = "observation", "action"
CHECKED = 1_000  # observations
TOLERANCE = 1e-5
INSTALL = "pip install 'trpo-cli[export]'"


class Exported(nn.Module):
    """Raw observations (N, ...) -> the likeliest actions (N, ...) for `env.step`: what `Controller` computes."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.read, self.decode = Reader(trained), Decoder(trained.spaces[1])
        self.policy, self.distribution = copy.deepcopy(trained.policy), trained.policy.distribution

    def forward(self, observation: Tensor) -> Tensor:
        return self.decode(self.distribution.mode(self.policy(self.read(observation))))  # type: ignore[no-any-return]


class Reader(nn.Module):
    """`Controller.read` for tensors: the encoder of `observation_encoder`, then the `ObservationNormalizer`."""

    mean: Tensor
    scale: Tensor

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.space, normalizer = trained.spaces[0], trained.normalizer
        self.normalised, self.clip, moments = normalizer.enabled, normalizer.clip, normalizer.moments
        self.dtype = torch.from_numpy(np.empty(0, normalizer.dtype)).dtype  # of what the policy sees
        self.register_buffer("mean", torch.from_numpy(moments.mean))
        self.register_buffer("scale", torch.from_numpy(1 / np.sqrt(moments.variance + EPSILON)))

    def forward(self, observation: Tensor) -> Tensor:
        seen = self._encode(observation)
        if self.normalised:
            seen = ((seen.double() - self.mean) * self.scale).clamp(-self.clip, self.clip)
        return seen.to(self.dtype)

    def _encode(self, observation: Tensor) -> Tensor:
        match self.space:
            case spaces.Box():
                return observation.reshape(-1, *(self.space.shape or (1,)))
            case spaces.Discrete():
                return nn.functional.one_hot(observation - int(self.space.start), int(self.space.n))
            case _:
                raise UserError(f"observations in {self.space} cannot be exported")


class Decoder(nn.Module):
    """The decoder of `action_decoder` for tensors."""

    low: Tensor
    high: Tensor
    start: Tensor

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__()
        self.space = space
        for name in ("low", "high", "start"):  # of a Box, of a Discrete or a MultiDiscrete space
            if hasattr(space, name):
                self.register_buffer(name, torch.tensor(getattr(space, name)))

    def forward(self, action: Tensor) -> Tensor:
        match self.space:
            case spaces.Box():
                clipped = torch.maximum(torch.minimum(action.reshape(-1, *self.space.shape), self.high), self.low)
                return clipped.to(self.low.dtype)
            case spaces.Discrete():
                return action[:, 0] + self.start
            case spaces.MultiDiscrete():
                return action.reshape(-1, *self.space.shape) + self.start
            case spaces.MultiBinary():
                return action.reshape(-1, *self.space.shape).to(torch.int8)
            case _:
                raise UserError(f"actions in {self.space} cannot be exported")


class Format(NamedTuple):
    """How a network becomes the bytes of a file, with facts about it, and these a function on NumPy arrays again."""

    write: Callable[[nn.Module, Tensor, Mapping[str, str]], bytes]
    read: Callable[[bytes], Callable[[Array], Array]]
    packages: tuple[str, ...] = ()  # of the extra `export`


def _write_onnx(network: nn.Module, example: Tensor, facts: Mapping[str, str]) -> bytes:
    with _quiet_exporter():
        program: Any = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            dynamic_shapes=_any_batch(),
            input_names=[INPUT],
            output_names=[OUTPUT],
            verbose=False,
        )
    program.model.metadata_props.update(facts)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # among them stack traces, with paths of this machine
    data: bytes = program.model_proto.SerializeToString()
    return data


def _read_onnx(data: bytes) -> Callable[[Array], Array]:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda observation: session.run([OUTPUT], {INPUT: observation})[0]


def _write_torchscript(network: nn.Module, example: Tensor, facts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with _deprecated():
        torch.jit.save(torch.jit.trace(network, (example,)), buffer, _extra_files=dict(facts))
    return buffer.getvalue()


def _read_torchscript(data: bytes) -> Callable[[Array], Array]:
    with _deprecated():
        return _on_arrays(torch.jit.load(io.BytesIO(data)))


def _write_pt2(network: nn.Module, example: Tensor, facts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    program = torch.export.export(network, (example,), dynamic_shapes=_any_batch())
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, buffer, extra_files=dict(facts))
    return buffer.getvalue()


def _read_pt2(data: bytes) -> Callable[[Array], Array]:
    return _on_arrays(torch.export.load(io.BytesIO(data)).module())


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(_write_torchscript, _read_torchscript),
    "pt2": Format(_write_pt2, _read_pt2),
}


def require_packages(name: str) -> None:
    """Raise `UserError` if a package is missing that the format of this name needs."""
    for package in FORMATS[name].packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise UserError(f"--{name}: {package} cannot be imported ({error}): {INSTALL}") from error


def export(run: LoadedRun, name: str, observations: Array, tolerance: float = TOLERANCE) -> tuple[bytes, float]:
    """Return the file of a run's policy in the format of this name, and how far its actions are from those of the run.

    `observations` (N, ...) are those on which both are compared. Differences are relative to actions larger than 1.
    Raises `UserError` if the policy cannot be exported, or if one exceeds the `tolerance`.
    """
    form, trained = FORMATS[name], run.trained
    if trained.policy.memory_size:
        raise UserError(f"--{name}: policies with a memory cannot be exported")
    try:
        with torch.no_grad(), isolate_globals(0, "export"):
            data = form.write(Exported(trained).eval(), torch.from_numpy(observations[:2]), describe(run))
            act = form.read(data)
    except UserError:
        raise
    except Exception as error:  # of whatever a policy may compute that the format cannot say
        reason = str(error).strip().splitlines() or [""]
        raise UserError(f"--{name}: this policy cannot be exported: {type(error).__name__}: {reason[0]}") from error
    difference = max(_compare(run.act(rows), act(rows)) for rows in (observations, observations[:1]))
    if not difference <= tolerance:
        raise UserError(
            f"--{name}: not written, since its actions differ from those of the run by {difference:.2g}, which is more "
            f"than --tolerance {tolerance:g}"
        )
    return data, difference


def _compare(wanted: Array, found: Array) -> float:
    """The largest difference between actions, relative where they are larger than 1; infinite for other arrays."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return np.inf
    scale = np.maximum(1, np.abs(wanted.astype(np.float64)))
    return float((np.abs(found.astype(np.float64) - wanted) / scale).max())


def collect_observations(run: LoadedRun, count: int = CHECKED) -> Array:
    """Return observations (N, ...) of the environment: random states, or those of steps with sampled actions.

    Raises `EnvironmentFault` if it fails.
    """
    space = run.observation_space
    space.seed(0)
    if isinstance(space, spaces.Discrete):
        return as_batch(space, [space.sample() for _ in range(count)])[0]
    found: list[Any] = []
    with isolate_globals(0, "export"), contextlib.closing(run.make_env()) as env:
        try:
            observation = env.reset(seed=0)[0]
            while len(found) < count:
                found.append(np.array(observation))
                observation, _, terminated, truncated, _ = env.step(run.act(observation, sample=True))
                if terminated or truncated:
                    observation = env.reset()[0]
        except UserError:
            raise
        except Exception as error:
            raise EnvironmentFault(f"{run.config['env']['id']} raised {type(error).__name__}: {error}") from error
    return as_batch(space, found)[0]


def describe(run: LoadedRun) -> dict[str, str]:
    """What a file says about the run that it comes from."""
    made_with = provenance()
    return {
        "run": run.directory.name,
        "algo": str(run.config["choices"].get("algo")),
        "env": str(run.config["env"]["id"]),
        "env_steps": str(run.env_steps),
        "observation_space": str(run.observation_space),
        "action_space": str(run.action_space),
        **{f"version/{name}": version for name, version in made_with["versions"].items()},
        "git_revision": str(made_with["git_revision"]),
    }


def _any_batch() -> Any:
    return ({0: torch.export.Dim("batch")},)


def _on_arrays(network: Any) -> Callable[[Array], Array]:
    return lambda observation: network(torch.from_numpy(observation)).detach().numpy()


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says about its own code and about packages that it does not need."""
    talker = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            yield
    finally:
        talker.setLevel(level)


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Silence that TorchScript is deprecated, of which the user is told in the page."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        yield
