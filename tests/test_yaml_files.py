"""A slip in a YAML file of the user's: one sentence, with file, line and column, wherever the file lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from conftest import Command

from trpo_cli.config.yaml_files import SLIPPED, decode, describe_slip, parse, read_option

TOP = "defaults:\n- gym\n- _self_\n"
SLIPS: dict[str, tuple[str | bytes, str]] = {
    "tab": (f"{TOP}kwargs:\n\ta: 1\n", ", line 5, column 1: a TAB; YAML is indented with spaces"),
    "twice": (f"{TOP}id: A\nid: B\n", ", line 5, column 1: the key 'id' occurs twice"),
    "twice below": ("kwargs: {a: 1, a: 2}", ", line 1, column 16: the key 'a' occurs twice"),
    "utf-16": ("id: A\n".encode("utf-16"), ", line 1, column 1: it is UTF-16; save it as UTF-8"),
    "latin-1": ("a: 1\nid: größe\n".encode("latin-1"), ", line 2, column 7: it is not UTF-8; save it as UTF-8"),
    "zero": ("id: A\0", ", line 1, column 6: the character '\\x00' is not allowed in YAML"),
    "indented": (
        f"{TOP}id: A\n  step_timeout: 5\n",
        ", line 5, column 15: a ':' too many: a line that is not indented",
    ),
    "a list, indented": ("defaults:\n  - gym\n - _self_\n", ", line 3, column 2: this line is not indented like those"),
    "bracket": ("a: 1\nkwargs: [1, 2\n", ", line 2, column 9: the bracket or quote that opens here is never closed"),
    "brace": ("kwargs: {a: 1\n", ", line 1, column 9: the bracket or quote that opens here is never closed"),
    "bracket at the end": ("id: [\n", ", line 2, column 1: the file ends within a bracket"),
    "quote": ("id: 'A\n", ", line 1, column 5: the bracket or quote that opens here is never closed"),
    "no colon": ("a: 1\nid A\n", ", line 2, column 1: no ': ' follows this key"),
    "colon": ("id: A: B\n", ", line 1, column 6: a ':' too many"),
    "sign": ("id: @A\n", ", line 1, column 5: a text that begins with @ is written in quotes"),
    "alias": ("id: *A\n", ", line 1, column 5: found undefined alias 'A'; a text that begins with * is written"),
    "tag": ("id: !A b\n", ", line 1, column 5: there is no such tag; a text that begins with ! is written in quotes"),
    "two": ("id: A\n---\nid: B\n", ", line 2, column 1: a second document begins, but an option is one document"),
    "list": ("- id: A\n", ", line 1, column 1: an option consists of lines KEY: VALUE, but there is none here"),
    "text": ("A\n", ", line 1, column 1: an option consists of lines KEY: VALUE, but there is none here"),
    "number": ("id: A\n1: 2\n", ", line 2, column 1: a key is a name; one that YAML reads as something else"),
    "yes": ("on: 2\n", ", line 1, column 1: a key is a name; one that YAML reads as something else"),
    "one default": ("defaults: gym\n", ", line 1, column 11: defaults are a list"),
    "a mapping of defaults": ("defaults:\n  gym: a\n", ", line 2, column 3: defaults are a list"),
    "a number of defaults": ("defaults: [gym, 5]\n", ", line 1, column 17: each of the defaults is OPTION or GROUP:"),
    "two in one": ("defaults: [{a: b, c: d}]\n", ", line 1, column 12: each of the defaults is OPTION or GROUP:"),
    "twice itself": ("defaults: [_self_, _self_]\n", ", line 1, column 20: _self_ occurs twice"),
    "deep": ("kwargs: " + "[" * 2000, ": its brackets are nested too deeply"),
}


@pytest.mark.parametrize("name", SLIPS)
def test_a_slip_is_said_with_its_place(name: str) -> None:
    text, said = SLIPS[name]
    with pytest.raises(SLIPPED) as error:
        read_option(text if isinstance(text, bytes) else text.encode())
    assert describe_slip(error.value).startswith(said)
    assert "\n" not in describe_slip(error.value)


def test_what_is_right_is_read() -> None:
    right = (
        "\ufeffdefaults:\n- gym\n- /algo@a: ppo\r\n- optional b: null\nbase: &b {x: 1}\nkwargs:\n  <<: *b\n  y: 1e3\n"
    )
    text, content = read_option(right.encode())
    assert text == right
    assert content["defaults"] == ["gym", {"/algo@a": "ppo"}, {"optional b": None}]
    assert content["kwargs"] == {"x": 1, "y": 1000.0}
    assert read_option(b"# nothing\n")[1] == {}


def test_other_loaders_keep_their_ways_of_reading() -> None:
    assert parse(decode(b"a: 1e3\nb: 1.0e-05"), yaml.SafeLoader) == {"a": "1e3", "b": 1e-05}


@pytest.mark.parametrize("way", [("--config-dir", "mine"), ("hydra.searchpath=[mine]",)], ids=" ".join)
def test_it_is_said_wherever_options_lie(trpo_train: Command, tmp_path: Path, way: tuple[str, ...]) -> None:
    (tmp_path / "mine" / "env").mkdir(parents=True)
    for name in ("tab", "utf-16"):
        text, said = SLIPS[name]
        (tmp_path / "mine" / "env" / "Mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        done = trpo_train(*way, "env=Mine")
        assert (done.status, done.out, done.err) == (1, "", f"error: mine/env/Mine.yaml{said}")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


OPTIONS = {
    "- gmy": "line 2, column 3: env: no option 'gmy'; did you mean 'gym'?",
    "- gym\n- algo: ppo": "line 3, column 9: env/algo: no such group; a group at the root is called /algo@_global_",
    "- gym\n- override algo: ppo": "line 3, column 3: env/algo: no such group; a group at the root is called /algo@_g",
    "- gym\n- override /algo: ppo": "line 3, column 3: algo@env.algo: no such group; a group at the root is called",
    "- gym\n- /algo/metric@x: nothing": "line 3, column 19: algo/metric: no option 'nothing'; there are: empirical,",
    "- gym\n- _self_\nid: ${nowhere}": "line 4, column 5: '${nowhere}' refers to no key",
    "- gym\n- _self_\nid: ${nowhere": "line 4, column 5: id: '${' begins a reference, and '}' ends it",
    "- gym\n- _self_\nid: A\nkwargs: [1]": "error: In 'env/Mine': a list stands where a mapping belongs, {NAME: VALUE}",
    "- Mine": "the defaults of an option lead back to that option",
    "- gym\n- _self_\nid: CartPole-v1\nstep_timeout: a": "env.step_timeout: got 'a'; it should be a valid number\n"
    "it is set in mine/env/Mine.yaml, line 5, column 1",
    "- _self_": "env: its YAML has no id; 'defaults: [OPTION, _self_]' inherits it from another option",
    "- _self_\nid: A": "env: its YAML has no _target_; 'defaults: [OPTION, _self_]' inherits it from another option",
}


@pytest.mark.parametrize("defaults", OPTIONS)
def test_what_an_option_names_is_looked_for_where_it_stands(trpo_train: Command, tmp_path: Path, defaults: str) -> None:
    (tmp_path / "mine" / "env").mkdir(parents=True)
    (tmp_path / "mine" / "env" / "Mine.yaml").write_text(f"defaults:\n{defaults}\n")
    (tmp_path / "mine" / "env" / "Other.yaml").write_text("id: ${nowhere} ${\nstep_timeout: 1.0\n")
    done = trpo_train("--config-dir", "mine", "env=Mine")
    assert done.status == 1
    assert OPTIONS[defaults] in done.err
    assert "Other.yaml" not in done.err
    assert len(done.err.splitlines()) <= 3


def test_the_group_at_the_root_is_chosen_as_it_is_said(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "env").mkdir(parents=True)
    text = "defaults: [gym, _self_, {override /algo@_global_.algo: ppo}]\nid: CartPole-v1\n"
    (tmp_path / "mine" / "env" / "Mine.yaml").write_text(text)
    assert "clip: 0.2" in trpo_train("--config-dir", "mine", "env=Mine", "--cfg", "job").out


def test_in_a_sweep_it_is_said_of_its_job(trpo_train: Command, tmp_path: Path) -> None:
    (tmp_path / "mine" / "env").mkdir(parents=True)
    (tmp_path / "mine" / "env" / "Mine.yaml").write_text("id: [1\n")
    done = trpo_train("-m", "--config-dir", "mine", "env=Mine,CartPole-v1", "sweep.dry_run=true")
    assert "mine/env/Mine.yaml, line 1, column 5: the bracket or quote" in done.out
    assert "error: 1 of 2 jobs cannot start" in done.err


def test_of_the_configuration_of_a_run(
    trpo_train: Command, trpo_eval: Command, trpo_report: Command, tmp_path: Path
) -> None:
    short = ("sampler.num_envs=2", "sampler.steps_per_iteration=64", "eval.every=0")
    assert trpo_train("env=CartPole-v1", *short, "total_steps=64", "hydra.run.dir=whole").status == 0
    whole = (tmp_path / "whole" / "config.yaml").read_text()
    for name, text in (("tab", f"{whole}\ta: 1\n".encode()), ("double", f"{whole}seed: 1\n".encode())):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / "config.yaml").write_bytes(text)
    lines = len(whole.splitlines()) + 1
    for name, said in (("tab", "a TAB; YAML is indented with spaces"), ("double", "the key 'seed' occurs twice")):
        told = f"{name}/config.yaml, line {lines}, column 1: {said}"
        assert trpo_train(f"resume={name}", "total_steps=128").err == f"error: {told}"
        assert told in trpo_eval(name).err
        assert told.removeprefix(f"{name}/") in trpo_report(name).err
