"""Stages one after the other: which commands are given, what is repeated, what the report says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from conf.errors import UserError
from conf.load import load
from rl import pipeline
from rl.report.chain import rungs

LINES = (
    "sft mode=sft recipe=starter",
    "rl mode=train recipe=starter model.path={sft.hf}",
    "eval mode=eval model.path={rl.hf}",
)


def words(root: Path, *more: str) -> list[str]:
    listed = ",".join(f'"{line}"' for line in LINES)
    return ["recipe=pipeline", f"run.dir={root}", "run.name=p", f"pipeline.stages=[{listed}]", *more]


class Stages:
    """Stands in for the commands: each leaves what its mode would; `codes` are exit codes to give, in order."""

    def __init__(self, root: Path, codes=()):
        self.root, self.codes, self.asked = root, list(codes), []

    def __call__(self, given) -> int:
        self.asked.append(list(given))
        code = self.codes.pop(0) if self.codes else 0
        name = next(w.partition("=")[2] for w in given if w.startswith("run.name="))
        folder = self.root / "p" / name
        folder.mkdir(exist_ok=True)
        if code:
            return code
        saved = folder / "checkpoints" / "step_3"
        saved.mkdir(parents=True)
        (saved / "trainer.json").write_text("{}")
        overall = {"overall": {"pass@1": 0.5, "tokens": 30.0}, "domains": {}}
        result = {"rl": {"eval_before": overall, "eval_after": overall},
                  "eval": {"eval": overall, "interval": [0.4, 0.6]}}
        (folder / "summary.json").write_text(json.dumps({"wall_s": 1.0, **result.get(name, {})}))
        return 0


@pytest.fixture
def stages(tmp_path, monkeypatch):
    made = Stages(tmp_path)
    monkeypatch.setattr(pipeline, "run_stage", made)
    monkeypatch.setattr(pipeline.watchdog, "start", lambda: "")
    return made


def test_each_stage_is_given_the_one_befores_checkpoint(tmp_path, stages):
    assert pipeline.run(load(words(tmp_path))) == 0
    sft, rl, evaluation = stages.asked
    assert sft == ["mode=sft", "recipe=starter", f"run.dir={tmp_path}/p", "run.name=sft", "run.resume=auto"]
    assert f"model.path={tmp_path}/p/sft/checkpoints/step_3/hf" in rl
    assert f"model.path={tmp_path}/p/rl/checkpoints/step_3/hf" in evaluation
    summary = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert list(summary["stages"]) == ["sft", "rl", "eval"] and not summary["interrupted"]
    assert "before rl" in (tmp_path / "p" / "report.html").read_text()


def test_what_the_command_line_sets_goes_to_every_stage_that_does_not_set_it(tmp_path, stages):
    pipeline.run(load(words(tmp_path, "eval.samples=4", "data.domains=[math,code]", "model.path=other")))
    for asked in stages.asked:
        assert "eval.samples=4" in asked and 'data.domains=["math", "code"]' in asked
        load(asked)
    assert "model.path=other" in stages.asked[0] and "model.path=other" not in stages.asked[1]


def test_a_stage_that_fails_stops_the_pipeline_and_only_it_is_repeated(tmp_path, stages, capsys):
    stages.codes = [0, 130]
    assert pipeline.run(load(words(tmp_path))) == 130
    assert "go on with: python main.py recipe=" in capsys.readouterr().out
    assert json.loads((tmp_path / "p" / "summary.json").read_text())["interrupted"]
    again = load([f"recipe={tmp_path}/p/config.yaml", f"run.resume={tmp_path}/p"])
    assert pipeline.run(again) == 0
    names = [next(w for w in asked if w.startswith("run.name=")) for asked in stages.asked]
    assert names == ["run.name=sft", "run.name=rl", "run.name=rl", "run.name=eval"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((), "pipeline.stages is empty"),
        (("rl mode=train model.path={sft.hf}",), "{sft.hf} in stage rl names no earlier stage"),
        (("sft mode=sft", "rl mode=train model.path={sfd.hf}"), "did you mean sft?"),
        (("a mode=sft", "a mode=sft"), "must begin with a name of its own"),
        (("mode=sft recipe=starter",), "must begin with a name of its own"),
    ],
)
def test_mistakes_in_the_list(lines, message):
    with pytest.raises(UserError) as error:
        pipeline.parse_stages(lines)
    assert message in str(error.value)


def test_a_mistake_in_a_later_stage_is_told_before_the_first_begins(tmp_path, stages):
    with pytest.raises(UserError, match="pipeline stage rl: rl.stpes is not a key: did you mean rl.steps"):
        pipeline.run(load(["recipe=pipeline", f"run.dir={tmp_path}", 'pipeline.stages=["rl mode=train rl.stpes=3"]']))
    with pytest.raises(UserError, match="pipeline stage x has no mode of its own"):
        pipeline.run(load(["recipe=pipeline", f"run.dir={tmp_path}", 'pipeline.stages=["x recipe=pipeline"]']))
    assert not stages.asked and not list(tmp_path.iterdir())


def test_a_stage_without_a_checkpoint_is_told(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        pipeline.newest_hf(tmp_path)


def test_rungs_are_what_was_measured_in_order():
    overall = {"overall": {"pass@1": 0.25, "tokens": 10.0}}
    summaries = {"sft": {"curve": []}, "rl": {"eval_before": overall}, "e": {"eval": overall, "interval": [0.2, 0.3]}}
    found = list(rungs(summaries))
    assert [(r.label, r.score, r.interval) for r in found] == [("before rl", 0.25, None), ("e", 0.25, (0.2, 0.3))]


def test_the_rungs_of_an_ablation_are_its_arms_with_all_tokens_spent():
    arm = {"pass@1": 0.5, "tokens": 9.0, "all_tokens": 27.0, "interval": [0.4, 0.6]}
    overall = {"overall": {"pass@1": 0.1, "tokens": 1.0}}
    found = list(rungs({"eval": {"eval": overall, "ablation": {"starter": {"plain": arm, "+ plan": arm}}}}))
    assert [(r.label, r.tokens) for r in found] == [("eval, plain", 27.0), ("eval, + plan", 27.0)]


def test_a_stage_may_name_its_own_folder_but_not_its_own_checkpoint():
    assert pipeline.parse_stages(["data mode=prepare prepare.output={data}"])[0].name == "data"
    with pytest.raises(UserError, match="names no earlier stage"):
        pipeline.parse_stages(["sft mode=sft model.path={sft.hf}"])


@pytest.mark.parametrize("recipe", ["pipeline", "ablation_start", "ablation_context"])
def test_the_stages_of_the_recipes_load(recipe):
    found = pipeline.stage_configs(load([f"recipe={recipe}"]))
    assert list(found)[-1] in ("eval", "compare") and all(cfg.mode != "pipeline" for cfg in found.values())


@pytest.mark.parametrize(("ended", "code"), [(0, 0), (3, 3), (130, 130), (-9, 137)])
def test_a_stage_that_a_signal_ended_has_the_code_that_a_shell_gives(monkeypatch, ended, code):
    waits = iter([KeyboardInterrupt, ended])  # ctrl-C while it is waited for: the stage ends by itself

    class Child:
        def __init__(self, *_, **__): ...

        def wait(self):
            if (outcome := next(waits)) is KeyboardInterrupt:
                raise KeyboardInterrupt
            return outcome

    monkeypatch.setattr(pipeline.subprocess, "Popen", Child)
    assert pipeline.run_stage(["mode=train"]) == code
