"""Equality with timm, in float64: logits and every gradient, both ways, and its errors."""

import socket
from urllib.error import HTTPError, URLError

import pytest
import torch

from convit_edu import create_model
from convit_edu.beyond.single_softmax import PSAConViT
from convit_edu.parity import from_timm, relative_difference, timm, to_timm

ConVit = timm.models.convit.ConVit

ODD = [
    # heads, strength, patches a side, blocks, GPSA blocks, qkv_bias
    (1, 10.0, 5, 3, 2, True), (4, 0.1, 4, 2, 1, False), (4, 1.0, 7, 3, 2, True), (9, 1.0, 7, 3, 2, False),
    (16, 10.0, 6, 2, 1, False), (9, 1.0, 4, 2, 0, True),
]  # fmt: skip


def randomise(model, seed=0):
    """Weights as training may leave them: gates and positional weights of every sign, and no zero bias."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            wide = "gating_param" in name or "pos_proj" in name
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((1.0 if wide else 0.02) * noise)
    return model


def largest_difference(ours, theirs, images):
    """Over logits and every gradient, relative to the largest value of each; both models in float64."""
    gradient_of = dict(theirs.named_parameters())
    assert {name for name, _ in ours.named_parameters()} == set(gradient_of)
    probe = torch.randn(len(images), ours.config["num_classes"], generator=torch.Generator().manual_seed(2)).double()
    logits = {}
    for model in (ours, theirs):
        model.zero_grad()
        logits[model] = model(images)
        (logits[model] * probe).sum().backward()
    differences = {"logits": relative_difference(logits[ours], logits[theirs])}
    scale = max(p.grad.abs().max() for p in theirs.parameters())
    for name, a in ours.named_parameters():
        b = gradient_of[name]
        if name.endswith("pos_proj.bias"):  # zero but for rounding in both: compare with the others' size
            differences[name] = ((a.grad - b.grad).abs().max() / scale).item()
        else:
            differences[name] = relative_difference(a.grad, b.grad)
    return max(differences.values())


@pytest.mark.parametrize(("heads", "strength", "side", "depth", "local", "bias"), ODD)
def test_odd_small_configurations_equal_timm(heads, strength, side, depth, local, bias):
    torch.manual_seed(0)
    theirs = ConVit(
        img_size=4 * side, patch_size=4, in_chans=2, num_classes=7, embed_dim=6, depth=depth, num_heads=heads,
        qkv_bias=bias, local_up_to_layer=local, locality_strength=strength,
    ).double()  # fmt: skip
    ours = from_timm(randomise(theirs))
    images = torch.randn(3, 2, 4 * side, 4 * side).double()
    assert largest_difference(ours, theirs, images) < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fewer"), [("convit_small", {}), ("convit_base", {"depth": 2, "local_up_to_layer": 1})]
)
def test_the_papers_sizes_equal_timm_at_224_pixels(name, fewer):  # the smallest in chapter 05
    torch.manual_seed(0)
    ours, theirs = create_model(name, **fewer).double(), randomise(timm.create_model(name, **fewer)).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert largest_difference(ours, theirs, torch.randn(1, 3, 224, 224).double()) < 1e-9


def test_our_initial_weights_are_distributed_as_timms():
    torch.manual_seed(0)
    ours, theirs = create_model("convit_tiny").state_dict(), timm.create_model("convit_tiny").state_dict()
    for name, value in ours.items():
        if "patch_embed" in name:
            continue  # timm starts it as torch does a convolution; so do we, with other random numbers
        torch.testing.assert_close(value.mean(), theirs[name].mean(), rtol=0, atol=6e-3, msg=name)
        torch.testing.assert_close(value.std(), theirs[name].std(), rtol=0.25, atol=1e-3, msg=name)


def test_to_timm_and_back():
    ours = randomise(create_model("convit_mini_28", seed=3, locality_strength=2.0)).double().eval()
    images = torch.randn(2, 1, 28, 28).double()
    theirs = to_timm(ours)
    torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=1e-12)
    back = from_timm(theirs)
    assert torch.equal(back(images), ours(images)) and not back.training
    assert back.config == ours.config | {"init_gain": None}  # timm knows nothing of how a model once started


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_deit_and_vit_come_over_with_the_class_tokens_position_folded_in(name):
    torch.manual_seed(0)
    theirs = randomise(timm.create_model(name, img_size=64, depth=2).eval()).double()
    ours = from_timm(theirs)
    images = torch.randn(2, 3, 64, 64).double()
    assert theirs.pos_embed[:, 0].abs().max() > 0
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-10)
    assert ours.config["qkv_bias"] and ours.class_token_at == 0


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("convit_tini", "timm knows no model 'convit_tini'; did you mean convit_tiny"),
        (3, "the name of one, not 3"),
        (("deit_tiny_distilled_patch16_224", 32, {}), "no class token with a position"),
        (("deit_tiny_patch16_224", 32, {"act_layer": torch.nn.ReLU}), "has parts that ConViT lacks"),
        (("deit_tiny_patch16_224", 32, {"global_pool": "avg"}), "global_pool='avg' has no equal here"),
        (("vit_tiny_r_s16_p8_224", 64, {}), "has parts that ConViT lacks|no class token"),
        (("convit_tiny", 32, {"attn_drop_rate": 0.1}), "has dropout that ConViT lacks: .*attn_drop"),
        (("deit_tiny_patch16_224", 32, {"pos_drop_rate": 0.1}), "has dropout that ConViT lacks: .*pos_drop"),
    ],
)
def test_what_is_no_model_or_has_other_parts_is_named(source, words):
    if isinstance(source, tuple):
        name, side, options = source
        source = timm.create_model(name, img_size=side, depth=1, **options)
    with pytest.raises(ValueError, match=words):
        from_timm(source)


def test_what_timm_cannot_express_is_named():
    headed, wrapped = create_model("convit_mini_28"), create_model("convit_mini_28")
    headed.head = torch.nn.Sequential(torch.nn.Linear(72, 5))
    wrapped.blocks[0].mlp.fc1 = torch.nn.Sequential(wrapped.blocks[0].mlp.fc1)
    for model, part in (
        (create_model("convit_mini_28", img_size=(28, 56)), "img_size"),
        (create_model("convit_mini_28", class_token_at=5), "class_token_at"),
        (create_model("convit_mini_28", local_up_to_layer=6), "pool"),
        (PSAConViT(**create_model("convit_mini_28").config), "attention layers"),
        (headed, "head"),
        (wrapped, "layers; they were replaced"),
    ):
        with pytest.raises(ValueError, match=f"no equal to .*{part}"):
            to_timm(model)


def refuse(*_, **__):
    raise OSError("no route")


@pytest.mark.parametrize(
    ("failure", "told"),
    [(socket.gaierror(-2, "Name or service not known"), ConnectionError), (URLError("unreachable"), ConnectionError),
     (HTTPError("https://hub", 404, "not there", None, None), RuntimeError),
     (PermissionError("read-only cache"), RuntimeError), (KeyboardInterrupt(), KeyboardInterrupt)],
)  # fmt: skip
def test_a_missing_network_is_named_and_other_failures_are_not_called_one(monkeypatch, failure, told):
    def failing(name, pretrained):
        try:
            raise failure
        except Exception as error:
            raise RuntimeError("could not load") from error

    monkeypatch.setattr(timm, "create_model", failing)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("convit_edu.parity.PATIENCE", 0.1)
    with pytest.raises(told) as found:
        from_timm("convit_tiny", pretrained=True)
    assert (told is ConnectionError) == ("could not be fetched" in str(found.value))


def test_the_hub_is_asked_only_where_it_answers(monkeypatch):
    """huggingface_hub repeats its questions to a host that does not answer for most of a minute."""
    from huggingface_hub import constants

    offline, alive = [], lambda *_: socket.socket()

    def fetch(name, pretrained):
        offline.append(constants.HF_HUB_OFFLINE)
        return ConVit(img_size=32, patch_size=16, embed_dim=4, depth=2, num_heads=4, local_up_to_layer=1)

    monkeypatch.setattr(timm, "create_model", fetch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("convit_edu.parity.PATIENCE", 1.0)
    for proxies, connect in (({}, refuse), ({}, alive), ({"https": "http://proxy:3128"}, refuse)):
        monkeypatch.setattr("urllib.request.getproxies", lambda found=proxies: found)
        monkeypatch.setattr(socket, "create_connection", connect)
        from_timm("convit_tiny", pretrained=True)
    assert offline == [True, False, False] and constants.HF_HUB_OFFLINE is False


def test_a_hidden_width_that_is_no_simple_multiple_comes_over():
    sizes = dict(img_size=32, depth=1, embed_dim=44, num_heads=4, mlp_ratio=49.5 / 44)
    theirs = timm.create_model("deit_tiny_patch16_224", **sizes)
    assert from_timm(theirs).blocks[0].mlp.fc1.out_features == theirs.blocks[0].mlp.fc1.out_features == 49


def test_stochastic_depth_and_a_new_head_come_over_both_ways():
    theirs = timm.create_model("deit_tiny_patch16_224", img_size=32, depth=3, drop_path_rate=0.2)
    assert [block.drop_path_rate for block in from_timm(theirs).blocks] == pytest.approx([0.0, 0.1, 0.2])
    ours = create_model("convit_mini_28", seed=0, drop_path_rate=0.1)
    for head in (torch.nn.Linear(72, 37), torch.nn.Identity()):
        ours.head = head
        twin, images = to_timm(ours), torch.randn(2, 1, 28, 28)
        torch.testing.assert_close(twin.eval()(images), ours.eval()(images), rtol=0, atol=1e-5)
        assert [getattr(block.drop_path, "drop_prob", 0.0) for block in twin.blocks] == pytest.approx(
            [block.drop_path_rate for block in ours.blocks]
        )
        assert from_timm(twin).config == ours.config | {"drop_path_rate": pytest.approx(0.1), "init_gain": None}


def test_taking_over_leaves_every_part_of_the_source_in_its_mode():
    theirs = timm.create_model("convit_tiny", img_size=32, depth=2, local_up_to_layer=1).train()
    theirs.blocks[0].eval()
    modes = [module.training for module in theirs.modules()]
    from_timm(theirs)
    assert [module.training for module in theirs.modules()] == modes
