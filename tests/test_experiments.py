"""The grids: what each arm is, that pairs are fair, and that a name means the same run tomorrow."""

import dataclasses
import inspect
import json
from dataclasses import replace

import pytest
import torch

from convit_edu import data
from convit_edu.attention import GPSA, SelfAttention
from convit_edu.beyond.recast import PatchCNN
from convit_edu.beyond.single_softmax import PSAConViT
from convit_edu.lab import campaign, experiments
from convit_edu.lab.experiments import ARMS, NAMES, SEARCH_SEEDS, Settings, grid
from convit_edu.lab.run import COMPILED_FROM, worth_compiling
from convit_edu.lab.run_config import RunConfig
from convit_edu.lab.scales import COLOUR, GPU, LAPTOP, SCALES
from convit_edu.locality import gates, gpsa_layers
from convit_edu.model import ConViTSettings
from convit_edu.positions import kernel_centres
from convit_edu.train import Recipe, train

RATES = {"ConViT": 1e-3, "DeiT, equal heads": 2e-3, "DeiT, few heads": 4e-3, "CNN": 8e-3}
SETTINGS = Settings(RATES, "DeiT, few heads")
EQUAL = Settings(RATES, "DeiT, equal heads")
ONE_START = replace(GPU, gains=(None,))  # its search tries learning rates alone


def labelled(name, scale=LAPTOP, settings=SETTINGS, **label):
    """The configurations of an experiment whose label has these entries."""
    return [c.config for c in grid(name, scale, settings) if all(c.label.get(k) == v for k, v in label.items())]


def only(name, scale=LAPTOP, settings=SETTINGS, **label):
    (config,) = labelled(name, scale, settings, **label)
    return config


def identities(scale=LAPTOP, settings=SETTINGS):
    return [cell.config.identity(0) for name in NAMES for cell in grid(name, scale, settings)]


# --- the rows of Table 3, on built models


def row(name, fraction=0.05, seed=0):
    return only("ablation", row=name, fraction=fraction).build(seed)


def starts_as_convolution(layer):
    centres = kernel_centres(layer.num_heads)
    wanted = torch.cat((2 * centres, -torch.ones(layer.num_heads, 1)), dim=1)
    return torch.equal(layer.pos_proj.weight, wanted), torch.equal(layer.v.weight, torch.eye(layer.dim))


# row: gate at the start, is the gate trained, is the rest of GPSA trained, positional start, identity values
ROWS = {
    "a": (torch.tensor(1.0).sigmoid(), True, True, True, True),
    "b": (0.5, False, True, True, True),
    "c": (torch.tensor(1.0).sigmoid(), True, True, False, False),
    "d": (0.5, False, True, False, False),
    "f": (1.0, False, False, True, True),
    "g": (1.0, False, False, False, False),
    "identity values alone": (torch.tensor(1.0).sigmoid(), True, True, False, True),
    "positional start alone": (torch.tensor(1.0).sigmoid(), True, True, True, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_rows_with_gpsa_are_what_table_3_means(name):
    gate, gate_trained, rest_trained, positional, identity = ROWS[name]
    model = row(name)
    layers = gpsa_layers(model)
    assert len(layers) == 3 and isinstance(model.blocks[3].attn, SelfAttention)
    assert torch.equal(gates(model), torch.full((3, 9), float(gate)))  # exactly: 1 is position and nothing else
    for layer in layers:
        trained = {name: parameter.requires_grad for name, parameter in layer.named_parameters()}
        assert trained.pop("gating_param") == gate_trained
        assert set(trained.values()) == {rest_trained}
        assert {"qk.weight", "v.weight", "pos_proj.weight", "proj.weight", "proj.bias"} <= set(trained)
        assert starts_as_convolution(layer) == (positional, identity)
    elsewhere = {id(p) for layer in layers for p in layer.parameters()}
    assert all(p.requires_grad for p in model.parameters() if id(p) not in elsewhere)


def test_row_e_has_no_gpsa_and_a_late_class_token_is_all_that_differs_from_it():
    model, late = row("e"), row("DeiT, late class token")
    for deit in (model, late):
        assert not gpsa_layers(deit) and all(p.requires_grad for p in deit.parameters())
        assert all(isinstance(block.attn, SelfAttention) for block in deit.blocks)
    assert (model.class_token_at, late.class_token_at, row("a").class_token_at) == (0, 3, 3)
    for name, value in model.state_dict().items():
        assert torch.equal(late.state_dict()[name], value)


@pytest.mark.parametrize("name", ["d", "f"])
def test_what_is_frozen_stays_as_it_was_while_the_rest_learns(name):
    images = data.load("fashion_mnist_5k").subset(size=50)
    images = dataclasses.replace(images, test_images=images.test_images[:50], test_labels=images.test_labels[:50])
    model = row(name)
    train(model, images, Recipe(steps=2, batch_size=16, warmup_steps=1, evaluations=1), "cpu")
    new, old = model.state_dict(), row(name).state_dict()
    old = {key: value for key, value in old.items() if "pos_proj.bias" not in key}  # it has no gradient but rounding
    still = {key for key, value in old.items() if torch.equal(new[key], value)}
    frozen = {key for key in old if key.startswith(("blocks.0.attn", "blocks.1.attn", "blocks.2.attn"))}
    if name == "d":
        frozen = {key for key in frozen if key.endswith("gating_param")}
    assert frozen and still == frozen


def test_a_seed_fixes_the_initial_weights():
    state = torch.get_rng_state()
    for config in (only("psa", arm="PSA"), only("sample_efficiency", arm="CNN", fraction=0.05, steps=300)):
        first, again, other = (config.build(seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(only("psa", arm="PSA").build(0), PSAConViT)


# --- fairness


@pytest.mark.slow
@pytest.mark.parametrize("scale", [LAPTOP, COLOUR, GPU], ids=lambda scale: scale.name)
def test_pairs_have_the_same_size(scale):
    pairs = [("size", {"size": size}) for size in scale.sizes] + [("psa", {})]
    parameters = []
    for name, label in pairs:
        for settings in (SETTINGS, EQUAL):
            models = [only(name, scale, settings, arm=arm, **label).build(0) for arm in ("ConViT", "DeiT")]
            sizes = [sum(p.numel() for p in model.parameters()) for model in models]
            assert sizes[0] == pytest.approx(sizes[1], rel=0.03)
            convit, deit = (model.config for model in models)
            assert all(convit[what] == deit[what] for what in ("embed_dim", "depth", "qkv_bias", "mlp_ratio"))
            assert (convit["num_heads"] == deit["num_heads"]) == (settings is EQUAL)
        parameters.append(sizes[0])
    assert parameters[0] < parameters[1] < parameters[2] and parameters[1] == parameters[3]


def test_arms_differ_in_their_learning_rate_and_nothing_else_of_the_recipe():
    for name in ("size", "sample_efficiency", "dynamics", "psa"):
        recipes = {replace(cell.config.recipe, lr=1, steps=1, warmup_steps=0) for cell in grid(name, LAPTOP, SETTINGS)}
        assert len(recipes) == 1
    arms = ("ConViT", "DeiT", "CNN")
    rates = {arm: only("sample_efficiency", arm=arm, fraction=0.05, steps=300).recipe.lr for arm in arms}
    assert rates == {"ConViT": 1e-3, "DeiT": 4e-3, "CNN": 8e-3}


@pytest.mark.parametrize(("scale", "trials"), [(ONE_START, 4), (LAPTOP, 9)], ids=["rates", "rates and starts"])
def test_the_search_gives_every_arm_as_many_trials_on_images_held_out(scale, trials):
    cells = grid("search", scale, None)
    assert {arm: sum(cell.label["arm"] == arm for cell in cells) for arm in ARMS} == dict.fromkeys(ARMS, trials)
    assert len({cell.config.identity(0) for cell in cells}) == 4 * trials
    for cell in cells:
        assert cell.config.held_out and cell.seeds == tuple(range(SEARCH_SEEDS))
        assert cell.config.recipe.lr == cell.label["lr"] and cell.config.recipe.steps == scale.search_steps
        assert cell.config.model.get("init_gain") == cell.label.get("gain")
    named = [name for name in NAMES if not name.startswith("search")]
    assert not any(config.held_out for name in named for config in labelled(name))


def searched(scale, score):
    """Runs of a search, and what `score` says of an arm, a learning rate, a start and a seed; None leaves a run out."""
    trials = [(cell.label, seed) for cell in grid("search", scale, None) for seed in cell.seeds]
    scores = [score(label["arm"], label["lr"], label.get("gain"), seed) for label, seed in trials]
    return [
        {"label": label, "seed": seed, "result": {"accuracy": score}}
        for (label, seed), score in zip(trials, scores, strict=True)
        if score is not None
    ]


def test_the_search_chooses_rate_and_start_together_and_every_experiment_uses_them():
    best = {("ConViT", 4e-3, 1.0): 80, ("ConViT", 1e-3, None): 79, ("DeiT, few heads", 2e-3, 0.42): 70}
    runs = searched(LAPTOP, lambda *trial: best.get(trial[:3], 50))
    found = experiments.choose(runs, LAPTOP)
    assert found.rates["ConViT"] == 4e-3 and found.gain("ConViT") == 1.0 and found.gain("CNN") is None
    assert found.best_deit == "DeiT, few heads" and found.rate("DeiT") == 2e-3 and found.gain("DeiT") == 0.42
    assert found.gain("DeiT, equal heads") is None  # all of its trials are alike: the first
    for name in ("dynamics", "ablation", "size", "gates", "sample_efficiency"):
        for cell in grid(name, LAPTOP, found):
            config, deit = cell.config, not cell.config.model.get("local_up_to_layer")
            if config.network == "ConViT" and "equal heads" not in cell.label.get("row", ""):
                wanted = (2e-3, 0.42) if deit else (4e-3, 1.0)
                assert (config.recipe.lr, config.model["init_gain"]) == wanted
    with pytest.raises(ValueError, match="not known yet"):
        experiments.choose(runs[:-1], LAPTOP)


def test_a_scale_that_tries_no_start_of_the_paper_has_a_cnn_all_the_same():
    found = experiments.choose(searched(COLOUR, lambda arm, lr, gain, seed: 100 * lr + (gain or 0)), COLOUR)
    assert found.rates == dict.fromkeys(ARMS[:3], 4e-3) | {"CNN": 16e-3}
    assert found.gains == dict.fromkeys(ARMS[:3], 1.0)


def test_only_long_runs_on_a_gpu_are_compiled():
    short, long = (Recipe(steps=steps, warmup_steps=0) for steps in (COMPILED_FROM - 1, COMPILED_FROM))
    asked = [(recipe, device) for recipe in (short, long) for device in ("cpu", "cuda:0")]
    assert [worth_compiling(*each) for each in asked] == [False, False, False, True]


BEST = {"ConViT": (4e-3, 70), "DeiT, equal heads": (1e-3, 66), "DeiT, few heads": (2e-3, 65), "CNN": (16e-3, 80)}


def planted(best=BEST, leave_out=()):
    """Runs of a search in which these rates win. Seed 0 likes another: only the mean over both seeds is right."""

    def score(arm, rate, _, seed):
        if (arm, rate, seed) in leave_out:
            return None
        return best[arm][1] if rate == best[arm][0] else 50 + 20 * (seed == 0 and rate == 5e-4)

    return searched(ONE_START, score)


def test_the_search_chooses_the_best_mean_and_the_better_deit():
    assert experiments.scores(planted())["ConViT"] == {5e-4: 60, 1e-3: 50, 2e-3: 50, 4e-3: 70}
    settings = experiments.choose(planted(), ONE_START)
    assert settings == Settings({arm: rate for arm, (rate, _) in BEST.items()}, "DeiT, equal heads")
    settings = experiments.choose(planted(BEST | {"DeiT, few heads": (2e-3, 67)}), ONE_START)
    assert settings.best_deit == "DeiT, few heads" and settings.rate("DeiT") == 2e-3
    old = {"label": {"arm": "ConViT", "lr": 0.5}, "seed": 0, "result": {"accuracy": 99.0}}  # no longer tried
    assert experiments.choose([*planted(), old], ONE_START).rates["ConViT"] == 4e-3


def test_an_incomplete_search_chooses_nothing():
    one_seed = planted(leave_out=[("CNN", 2e-3, 1)])
    failed = {"label": {"arm": "CNN", "lr": 2e-3}, "seed": 1, "error": "OSError: no"}
    for runs in ([], one_seed, [*one_seed, failed]):
        with pytest.raises(ValueError, match="of scale gpu are not known yet; first run: convit-edu run search"):
            experiments.choose(runs, ONE_START)
    for name in NAMES[1:]:
        with pytest.raises(ValueError, match=f"{name} needs the learning rates .*run search first"):
            grid(name, LAPTOP, None)
    diverged = failed | {"error": "FloatingPointError: The loss became nan at step 7"}  # tried, and no good
    assert experiments.choose([*one_seed, diverged], ONE_START).rates["CNN"] == 16e-3


def test_an_unknown_experiment_is_named():
    for name in ("nonsense", "cell", "__init__"):
        with pytest.raises(ValueError, match=f"Unknown experiment '{name}'; known: search, sample_efficiency"):
            grid(name, LAPTOP, SETTINGS)


# --- designs


def test_sample_efficiency_crosses_data_with_steps():
    for scale in (LAPTOP, COLOUR, GPU):
        configs = [cell.config for cell in grid("sample_efficiency", scale, SETTINGS) if cell.label["arm"] == "DeiT"]
        wanted = [(fraction, steps) for steps, fractions in scale.budgets.items() for fraction in fractions]
        assert [(config.fraction, config.recipe.steps) for config in configs] == wanted
        for recipe in (config.recipe for config in configs):
            assert recipe.warmup_steps == recipe.steps / 10
            assert 0.75 * recipe.steps in recipe.evaluated_after()  # for the gain in the last quarter


def test_experiments_that_look_inside_share_their_runs():
    pair = [cell.config.identity(0) for cell in grid("dynamics", LAPTOP, SETTINGS)]
    for name in ("masking", "metric", "psa"):
        assert [cell.config.identity(0) for cell in grid(name, LAPTOP, SETTINGS)][:2] == pair
    assert only("gates", gates="as the rest").identity(0) == pair[0]
    assert all(config.probe for name in ("dynamics", "psa", "gates", "checkpoints") for config in labelled(name))
    both = [c.config.data for c in grid("dynamics", GPU, SETTINGS)]
    assert both == ["cifar100"] * 2 + ["imagenette"] * 2


def test_seeds_are_those_asked_for_or_those_of_the_scale_and_more_where_five_are_too_few():
    cells = {name: grid(name, LAPTOP, SETTINGS) for name in ("size", "ablation", "checkpoints")}
    more = [cell.label for name in cells for cell in cells[name] if len(cell.seeds_at(LAPTOP)) == 10]
    assert more == [{"size": "small", "arm": "ConViT"}, {"size": "small", "arm": "DeiT"},
                    {"row": "b", "fraction": 0.05}, {"row": "d", "fraction": 0.05}]  # fmt: skip
    assert {cell.seeds_at(LAPTOP, asked=3) for cell in cells["size"] + cells["ablation"]} == {(0, 1, 2)}
    assert {cell.seeds_at(LAPTOP, asked=3) for cell in cells["checkpoints"]} == {(0,)}
    assert {len(cell.seeds_at(COLOUR)) for cell in grid("size", COLOUR, SETTINGS)} == {5}


def test_the_locality_grid_changes_strength_and_layers_alone():
    configs = {(c.label["strength"], c.label["layers"]): c.config for c in grid("locality_grid", LAPTOP, SETTINGS)}
    assert set(configs) == {(None, 0), *((s, n) for s in (0.25, 1.0, 4.0) for n in (1, 4))}
    for (strength, layers), config in configs.items():
        model = config.build(0)
        assert model.pool == "mean" and len(gpsa_layers(model)) == layers
        assert all(layer.locality_strength == strength for layer in gpsa_layers(model))
        changes = dict(local_up_to_layer=layers, locality_strength=strength or 1.0)
        assert config == replace(configs[1.0, 4], model=configs[1.0, 4].model | changes)


def built(configs):
    """Each different model of these configurations, beside its configuration."""
    different = {json.dumps([c.network, c.model, c.freeze, c.initial]): c for c in configs}
    return [(config, config.build(0).eval()) for config in different.values()]


@pytest.mark.slow
@pytest.mark.parametrize("scale", [LAPTOP, COLOUR, GPU], ids=lambda scale: scale.name)
def test_every_configuration_builds_a_model_for_its_images_and_has_an_estimate(scale):
    shapes = {"fashion_mnist_5k": (1, 28, 10), "cifar100": (3, 32, 100), "imagenette": (3, 96, 10)}
    configs = [cell.config for name in NAMES for cell in grid(name, scale, SETTINGS)]
    wanted = {"gpu": {"cifar100", "imagenette"}, "colour": {"imagenette"}}.get(scale.name, {"fashion_mnist_5k"})
    assert {config.data for config in configs} == wanted
    for config in configs:
        recipe = config.recipe
        first, then = scale.recast_steps
        known = {*scale.budgets, scale.steps, scale.pilot_steps, scale.search_steps, first, then, first + then}
        assert recipe.steps in known
        assert 0 < campaign.arithmetic(config) < 1e18
        assert RunConfig.from_json(json.loads(json.dumps(config.as_json()))) == config
    for config, model in built(configs):
        channels, side, classes = shapes[config.data]
        with torch.no_grad():
            assert model(torch.zeros(1, channels, side, side)).shape == (1, classes)
        assert any(isinstance(module, GPSA) for module in model.modules()) == bool(
            config.model.get("local_up_to_layer")
        )
        assert (config.network == "PatchCNN") == isinstance(model, PatchCNN)


def test_a_rehearsal_is_the_same_grid_in_a_few_steps():
    for scale in (LAPTOP, COLOUR, GPU):
        small = SCALES[f"{scale.name}-rehearsal"]
        for name in NAMES:
            pairs = zip(grid(name, scale, SETTINGS), grid(name, small, SETTINGS), strict=True)
            for cell, short in pairs:
                assert short.config.recipe.steps <= 4 and short.config.model == cell.config.model
                assert short.config.probe == cell.config.probe


# --- names


def test_an_option_that_is_added_off_by_default_changes_no_name(monkeypatch):
    before = identities()

    @dataclasses.dataclass(frozen=True)
    class Later(Recipe):
        shiny: float = 0.0

    signature = inspect.signature(experiments.ConViTSettings)
    option = inspect.Parameter("registers", inspect.Parameter.KEYWORD_ONLY, default=None)

    class LaterModel:
        __signature__ = signature.replace(parameters=[*signature.parameters.values(), option])

    monkeypatch.setattr(experiments, "Recipe", Later)
    monkeypatch.setattr(experiments, "ConViTSettings", LaterModel)
    assert identities() == before
    some = experiments.Grid(LAPTOP, SETTINGS)
    cells = [some.cell({}), some.cell({}, recipe={"shiny": 0.0}), some.cell({}, recipe={"shiny": 1.0}),
             some.cell({}, registers=4)]  # fmt: skip
    names = [cell.config.identity(0) for cell in cells]
    assert names[0] == names[1] and len(set(names)) == 3


def test_what_is_on_by_default_stands_in_the_configuration_also_when_off():
    config = only("ablation", row="g", fraction=0.05)
    assert config.model["positional_init"] is False and config.model["identity_values"] is False
    assert only("dynamics", arm="DeiT").model["local_up_to_layer"] == 0
    off = experiments.Grid(LAPTOP, SETTINGS).cell({}, recipe={"flip": False}).config.as_json()
    assert off["recipe"]["flip"] is False
    assert not {"gate_speed", "seed"} & set(off["recipe"])
    assert not {"held_out", "save", "network", "teacher"} & set(off)
    for name in NAMES:
        for config in labelled(name):
            if config.network != "CNN":  # nothing is left to a default that may move
                whole = inspect.signature(PatchCNN if config.network == "PatchCNN" else ConViTSettings).parameters
                assert {key for key, p in whole.items() if p.default} <= set(config.model)


@pytest.mark.parametrize(("change", "named"), [
    (dict(network="RNN"), "RNN"), (dict(freeze="gates"), "gates"), (dict(initial="lucky"), "lucky"),
    (dict(fraction=0.0), "0.0"), (dict(fraction=1.5), "1.5"), (dict(fraction=float("nan")), "nan"),
])  # fmt: skip
def test_a_configuration_that_cannot_be_run_is_refused(change, named):
    with pytest.raises(ValueError, match=named):
        replace(only("psa", arm="PSA"), **change)


def test_a_configuration_of_another_version_is_refused():
    found = only("distillation", arm="DeiT", teacher="CNN").as_json()
    for bad in (found | {"shiny": 1}, found | {"recipe": {"glow": 1}}, found | {"teacher": {"data": "x"}},
                {key: value for key, value in found.items() if key != "model"}, found | {"model": 3}):  # fmt: skip
        with pytest.raises(ValueError):
            RunConfig.from_json(bad)
    assert RunConfig.from_json(found).as_json() == found
