"""The convolutional reference: shapes, size, seeds, and that the recipe of the transformers trains it."""

import pytest
import torch

from convit_edu import data
from convit_edu.beyond.cnn import CNN, ResidualBlock, create_cnn
from convit_edu.train import Recipe, evaluate, train


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 15)])
def test_stages_halve_the_sides_and_double_the_channels(channels, side):
    model, shapes = create_cnn(seed=0, in_chans=channels, num_classes=7, width=4, blocks=(1, 2, 1)), []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert model(torch.randn(2, channels, side, side)).shape == (2, 7)
    half = (side + 1) // 2
    assert shapes == [(4, side, side), (8, half, half), (16, (half + 1) // 2, (half + 1) // 2)]
    assert [len(stage) for stage in model.stages] == [1, 2, 1]


def test_number_of_parameters_is_the_one_documented():
    number = sum(p.numel() for p in CNN().parameters())
    assert number == 121_030 and f"{number:,}" in CNN.__doc__
    more = sum(p.numel() for p in CNN(blocks=(2, 1, 1)).parameters())
    assert more - number == 2 * 9 * 20**2 + 4 * 20  # two convolutions and two batch norms


def test_the_input_passes_around_a_block():
    x = torch.randn(2, 4, 6, 6)
    for block in (ResidualBlock(4, 4), ResidualBlock(4, 8, stride=2), ResidualBlock(4, 8)):
        block.eval()
        around = block.shortcut(x)
        assert not torch.allclose(block(x), around.relu())
        torch.nn.init.zeros_(block.conv2.weight)
        torch.testing.assert_close(block(x), around.relu())
    assert isinstance(ResidualBlock(4, 4).shortcut, torch.nn.Identity)


def test_seeds_and_the_config_make_the_model_again():
    state = torch.get_rng_state()
    first, again, other = (create_cnn(seed=seed, width=4, blocks=[1, 2, 1]) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(first(images), again(images)) and not torch.equal(first(images), other(images))
    assert first.config == {"in_chans": 1, "num_classes": 10, "width": 4, "blocks": (1, 2, 1)}
    CNN(**first.config).load_state_dict(first.state_dict())


@pytest.mark.parametrize("blocks", [(1, 1), (1, 0, 1)])
def test_other_than_three_stages_are_refused(blocks):
    with pytest.raises(ValueError, match="blocks needs three positive numbers, one for each stage"):
        CNN(blocks=blocks)


@pytest.mark.slow
def test_it_trains_and_resumes_by_the_common_recipe(tmp_path):
    fashion, path = data.load("fashion_mnist_5k").subset(size=500), tmp_path / "cnn.pt"
    recipe = Recipe(steps=30, batch_size=32, lr=1e-2, warmup_steps=3, evaluations=2, flip=False)
    model = create_cnn(seed=0, width=12)
    history = train(model, fashion, recipe, checkpoint=path)
    assert history.final_accuracy > 30  # chance is 10
    assert history.loss[-1] < history.loss[0] - 0.4
    again = create_cnn(seed=0, width=12)
    train(again, fashion, recipe, checkpoint=path)  # finished: only loaded, with the statistics of its batch norms
    assert evaluate(again, fashion) == history.final_accuracy
    with pytest.raises(ValueError, match=r"it differs in model\.width"):
        train(create_cnn(width=8), fashion, recipe, checkpoint=path)
