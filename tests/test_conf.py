from __future__ import annotations

import ast
import re

import pytest

from conf.errors import UserError
from conf.help import MODE_HELP, help_text, summary
from conf.load import CONF_DIR, load, names, resolve, to_yaml
from conf.schema import DOMAINS, GROUPS, MODES, Config, keys, lookup, sections
from conf.validate import ABOVE_ZERO, AT_LEAST, AT_MOST


@pytest.fixture
def conf_dir(tmp_path):
    """A folder of recipes and groups of the test's own."""
    for folder in ("recipes", *GROUPS):
        (tmp_path / folder).mkdir()
    (tmp_path / "data" / "files.yaml").write_text("source: files\ntrain: [a.jsonl]\n")
    (tmp_path / "data" / "gym.yaml").write_text("source: reasoning_gym\ntasks: [chain_sum]\n")
    (tmp_path / "recipes" / "starter.yaml").write_text(
        "defaults: {data: files}\ndata:\n  seed: 5\n  on_bad_row: skip\nrl: {steps: 7}\n")
    return tmp_path


def user_file(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return f"recipe={path}"


# --- the schema ---------------------------------------------------------------------------------------------------


def test_there_are_fewer_than_150_keys_and_each_has_one_line_of_help():
    assert 50 < len(keys()) < 150
    for key in keys().values():
        assert key.help and "\n" not in key.help and len(key.help) <= 100, key.name


def test_names_that_stand_in_two_places_agree():
    # Read as text: importing actors.messages would drag numpy in, which conf must not need.
    messages = (CONF_DIR.parent / "actors" / "messages.py").read_text()
    assert ast.literal_eval(re.search(r"^DOMAINS = (\(.*?\))", messages, re.M | re.S)[1]) == DOMAINS
    assert set(MODE_HELP) == set(MODES)
    assert set(AT_LEAST) | set(AT_MOST) | set(ABOVE_ZERO) <= set(keys())
    assert set(GROUPS) <= sections()


def test_lists_are_not_shared_between_configurations():
    one = Config()
    one.data.domains.append("math")
    assert Config().data.domains == [] and keys()["data.domains"].default == []


# --- recipes and groups -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", names("recipes"))
def test_every_recipe_loads_is_short_and_says_what_it_is(recipe):
    path = CONF_DIR / "recipes" / f"{recipe}.yaml"
    assert load([f"recipe={recipe}"]).recipe == recipe
    assert len(path.read_text().splitlines()) <= 40
    assert summary(path)


def test_the_starter_s_two_recipes_train_alike():
    both = [load([f"recipe={name}"]) for name in ("starter", "starter_async")]
    names_ = ("rl", "learner", "engine", "sampling", "eval", "data", "model", "verifier", "sandbox")
    sections = [{name: vars(getattr(cfg, name)) for name in names_} for cfg in both]
    differ = {f"{name}.{key}" for name, values in sections[0].items() for key in values
              if values[key] != sections[1][name][key]}
    assert differ == {"rl.staleness", "learner.world_size", "engine.count", "engine.update"}


@pytest.mark.parametrize("group,name", [(g, n) for g in GROUPS for n in names(g)])
def test_every_group_loads(group, name):
    assert resolve([f"{group}={name}"]) is not None
    assert summary(CONF_DIR / group / f"{name}.yaml")


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("recipe", names("recipes"))
def test_every_recipe_serves_the_modes_that_need_a_policy(recipe, mode):
    own = load([f"recipe={recipe}"]).mode  # a recipe that names a mode is for that one
    mode = mode if own == Config().mode else own
    assert load([f"recipe={recipe}", f"mode={mode}"]).mode == mode


def different(one: Config, other: Config) -> set[str]:
    return {name for name in keys() if lookup(one, name) != lookup(other, name)}


def test_starter_recipe_is_the_schemas_defaults_but_for_what_suits_its_machine_and_its_model():
    suits = {"engine.count", "engine.threads", "rl.steps", "rl.refill_rounds", "sandbox.allow_weaker"}
    suits |= {"verifier.workers"}
    rate = {"learner.lr", "learner.schedule", "learner.min_lr_ratio"}
    cut = {"learner.world_size", "learner.threads", "learner.micro_tokens"}
    assert different(load([]), Config()) <= suits | rate | cut


def test_starter_recipe_makes_its_policy_from_scratch_in_mode_sft_only():
    train, sft = load([]), load(["mode=sft"])
    assert train.model.path and not sft.model.path
    allowed = {"mode", "model", "engine", "learner", "sft", "run"}
    assert {name.partition(".")[0] for name in different(train, sft)} <= allowed
    assert load(["mode=sft", "model.path=mine"]).model.path == "mine"


def test_layers_lie_over_each_other_in_order(conf_dir):
    cfg = load([], conf_dir)
    assert (cfg.data.source, cfg.data.train, cfg.data.seed, cfg.rl.steps) == ("files", ["a.jsonl"], 5, 7)
    assert load(["rl.steps=9", "data.seed=6"], conf_dir).rl.steps == 9
    assert load(["rl.steps=9", "rl.steps=10"], conf_dir).rl.steps == 10


def test_a_chosen_group_replaces_the_recipes_section_wholly(conf_dir):
    data = load(["data=gym", "data.seed=8"], conf_dir).data
    assert (data.source, data.tasks, data.train, data.on_bad_row, data.seed) == (
        "reasoning_gym", ["chain_sum"], [], "refuse", 8)
    assert load(["data=gym"], conf_dir).rl.steps == 7


IN_MODE = """
in_mode:
  sft: {learner: {lr: 2e-3}, sft: {steps: 9}}
  eval: {learner: {lr: 3e-3}}
mode: sft
learner: {lr: 1e-5, threads: 1}
"""


@pytest.mark.parametrize("words,lr,sft_steps", [
    ([], 2e-3, 9),  # the recipe's own mode; what counts in it lies over the rest, wherever it is written
    (["mode=sft"], 2e-3, 9),
    (["mode=eval"], 3e-3, Config().sft.steps),
    (["mode=train"], 1e-5, Config().sft.steps),
    (["mode=train", "mode=eval"], 3e-3, Config().sft.steps),
    (["learner.lr=4e-4"], 4e-4, 9),
])
def test_settings_in_a_mode_count_in_that_mode_only(tmp_path, words, lr, sft_steps):
    cfg = load([user_file(tmp_path, IN_MODE), *words])
    assert (cfg.learner.lr, cfg.sft.steps, cfg.learner.threads) == (lr, sft_steps, 1)


def test_a_chosen_group_replaces_settings_in_a_mode_too(conf_dir):
    recipe = conf_dir / "recipes" / "starter.yaml"
    recipe.write_text("defaults: {data: files}\nin_mode: {train: {data: {seed: 5}, rl: {steps: 7}}}\n")
    assert load([], conf_dir).data.seed == 5
    chosen = load(["data=gym"], conf_dir)
    assert (chosen.data.seed, chosen.rl.steps) == (Config().data.seed, 7)


@pytest.mark.parametrize("mode", ["train", "sft"])
def test_a_configuration_written_out_reads_back(tmp_path, mode):
    cfg = load([f"mode={mode}", "rl.steps=9", "run.name=001", "data=reasoning_gym", "learner.lr=3e-5",
                "learner.betas=[0.8,0.9]"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(cfg))
    again = load([f"recipe={path}"])
    assert again.recipe == str(path)
    again.recipe = cfg.recipe
    assert again == cfg


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word,name,value", [
    ("rl.steps=12", "rl.steps", 12),
    ("learner.lr=1e-5", "learner.lr", 1e-5),
    ("verifier.timeout_s=3", "verifier.timeout_s", 3.0),
    ("ray.dashboard=false", "ray.dashboard", False),
    ("run.name=001", "run.name", "001"),
    ("run.name=no", "run.name", "no"),
    ("run.name=", "run.name", ""),
    ("run.name=[x]", "run.name", "[x]"),
    ("run.name=a=b", "run.name", "a=b"),
    ("learner.betas=[0.8, 0.99]", "learner.betas", [0.8, 0.99]),
    ("data.domains=[math,code]", "data.domains", ["math", "code"]),
    ("data.domains=[]", "data.domains", []),
])
def test_values_take_the_type_of_their_key(word, name, value):
    got = lookup(load([word]), name)
    assert got == value and type(got) is type(value)


def test_text_means_the_same_in_a_file(tmp_path):
    cfg = load([user_file(tmp_path, "run: {name: 001}\nlearner: {lr: 1e-5}\nmodel: {device: cpu}\nseed: 4\n")])
    assert (cfg.run.name, cfg.learner.lr, cfg.model.device, cfg.seed) == ("001", 1e-5, "cpu", 4)


MISTAKES = [  # words, what the message names, what it offers
    ("mode=trian", "mode=trian is not a mode", "did you mean mode=train? (modes: train, sft"),
    ("rl.grup_size=4", "rl.grup_size is not a key", "did you mean rl.group_size?"),
    ("temperature=1", "temperature is not a key", "sampling.temperature or eval.temperature"),
    ("modle.path=x", "modle.path is not a key", "model.path"),
    ("nothing_like_it=1", "nothing_like_it is not a key", "--help"),
    ("recipe=startr", "recipe=startr: no such recipe", "did you mean recipe=starter?"),
    ("recipe=none.yaml", "none.yaml: cannot be read", "give a readable YAML file"),
    ("engine=foo", "engine=foo: no such engine group", "vllm_cpu, vllm_gpu"),
    ("model=Org/Name", "model=Org/Name: no such model group", "model.path=Org/Name"),
    ("rl.steps=ten", "rl.steps=ten is not a whole number (int)", "rl.steps=100"),
    ("rl.steps=1.5", "rl.steps=1.5 is not a whole number (int)", "rl.steps=100"),
    ("rl.steps=", "rl.steps= is not a whole number (int)", "rl.steps=100"),
    ("learner.lr=fast", "learner.lr=fast is not a number (float)", "learner.lr=0.0001"),
    ("learner.lr=nan", "learner.lr=nan is not a finite number", "learner.lr=0.0001"),
    ("ray.dashboard=maybe", "ray.dashboard=maybe is not true or false (bool)", "ray.dashboard=true"),
    ("learner.betas=0.9", "learner.betas=0.9 is not a list", "learner.betas=[0.9]"),
    ("learner.betas=[a,b]", "learner.betas=[a,b] is not a list of numbers (list[float])", "learner.betas=[0.9,0.95]"),
    ("learner.betas=[0.9", "learner.betas=[0.9 is not a list", "learner.betas=[a,b]"),
    ("data.tasks=[[a]]", "data.tasks=[[a]] is not a flat list", "data.tasks=[a,b]"),
    ("seed=[1]", "seed=[1] is a list", "whole number (int)"),
    ("rl=3", "rl is a section", "rl.steps=100"),
    ("rl.loss=vanila", "rl.loss=vanila is not one of vanilla", "did you mean rl.loss=vanilla?"),
    ("justaword", "justaword is not key=value", "rl.steps=100"),
    ("train", "train is not key=value", "did you mean mode=train?"),
    ("rl.steps", "rl.steps is not key=value", "rl.steps=VALUE"),
    ("--fast", "--fast is not key=value", "use --help or --dry-run"),
    ("--rl.steps=3", "--rl.steps=3 is not an option", "write rl.steps=3"),
    ("run.name=${oc.env:RAYTHINK_NOT_SET}", "run.name cannot be resolved", "give it a value"),
    ("run.name=${", "run.name=${ does not parse", "${rl.steps}"),
    # across keys
    ("rl.group_size=1", "rl.group_size=1", "use rl.group_size=2"),
    ("rl.group_size=0", "rl.group_size=0 is too small", "use rl.group_size=1"),
    ("rl.staleness=-1", "rl.staleness=-1 is too small", "use rl.staleness=0 or more"),
    ("eval.samples=0", "eval.samples=0 is too small", "use eval.samples=1"),
    ("rl.clip_low=-0.1", "rl.clip_low=-0.1 is too small", "use rl.clip_low=0"),
    ("rl.clip_high=-1", "rl.clip_high=-1.0 is too small", "use rl.clip_high=0"),
    ("engine.gpu_memory=85", "engine.gpu_memory=85.0 is too large", "use engine.gpu_memory=1"),
    ("learner.lr=0", "learner.lr=0.0 must be above 0", "raise learner.lr"),
    ("rl.tis_cap=0.5", "rl.tis_cap=0.5", "use rl.tis_cap=1 or more, or 0"),
    ("rl.overlong_buffer=96", "rl.overlong_buffer=96", "sampling.max_tokens=96"),
    ("rl.updates_per_step=25", "rl.updates_per_step=25", "rl.groups=24"),
    ("sampling.temperature=0", "sampling.temperature=0", "rl.group_size=8"),
    ("sampling.max_tokens=256", "sampling.max_tokens=256", "engine.max_model_len=256"),
    ("eval.temperature=0", "eval.temperature=0", "use eval.samples=1"),
    ("learner.micro_tokens=100", "learner.micro_tokens=100", "engine.max_model_len=256"),
    ("learner.warmup_steps=100 rl.steps=90", "learner.warmup_steps=100", "rl.steps=90"),
    ("learner.betas=[0.9]", "learner.betas=[0.9]", "learner.betas=[0.9,0.95]"),
    ("engine.max_num_seqs=5000", "engine.max_batched_tokens=4096", "engine.max_num_seqs=5000"),
    ("engine.tensor_parallel=2 model.device=cpu", "engine.tensor_parallel=2", "model.device=cpu"),
    ("model.attn=flash_attention_2", "model.attn=flash_attention_2", "model.dtype=bfloat16"),
    ("model.path=", "model.path is empty", "model.path=FOLDER"),
    ("mode=sft model.path= model.init.hidden_size=100", "model.init.hidden_size=100", "hidden_size=96 or 128"),
    ("data=files", "data.source=files", "data.train=[FILE,...]"),
    ("mode=eval data=files", "data.source=files", "data.heldout=[FILE,...]"),
    ("data.source=reasoning_gym", "data.source=reasoning_gym needs data.tasks", "data.tasks=[chain_sum,leg_counting]"),
    ("data.train=[a.jsonl]", "data.train is read only with data.source=files", "set data.source=files"),
    ("data.domains=[maths]", "data.domains names maths", "did you mean math?"),
    ("run.resume=aut", "run.resume=aut is neither", "did you mean run.resume=auto?"),
    ("run.name=a/b", "run.name=a/b is not one folder's name", "run.dir"),
    ("ray.dashboard_port=99999", "ray.dashboard_port=99999 is too large", "65535"),
    ("mode=verify", "mode=verify needs verify.input", "verify.input=FILE"),
    ("mode=verify verify.input=a", "mode=verify needs verify.output", "verify.output=FILE"),
    ("mode=verify verify.input=a verify.output=a", "are the same file", "name another output"),
    ("mode=prepare", "mode=prepare needs prepare.output", "prepare.output=FOLDER"),
    ("mode=prepare prepare.output=o prepare.source=files", "needs prepare.input", "prepare.input=["),
    ("mode=prepare prepare.output=o prepare.input=[a]", "prepare.input is read only with", "set prepare.source"),
    ("mode=prepare prepare.output=o prepare.source=reasoning_gym", "needs data.tasks", "data.tasks=[chain_sum"),
    ("mode=prepare prepare.output=o prepare.min_pass=0.5 prepare.max_pass=0.2", "is above", "lower the first"),
    ("mode=prepare prepare.output=o prepare.ngram=1", "prepare.ngram=1 is too small", "prepare.ngram=2"),
]


@pytest.mark.parametrize("words,names_it,offers", MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_named_with_its_fix(words, names_it, offers):
    with pytest.raises(UserError) as e:
        load(words.split())
    assert names_it in str(e.value) and offers in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("text,names_it,offers", [
    ("seed: 1\nrl:\n  grup_size: 4\n", "mine.yaml:3: rl.grup_size is not a key", "did you mean rl.group_size?"),
    ("seed: one\n", "mine.yaml:1: seed=one is not a whole number (int)", "seed=0"),
    ("seed: 1\nseed: 2\n", "mine.yaml:2: seed is given twice", "keep one"),
    ("seed:\n", "mine.yaml:1: seed has no value", "remove the line"),
    ("rl: 3\n", "mine.yaml:1: rl is a section", "rl.steps=100"),
    ("rl: {steps: {a: 1}}\n", "mine.yaml:1: rl.steps.a is not a key", "rl.steps"),
    ("data: {train: [[a]]}\n", "mine.yaml:1: data.train is not a flat list", "train: [a, b]"),
    ("- seed\n", "mine.yaml: holds no keys", "seed: 1"),
    ("seed: [1\n", "not valid YAML", "mend that line"),
    ("defaults: {rl: x}\n", "mine.yaml:1: defaults names groups (model, data, engine)", "not rl"),
    ("defaults: starter\n", "mine.yaml:1: defaults names groups", "defaults: {model: starter}"),
    ("defaults: {engine: vlm_cpu}\n", "mine.yaml:1: engine=vlm_cpu: no such engine group", "vllm_cpu"),
    ("in_mode: {stf: {seed: 1}}\n", "mine.yaml:1: in_mode names a mode and keys", "modes: train, sft"),
    ("in_mode: {sft: 3}\n", "mine.yaml:1: in_mode names a mode and keys", "in_mode: {sft: {learner: {lr: 1e-3}}}"),
    ("in_mode: 3\n", "mine.yaml:1: in_mode names a mode and keys", "modes: train, sft"),
    ("in_mode:\n  train: {rl: {grup_size: 4}}\n", "mine.yaml:2: rl.grup_size is not a key", "rl.group_size?"),
    ("in_mode:\n  train:\n    seed: one\n", "mine.yaml:3: seed=one is not a whole number (int)", "seed=0"),
])
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, text, names_it, offers):
    with pytest.raises(UserError) as e:
        load([user_file(tmp_path, text)])
    assert names_it in str(e.value) and offers in str(e.value)


def test_an_empty_recipe_is_the_schemas_defaults(tmp_path):
    cfg = load([user_file(tmp_path, "# nothing yet\n")])
    cfg.recipe = "starter"
    assert cfg == Config()


# --- help ---------------------------------------------------------------------------------------------------------


def test_help_tells_every_mode_recipe_group_and_key():
    text = help_text()
    for key in keys().values():
        line = next(row for row in text.splitlines() if row.startswith(f"  {key.name}="))
        assert key.help in line and key.type_name in line
    for name in [*MODES, *names("recipes"), *(n for g in GROUPS for n in names(g))]:
        assert f"\n  {name} " in text
    assert "  rl.steps=100 " in text and "  learner.betas=[0.9,0.95] " in text
