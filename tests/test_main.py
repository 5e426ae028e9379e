from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import main
from conf.errors import UserError
from conf.schema import MODES

pytestmark = pytest.mark.process

ROOT = Path(main.__file__).parent
HEAVY = ("torch", "ray", "vllm", "transformers", "numpy", "actors", "rl")


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "main.py", *words], cwd=ROOT, capture_output=True, text=True, timeout=60)


def called(monkeypatch, module: str, run) -> None:
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(run=run))


# --- as a command -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word,fix", [
    ("mode=trian", "mode=trian is not a mode: did you mean mode=train? (modes: "),
    ("rl.grup_size=4", "rl.grup_size is not a key: did you mean rl.group_size?"),
    ("mode=prepare", "mode=prepare needs prepare.output: set prepare.output=FOLDER"),
])
def test_a_mistake_is_one_line_and_exit_code_2(word, fix):
    done = command(word)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raythink: error: ") and done.stderr.count("\n") == 1
    assert fix in done.stderr


def test_without_arguments_it_prints_help():
    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python main.py mode=sft|train|eval|verify|prepare|serve")
    assert "rl.group_size=8" in done.stdout


def test_nothing_heavy_is_imported_before_a_mode_runs():
    program = (
        "import sys, main\n"
        f"heavy = {HEAVY!r}\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"  # an import of any of them now raises
        "asked = (['--help'], ['--dry-run'], ['mode=trian'], ['mode=prepare'], ['rl.steps=x'])\n"
        "codes = [main.main(words) for words in asked]\n"
        "print(codes, file=sys.stderr)\n")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stderr.splitlines()[-1] == "[0, 0, 2, 2, 2]"


def test_a_reader_that_stops_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "main.py", "--help"], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE,
                          text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# --- in process ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [
    "recipe=startr", "rl.steps=ten", "justaword", "engine=foo", "mode=prepare", "rl.group_size=1", "data=files",
    "model.path=", "recipe=missing.yaml", "--fast", "run.name=${"])
def test_every_kind_of_mistake_is_one_line(word, capsys):
    assert main.main([word]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("raythink: error: ")
    assert re.search(r"did you mean|use |write |give |set |groups: ", err)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_wins_over_mistakes(word, capsys):
    assert main.main(["mode=trian", word]) == 0
    assert "recipes (recipe=NAME" in capsys.readouterr().out


def test_dry_run_prints_configuration_and_plan_and_stops(monkeypatch, capsys):
    called(monkeypatch, "rl.trainer", lambda cfg: pytest.fail("a dry run must not run"))
    assert main.main(["--dry-run", "rl.steps=17", "engine.count=2"]) == 0
    out = capsys.readouterr().out
    assert "  steps: 17\n" in out
    for actor in ("rollout-0", "rollout-1", "verifier-0", "learner-0"):
        assert f"\n{actor} " in out


def test_dry_run_shows_what_the_recipe_sets_in_that_mode(capsys):
    assert main.main(["--dry-run", "mode=sft"]) == 0
    out = capsys.readouterr().out
    assert "mode: sft\n" in out and "\nmodel:\n  path: ''\n" in out and "\nlearner-0 " in out


@pytest.mark.parametrize("mode,module", main.MODE_MODULES.items())
def test_each_mode_gets_its_configuration_and_gives_the_exit_code(mode, module, monkeypatch):
    seen = []
    called(monkeypatch, module, lambda cfg: seen.append(cfg) or 5)
    monkeypatch.setitem(sys.modules, module.split(".")[0], types.ModuleType(module.split(".")[0]))
    assert main.main([f"mode={mode}", "seed=3", "verify.input=a", "verify.output=b",
                      "prepare.output=c"]) == 5
    assert (seen[0].mode, seen[0].seed) == (mode, 3)
    assert mode in MODES


@pytest.mark.parametrize("error,code", [(UserError("two\nlines: use one"), 2), (KeyboardInterrupt(), 130)])
def test_what_a_mode_raises_becomes_an_exit_code(error, code, monkeypatch, capsys):
    def run(cfg):
        raise error

    monkeypatch.setitem(sys.modules, "rl", types.ModuleType("rl"))
    called(monkeypatch, "rl.trainer", run)
    assert main.main(["mode=train"]) == code
    err = capsys.readouterr().err
    assert err == ("raythink: error: two lines: use one\n" if code == 2 else "")


@pytest.mark.parametrize("missing,is_users", [("torch", True), ("rl.nothing_of_this_name", False)])
def test_a_missing_package_is_a_mistake_and_a_wrong_import_a_bug(missing, is_users, monkeypatch, capsys):
    def run(cfg):
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setitem(sys.modules, "rl", types.ModuleType("rl"))
    called(monkeypatch, "rl.trainer", run)
    monkeypatch.setattr(main.importlib.util, "find_spec", lambda name: None)
    if is_users:
        assert main.main(["mode=train"]) == 2
        assert "the package torch is not installed" in capsys.readouterr().err
    else:
        with pytest.raises(ModuleNotFoundError):
            main.main(["mode=train"])
