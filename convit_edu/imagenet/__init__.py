"""The paper's recipe on ImageNet, on as many GPUs as there are (Section 4).

    torchrun --nproc-per-node=8 -m convit_edu.imagenet --data ROOT --model convit_tiny [--fraction 0.1]
    python -m convit_edu.imagenet --data ROOT --evaluate convit_tiny

ROOT holds train/<class>/* and val/<class>/*. The same command goes on where it stopped. Augmentation, mixing,
schedule and decay groups are timm's. The defaults are the paper's; where the paper, the released code and this
module part ways:

- Length. 300 epochs. The released code sets 10 more at the lowest rate and never runs them.
- Rate. Constant within an epoch; epoch e takes the schedule's value at e. The released code takes that at e - 1,
  and so spends two epochs at the first warm-up rate of 1e-6.
- Batch. The rate is lr * global batch / 512, whatever the number of GPUs: a process with too few neighbours adds
  up the gradients of several groups. The "+" sizes have 512 images and 4e-4, the others 1024 and 5e-4.
- Mixing. Every GPU of the original runs drew its own mixup and mixed its own batch. Here a *group* does, 128 images
  (64 for "+") out of the global batch, so that the result does not depend on how many processes share the groups.
  The released code's example for Ti, 4 GPUs with 256 images each, is --group 256.
- Repeated augmentation. Three copies of an image, so that an epoch sees a third of the images: as released.
- Weight decay. Matrices, so pos_proj.weight but no gate; tokens and absolute positions are spared too. In the
  released code a run on GPUs decays these two as well (the wrapped model hides their names); --decay-tokens does.
- Colour jitter, 0.4 in the paper, is left out: timm leaves it out too where there is RandAugment.
- Fractions. The first int(f * n) files of each class, epochs and warm-up divided by f. The released code changes the
  data alone; the authors' research code divides both.
- Precision. bfloat16 where the GPU has it, otherwise float16 with a scaled loss, as in the paper.

What is the same for any number of processes: initial weights, order, augmentation, mixing, stochastic depth, so
the loss of the first step to the bit on equal devices, and the later ones but for rounding, because sums of gradients
are taken in another order. With the same number, a resumed run equals an uninterrupted one to the bit on the CPU;
on a GPU some kernels add in varying order unless --deterministic. Nothing here was run on ImageNet, and on a GPU an
epoch of Imagenette alone, in float16.
"""

from .folders import GroupBatches, ImageFolders, Images, scan
from .recipe import PaperRecipe
from .training import Training, accuracy, train

__all__ = ["GroupBatches", "ImageFolders", "Images", "PaperRecipe", "Training", "accuracy", "scan", "train"]
