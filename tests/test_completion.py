"""TAB: what is offered, how soon, and in real shells where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command

from trpo_cli.cli.completion import list_candidates
from trpo_cli.config.groups import CONF, find_options

ASKS = {
    "trpo-train algo=trpo_p": ["algo=trpo_penalty"],
    "trpo-train env=Hop": ["env=Hopper-v4", "env=Hopper-v5"],
    "trpo-train algo/step/": ["algo/step/constraint="],
    "trpo-train algo/step/constraint=": ["algo/step/constraint=max_kl", "algo/step/constraint=mean_kl"],
    "trpo-train experiment=paper/cart": ["experiment=paper/cartpole"],
    "trpo-train algo.del": ["algo.delta="],
    "trpo-train algo=ppo algo.del": [],
    "trpo-train algo=ppo algo.target": ["algo.target_kl="],
    "trpo-train policy.hidden_sizes=": ["policy.hidden_sizes=[64,64]"],
    "trpo-train checkpoint.": ["checkpoint.best=", "checkpoint.every=", "checkpoint.keep="],
    "trpo-train see": ["seed="],
    "trpo-train -m algo=trpo,npg,pp": ["algo=trpo,npg,ppo", "algo=trpo,npg,ppo_penalty"],
    "trpo-train log": ["logger="],
    "trpo-train logger=w": ["logger=wandb"],
    "trpo-train -m hydra": [f"hydra/{name}=" for name in ("launcher", "sweeper/pruner", "sweeper/sampler", "sweeper")],
    "trpo-train -m hydra/launcher=j": ["hydra/launcher=joblib"],
    "trpo-train -m hydra/sweeper=": ["hydra/sweeper=optuna", "hydra/sweeper=sweep"],
    "trpo-train -m sweep.resume=ru": ["sweep.resume=run one/", "sweep.resume=runs/"],
    "trpo-train --multi": ["--multirun"],
    "trpo-train resume=run": ["resume=run one/", "resume=runs/"],
    "trpo-train -m init_from=runs/,ot": ["init_from=runs/,other/"],
    "trpo-train algo=trop se": ["seed="],
    "trpo-train 'se": [],
}


@pytest.mark.parametrize("line", ASKS)
def test_what_could_stand_next(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs", "run one", "other"):
        (tmp_path / name).mkdir()
    assert list_candidates(line) == ASKS[line]


def test_an_empty_word_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert {"algo=", "algo.", "env=", "seed=", "eval."} <= set(list_candidates("trpo-train "))
    assert list_candidates("trpo-train critic=") == [f"critic={name}" for name in find_options(CONF / "critic")]


def test_options_of_the_user_s_are_offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "env").mkdir(parents=True)
    (tmp_path / "mine" / "env" / "Mine-v0.yaml").touch()
    assert list_candidates("trpo-train --config-dir mine env=Mine") == ["env=Mine-v0"]


def test_an_answer_needs_neither_torch_nor_gymnasium() -> None:
    code = (
        "import sys; from trpo_cli.train import main; sys.argv[1:] = ['--complete', 'trpo-train algo=ppo algo.cl']\n"
        "main(); print({'torch', 'gymnasium', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\nset()\n"


def test_installing_twice_adds_one_line(trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home(tmp_path, monkeypatch)
    (tmp_path / ".bashrc").write_text("alias a=b")
    for _ in range(2):
        assert "which" in trpo_train("--install-completion", "bash").out
    place = tmp_path / ".local" / "share" / "trpo-cli" / "completion.bash"
    assert (tmp_path / ".bashrc").read_text() == f"alias a=b\n. {place}\n"
    assert place.read_text() == trpo_train("--show-completion", "bash").out
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert "--install-completion bash|zsh|fish" in trpo_train("--install-completion").err


def home(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(directory))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)


BASH = """
complete() {{ :; }}; compopt() {{ :; }}; . {script}
COMP_LINE='trpo-train algo=trpo_p'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDBREAKS=$' ='; _trpo_train trpo-train
echo "${{COMPREPLY[@]}}"
_trpo_options trpo-eval --epi; echo "${{COMPREPLY[@]}}"
"""
ZSH = """
compdef() {{ : }}; compadd() {{ print -r -- ${{(P)@[-1]}} }}; . {script}
words=(trpo-train algo=trpo_p); CURRENT=2; _trpo_train
"""
FISH = "source {script}; complete -C 'trpo-train algo=trpo_p'; complete -C 'trpo-eval --epi'"
IN_SHELLS = {
    "bash": (BASH, ["trpo_penalty", "--episodes"]),
    "zsh": (ZSH, ["algo=trpo_penalty"]),
    "fish": (FISH, ["algo=trpo_penalty", "--episodes"]),
}


@pytest.mark.parametrize("shell", IN_SHELLS)
def test_the_shell_asks(shell: str, trpo_train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own completion function, as it is called after TAB."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    home(tmp_path, monkeypatch)
    program, said = IN_SHELLS[shell]
    (tmp_path / "script").write_text(trpo_train("--show-completion", shell).out)
    for name, module in (("trpo-train", "train"), ("trpo-eval", "evaluate")):
        code = f"import sys; sys.argv[0] = '{name}'; from trpo_cli.{module} import main; main()"
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [shell, "-c", program.format(script=tmp_path / "script")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == said, done.stderr
