"""Every command of every page is run, shortened, in the order it stands there; every link leads somewhere.

The tables of results are held to the archived runs by `test_results.py`.
"""

from __future__ import annotations

import importlib
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

from trpo_cli.config.groups import CONF, find_options

ROOT = Path(__file__).parent.parent
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "conf/README.md",
        "runs/README.md",
        "runs/reference/README.md",
        "runs/reference/tuning.md",
        "trpo_cli/README.md",
        "trpo_cli/shards/README.md",
        "tests/README.md",
    )
}
WRITTEN = r"```(?:yaml|python|toml)\n"
SITE = "site-packages"  # where packages are installed that a page writes
SHORT = ("total_steps=64", "eval.episodes=1", "eval.every=64")
SINGLE_PATH = ("sampler.num_envs=2", "sampler.steps_per_iteration=64")
IN_PYTHON = ", ".join(f'"{word}"' for word in (*SHORT, *SINGLE_PATH))
VINE = ("sampler.num_states=4", "sampler.branch_length=4", "sampler.steps_per_iteration=256")
SEARCH = ("hydra.sweeper.n_trials=2", "hydra.sweeper.seeds=[0]")
FEWER = ("hydra.sweeper.params.seed='0'", "total_steps=64", "eval.every=0")
INSTEAD = {  # of what would take long
    "seed=0,1,2": "seed=0",
    "seed=0,1,2,3": "seed=0,1",
    "hydra/launcher=joblib": "hydra/launcher=basic",  # test_sweep starts its processes
    "algo=trpo,npg,ppo": "algo=trpo,npg",
    "algo=trpo,npg,vpg": "algo=trpo,npg",
    "algo=trpo,cem": "algo=trpo",  # test_cli runs the other
    "env=Hopper-v4,Walker2d-v4": "env=Hopper-v4",
    "env.kwargs.num_states=1000": "env.kwargs.num_states=20",
    "env=Swimmer-v4": "env=CartPole-v1",  # a trial without the end of an episode has failed
}
LONG = {  # only built
    "experiment=benchmark/atari_10m_frames",
    "env=HalfCheetah-v4",
    "env=Reacher-v4",
    "hydra.sweep.dir=runs/sweeps/hopper/trpo",
    "hydra.sweep.dir=runs/sweeps/hopper/others",
    "hydra.sweeper.trials_at_once=2",
    "hydra.launcher.n_jobs=2",
}
GAME = re.compile(r"env=(ALE/|Breakout|Pong)")  # whose evaluation would take thousands of steps
BENCHMARK = ("seed=20", "total_steps=64", "eval.episodes=1")
BENCHMARKS = {
    "experiment=benchmark/mujoco_1m": {"algo": "algo=trpo,npg", "env": "env=Hopper-v4"},
    "experiment=benchmark/minatar": {"algo": "algo=trpo,ppo", "env": "env=MinAtar/Breakout-v1"},
}


def commands(page: str) -> list[str]:
    """What the page has one type, line by line."""
    return [
        line.partition(" #")[0].strip()
        for block in re.findall(r"```bash\n(.*?)```", PAGES[page], re.DOTALL)
        for line in block.splitlines()
    ]


def files(page: str) -> list[tuple[str, str]]:
    """The files that the page has one write: name and text."""
    return re.findall(WRITTEN + r"# (\S+)\n(.*?)```", PAGES[page], re.DOTALL)


def test_the_front_page_is_short_and_opens_with_the_two_commands() -> None:
    assert len(PAGES["README.md"].splitlines()) < 200
    assert commands("README.md")[:2] == ["make train", "make test"]


def test_every_file_has_a_name() -> None:
    for page, text in PAGES.items():
        assert len(files(page)) == len(set(files(page))) == len(re.findall(WRITTEN, text))


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_every_command(
    trpo_train: Command,
    trpo_eval: Command,
    trpo_export: Command,
    trpo_tables: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    page: str,
) -> None:
    for name, text in files(page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text.replace('"total_steps=50_000"', IN_PYTHON))
    for path in (tmp_path, tmp_path / SITE):
        monkeypatch.syspath_prepend(path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # --install-completion writes there
    (tmp_path / "home").mkdir()
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    for command in commands(page):
        program, *arguments = shlex.split(command.removeprefix("PYTHONPATH=. "))
        if program == "trpo-train":
            done = trpo_train(*shortened(arguments))
        elif program == "trpo-eval":
            done = trpo_eval(*arguments)
            if "--video" in arguments and "apt-get install" in done.err:
                continue  # what the page says is missing, is
        elif program == "trpo-export":
            done = trpo_export(*arguments)
        elif program == "trpo-report":
            done = trpo_tables(*arguments)  # test_report draws
        else:
            other(program, arguments, tmp_path, monkeypatch)
            continue
        assert done.status == 0, f"{command}\n{done.err}"


def shortened(arguments: list[str]) -> list[str]:
    """A command that ends within a second or two."""
    if {"--help", "--cfg", "--install-completion"} & set(arguments):
        return arguments
    if LONG & set(arguments):
        return [*arguments, "sweep.dry_run=true"]
    arguments = [INSTEAD.get(argument, argument) for argument in arguments]
    if benchmark := BENCHMARKS.keys() & set(arguments):
        less = BENCHMARKS[benchmark.pop()]
        groups = {argument.partition("=")[0] for argument in arguments}
        return [*arguments, *(less[name] for name in less.keys() - groups), *BENCHMARK, *SINGLE_PATH]
    if "experiment=npg_multiplier" in arguments:
        return [*arguments, "algo.step.multiplier=0.3,1", *FEWER, *SINGLE_PATH]
    if any(argument.startswith("experiment=paper/") for argument in arguments):
        only_built = "experiment=paper/cartpole" not in arguments
        some = [] if any("vine" in argument for argument in arguments) else ["algo=trpo,npg_fixed"]
        return [*some, *arguments, *FEWER, f"sweep.dry_run={only_built}"]
    if "hydra/sweeper=optuna" in arguments:
        return [*arguments, *SHORT, *SINGLE_PATH, *SEARCH]
    if any(map(GAME.match, arguments)):
        arguments = [*arguments, "eval.every=0", "policy.hidden_sizes=[8]", "policy.convolutions=[[4,8,4]]"]
        return [*arguments, SHORT[0], *SINGLE_PATH[:1], *(VINE if "sampler=vine" in arguments else SINGLE_PATH)]
    if any("vine" in argument for argument in arguments):
        return [*arguments, *SHORT, *SINGLE_PATH[:1], *VINE]
    if "algo=bc" in arguments:
        return [*arguments, *SHORT]
    exact = any(argument.startswith(("algo=cpi", "algo=monotone_pi", "sampler=exact")) for argument in arguments)
    return [*arguments, *SHORT[:2], "total_steps=2"] if exact else [*arguments, *SHORT, *SINGLE_PATH]


def other(program: str, arguments: list[str], directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands that would train for minutes or serve for ever: what they name is there, and they begin well."""
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
    elif program == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", *arguments, *SHORT, *SINGLE_PATH]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
    elif program == "python" and arguments[:2] == ["-m", "pytest"]:
        subprocess.run([sys.executable, *arguments, "--collect-only"], cwd=ROOT, check=True, capture_output=True)
    elif program == "python" and arguments[0] == "-c":
        exec(arguments[1], {})
    elif program == "python" and (directory / arguments[0]).exists():
        runpy.run_path(str(directory / arguments[0]), run_name="__main__")
    elif program == "python":
        monkeypatch.setattr(sys, "argv", [*arguments, "--help"])
        with pytest.raises(SystemExit, match=r"^0$"):
            runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    elif program == "tensorboard":
        assert (directory / arguments[1]).is_dir()
        subprocess.run([Path(sys.executable).with_name(program), "--version"], check=True, capture_output=True)
    elif arguments[:1] == ["install"] and (directory / arguments[-1] / "pyproject.toml").exists():
        offline = ("--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
        command = [sys.executable, "-m", "pip", *arguments, *offline, "--target", SITE]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)
        importlib.invalidate_caches()
    elif program == "pip":  # test_packaging installs for real
        assert all((ROOT / name).exists() for name in arguments if not name.startswith("-") and name != "install")
    else:
        pytest.fail(f"no test knows how to run {program}")


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!http)([^)#\s]*)#?([^)\s]*)\)", PAGES[page]):
        place = (ROOT / page).parent / target if target else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{target}#{anchor}"


def anchors(text: str) -> list[str]:
    """Of the headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_the_pages_of_folders_name_what_is_in_them() -> None:
    tests = {path.name for path in (ROOT / "tests").glob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", PAGES["tests/README.md"])) == tests
    rooms = {
        path.name for path in (ROOT / "trpo_cli").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    named = {name.strip("/") for name in re.findall(r"\[`([\w.]+/?)`\]", PAGES["trpo_cli/README.md"])}
    assert rooms - named == {"__init__.py", "__main__.py"}
    for group in (
        "algo",
        "algo/advantage",
        "algo/metric",
        "algo/step",
        "algo/surrogate",
        "critic",
        "policy",
        "sampler",
    ):
        assert [name for name in find_options(CONF / group) if f"`{name}`" not in PAGES["conf/README.md"]] == []
