"""What comes from outside the package: registered environments, announced packages, and what neither may do.

The ways to extend it that the README shows are run by test_readme.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest
from conftest import Command

from trpo_cli.config.groups import CONF
from trpo_cli.config.plugins import EXTRAS, import_plugins
from trpo_cli.errors import ConfigError
from trpo_cli.run.layout import read_config

SHORT = ("total_steps=64", "sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")
PACKAGE = {
    "my_lab/__init__.py": "",
    "my_lab/policies.py": "from trpo_cli.models.policies.mlp import MLPPolicy\n\n\nclass Wide(MLPPolicy):\n    pass\n",
    "my_lab/conf/policy/wide.yaml": "defaults: [mlp, _self_]\n_target_: my_lab.policies.Wide\nhidden_sizes: [99]\n",
    "my_lab-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: my_lab\nVersion: 1\n",
    "my_lab-1.dist-info/entry_points.txt": "[trpo_cli.plugins]\nmy_lab = my_lab\n",
}
REGISTER = (
    "import gymnasium\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
    "gymnasium.register('{}', entry_point=CartPoleEnv, max_episode_steps=20)\n"
)


def write(directory: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Afterwards Gymnasium knows no more than before, and `my_lab` was never imported."""
    before = dict(gymnasium.registry)
    yield
    gymnasium.registry.clear()
    gymnasium.registry.update(before)
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


def test_any_registered_environment_is_an_option(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    id = "CliffWalking-v1"
    assert not (CONF / "env" / f"{id}.yaml").exists()
    done = trpo_train(f"env={id}", *SHORT, "env.max_episode_steps=9", "hydra.run.dir=run")
    assert done.status == 0, done.err
    saved = read_config(tmp_path / "run")
    assert (saved["env"]["id"], saved["choices"]["env"], saved["env"]["max_episode_steps"]) == (id, id, 9)
    assert trpo_eval("run", "--episodes", "1", "--max-steps", "9").status == 0


def test_they_are_options_of_sweeps_and_presets_too(trpo_train: Command, tmp_path: Path) -> None:
    done = trpo_train("-m", "env=CartPole-v1,MountainCar-v0,CliffWalking-v1", *SHORT, "hydra.sweep.dir=sweep")
    assert done.status == 0, done.err
    assert len(list((tmp_path / "sweep").rglob("summary.json"))) == 3
    assert "id: CliffWalking-v1" in trpo_train("--cfg", "job", "experiment=closed_vine", "env=CliffWalking-v1").out


@pytest.mark.slow
def test_they_are_found_in_the_processes_of_a_launcher(trpo_train: Command, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    write(tmp_path, {"for_workers.py": REGISTER.format("Lab/Workers-v0")})
    code = "from trpo_cli.train import main; main()"
    arguments = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "plugins=[for_workers]", "seed=0,1")
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "env=Lab/Workers-v0", *SHORT, "hydra.sweep.dir=sweep"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").rglob("summary.json"))) == 2


def test_a_yaml_of_the_user_s_comes_before_the_registry(trpo_train: Command, tmp_path: Path) -> None:
    write(
        tmp_path, {"mine/env/CliffWalking-v1.yaml": "defaults: [gym, _self_]\nid: CliffWalking-v1\nstep_timeout: 7.0\n"}
    )
    for way in (("--config-dir", "mine"), ("hydra.searchpath=[mine]",)):
        assert "step_timeout: 7.0" in trpo_train("--cfg", "job", *way, "env=CliffWalking-v1").out


@pytest.mark.usefixtures("forgotten")
def test_a_plugin_registers_environments_before_they_are_chosen(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, {"registers.py": REGISTER.format("Lab/Named-v0")})
    monkeypatch.syspath_prepend(tmp_path)
    assert "env: no option 'Lab/Named-v0'" in trpo_train("env=Lab/Named-v0").err
    done = trpo_train("plugins=[registers]", "env=Lab/Named-v0", *SHORT)
    assert done.status == 0, done.err


@pytest.mark.usefixtures("forgotten")
def test_a_package_that_announces_itself_is_found(
    trpo_train: Command, trpo_eval: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options, parts and environments, without `plugins`: in a new run, in its continuation, in its evaluation."""
    write(tmp_path / "site", {**PACKAGE, "my_lab/__init__.py": REGISTER.format("Lab/Announced-v0")})
    assert "policy: no option 'wide'" in trpo_train("policy=wide").err
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert " wide" in trpo_train("--help").out
    begun = trpo_train("policy=wide", "env=Lab/Announced-v0", *SHORT, "hydra.run.dir=run")
    assert begun.status == 0, begun.err
    assert read_config(tmp_path / "run")["policy"]["_target_"] == "my_lab.policies.Wide"
    assert trpo_train("resume=run", "policy=wide", "total_steps=128").status == 0
    assert trpo_eval("run", "--episodes", "1").status == 0
    monkeypatch.syspath_prepend(tmp_path)  # forgets what was found
    (tmp_path / "site" / "my_lab-1.dist-info" / "entry_points.txt").write_text("")
    refused = trpo_eval("run", "--episodes", "1")
    assert "'my_lab.policies.Wide' is not in a package that parts are built from" in refused.err


@pytest.mark.usefixtures("forgotten")
def test_a_slip_in_the_options_of_a_package_is_said_with_its_place(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path / "site", {**PACKAGE, "my_lab/conf/policy/wide.yaml": "defaults: [mlp, _self_]\n\thidden_sizes: [9]\n"}
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    done = trpo_train("policy=wide")
    assert done.err == "error: site/my_lab/conf/policy/wide.yaml, line 2, column 1: a TAB; YAML is indented with spaces"


@pytest.mark.usefixtures("forgotten")
def test_a_package_is_imported_only_when_it_is_asked_for(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site", {**PACKAGE, "my_lab/__init__.py": "raise ImportError('it is broken')\n"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert trpo_train("--help").status == 0
    assert trpo_train("env=CartPole-v1", *SHORT).status == 0
    told = (
        f"plugins: 'my_lab' cannot be imported: {tmp_path}/site/my_lab/__init__.py, line 1: ImportError: it is broken"
    )
    assert told in trpo_train("env=Lab/Nowhere-v0").err


def test_a_plugin_that_is_not_on_the_python_path(trpo_train: Command, trpo_eval: Command, tmp_path: Path) -> None:
    """What to type is said, where the module lies near."""
    write(tmp_path, {"beside_us.py": "", "deeper/below_us/__init__.py": ""})
    write(tmp_path, {"run/config.yaml": "{env: {}, policy: {}, seed: 0, choices: {}}\n"})
    for name, place in (("beside_us", "."), ("below_us", "deeper")):
        done = trpo_train(f"plugins=[{name}]", "env=CartPole-v1")
        assert f"is not on the Python path: PYTHONPATH={place} trpo-train ..." in done.err
    played = trpo_eval("run", "--plugins", "beside_us")
    assert "beside_us.py is not on the Python path: PYTHONPATH=. trpo-eval ..." in played.err
    assert "PYTHONPATH=DIR trpo-train ..." in trpo_train("plugins=[nowhere_at_all]", "env=CartPole-v1").err
    for name, said in (
        ("beside_us.py", "write beside_us"),
        ("./beside_us", "neither '/' nor '.py'; write MODULE"),
    ):
        assert said in trpo_train(f"plugins=[{name}]", "env=CartPole-v1").err


def test_a_plugin_that_is_an_extra_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "no_such_mazes", "robotics")
    with pytest.raises(
        ConfigError, match=r"no module 'no_such_mazes' is installed; pip install 'trpo-cli\[robotics\]'"
    ):
        import_plugins(["no_such_mazes"])


BROKEN = {
    "raises_us": (
        "import numpy\n\n\nnumpy.zeros(3).reshape(7)\n",
        "line 4: ValueError: cannot reshape array of size 3",
    ),
    "misspelt_us": ("def f(:\n", "line 1: SyntaxError: invalid syntax"),
    "leaves_us": ("raise SystemExit(3)\n", "line 1: SystemExit: 3"),
    "lacks_us": ("\nimport no_such_dependency\n", "line 2: ModuleNotFoundError: No module named 'no_such_dependency'"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_plugin_that_raises_is_told_with_its_line(
    trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    text, said = BROKEN[name]
    write(tmp_path, {f"{name}.py": text})
    monkeypatch.syspath_prepend(tmp_path)
    for arguments in (("env=CartPole-v1",), ("env=Nowhere-v0",), ("-m", "env=CartPole-v1", "seed=0,1")):
        done = trpo_train(f"plugins=[{name}]", *arguments)
        assert done.status == 1
        assert f"plugins: '{name}' cannot be imported: {tmp_path}/{name}.py, {said}" in done.err
        assert len(done.err.splitlines()) <= 2
    assert not [path.name for path in tmp_path.iterdir() if path.is_dir() and path.name != "__pycache__"]


@pytest.mark.parametrize(
    "override", ["env=../../outside/Mine", "env=CartPole-v1,../outside/Mine", "env/../../outside=Mine", "algo/../env=a"]
)
def test_no_option_lies_outside_the_search_path(trpo_train: Command, tmp_path: Path, override: str) -> None:
    write(tmp_path, {"outside/Mine.yaml": "seed: 3\n", "mine/env/A.yaml": "seed: 3\n"})
    refused = trpo_train("--config-dir", "mine", override)
    assert refused.status == 1
    assert "an option is a name, without '..'" in refused.err


def test_help_lists_options_of_the_user_s(trpo_train: Command, tmp_path: Path) -> None:
    write(tmp_path, {"mine/algo/quick.yaml": "defaults: [ppo]\n", "mine/algo/advantage/slow.yaml": "lam: 1\n"})
    shown = trpo_train("--help", "--config-dir", "mine").out
    assert " quick" in shown
    assert " slow" in shown
    assert " quick" not in trpo_train("--help").out
