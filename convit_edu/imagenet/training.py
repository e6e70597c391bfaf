"""The run itself: a step over the groups of one process, tests, checkpoints, the log."""

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from ..evaluation import evaluating
from ..model import ConViT
from ..parity import timm
from ..saving import load_checkpoint, save_checkpoint, write_in_one_move
from ..train import progress_shown
from .folders import GroupBatches, ImageFolders, Images, draw_seed, seed_everything, start_worker
from .ranks import Ranks
from .recipe import PaperRecipe

FORWARD = 1  # the stream of random numbers of mixing and stochastic depth; 0 is augmentation's
CROP = 224 / 256  # of the side of a validation image


class Stopped(Exception):
    """Somebody asked for an end, by this signal; the checkpoint is written."""


@dataclass
class Log:
    """What a run knows beside its weights, the same on all ranks: a dict for each epoch, a loss for each step."""

    epochs: list[dict] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0  # of the epoch that is not over
    scaler: dict = field(default_factory=dict)  # the state of the loss scale, which float16 needs


class Training:
    """A run between two steps, as one of the ranks sees it. `done` counts the steps of all epochs.

    Args:
        model, recipe, files: what, how (from `PaperRecipe.for_model`), and on which training images.
        ranks: this process and the others.
        out: the folder of checkpoint.pt and log.json, which all ranks see.
        about: what else makes this run this run, by name; it is compared before a checkpoint is taken over.
        precision: "float32", or "bfloat16" or "float16" for autocast.

    Refusal if the model's head and the classes of the files differ in number.
    """

    def __init__(
        self, model: ConViT, recipe: PaperRecipe, files: ImageFolders, ranks: Ranks, out: Path, about: dict,
        precision: str = "float32",
    ):  # fmt: skip
        known = model.head.out_features
        if known != len(files.classes):
            ranks.refuse(f"The model tells {known} classes apart, {files.root} has {len(files.classes)}.")
        self.recipe, self.files, self.ranks, self.precision = recipe, files, ranks, precision
        self.path, self.log_path = out / "checkpoint.pt", out / "log.json"
        self.identity = about | {f"recipe.{name}": value for name, value in asdict(recipe).items()}
        self.identity |= {"files": files.fingerprint(), "classes": list(files.classes), "precision": precision}
        self.model = model.to(ranks.device).train()
        self.model.set_drop_path(recipe.drop_path)
        share = recipe.groups // ranks.world
        self.own = range(ranks.rank * share, (ranks.rank + 1) * share)
        self.batches = GroupBatches(len(files), recipe.groups, recipe.group, self.own, recipe.repeats, recipe.seed)
        self.optimizer = recipe.optimizer(self.model)
        self.scheduler = recipe.scheduler(self.optimizer)
        self.mixup, self.criterion = recipe.mixer(len(files.classes))
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == "float16")
        self.done, self.log = 0, Log()

    @property
    def epoch(self) -> int:
        """How many epochs of steps are done; the test after the last may still be due."""
        return self.done // self.batches.steps

    def group_loss(self, images: Tensor, labels: Tensor, group: int) -> Tensor:
        """The loss of one group: images (B, 3, h, w), labels (B,). Its random numbers are those of step and group."""
        seed_everything(draw_seed(FORWARD, self.recipe.seed, self.done, group), self.ranks.device)
        images, targets = images.to(self.ranks.device, non_blocking=True), labels.to(self.ranks.device)
        if self.mixup is not None:
            images, targets = self.mixup(images, targets)  # targets (B, K)
        with autocast(self.ranks.device, self.precision):
            logits = self.model(images)  # (B, K)
        return self.criterion(logits.float(), targets)

    def train_step(self, batches: Iterator) -> Tensor:
        """One optimiser step on the next own groups; their losses (own groups,), still on the device."""
        losses = []
        for group in self.own:
            loss = self.group_loss(*next(batches), group)
            self.scaler.scale(loss / self.recipe.groups).backward()  # the mean over the groups of all ranks
            losses.append(loss.detach())
        self.ranks.add_gradients(self.model)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.done += 1
        return torch.stack(losses)

    def settle(self, pending: list[Tensor], stop: bool) -> bool:
        """Exchange the losses since the last time, (own groups,) a step; returns whether a rank was asked to stop.

        Raises Refusal, on all ranks, for a loss that is not finite.
        """
        news = self.ranks.gather((torch.stack(pending).cpu().double(), stop))
        pending.clear()
        losses = torch.cat([losses for losses, _ in news], 1).mean(1).tolist()  # (steps, groups) -> (steps,)
        for step, loss in enumerate(losses, start=len(self.log.losses) + 1):
            if not math.isfinite(loss):
                self.ranks.refuse(
                    f"The loss became {loss} at step {step}; the last good checkpoint, if any, is {self.path}. "
                    "Try a smaller --lr."
                )
        self.log.losses += losses
        return any(stop for _, stop in news)

    def end_epoch(self, val: ImageFolders, workers: int) -> dict:
        """Test, save, and return the epoch's row of the log."""
        steps, log = self.batches.steps, self.log
        row = {
            "epoch": len(log.epochs) + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(log.losses[-steps:]) / steps,
            **accuracy(self.model, val, self.ranks, self.precision, int(1.5 * self.recipe.group), workers),
            "images_per_second": round(steps * self.recipe.global_batch / max(log.seconds, 1e-9), 2),
            "seconds": round(log.seconds, 1),
        }
        log.epochs.append(row)
        log.seconds = 0.0
        self.save()
        return row

    def save(self) -> None:
        """Rank 0 writes checkpoint and log, each in one move; Refusal on all ranks if it cannot."""

        def write():
            self.log.scaler = self.scaler.state_dict()
            save_checkpoint(self.path, self.identity, self.done, self.model, self.optimizer, self.log)
            record = {"run": self.identity, "epochs": self.log.epochs, "losses": self.log.losses}
            write_in_one_move(self.log_path, (json.dumps(record, indent=1) + "\n").encode())

        self.ranks.agree(write if self.ranks.rank == 0 else lambda: None)

    def load(self) -> None:
        """Go on from the checkpoint, if there is one. Refusal if it cannot be read or belongs to another run."""
        there = os.path.lexists(self.path)
        state = self.ranks.agree(lambda: load_checkpoint(self.path, self.identity, self.recipe) if there else None)
        if len(set(self.ranks.gather(state and state["step"]))) > 1:
            self.ranks.refuse(f"Not all processes see the same {self.path}; --out must be a folder that they share.")
        if state:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.done, self.log = state["step"], Log(**state["history"])
            self.scaler.load_state_dict(self.log.scaler)


def train(training: Training, val: ImageFolders, workers: int = 0, sync_every: int = 10) -> None:
    """Train to the end, testing on `val` and saving after every epoch.

    Ranks exchange news every `sync_every` steps. After Ctrl-C or SIGTERM on any rank all stop at the next exchange,
    with a checkpoint, and raise Stopped. Rank 0 draws a progress bar and prints one line an epoch.
    """
    ranks, steps, recipe, log = training.ranks, training.batches.steps, training.recipe, training.log
    images = Images(training.files, recipe.transform(training.model.patch_embed.input_shape))
    data = loader(images, ranks.device, workers, batch_sampler=training.batches)
    total, pending = steps * recipe.epochs, []
    shown = ranks.rank == 0 and progress_shown()
    with tqdm(total=total, initial=training.done, unit="step", disable=not shown) as bar, stop_signals() as stop:
        while True:
            if len(log.epochs) < training.epoch:  # also after a stop between the last step and the test
                row = training.end_epoch(val, workers)
                if ranks.rank == 0:
                    bar.write(
                        f"epoch {row['epoch']}/{recipe.epochs}  loss {row['train_loss']:.4f}  top-1 {row['top1']:.2f} %"
                        f"  top-5 {row['top5']:.2f} %  {row['images_per_second']:.1f} images/s"
                    )
            if training.done == total:
                return
            training.scheduler.step(training.epoch)  # depends on the epoch alone: nothing of it to save
            training.batches.enter(training.epoch, training.done % steps)
            batches, last, start = iter(data), (training.epoch + 1) * steps, time.perf_counter()
            while training.done < last:
                pending.append(training.train_step(batches))
                if training.done % sync_every and training.done < last:
                    continue
                stopped = training.settle(pending, bool(stop))
                now = time.perf_counter()
                log.seconds, start = log.seconds + now - start, now
                bar.update(training.done - bar.n)
                bar.set_postfix_str(f"epoch {last // steps}/{recipe.epochs}, loss {log.losses[-1]:.3f}")
                if stopped:
                    training.save()
                    raise Stopped(stop[0] if stop else signal.SIGTERM)


@torch.no_grad()
def accuracy(
    model: ConViT, files: ImageFolders, ranks: Ranks, precision: str = "float32", batch: int = 192,
    workers: int = 0,
) -> dict:  # fmt: skip
    """top1 and top5 in per cent, val_loss and val_images, of all ranks together and the same on each.

    Images are resized so that the shorter side is 8/7 of the model's, bicubic, and their centre is cropped: 256 and
    224 in the paper. Refusal for logits that are not finite: they are no accuracy. With fewer than five classes top5
    counts them all.
    """
    shape = model.patch_embed.input_shape
    transform = timm.data.create_transform(shape, is_training=False, interpolation="bicubic", crop_pct=CROP)
    images = Subset(Images(files, transform), range(ranks.rank, len(files), ranks.world))
    sums = torch.zeros(4, device=ranks.device)  # top-1, top-5, loss, not finite
    with evaluating(model.to(ranks.device)):
        for pixels, labels in loader(images, ranks.device, workers, batch_size=batch):
            labels = labels.to(ranks.device)
            with autocast(ranks.device, precision):
                logits = model(pixels.to(ranks.device)).float()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
            sums += torch.stack([best[:, 0].sum(), best.sum(), loss, (~logits.isfinite()).any(1).sum()])
    top1, top5, loss, bad = sum(ranks.gather(sums.cpu().double())).tolist()
    if bad:
        ranks.refuse(f"The model's logits are not finite for {bad:.0f} of {len(files)} images below {files.root}.")
    count = len(files)
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "val_loss": loss / count, "val_images": count}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    enabled = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if enabled else None, enabled=enabled)


def loader(images: Dataset, device: torch.device, workers: int, **how) -> DataLoader:
    return DataLoader(
        images, num_workers=workers, pin_memory=device.type == "cuda", worker_init_fn=start_worker,
        persistent_workers=workers > 0 and "batch_sampler" in how, **how,
    )  # fmt: skip


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the first Ctrl-C or SIGTERM; a second one ends the process as usual."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        restore()

    def restore():
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        restore()
