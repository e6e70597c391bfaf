"""How large the recorded experiments are: on a laptop, in colour, on one GPU; and a rehearsal of each."""

from dataclasses import dataclass, field, replace

# As many trials for every arm; a convolutional network with batch norm wants larger steps than a transformer.
ARMS = ("ConViT", "DeiT, equal heads", "DeiT, few heads", "CNN")
LEARNING_RATES = dict.fromkeys(ARMS[:3], (5e-4, 1e-3, 2e-3, 4e-3)) | {"CNN": (2e-3, 4e-3, 8e-3, 16e-3)}


@dataclass(frozen=True, eq=False)
class Scale:
    """How large the experiments are.

    Attributes:
        data: the data set (see `data.load`).
        model, changes: a named configuration and what differs from it.
        few_heads: the other head count at which DeiT is tried.
        sizes: changes for the three sizes of `size`, with `few_heads` of each.
        batch_size, steps: images in a step; steps of a run.
        budgets: of `sample_efficiency`: shares of the training images by the number of steps.
        search_fraction, ablation_fractions, grid_fraction: shares used by these experiments.
        pilot_steps: steps of the one long run that watches the gates.
        search_steps: steps of a run of `search`; None for `steps`.
        rates, gains: what `search` tries: learning rates by arm, and for the transformers each with every `init_gain`.
        grid_layers: numbers of GPSA layers in `locality_grid`.
        recipe: what else differs from the default recipe.
        cnn_width: width of the convolutional reference.
        recast, recast_steps: the network of `recast`; steps as a CNN, and steps after that.
        seeds: how many.
        more_seeds: how many where the spread over `seeds` of them leaves a comparison less than 80 % power for the
            difference in the paper; which these are, `experiments` says. 0 is as many as elsewhere.
        job_memory: bytes of the machine's memory that one run needs.
        larger: the scale for larger images, on which `dynamics` is run too.
        late_token: whether `sample_efficiency` has a DeiT with a late class token too.
        test_images: how many test images are used; 0 is all.
    """

    name: str
    data: str
    model: str
    changes: dict
    few_heads: int
    sizes: dict[str, dict]
    batch_size: int
    steps: int
    budgets: dict[int, tuple[float, ...]]
    search_fraction: float
    ablation_fractions: tuple[float, ...]
    grid_fraction: float
    grid_layers: tuple[int, ...]
    cnn_width: int
    recast: dict
    recast_steps: tuple[int, int]
    pilot_steps: int = 12_000
    search_steps: int | None = None
    rates: dict[str, tuple[float, ...]] = field(default_factory=lambda: LEARNING_RATES)
    gains: tuple[float | None, ...] = (None,)
    recipe: dict = field(default_factory=dict)
    seeds: int = 5
    more_seeds: int = 0
    job_memory: float = 1.0e9
    larger: "Scale | None" = None
    late_token: bool = False
    test_images: int = 0


# Grey images of 28 pixels. The matrices start in proportion to the width, from a search: 0.42 is the paper's deviation
# of 0.02 in units of 1 / sqrt(fan-in) at its width 432, None that deviation itself.
LAPTOP = Scale(
    name="laptop",
    data="fashion_mnist_5k",
    model="convit_mini_28",
    changes=dict(embed_dim=54, depth=4, local_up_to_layer=3),
    few_heads=3,
    sizes={
        "small": dict(embed_dim=36, num_heads=4, few_heads=2),
        "medium": dict(embed_dim=54, num_heads=9, few_heads=3),
        "large": dict(embed_dim=80, num_heads=16, few_heads=5),
    },
    batch_size=32,
    steps=1200,
    budgets={300: (0.05, 1.0), 1200: (0.05, 1.0)},
    search_steps=600,
    search_fraction=0.2,
    ablation_fractions=(0.05, 1.0),
    grid_fraction=0.2,
    grid_layers=(1, 4),
    cnn_width=16,
    recast=dict(embed_dim=27, depth=3),
    recast_steps=(600, 600),
    rates=dict.fromkeys(ARMS[:3], (1e-3, 2e-3, 4e-3))
    | {"CNN": (5e-4, 1e-3, 2e-3, 3e-3, 4e-3, 6e-3, 8e-3, 12e-3, 16e-3)},
    gains=(None, 0.42, 1.0),
    more_seeds=10,
)
# Natural images, in colour: Imagenette at 96 pixels, in 8 x 8 patches of 12.
COLOUR = replace(
    LAPTOP, name="colour", data="imagenette", model="convit_mini_64",
    changes=dict(img_size=96, patch_size=12, embed_dim=90, depth=6, local_up_to_layer=5), batch_size=64,
    sizes={
        "small": dict(embed_dim=48, num_heads=4, few_heads=2),
        "medium": dict(embed_dim=90, num_heads=9, few_heads=3),
        "large": dict(embed_dim=144, num_heads=16, few_heads=6),
    },
    steps=1000, budgets={1000: (0.05, 0.2, 1.0)}, search_steps=400, late_token=True,
    rates=dict.fromkeys(ARMS[:3], (5e-4, 1e-3, 2e-3, 4e-3)) | {"CNN": (2e-3, 4e-3, 8e-3, 16e-3)}, gains=(0.42, 1.0),
    recipe=dict(crop_padding=8), job_memory=2.0e9, more_seeds=0,
)  # fmt: skip
GPU = Scale(
    name="gpu",
    data="cifar100",
    model="convit_mini_32",
    changes={},
    few_heads=6,
    sizes={
        "small": dict(embed_dim=96, num_heads=4, few_heads=3),
        "medium": dict(embed_dim=216, num_heads=9, few_heads=6),
        "large": dict(embed_dim=384, num_heads=16, few_heads=8),
    },
    batch_size=512,
    steps=8000,  # 4.1 million images
    budgets={8000: (0.05, 0.2, 1.0)},
    search_steps=2000,
    search_fraction=0.2,
    gains=(0.42, 1.0),
    ablation_fractions=(0.1, 1.0),
    grid_fraction=0.2,
    grid_layers=(1, 3, 5, 7),
    cnn_width=48,
    recast=dict(embed_dim=108, depth=6),
    recast_steps=(4000, 4000),
    pilot_steps=80_000,
    recipe=dict(crop_padding=4, precision="bfloat16"),
    seeds=3,
    job_memory=4.0e9,
)
GPU = replace(
    GPU, larger=replace(GPU, data="imagenette", model="convit_mini_64", changes=dict(img_size=96), batch_size=256)
)


def rehearsal(scale: Scale) -> Scale:
    """Every run of a scale in a few steps: to see that all of it works before time is spent on it."""
    recipe = scale.recipe | dict(evaluations=1, precision="float32")
    larger = scale.larger and rehearsal(scale.larger)
    steps = dict(zip(sorted({scale.steps, *scale.budgets}), (2, 4)))
    return replace(
        scale, name=f"{scale.name}-rehearsal", steps=steps[scale.steps],
        budgets={steps[budget]: fractions for budget, fractions in scale.budgets.items()},
        recast_steps=(2, 2), search_steps=2, pilot_steps=4, batch_size=8, recipe=recipe, seeds=2,
        more_seeds=3 if scale.more_seeds else 0, larger=larger, test_images=200,
    )  # fmt: skip


FULL = (LAPTOP, COLOUR, GPU)
SCALES = {scale.name: scale for scale in (*FULL, *map(rehearsal, FULL))}
