"""The run itself: a step over the groups of one process, checkpoints, tests, logs."""

import contextlib
import csv
import io
import json
import math
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from ..files import write_in_one_move
from ..model import ConViT
from ..parity import timm
from ..train import progress
from .folders import (
    GroupBatches,
    ImageFolders,
    TrainingImages,
    ValidationImages,
    draw_seed,
    seed_everything,
    start_worker,
)
from .ranks import Ranks, Refusal
from .recipe import PaperRecipe

FORWARD = 1  # the stream of random numbers of mixing and stochastic depth; 0 is augmentation's
CROP = 224 / 256  # of the side of a validation image


class Stopped(Exception):
    """Somebody asked for an end, by this signal; the checkpoint is written."""


class Training:
    """A run between two steps, as one of the ranks sees it.

    Args:
        model, recipe, files: what, how (from `PaperRecipe.for_model`), and on which training images.
        ranks: this process and the others.
        out: the folder of checkpoint and logs, which all ranks see.
        about: what else makes this run this run, by name; it is compared before a checkpoint is taken over.
        precision: "float32", or "bfloat16" or "float16" for autocast.
        max_unreadable: the share of files that may be unreadable.

    `done` counts the steps of all epochs. `rows` (a dict for each finished epoch) and `losses` (a number for each
    step) are the same on all ranks.
    """

    def __init__(
        self,
        model: ConViT,
        recipe: PaperRecipe,
        files: ImageFolders,
        ranks: Ranks,
        out: Path,
        about: dict,
        precision: str = "float32",
        max_unreadable: float = 0.01,
    ):
        self.ranks, self.recipe, self.files, self.out, self.max_unreadable = ranks, recipe, files, out, max_unreadable
        self.precision = precision
        self.identity = about | {
            "classes": len(files.classes), "training files": files.fingerprint()[:12], "precision": precision,
        } | asdict(recipe)  # fmt: skip
        self.model = model.to(ranks.device).train()
        self.model.set_drop_path(recipe.drop_path)
        share = recipe.groups // ranks.world
        self.own = range(ranks.rank * share, (ranks.rank + 1) * share)
        self.optimizer = recipe.optimizer(self.model)
        self.scheduler, self.epochs = recipe.scheduler(self.optimizer)
        self.mixup, self.criterion = recipe.mixer(len(files.classes))
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=precision == "float16")
        self.ema = timm.utils.ModelEmaV3(self.model, decay=recipe.ema) if recipe.ema else None
        self.batches = GroupBatches(len(files), recipe.groups, recipe.group, self.own, recipe.repeats, recipe.seed)
        self.done, self.rows, self.losses = 0, [], []
        self.unreadable: set[int] = set()
        self.epoch_seconds = 0.0
        self.forward = ranks.parallel(self.model)
        self._rehearse()

    def _rehearse(self) -> None:
        """A forward and a backward pass that change nothing.

        After its first pass DistributedDataParallel regroups the gradients, and with them the order in which those
        of three and more ranks are added. Done here, a run that starts in the middle adds as one that got there.
        """
        if self.ranks.world > 1:
            images = torch.zeros(2, *self.model.patch_embed.input_shape, device=self.ranks.device)
            with autocast(self.ranks.device, self.precision):
                logits = self.forward(images)
            logits.float().square().mean().backward()
            self.optimizer.zero_grad()

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
            logits = self.forward(images)  # (B, K)
        return self.criterion(logits.float(), targets)

    def train_step(self, batches: Iterator) -> Tensor:
        """One optimiser step on the next own groups; their losses (own groups,), still on the device."""
        losses = []
        for group in self.own:
            images, labels, bad = next(batches)
            self.unreadable.update(bad[bad >= 0].tolist())
            waits = self.ranks.world > 1 and group != self.own[-1]  # gradients travel once a step
            with self.forward.no_sync() if waits else contextlib.nullcontext():
                loss = self.group_loss(images, labels, group)
                self.scaler.scale(loss / len(self.own)).backward()
            losses.append(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.model)
        self.done += 1
        return torch.stack(losses)

    def settle(self, pending: list[Tensor], stop: bool) -> bool:
        """Exchange what happened since the last time: losses, unreadable files; whether a rank was asked to stop.

        Raises Refusal, on all ranks, for a loss that is not finite and for too many unreadable files.
        """
        table = torch.zeros(len(pending), self.recipe.groups, dtype=torch.float64)  # (steps, groups)
        table[:, self.own.start : self.own.stop] = torch.stack(pending).cpu().double()
        losses = self.ranks.total(table).mean(1).tolist()  # adding zeros is exact, whatever the number of ranks
        pending.clear()
        reports = self.ranks.gather((stop, self.unreadable))
        self.unreadable = set().union(*(unreadable for _, unreadable in reports))
        for loss in losses:
            if not math.isfinite(loss):
                raise Refusal(
                    f"The loss became {loss} at step {len(self.losses) + 1}; the last good checkpoint, if any, "
                    f"is in {self.out}. Try a smaller --lr."
                )
            self.losses.append(loss)
        check_unreadable(self.files, self.unreadable, self.max_unreadable)
        return any(stop for stop, _ in reports)

    def finish_epoch(self, tested: dict) -> dict:
        """Add a row to the log, with what the test has found; returns it."""
        steps = self.batches.steps
        images = steps * self.recipe.global_batch
        row = {
            "epoch": len(self.rows) + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(self.losses[-steps:]) / steps,
            **tested,
            "unreadable": len(self.unreadable),
            "images_per_second": round(images / max(self.epoch_seconds, 1e-9), 2),
            "seconds": round(self.epoch_seconds, 1),
        }
        self.rows.append(row)
        self.epoch_seconds = 0.0
        return row

    # --- checkpoints

    @property
    def path(self) -> Path:
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Rank 0 writes checkpoint, log.csv and log.json, each in one move."""
        if self.ranks.rank:
            return
        log = {"rows": self.rows, "losses": self.losses, "unreadable": sorted(self.unreadable)}
        state = {
            "identity": self.identity,
            "done": self.done,
            "epoch_seconds": self.epoch_seconds,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "log": log,
        }
        content = io.BytesIO()
        torch.save(state, content)
        write_in_one_move(self.path, content.getvalue())
        names = [os.fsdecode(bytes(self.files.names[index])) for index in log["unreadable"]]
        record = {"run": self.identity, "epochs": self.rows, "losses": self.losses, "unreadable": names}
        write_in_one_move(self.out / "log.json", (json.dumps(record, indent=1) + "\n").encode())
        if self.rows:
            table = io.StringIO()
            writer = csv.DictWriter(table, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_in_one_move(self.out / "log.csv", table.getvalue().encode())

    def load(self) -> None:
        """Go on from the checkpoint, if there is one. Refusal if it cannot be read or belongs to another run."""
        state = self.ranks.agree(lambda: read_checkpoint(self.path) if self.path.exists() else None)
        if len(set(self.ranks.gather(None if state is None else state["done"]))) > 1:
            raise Refusal(f"Not all processes see the same {self.path}; --out must be a folder that they share.")
        if state is None:
            return
        there = state["identity"]
        differing = [name for name in self.identity if self.identity[name] != there.get(name)]
        if differing:
            words = "; ".join(f"{name} {there.get(name)} there, {self.identity[name]} here" for name in differing)
            raise Refusal(f"{self.path} is the checkpoint of another run ({words}); give another --out, or delete it.")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.done, self.epoch_seconds = state["done"], state["epoch_seconds"]
        self.rows, self.losses = state["log"]["rows"], state["log"]["losses"]
        self.unreadable = set(state["log"]["unreadable"])


def train(
    training: Training, val: ImageFolders, workers: int = 0, sync_every: int = 10, test_every: int = 1
) -> None:
    """Train to the end, testing on `val` after every `test_every` epochs and at the end, with a checkpoint each epoch.

    Ranks exchange news every `sync_every` steps. After Ctrl-C or SIGTERM on any rank all stop at the next exchange,
    with a checkpoint, and raise Stopped. Rank 0 draws a progress bar and prints one line an epoch.
    """
    ranks, steps, recipe = training.ranks, training.batches.steps, training.recipe
    images = TrainingImages(training.files, recipe.transform(training.model.patch_embed.input_shape))
    data = loader(images, ranks.device, workers, batch_sampler=training.batches)
    total, named, pending = steps * training.epochs, set(training.unreadable), []
    bar = progress(total=total, initial=training.done, unit="step") if ranks.rank == 0 else None
    with contextlib.nullcontext() if bar is None else bar, stop_signals() as stop:
        while True:
            if len(training.rows) < training.epoch:  # also after a stop between the last step and the test
                due = training.epoch % test_every == 0 or training.epoch == training.epochs
                tested = validate(training, val, workers) if due else dict.fromkeys(columns(training))
                row = training.finish_epoch(tested)
                training.save()
                if bar is not None:
                    bar.write(line(row, training.epochs))
            if training.done == total:
                return
            training.scheduler.step(training.epoch)  # depends on the epoch alone: nothing of it to save
            training.batches.enter(training.epoch, training.done % steps)
            batches, last, start = iter(data), (training.epoch + 1) * steps, time.perf_counter()
            while training.done < last:
                pending.append(training.train_step(batches))
                if training.done % sync_every and training.done < last:
                    continue
                before = len(training.losses)
                stopped = training.settle(pending, bool(stop))
                now = time.perf_counter()
                training.epoch_seconds, start = training.epoch_seconds + now - start, now
                if bar is not None:
                    bar.update(training.done - before)
                    bar.set_postfix_str(f"epoch {training.epoch + 1}/{training.epochs}, loss {training.losses[-1]:.3f}")
                    for index in sorted(training.unreadable - named):
                        bar.write(f"skipped, no readable image: {training.files.path(index)}")
                    named |= training.unreadable
                if stopped:
                    training.save()
                    ranks.gather(None)  # nobody leaves before it is written
                    raise Stopped(stop[0] if stop else signal.SIGTERM)


def columns(training: Training) -> list[str]:
    """The names of what a test finds."""
    names = ["top1", "top5", "val_loss", "val_images"]
    return names if training.ema is None else names + [f"ema_{name}" for name in names]


def validate(training: Training, val: ImageFolders, workers: int) -> dict:
    """The accuracy of the model, and of its moving average if there is one, by the names of `columns`."""
    models = [training.model] + ([] if training.ema is None else [training.ema.module])
    batch, share = int(1.5 * training.recipe.group), training.max_unreadable
    found = [accuracy(m, val, training.ranks, training.precision, batch, workers, share) for m in models]
    return dict(zip(columns(training), [value for part in found for value in part.values()], strict=True))


def line(row: dict, epochs: int) -> str:
    words = f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}"
    if row["top1"] is not None:
        words += f"  top-1 {row['top1']:.2f} %  top-5 {row['top5']:.2f} %"
    return words + f"  {row['images_per_second']:.1f} images/s"


@torch.no_grad()
def accuracy(
    model: ConViT,
    files: ImageFolders,
    ranks: Ranks,
    precision: str = "float32",
    batch: int = 192,
    workers: int = 0,
    max_unreadable: float = 0.01,
) -> dict:
    """top1 and top5 in per cent, val_loss and val_images, of all ranks together and the same on each.

    Images are resized so that the shorter side is 8/7 of the model's, bicubic, and their centre is cropped: 256 and
    224 in the paper. Unreadable files are left out; Refusal if their share exceeds `max_unreadable`. With fewer than
    five classes top5 counts them all.
    """
    shape = model.patch_embed.input_shape
    transform = timm.data.create_transform(shape, is_training=False, interpolation="bicubic", crop_pct=CROP)
    images = Subset(ValidationImages(files, transform, shape), range(ranks.rank, len(files), ranks.world))
    training, unreadable = model.training, set()
    sums = torch.zeros(4, dtype=torch.float64)  # on the CPU: top-1, top-5, loss, images
    model.to(ranks.device).eval()
    for pixels, labels, bad in loader(images, ranks.device, workers, batch_size=batch):
        unreadable.update(bad[bad >= 0].tolist())
        pixels, labels = pixels[bad < 0].to(ranks.device), labels[bad < 0].to(ranks.device)
        with autocast(ranks.device, precision):
            logits = model(pixels)
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]  # (B, 5)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        sums += torch.stack([best[:, 0].sum(), best.sum(), loss, torch.tensor(len(labels)).to(loss)]).cpu()
    model.train(training)
    top1, top5, loss, count = ranks.total(sums).tolist()
    check_unreadable(files, set().union(*ranks.gather(unreadable)), max_unreadable)
    count = max(count, 1.0)  # all unreadable, and allowed to be
    return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "val_loss": loss / count, "val_images": int(count)}


def autocast(device: torch.device, precision: str) -> torch.autocast:
    enabled = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if enabled else None, enabled=enabled)


def loader(images: Dataset, device: torch.device, workers: int, **how) -> DataLoader:
    return DataLoader(
        images, num_workers=workers, pin_memory=device.type == "cuda", worker_init_fn=start_worker,
        persistent_workers=workers > 0 and "batch_sampler" in how, **how,
    )  # fmt: skip


def check_unreadable(files: ImageFolders, unreadable: set[int], share: float) -> None:
    """Refusal if more than this share of the files is unreadable."""
    if len(unreadable) > share * len(files):
        names = [os.fsdecode(bytes(files.names[index])) for index in sorted(unreadable)]
        raise Refusal(
            f"{len(names)} of {len(files)} images below {files.root} are no readable images, more than the allowed "
            f"{100 * share:g} % (--max-unreadable): {', '.join(names[:3])}{', ...' * (len(names) > 3)}; repair or "
            "remove them."
        )


def read_checkpoint(path: Path) -> dict:
    """The state in `path`. ValueError if there is none."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state if state["identity"] and state["model"] else {}
    except Exception as error:
        raise ValueError(f"{path} is not a readable checkpoint of this program; give another, or delete it.") from error


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list that receives the first Ctrl-C or SIGTERM; a second one ends the process as usual."""
    received: list[int] = []

    def note(number, frame):
        received.append(number)
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: then signals are somebody else's
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
