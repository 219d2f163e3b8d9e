"""Trained policies in files of other programs, each of which is read back and compared with the run."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from trpo_cli.envs.joining import iterate_values
from trpo_cli.envs.spaces import find_scale
from trpo_cli.errors import EnvironmentFault, UserError
from trpo_cli.play.controller import Array, Controller
from trpo_cli.play.loaded import LoadedRun
from trpo_cli.play.network import INPUT, Exported, Inputs, is_composite, named_entries
from trpo_cli.run.directory import provenance
from trpo_cli.seeding import isolate_globals

OUTPUT = "action"
CHECKED = 1_000  # observations
TOLERANCE = 1e-5


class Examples(NamedTuple):
    """N observations, or stacks of K of them: as the environment gave them and as the policy reads them."""

    entries: dict[str, Array]  # (N, ...) or (N, K, ...), by the names of the inputs
    encoded: Array  # (N, O) or (N, K, O)

    def first(self, count: int) -> Self:
        """Return the first few."""
        return type(self)({name: batch[:count] for name, batch in self.entries.items()}, self.encoded[:count])


class Format(NamedTuple):
    """How a network becomes the bytes of a file, with facts about it, and these a function on NumPy arrays again.

    A network reads the entries of observations, by name; `Any` is what it is called with.
    """

    write: Callable[[nn.Module, Inputs, Mapping[str, str]], bytes]
    read: Callable[[bytes], Callable[[Any], Array]]
    packages: tuple[str, ...] = ()  # of the extra `export`


def _write_onnx(network: nn.Module, example: Inputs, facts: Mapping[str, str]) -> bytes:
    names = list(example) if isinstance(example, dict) else [INPUT]
    with _quiet_exporter():
        program: Any = torch.onnx.export(
            network,
            (example, {}),  # a dictionary at the end would be one of keyword arguments
            dynamo=True,
            dynamic_shapes=_any_batch(example),
            input_names=names,
            output_names=[OUTPUT if OUTPUT not in names else f"{OUTPUT}_out"],
            verbose=False,
        )
    program.model.metadata_props.update(facts)
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # among them stack traces, with paths of this machine
    data: bytes = program.model_proto.SerializeToString()
    return data


def _read_onnx(data: bytes) -> Callable[[Any], Array]:
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, given if isinstance(given, dict) else {INPUT: given})[0]


def _write_torchscript(network: nn.Module, example: Inputs, facts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with _deprecated():
        torch.jit.save(torch.jit.trace(network, (example,)), buffer, _extra_files=dict(facts))
    return buffer.getvalue()


def _read_torchscript(data: bytes) -> Callable[[Any], Array]:
    with _deprecated():
        return _on_arrays(torch.jit.load(io.BytesIO(data)))


def _write_pt2(network: nn.Module, example: Inputs, facts: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    program = torch.export.export(network, (example,), dynamic_shapes=_any_batch(example))
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    torch.export.save(program, buffer, extra_files=dict(facts))
    return buffer.getvalue()


def _read_pt2(data: bytes) -> Callable[[Any], Array]:
    return _on_arrays(torch.export.load(io.BytesIO(data)).module())


FORMATS = {
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxscript", "onnxruntime")),
    "torchscript": Format(_write_torchscript, _read_torchscript),
    "pt2": Format(_write_pt2, _read_pt2),
}


def export(run: LoadedRun, name: str, examples: Examples, tolerance: float = TOLERANCE) -> tuple[bytes, float]:
    """Return the file of a run's policy in the format of this name, and how far its actions are from those of the run.

    Both are compared on the `examples`. Differences are relative to actions larger than 1, and of rescaled actions to
    half of their range if that is larger. Raises `UserError` if the policy cannot be exported, or if one exceeds the
    `tolerance`.
    """
    form, trained = FORMATS[name], run.trained
    if trained.policy.memory_size:
        raise UserError(
            f"--{name}: policies with a memory cannot be exported; in Python, trpo_cli.load(RUN).step passes it on"
        )
    if trained.task.prepares_images(trained.spaces[0]):
        raise UserError(
            f"--{name}: what env.grey and env.resize make of an image cannot be exported; with env.wrappers in their "
            "place, such as GrayscaleObservation, the environment itself shows what the policy reads"
        )
    try:
        with torch.no_grad(), isolate_globals(0, "export"):
            inputs = to_inputs(run, examples.first(2), torch.from_numpy)
            data = form.write(Exported(trained).eval(), inputs, describe(run))
            act = form.read(data)
    except UserError:
        raise
    except Exception as error:  # of whatever a policy may compute that the format cannot say
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        reason = str(cause).strip().splitlines() or [""]
        raise UserError(f"--{name}: this policy cannot be exported: {type(cause).__name__}: {reason[0]}") from error
    controller, (unit, _) = Controller(trained), find_scale(run.action_space, trained.task.rescale_action) or (1, 0)
    difference = 0.0
    for some in (examples, examples.first(1)):
        wanted, _ = controller.act(some.encoded, np.zeros((len(some.encoded), 0), np.float32), None)
        difference = max(difference, _compare(wanted, act(to_inputs(run, some, np.asarray)), unit))
    if not difference <= tolerance:
        raise UserError(
            f"--{name}: not written, since its actions differ from those of the run by {difference:.2g}, which is more "
            f"than --tolerance {tolerance:g}"
        )
    return data, difference


def to_inputs(run: LoadedRun, examples: Examples, convert: Callable[[Array], Any]) -> Any:
    """Return what a network reads: a dictionary of the entries if the environment has several."""
    converted = {name: convert(batch) for name, batch in examples.entries.items()}
    return converted if is_composite(run.observation_space) else converted[INPUT]


def _compare(wanted: Array, found: Array, unit: Any) -> float:
    """The largest difference between actions, relative where they, or the `unit`, are larger than 1.

    Infinite for other arrays.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return np.inf
    scale = np.maximum(np.maximum(1, unit), np.abs(wanted.astype(np.float64)))
    return float((np.abs(found.astype(np.float64) - wanted) / scale).max())


def collect_examples(run: LoadedRun, count: int = CHECKED) -> Examples:
    """Return observations of the environment: random states, or those of steps with sampled actions.

    Raises `EnvironmentFault` if it fails.
    """
    space = run.observation_space
    if isinstance(space, spaces.Discrete):
        space.seed(0)
        return make_examples(run, [space.sample() for _ in range(count)], [0] * count)
    found: list[Any] = []
    begins: list[int] = []  # where the episode of each observation begins
    with isolate_globals(0, "export"), contextlib.closing(run.make_env()) as env:
        try:
            observation, begin, memory = env.reset(seed=0)[0], 0, None
            while len(found) < count:
                found.append(copy.deepcopy(observation))
                begins.append(begin)
                action, memory = run.step(observation, memory, sample=True)
                observation, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    observation, begin, memory = env.reset()[0], len(found), None
        except UserError:
            raise
        except Exception as error:
            raise EnvironmentFault(f"{run.config['env']['id']} raised {type(error).__name__}: {error}") from error
    return make_examples(run, found, begins)


def make_examples(run: LoadedRun, observations: Sequence[Any], begins: Sequence[int]) -> Examples:
    """Make examples of single observations in the order of time, of which each one's episode begins at `begins`.

    Raises `UserError` if two inputs have one name.
    """
    controller, names = Controller(run.trained), named_entries(run.observation_space)
    if twice := [name for name, number in Counter(name for name, _ in names).items() if number > 1]:
        raise UserError(f"two entries of the observations are called '{twice[0]}', so no file can have both as inputs")
    rows = zip(*(iterate_values(run.observation_space, one) for one in observations), strict=True)
    entries = {name: np.array(values).astype(space.dtype) for (name, space), values in zip(names, rows, strict=True)}
    encoded = np.concatenate([controller.encode(controller.as_batch(one)[0]) for one in observations])
    if controller.stack == 1:
        return Examples(entries, encoded)
    back = np.arange(len(observations))[:, None] - np.arange(controller.stack)[::-1]
    window = np.maximum(back, np.asarray(begins)[:, None])
    return Examples({name: values[window] for name, values in entries.items()}, encoded[window])


def describe(run: LoadedRun) -> dict[str, str]:
    """What a file says about the run that it comes from."""
    made_with = provenance()
    return {
        "run": run.directory.name,
        "algo": str(run.config["choices"].get("algo")),
        "env": str(run.config["env"]["id"]),
        "env_steps": str(run.env_steps),
        "observation_space": str(run.observation_space),
        "stack": str(run.trained.task.stack),
        "action_space": str(run.action_space),
        **{f"version/{name}": version for name, version in made_with["versions"].items()},
        "git_revision": str(made_with["git_revision"]),
    }


def _any_batch(example: Inputs) -> Any:
    size = {0: torch.export.Dim("batch")}
    return (dict.fromkeys(example, size) if isinstance(example, dict) else size,)


def _on_arrays(network: Any) -> Callable[[Any], Array]:
    def act(given: Any) -> Array:
        if not isinstance(given, dict):
            return network(torch.from_numpy(given)).detach().numpy()  # type: ignore[no-any-return]
        inputs = {name: torch.from_numpy(batch) for name, batch in given.items()}
        return network(inputs).detach().numpy()  # type: ignore[no-any-return]

    return act


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what torch's exporter says about its own code and about packages that it does not need."""
    talker = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*shares the same shape constraints")
            yield
    finally:
        talker.setLevel(level)


@contextlib.contextmanager
def _deprecated() -> Iterator[None]:
    """Silence that TorchScript is deprecated, of which the user is told in the page."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*torch.jit")
        yield
