"""How fast, against the physics engine and against others: `make bench`, or `python tests/bench.py --help`.

Each contender lives in a process of its own and they take turns, round by round, so that whatever else the machine does
hits all alike. Medians of the rounds are printed as tables with ratios, and everything is written as JSON. The physics
limit of a rollout is what `mujoco.batch` alone takes for the very same states, actions and resets, on as many threads
(with contact forces where the task reads them); that both end in the same state, bit for bit, is checked.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TASKS = ("Hopper-v4", "Walker2d-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4", "CartPole-v1")
ATARI = ("Pong", "Breakout", "Qbert", "Seaquest", "BeamRider", "Enduro", "SpaceInvaders")
GAMES = 8  # side by side
STEPS = 2048  # an iteration, where training is not what is measured
ITERATIONS = 2  # a round
WARM = 8  # iterations before the first round: by then a helper process fits the critic, if that pays
Round = Callable[[], dict[str, float]]


# --- contenders: each factory returns the function that plays one round


def parts(*overrides: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import built

    return built(*overrides)


def defaults(*overrides: str) -> dict[str, Any]:
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import composed

    return composed(*overrides)


def sampler(task: str, kind: str, num_envs: int, num_threads: int) -> Round:
    """One sample of an untrained policy, and its physics alone."""
    more = (f"sampler.num_envs={num_envs}", f"sampler.num_threads={num_threads}")
    run = parts(f"env={task}", f"sampler={kind}", *more)
    run.sampler.collect(run.policy)

    def play() -> dict[str, float]:
        start, before = time.perf_counter(), run.sampler.env_steps
        for _ in range(ITERATIONS):
            run.sampler.collect(run.policy)
        taken = {"seconds": (time.perf_counter() - start) / ITERATIONS}
        return {**taken, "steps": (run.sampler.env_steps - before) / ITERATIONS, **physics(run)}

    return play


def physics(run: Any) -> dict[str, float]:
    """Seconds and steps that the engine alone takes for a sample: nothing for environments that are not native."""
    from mujoco.batch import Batch

    from trpo_cli.envs.mujoco.batch import MujocoBatch

    sampler, policy, envs = run.sampler, run.policy, run.environments[0]._envs
    if not isinstance(envs, MujocoBatch):
        return {}
    simulations, plan = envs._simulations, []
    before, steps = simulations.batch.state.copy(), sampler.env_steps

    def noting(name: str) -> None:
        call = getattr(simulations, name)

        def noted(*arguments: Any) -> None:
            plan.append((name, [x.copy() if hasattr(x, "copy") else x for x in arguments]))
            call(*arguments)

        setattr(simulations, name, noted)

    names = ("step", "restart", "restore")
    for name in names:
        noting(name)
    for _ in range(ITERATIONS):
        sampler.collect(policy)
    for name in names:
        delattr(simulations, name)
    model = simulations.batch.model
    batch = Batch(model, simulations.batch.nsim, simulations.batch.nthread)
    batch.step()
    batch.state[:] = before
    qpos, qvel, ctrl, fresh = *(batch.bind(name) for name in ("qpos", "qvel", "ctrl")), simulations._fresh
    start = time.perf_counter()
    for name, arguments in plan:
        if name == "step":
            ctrl[:] = arguments[0]
            batch.step(nstep=simulations.settings.frame_skip)
            continue
        rows, *states = arguments
        if name == "restore":
            batch.state[rows] = [saved[0] for saved in states[0]]
        else:
            batch.state[rows] = fresh
            qpos[rows], qvel[rows] = states
            batch.forward(rows)
    taken = (time.perf_counter() - start) / ITERATIONS
    assert (batch.state == simulations.batch.state).all(), "the replay is not the sample"
    return {"physics": taken, "physics steps": (sampler.env_steps - steps) / ITERATIONS}


def ours(task: str, algo: str) -> Round:
    """One iteration of training as `trpo-train algo=ALGO env=TASK` does it."""
    run = parts(f"env={task}", f"algo={algo}")
    for _ in range(WARM):
        run.iterate(0.0)

    def play() -> dict[str, float]:
        start, before = time.perf_counter(), run.sampler.env_steps
        rows = [run.iterate(0.0) for _ in range(ITERATIONS)]
        taken = {"seconds": (time.perf_counter() - start) / ITERATIONS}
        taken |= {"steps": (run.sampler.env_steps - before) / ITERATIONS}
        return {**taken, "sample": statistics.mean(row.sample_seconds for row in rows), **physics(run)}

    return play


def saving(task: str) -> Round:
    """An iteration of TRPO, and a checkpoint of it: what it takes to gather, seal, write and sync."""
    from trpo_cli.run.directory import Run
    from trpo_cli.seeding import global_generators

    run, directory = parts(f"env={task}"), Path(tempfile.mkdtemp(dir="."))
    place = Run(directory)
    place.begin({})
    atexit.register(shutil.rmtree, directory)
    run.iterate(0.0)

    def play() -> dict[str, float]:
        start = time.perf_counter()
        for _ in range(ITERATIONS):
            run.iterate(0.0)
        trained = time.perf_counter()
        place.save({**run.state_dict(), "generators": global_generators("cpu")}, run.sampler.env_steps, keep=3)
        saved = time.perf_counter()
        size = max(place.checkpoints.iterdir()).stat().st_size
        return {"seconds": (trained - start) / ITERATIONS, "save": saved - trained, "bytes": size}

    return play


def peer(task: str, algo: str, num_envs: int) -> Round:
    """One iteration of sb3-contrib's TRPO or SB3's PPO, with the batch, network, epochs and minibatches of `ours`."""
    config = defaults(f"env={task}", f"algo={algo}")
    steps = config["sampler"]["steps_per_iteration"]
    model = peer_model(task, algo, num_envs, steps // num_envs, config)
    model.learn(steps)

    def play() -> dict[str, float]:
        start = time.perf_counter()
        model.learn(ITERATIONS * steps, reset_num_timesteps=False)
        return {"seconds": (time.perf_counter() - start) / ITERATIONS, "steps": steps}

    return play


def peer_model(task: str, algo: str, num_envs: int, steps: int, config: dict[str, Any]) -> Any:
    from sb3_contrib import TRPO
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    ours, critic = config["algo"], config["critic"]
    envs: Any = make_vec_env(task, n_envs=num_envs)
    if config["env"]["normalize_observation"]:
        envs = VecNormalize(envs, norm_reward=False)
    alike = {"n_steps": steps, "policy_kwargs": {"net_arch": config["policy"]["hidden_sizes"]}, "device": "cpu"}
    if algo == "ppo":  # its critic takes part in the epochs of the policy
        epochs = {"n_epochs": ours["epochs"], "batch_size": ours["minibatch_size"], "target_kl": ours["target_kl"]}
        return PPO("MlpPolicy", envs, **epochs, **alike)
    fit = {"n_critic_updates": critic["epochs"], "batch_size": critic["minibatch_size"]}
    return TRPO("MlpPolicy", envs, cg_max_steps=ours["cg_iterations"], target_kl=ours["delta"], **fit, **alike)


SCORES = {"Hopper-v4": 2500.0, "Walker2d-v4": 2000.0}  # training returns over 100 episodes
BUDGET = 1_000_000  # steps in which to reach them


def our_score(task: str, seed: int) -> Round:
    """The whole command, until training reaches the score."""

    def play() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            reach = (f"total_steps={BUDGET}", f"stop.at_return={SCORES[task]}", "eval.every=0", f"hydra.run.dir={run}")
            command = [sys.executable, "-m", "trpo_cli", "algo=trpo", f"env={task}", f"seed={seed}", *reach]
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken, summary = time.perf_counter() - start, json.loads((run / "summary.json").read_text())
        return {"seconds": taken, "steps": summary["env_steps"], "return": summary["final_training_return"]}

    return play


def peer_score(task: str, seed: int) -> Round:
    """The same of sb3-contrib's TRPO with RL Zoo's settings for both tasks, its imports included."""
    start = time.perf_counter()
    import numpy as np
    from sb3_contrib import TRPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    envs = VecNormalize(make_vec_env(task, n_envs=2, seed=seed))
    zoo = {"n_steps": 1024, "batch_size": 128, "cg_max_steps": 25, "cg_damping": 0.1, "n_critic_updates": 20}
    model = TRPO("MlpPolicy", envs, **zoo, sub_sampling_factor=1, learning_rate=1e-3, seed=seed, device="cpu")

    def mean() -> float:
        return float(np.mean([episode["r"] for episode in model.ep_info_buffer])) if model.ep_info_buffer else -np.inf

    def play() -> dict[str, float]:
        model.learn(BUDGET, callback=lambda *_: mean() < SCORES[task])
        return {"seconds": time.perf_counter() - start, "steps": model.num_timesteps, "return": mean()}

    return play


BYTES = (128, 4_096, 20_480, 131_072, 1_048_576)  # that each process sends
GATHERS = 50


def gathering(ranks: int) -> Round:
    """What it takes until all of several processes on this machine have what each sends, by its size."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for rank in range(1, ranks):
        multiprocessing.get_context("spawn").Process(target=gather_for_ever, args=(rank, ranks, port)).start()
    gather = one_of(0, ranks, port)
    gather()
    return gather


def one_of(rank: int, ranks: int, port: int) -> Round:
    import torch

    from trpo_cli.shards.ranks import Ranks

    names = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}}
    torch.set_num_threads(1)
    here, sent = Ranks.meet(), [torch.zeros(size // 4) for size in BYTES]

    def gather() -> dict[str, float]:
        taken = {}
        for size, tensor in zip(BYTES, sent, strict=True):
            start = time.perf_counter()
            for _ in range(GATHERS):
                here.gather_tensors(tensor)
            taken[str(size)] = (time.perf_counter() - start) / GATHERS
        return taken

    return gather


def gather_for_ever(rank: int, ranks: int, port: int) -> None:
    from trpo_cli.errors import TrainingError

    gather = one_of(rank, ranks, port)
    with contextlib.suppress(TrainingError):  # the first process has ended
        while True:
            gather()


IMAGE_STEPS = 1024  # an iteration on images: of `GAMES` games, 128 each
ON_IMAGES = ("policy=cnn", f"sampler.num_envs={GAMES}", f"sampler.steps_per_iteration={IMAGE_STEPS}")
SAME_WORK = {
    "ppo": ("critic=shared", "algo.epochs=4", "algo.minibatch_size=256"),
    "trpo": ("algo.cg_iterations=15", "algo.fvp_fraction=1", "critic.epochs=10", "critic.minibatch_size=128"),
}


def image_sampler(name: str) -> Round:
    """One sample of an untrained policy with the Nature network, and that network alone on as many images."""
    import numpy as np

    run = parts(f"env={name}NoFrameskip-v4", *ON_IMAGES)
    run.sampler.collect(run.policy)
    act, seen, memory = run.policy.actor(), run.environments[0].observation, np.zeros((GAMES, 0), dtype=np.float32)
    noise = run.policy.distribution.noise((GAMES,), run.sampler.paths[0].generator).numpy()

    def play() -> dict[str, float]:
        start = time.perf_counter()
        run.sampler.collect(run.policy)
        sampled = time.perf_counter()
        for _ in range(IMAGE_STEPS // GAMES):
            act(seen, memory, noise)
        return {"seconds": sampled - start, "network": time.perf_counter() - sampled}

    return play


def image_training(name: str, algo: str, *overrides: str) -> Round:
    """One iteration of training with the Nature network."""
    run = parts(f"env={name}NoFrameskip-v4", f"algo={algo}", *ON_IMAGES, *SAME_WORK[algo], *overrides)
    return measuring({"iteration": lambda: run.iterate(0.0)})


def image_peer(name: str, algo: str, kind: str) -> Round:
    """The same of SB3's PPO or sb3-contrib's TRPO, on a `DummyVecEnv` or a `SubprocVecEnv` of Baselines' wrappers."""
    from sb3_contrib import TRPO
    from stable_baselines3 import PPO
    from stable_baselines3.common import vec_env
    from stable_baselines3.common.env_util import make_atari_env

    games = make_atari_env(f"ale_py:{name}NoFrameskip-v4", n_envs=GAMES, vec_env_cls=getattr(vec_env, kind))
    envs, steps = vec_env.VecFrameStack(games, 4), IMAGE_STEPS // GAMES
    if algo == "ppo":
        model: Any = PPO("CnnPolicy", envs, n_steps=steps, batch_size=256, n_epochs=4, ent_coef=0.01, device="cpu")
    else:
        model = TRPO("CnnPolicy", envs, n_steps=steps, device="cpu")  # 15 products, 10 passes of the critic
    return measuring({"iteration": lambda: model.learn(IMAGE_STEPS, reset_num_timesteps=False)})


def envpool(task: str, num_envs: int, num_threads: int) -> Round:
    """EnvPool stepping random actions, with nobody learning."""
    import envpool
    import numpy as np

    envs = envpool.make_gymnasium(task, num_envs=num_envs, num_threads=num_threads, seed=0)
    envs.reset()
    space, rng = envs.action_space, np.random.default_rng(0)
    actions = [
        rng.uniform(space.low, space.high, (num_envs, *space.shape)).astype(space.dtype)
        if hasattr(space, "low")
        else rng.integers(space.n, size=num_envs)
        for _ in range(STEPS // num_envs)
    ]

    def play() -> dict[str, float]:
        start = time.perf_counter()
        for action in ITERATIONS * actions:
            envs.step(action)
        return {"seconds": (time.perf_counter() - start) / ITERATIONS}

    return play


def our_update(size: int, width: int, critic: bool) -> Round:
    """One TRPO update of Hopper samples: the policy alone, or the critic too."""
    import torch

    network = f"hidden_sizes=[{width},{width}]"
    here = "update_threads=1"  # the critic, too
    run = parts("env=Hopper-v4", f"policy.{network}", f"critic.{network}", "critic.epochs=10", here)
    algorithm = run.algorithm
    repeats = -(-size // STEPS)
    batch, _ = algorithm.estimate(run.sampler.collect(run.policy))
    noise = torch.randn(size, 11) * 0.1
    rows = torch.arange(STEPS).repeat(repeats)[:size]
    batch = batch.select(rows)
    (states,) = batch.states
    states.observation.add_(noise)
    states.old_parameters.copy_(run.policy.infer(states.observation))
    log_prob, _ = algorithm.describe(states.old_parameters, states)
    batch.old_log_prob.copy_(log_prob)
    batch.log_q.copy_(log_prob)
    theta = [parameter.detach().clone() for parameter in run.policy.parameters()]

    def play() -> dict[str, float]:
        start = time.perf_counter()
        algorithm.update(batch)
        if critic:
            run.critic.fit([states.observation], batch.return_)
        taken = time.perf_counter() - start
        with torch.no_grad():
            for parameter, value in zip(run.policy.parameters(), theta, strict=True):
                parameter.copy_(value)
        return {"seconds": taken}

    return play


def peer_update(size: int, width: int, critic: bool) -> Round:
    """The same of sb3-contrib."""
    import numpy as np
    import torch
    from stable_baselines3.common.logger import configure

    config = defaults("env=Hopper-v4", f"policy.hidden_sizes=[{width},{width}]")
    config["critic"]["epochs"] = 10 if critic else 0
    model = peer_model("Hopper-v4", "trpo", 1, size, config)
    model.set_logger(configure(None, []))
    buffer, rng = model.rollout_buffer, np.random.default_rng(0)
    buffer.observations[:] = rng.normal(size=buffer.observations.shape)
    buffer.returns[:] = buffer.advantages[:] = rng.normal(size=buffer.returns.shape)
    buffer.actions[:] = rng.normal(size=buffer.actions.shape)
    with torch.no_grad():
        for start in range(0, size, 8192):
            part = slice(start, start + 8192)
            arrays = (buffer.observations[part, 0], buffer.actions[part, 0])
            observation, action = (torch.as_tensor(array, dtype=torch.float32) for array in arrays)
            values, log_prob, _ = model.policy.evaluate_actions(observation, action)
            buffer.values[part, 0], buffer.log_probs[part, 0] = values.flatten().numpy(), log_prob.numpy()
    buffer.full = True
    start_state = {name: value.clone() for name, value in model.policy.state_dict().items()}
    arrays = {name: getattr(buffer, name) for name in ("observations", "actions", "values", "log_probs")}
    arrays |= {"advantages": buffer.advantages, "returns": buffer.returns}

    def play() -> dict[str, float]:
        for name, array in arrays.items():  # reading the buffer flattens it
            setattr(buffer, name, array)
        buffer.generator_ready = False
        start = time.perf_counter()
        model.train()
        taken = time.perf_counter() - start
        model.policy.load_state_dict(start_state)
        return {"seconds": taken}

    return play


REMEMBERED = 4096  # steps an iteration, of 64 environments
CELL = 64  # units
HIDDEN = ("env=CartPole-v1", "env.hide=[1,3]", f"sampler.steps_per_iteration={REMEMBERED}")  # no velocities


def our_memory(option: str, algo: str) -> Round:
    """Sampling, a product with the Fisher matrix, and an iteration, with a policy and a critic of this option."""
    import torch

    from trpo_cli.models.linearisation import size

    minibatches = ("algo.minibatch_size=512",) if algo == "ppo" else ()
    run = parts(
        *HIDDEN, f"algo={algo}", f"policy={option}", f"critic={option}", "critic.minibatch_size=512", *minibatches
    )
    learner = run.algorithm
    work: dict[str, Callable[[], object]] = {"sample": lambda: run.sampler.collect(learner.actor)}
    if algo == "trpo":
        batch, _ = learner.estimate(run.sampler.collect(learner.actor))
        product, v = learner.find_metric(batch), torch.randn(size(run.policy))
        work["product"] = lambda: product(v)
    return measuring({**work, "iteration": lambda: run.iterate(0.0)})


def peer_memory() -> Round:
    """An iteration of sb3-contrib's RecurrentPPO at the same work."""
    import gymnasium
    import torch
    from gymnasium.wrappers import TransformObservation
    from sb3_contrib import RecurrentPPO
    from stable_baselines3.common.env_util import make_vec_env

    def make() -> Any:
        env = gymnasium.make("CartPole-v1")
        low, high = env.observation_space.low[::2], env.observation_space.high[::2]
        return TransformObservation(env, lambda seen: seen[::2], gymnasium.spaces.Box(low, high))

    torch.set_num_threads(1)
    envs = make_vec_env(make, n_envs=64, seed=0)
    width = {"lstm_hidden_size": CELL, "net_arch": [CELL]}
    work = {"n_steps": REMEMBERED // 64, "batch_size": 512, "n_epochs": 10, "gae_lambda": 0.97}
    model = RecurrentPPO("MlpLstmPolicy", envs, device="cpu", seed=0, policy_kwargs=width, **work)
    return measuring({"iteration": lambda: model.learn(REMEMBERED, reset_num_timesteps=False)})


NETWORKS = {"cnn": (84, 84), "cnn_nips": (84, 84), "cnn_paper": (52, 40)}  # and the pixels of their frames
IMAGES = 512  # that a pass goes over


def our_network(option: str) -> Round:
    """Seconds of a core for a pass forward, a gradient, and a Fisher product, in pieces on all cores."""
    from trpo_cli.threads import cores, limit_threads

    policy, images, u, v = network_case(option)
    limit_threads(workers=cores())
    model = policy.linearise(images)

    def gradient() -> None:
        theta = v.clone().requires_grad_()
        policy.outputs(theta, images, known=model.output).backward(u)  # as an update knows them

    return measuring(
        {"forward": lambda: policy.infer(images), "gradient": gradient, "product": lambda: model.vjp(model.jvp(v))}
    )


def plain_network(option: str) -> Round:
    """The same by automatic differentiation, in batches of 256 images, `channels_last`, on all cores."""
    import torch
    from torch.func import functional_call, jvp, vjp

    from trpo_cli.threads import cores

    policy, images, u, v = network_case(option)
    torch.set_num_threads(cores())
    module = policy.network.to(memory_format=torch.channels_last)
    parameters, sizes = dict(module.named_parameters()), [one.numel() for one in module.parameters()]
    moves = {name: part.view_as(parameters[name]) for name, part in zip(parameters, v.split(sizes), strict=True)}
    values = {name: parameter.detach() for name, parameter in parameters.items()}
    batches = list(zip(images.split(256), u.split(256), strict=True))

    def forward() -> None:
        with torch.no_grad():
            for x, _ in batches:
                module(x.read())

    def gradient() -> None:
        module.zero_grad()
        for x, slope in batches:
            module(x.read()).backward(slope)

    def product() -> None:
        for x, _ in batches:
            stack = x.read()
            outputs, moved = jvp(lambda p, x=stack: functional_call(module, p, (x,)), (values,), (moves,))
            vjp(lambda p, x=stack: functional_call(module, p, (x,)), values)[1](moved + 0 * outputs)

    return measuring({"forward": forward, "gradient": gradient, "product": product})


def network_case(option: str) -> Any:
    """A policy, stacked images that share their frames, outputs and parameters to multiply."""
    import numpy as np
    import torch

    from trpo_cli.data import Frames, ObservationSpec
    from trpo_cli.models.distributions import Categorical
    from trpo_cli.models.linearisation import size
    from trpo_cli.models.policies.mlp import MLPPolicy

    parts("env=CartPole-v1")  # limits threads as a run does
    node = {key: value for key, value in defaults(f"policy={option}")["policy"].items() if key != "_target_"}
    torch.manual_seed(0)
    spec = ObservationSpec((4, *NETWORKS[option]), np.dtype(np.uint8), stack=4)
    policy = MLPPolicy(spec, Categorical([6]), **node)
    frame = torch.randint(0, 256, (IMAGES + 3, *NETWORKS[option]), dtype=torch.uint8)
    images = Frames(frame, torch.arange(IMAGES)[:, None] + torch.arange(4))
    return policy, images, torch.randn(IMAGES, 6), torch.randn(size(policy))


def measuring(work: dict[str, Callable[[], object]]) -> Round:
    """Seconds that each takes, and of cores as "CPU"."""
    for call in work.values():
        call()

    def play() -> dict[str, float]:
        taken = {}
        for name, call in work.items():
            start, used = time.perf_counter(), time.process_time()
            call()
            taken |= {name: time.perf_counter() - start, f"{name} CPU": time.process_time() - used}
        return {**taken, "seconds": sum(taken[name] for name in work)}

    return play


def games(name: str, who: str, processes: int = 1) -> Round:
    """Steps of several games under random actions: the emulator alone, or with its pictures prepared by someone."""
    import gymnasium
    import numpy as np

    from trpo_cli.envs.environments import Environments
    from trpo_cli.envs.make import Parallelism
    from trpo_cli.envs.registered import registered_ids

    registered_ids()  # registers the games
    id, rng = f"{name}NoFrameskip-v4", np.random.default_rng(0)
    ended = np.zeros(GAMES, dtype=bool)
    if who == "ours":
        ours = Environments(parts_of_env(id), GAMES, list(range(GAMES)), Parallelism("native", processes))
        count = ours.spaces[1].n

        def step(action: Any) -> None:
            _, _, terminated, truncated = ours.step(action[:, None])
            if (terminated | truncated).any():
                ours.restart(terminated | truncated)

    elif who == "vector":
        kwargs = {"stack_num": 1, "num_threads": processes, "repeat_action_probability": 0.0}
        vector = gymnasium.make_vec(f"ALE/{name}-v5", GAMES, "vector_entry_point", **kwargs)
        vector.reset(seed=0)
        count, step = vector.single_action_space.n, vector.step
    else:
        bare = [gymnasium.make(id).unwrapped for _ in range(GAMES)]
        count = bare[0].action_space.n
        if who == "gymnasium":
            bare = [gymnasium.wrappers.AtariPreprocessing(gymnasium.make(id)) for _ in range(GAMES)]
        for env in bare:
            env.reset(seed=0)

        def step(action: Any) -> None:
            for row, env in enumerate(bare):
                ended[row] = emulate(env, action[row]) if who == "emulator" else any(env.step(action[row])[2:4])
                if ended[row]:
                    env.reset()

    def play() -> dict[str, float]:
        actions = rng.integers(count, size=(STEPS // GAMES, GAMES))
        start, wall = time.process_time(), time.perf_counter()
        for action in actions:
            step(action)
        return {"seconds": time.process_time() - start, "wall": time.perf_counter() - wall}

    return play


def emulate(env: Any, action: int) -> bool:
    """Four frames, and nothing else; whether the game is over."""
    for _ in range(4):
        env.ale.act(env._action_set[action])
    return bool(env.ale.game_over())


def parts_of_env(id: str) -> Any:
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import composed

    from trpo_cli.config.build import build
    from trpo_cli.envs.make import Task

    return build(composed(f"env={id}", "env.fire=false", "env.stack=1")["env"], "env", Task)


# --- rounds


def serve(connection: Any, factory: str, arguments: tuple[Any, ...]) -> None:
    """The process of one contender: every message asks for a round."""
    warnings.simplefilter("ignore")
    play: Round = globals()[factory](*arguments)
    connection.send("ready")
    while connection.recv():
        result = play()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        connection.send({**result, "peak_mib": peak})


@contextlib.contextmanager
def contender(factory: str, *arguments: Any) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve, args=(there, factory, arguments))  # no daemon, which could not start any
    process.start()
    there.close()
    try:
        here.recv()
        yield here
        here.send(False)
    finally:
        process.join(5)
        process.kill()


Rounds = list[dict[str, float]]


def race(contenders: dict[str, tuple[Any, ...]], rounds: int) -> dict[str, Rounds]:
    """Let the contenders take turns; what each reported, round by round."""
    print(*(" ".join(map(str, what)) for what in contenders.values()), sep=" | ", file=sys.stderr)
    results: dict[str, Rounds] = {name: [] for name in contenders}
    with contextlib.ExitStack() as stack:
        lines = {name: stack.enter_context(contender(*what)) for name, what in contenders.items()}
        for _ in range(rounds):
            for name, line in lines.items():
                line.send(True)
                results[name].append(line.recv())
    return results


def median(rows: Rounds, key: str = "seconds") -> float:
    return statistics.median(row[key] for row in rows)


def times(rows: Rounds, others: Rounds, key: str = "seconds") -> float:
    """How many times as long the others took: the median over rounds of the ratio within each."""
    return statistics.median(other[key] / row["seconds"] for row, other in zip(rows, others, strict=True))


def rates(rows: Rounds, name: str) -> dict[str, float]:
    """Steps a second, and what part of the physics limit they are; a vine's steps are not the same each time."""
    own = [row.get("steps", STEPS) / row["seconds"] for row in rows]
    row = {name: statistics.median(own)}
    if "physics" in rows[0]:
        limit = [row["physics steps"] / row["physics"] for row in rows]
        share = statistics.median(rate / most for rate, most in zip(own, limit, strict=True))
        row |= {"physics": statistics.median(limit), f"{name} / physics": share}
    return row


def table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    grid = Table(title=title, title_justify="left")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        grid.add_column(name, justify="left" if name in ("task", "who", "game") else "right")
    for row in rows:
        grid.add_row(*(shown(row.get(name, "")) for name in columns))
    Console(width=150).print(grid)


def shown(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


# --- sections


def sampling(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """(a) the physics limit, (b) our sampler, and EnvPool, at 1 and 2 threads and several numbers of environments."""
    for task in tasks:
        for threads, num_envs in ((1, 64), (2, 16), (2, 64), (2, 128)):
            who: dict[str, tuple[Any, ...]] = {"ours": ("sampler", task, "single_path", num_envs, threads)}
            if peers and importlib.util.find_spec("envpool"):
                who["envpool"] = ("envpool", task, num_envs, threads)
            result = race(who, rounds)
            row: dict[str, Any] = {"task": task, "threads": threads, "num_envs": num_envs}
            row |= rates(result["ours"], "sampler")
            if "envpool" in result:
                row["envpool alone"] = STEPS / median(result["envpool"])
            yield row


def vines(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Trunks and branches, against the physics of the very same steps and restored states."""
    for task in tasks:
        rows = race({"ours": ("sampler", task, "vine", 64, os.cpu_count())}, rounds)["ours"]
        yield {"task": task, **rates(rows, "vine")}


def training(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """(c) training end to end at the defaults of each task, and (d) the peers at the same work."""
    for task in tasks:
        for algo in ("trpo", "ppo"):
            who: dict[str, tuple[Any, ...]] = {"ours": ("ours", task, algo)}
            if peers:
                who |= {f"{n} envs": ("peer", task, algo, n) for n in (1, 2, 8)}
            result = race(who, rounds)
            mine = result.pop("ours")
            row: dict[str, Any] = {"task": task, "who": algo, **rates(mine, "training")}
            if "physics" in mine[0]:
                row["sampling / physics"] = statistics.median(one["physics"] / one["sample"] for one in mine)
            for name, theirs in result.items():
                row |= {f"peer, {name}": median(theirs, "steps") / median(theirs), f"x {name}": times(mine, theirs)}
            yield row


def scores(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """From the start of the command to a score, one contender at a time, on three seeds."""
    for task in [task for task in tasks if task in SCORES]:
        for seed in range(3):
            row: dict[str, Any] = {"task": task, "seed": seed}
            for who in ("ours", "peer") if peers else ("ours",):
                (result,) = race({who: ("our_score" if who == "ours" else "peer_score", task, seed)}, 1)[who]
                row |= {f"{who}, {name}": result[name] for name in ("seconds", "steps", "return")}
            yield row


def reductions(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """What several processes wait for whenever they put together what each has; tasks do not matter."""
    for ranks in (2, 4, 8):
        (mine,) = race({"ours": ("gathering", ranks)}, rounds).values()
        yield {"ranks": ranks, **{f"{size:,} bytes": 1e6 * median(mine, str(size)) for size in BYTES}}


def updates(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """One TRPO update against batch size and network width."""
    sizes = [(size, 64) for size in (1_000, 10_000, 50_000, 200_000, 1_000_000)]
    for size, width in [*sizes, *((10_000, width) for width in (32, 256, 1024))]:
        for critic in (False, True):
            if critic and (size > 50_000 or width != 64):
                continue
            who: dict[str, tuple[Any, ...]] = {"ours": ("our_update", size, width, critic)}
            if peers and size <= 200_000:
                who["peer"] = ("peer_update", size, width, critic)
            result = race(who, rounds if size <= 50_000 else min(rounds, 3))
            mine = result["ours"]
            row: dict[str, Any] = {"samples": size, "width": width, "critic": "yes" if critic else "no"}
            row |= {"seconds": median(mine), "peak MiB": median(mine, "peak_mib")}
            if "peer" in result:
                theirs = result["peer"]
                row |= {"peer": median(theirs), "its MiB": median(theirs, "peak_mib"), "x peer": times(mine, theirs)}
            yield row


def networks(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Networks that begin with convolutions, against automatic differentiation; tasks do not matter."""
    for option in NETWORKS:
        result = race({"ours": ("our_network", option), "plain": ("plain_network", option)}, rounds)
        row: dict[str, Any] = {"task": option}
        for what in ("forward", "gradient", "product"):
            for unit in ("", " CPU"):
                ours, plain = (median(result[who], f"{what}{unit}") for who in ("ours", "plain"))
                row |= {f"{what}, a{unit} second": IMAGES / ours, f"x plain{unit}, {what}": plain / ours}
        yield row


def memories(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Policies and critics that remember, against those that do not; tasks do not matter."""
    for algo in ("trpo", "ppo"):
        who: dict[str, tuple[Any, ...]] = {option: ("our_memory", option, algo) for option in ("mlp", "gru", "lstm")}
        result = race({**who, **({"RecurrentPPO": ("peer_memory",)} if peers and algo == "ppo" else {})}, rounds)
        for name, found in result.items():
            row: dict[str, Any] = {"who": name, "algo": algo, "training": REMEMBERED / median(found, "iteration")}
            pairs = zip(result["mlp"], found, strict=True)
            row |= {"x mlp": statistics.median(mlp["iteration"] / own["iteration"] for mlp, own in pairs)}
            if name in who:
                row["sampling"] = REMEMBERED / median(found, "sample")
            if algo == "trpo":
                row["product, ms"] = 1e3 * median(found, "product")
            yield row


def atari(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """CPU time of a game with its pictures against the emulator alone, and wall time on two processes against one."""
    for name in ATARI:
        who = {one: ("games", name, one) for one in ("emulator", "ours", "vector", "gymnasium")}
        result = race({**who, "two": ("games", name, "ours", 2)}, rounds)
        alone, mine, two = result["emulator"], result["ours"], result["two"]
        row = {"game": name, "emulator": STEPS / median(alone), "ours": STEPS / median(mine)}
        shares = {f"{one} / emulator": times(alone, result[one]) for one in ("ours", "vector", "gymnasium")}
        both = [(row["wall"], other["wall"]) for row, other in zip(mine, two, strict=True)]
        walls = {"two processes": STEPS / median(two, "wall"), "x one": statistics.median(a / b for a, b in both)}
        yield {**row, **shares, **walls}


def image_sampling(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Sampling with the Nature network, against the games and the network alone, all on all cores by the wall."""
    for name in ATARI[:3]:
        who = {"ours": ("image_sampler", name), "games": ("games", name, "ours", os.cpu_count())}
        result = race(who, rounds)
        mine, alone = result["ours"], result["games"]
        games = [row["wall"] * IMAGE_STEPS / STEPS for row in alone]
        row = {"game": name, "sampling": IMAGE_STEPS / median(mine), "games": IMAGE_STEPS / statistics.median(games)}
        row["network"] = IMAGE_STEPS / median(mine, "network")
        both = [(one["seconds"], game, one["network"]) for one, game in zip(mine, games, strict=True)]
        row["sampling / the lower"] = statistics.median(max(limits) / own for own, *limits in both)
        yield {**row, "sampling / one after the other": statistics.median(sum(limits) / own for own, *limits in both)}


def image_trainings(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """Training with the Nature network end to end, and the peers at the same work."""
    kinds = ("DummyVecEnv", "SubprocVecEnv") if peers else ()
    for algo in SAME_WORK:
        who: dict[str, tuple[Any, ...]] = {"ours": ("image_training", ATARI[0], algo)}
        result = race({**who, **{kind: ("image_peer", ATARI[0], algo, kind) for kind in kinds}}, rounds)
        mine = result["ours"]
        row: dict[str, Any] = {"game": ATARI[0], "who": algo, "training": IMAGE_STEPS / median(mine)}
        for kind in kinds:
            row |= {f"peer, {kind}": IMAGE_STEPS / median(result[kind]), f"x {kind}": times(mine, result[kind])}
        yield row


def checkpoints(tasks: list[str], rounds: int, peers: bool) -> Iterator[dict[str, Any]]:
    """What a checkpoint costs, and its share of the time at the default interval."""
    every = defaults()["checkpoint"]["every"]
    for task in tasks:
        rows = race({"ours": ("saving", task)}, rounds)["ours"]
        iteration, save = median(rows), median(rows, "save")
        row = {"task": task, "iteration, ms": 1e3 * iteration, "checkpoint, ms": 1e3 * save}
        yield {**row, "bytes": median(rows, "bytes"), f"share, every {every}": save / (every * iteration + save)}


SECTIONS = {
    "checkpoints": (checkpoints, "A checkpoint of TRPO"),
    "sampling": (sampling, "Sampling, environment steps a second: an untrained policy, whose episodes are short"),
    "vines": (vines, "Vine sampling, simulator steps a second: an untrained policy, whose branches are short"),
    "atari": (
        atari,
        "Games, steps of four frames a CPU second, and CPU time in terms of the emulator's; two: by the wall",
    ),
    "image_sampling": (
        image_sampling,
        "Sampling with the Nature network, steps a second, 8 games; the lower: of games and network alone",
    ),
    "image_training": (
        image_trainings,
        "Training with the Nature network, steps a second, 8 games of 128; the peers are SB3's PPO, sb3-contrib's TRPO",
    ),
    "training": (
        training,
        "Training at the defaults, environment steps a second; the peers are sb3-contrib's TRPO and SB3's PPO",
    ),
    "scores": (scores, "From the start to a training return; the peer is sb3-contrib's TRPO with RL Zoo's settings"),
    "reductions": (reductions, "Microseconds until all ranks on this machine have what each sends"),
    "networks": (
        networks,
        "Convolutions, images a second; plain: automatic differentiation",
    ),
    "memories": (
        memories,
        "A memory of 64 units, steps a second; product: of the Fisher matrix at 4,096 steps",
    ),
    "updates": (updates, "One TRPO update (10 CG iterations; the critic: 10 epochs, minibatches of 128)"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--no-peers", action="store_true", help="leave out sb3-contrib, SB3 and EnvPool")
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    found = {name: importlib.util.find_spec(name) is not None for name in ("sb3_contrib", "envpool")}
    peers = found["sb3_contrib"] and not arguments.no_peers
    if not peers and not arguments.no_peers:
        print("sb3-contrib is not installed, so nobody is raced against: pip install -c constraints.txt -e '.[bench]'")
    report: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for name in arguments.sections:
        section, title = SECTIONS[name]
        rows = report[name] = []
        for row in section(arguments.tasks, arguments.rounds, peers):
            rows.append(row)
            arguments.out.write_text(json.dumps(report, indent=1))
        table(title, rows)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
