"""The run itself: a step over the groups of one process, checkpoints, tests, logs."""

import contextlib
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
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from ..evaluation import evaluating
from ..model import ConViT
from ..parity import timm
from ..saving import write_in_one_move
from ..train import progress_shown
from .folders import GroupBatches, ImageFolders, Images, draw_seed, seed_everything, start_worker
from .ranks import Ranks, Refusal
from .recipe import PaperRecipe

FORWARD = 1  # the stream of random numbers of mixing and stochastic depth; 0 is augmentation's
CROP = 224 / 256  # of the side of a validation image
PROGRESS = ("done", "rows", "losses", "epoch_seconds")  # of a run, beside its weights
COLUMNS = ("top1", "top5", "val_loss", "val_images")  # what a test finds


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

    `done` counts the steps of all epochs. `rows` (a dict for each finished epoch) and `losses` (a number for each
    step) are the same on all ranks. Refusal if the model's head and the classes of the files differ in number.
    """

    def __init__(
        self, model: ConViT, recipe: PaperRecipe, files: ImageFolders, ranks: Ranks, out: Path, about: dict,
        precision: str = "float32",
    ):  # fmt: skip
        known = model.head.out_features
        if known != len(files.classes):
            raise Refusal(f"The model tells {known} classes apart, {files.root} has {len(files.classes)}.")
        self.ranks, self.recipe, self.files, self.out, self.precision = ranks, recipe, files, out, precision
        self.identity = about | {"training files": files.fingerprint()[:12], "precision": precision} | asdict(recipe)
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
        self.done, self.rows, self.losses, self.epoch_seconds = 0, [], [], 0.0
        self.forward = ranks.parallel(self.model)
        if ranks.world > 1:
            # A pass that changes nothing. After its first, DistributedDataParallel regroups the gradients, and with
            # them the order in which those of three and more ranks are added: a resumed run shall add as any other.
            images = torch.zeros(2, *self.model.patch_embed.input_shape, device=ranks.device)
            with autocast(ranks.device, precision):
                self.forward(images).float().square().mean().backward()
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
            images, labels = next(batches)
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
        """Exchange the losses since the last time, (own groups,) a step; returns whether a rank was asked to stop.

        Raises Refusal, on all ranks, for a loss that is not finite.
        """
        news = self.ranks.gather((torch.stack(pending).cpu().double(), stop))
        pending.clear()
        for loss in torch.cat([losses for losses, _ in news], 1).mean(1).tolist():  # (steps, groups)
            if not math.isfinite(loss):
                raise Refusal(
                    f"The loss became {loss} at step {len(self.losses) + 1}; the last good checkpoint, if any, "
                    f"is in {self.out}. Try a smaller --lr."
                )
            self.losses.append(loss)
        return any(stop for _, stop in news)

    def test(self, val: ImageFolders, due: bool, workers: int) -> None:
        """End an epoch: a row of the log, with the accuracy of the model and of its moving average if that is due."""
        steps, found = self.batches.steps, {}
        for prefix, model in (("", self.model), ("ema_", self.ema and self.ema.module)):
            if model is not None:
                batch = int(1.5 * self.recipe.group)
                values = accuracy(model, val, self.ranks, self.precision, batch, workers) if due else {}
                found |= {f"{prefix}{name}": values.get(name) for name in COLUMNS}
        self.rows.append({
            "epoch": len(self.rows) + 1,
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": sum(self.losses[-steps:]) / steps,
            **found,
            "images_per_second": round(steps * self.recipe.global_batch / max(self.epoch_seconds, 1e-9), 2),
            "seconds": round(self.epoch_seconds, 1),
        })  # fmt: skip
        self.epoch_seconds = 0.0

    # --- checkpoints

    @property
    def path(self) -> Path:
        return self.out / "checkpoint.pt"

    def save(self) -> None:
        """Rank 0 writes checkpoint, log.csv and log.json, each in one move; Refusal on all ranks if it cannot."""
        self.ranks.agree(self._write if self.ranks.rank == 0 else lambda: None)

    def _write(self) -> None:
        content, average = io.BytesIO(), self.ema and self.ema.module
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler, "ema": average}
        state = {name: part and part.state_dict() for name, part in parts.items()}
        state |= {"identity": self.identity, "classes": self.files.classes}
        torch.save(state | {name: getattr(self, name) for name in PROGRESS}, content)
        write_in_one_move(self.path, content.getvalue())
        record = {"run": self.identity, "epochs": self.rows, "losses": self.losses}
        write_in_one_move(self.out / "log.json", (json.dumps(record, indent=1) + "\n").encode())
        if self.rows:
            rows = [",".join("" if value is None else str(value) for value in row.values()) for row in self.rows]
            write_in_one_move(self.out / "log.csv", "\n".join([",".join(self.rows[0]), *rows, ""]).encode())

    def load(self) -> None:
        """Go on from the checkpoint, if there is one. Refusal if it cannot be read or belongs to another run."""
        state = self.ranks.agree(lambda: read_checkpoint(self.path) if os.path.lexists(self.path) else None)
        if len(set(self.ranks.gather(None if state is None else state["done"]))) > 1:
            raise Refusal(f"Not all processes see the same {self.path}; --out must be a folder that they share.")
        if state is None:
            return
        there = state["identity"]
        differing = [name for name in self.identity | there if self.identity.get(name) != there.get(name)]
        if differing:
            words = "; ".join(f"{name} {there.get(name)} there, {self.identity.get(name)} here" for name in differing)
            raise Refusal(f"{self.path} is the checkpoint of another run ({words}); give another --out.")
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        for name, part in (parts | ({"ema": self.ema.module} if self.ema else {})).items():
            part.load_state_dict(state[name])
        for name in PROGRESS:
            setattr(self, name, state[name])


def train(
    training: Training, val: ImageFolders, workers: int = 0, sync_every: int = 10, test_every: int = 1
) -> None:
    """Train to the end, testing on `val` after every `test_every` epochs and at the end, with a checkpoint each epoch.

    Ranks exchange news every `sync_every` steps. After Ctrl-C or SIGTERM on any rank all stop at the next exchange,
    with a checkpoint, and raise Stopped. Rank 0 draws a progress bar and prints one line an epoch.
    """
    ranks, steps, recipe = training.ranks, training.batches.steps, training.recipe
    images = Images(training.files, recipe.transform(training.model.patch_embed.input_shape))
    data = loader(images, ranks.device, workers, batch_sampler=training.batches)
    total, pending = steps * training.epochs, []
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(
            total=total, initial=training.done, unit="step", disable=ranks.rank > 0 or not progress_shown()
        ))  # fmt: skip
        stop = stack.enter_context(stop_signals())
        while True:
            if len(training.rows) < training.epoch:  # also after a stop between the last step and the test
                training.test(val, training.epoch % test_every == 0 or training.done == total, workers)
                training.save()
                if ranks.rank == 0:
                    bar.write(line(training.rows[-1], training.epochs))
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
                bar.update(training.done - before)
                bar.set_postfix_str(f"epoch {last // steps}/{training.epochs}, loss {training.losses[-1]:.3f}")
                if stopped:
                    training.save()
                    raise Stopped(stop[0] if stop else signal.SIGTERM)


def line(row: dict, epochs: int) -> str:
    words = f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}"
    if row["top1"] is not None:
        words += f"  top-1 {row['top1']:.2f} %  top-5 {row['top5']:.2f} %"
    return words + f"  {row['images_per_second']:.1f} images/s"


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
        raise Refusal(f"The model's logits are not finite for {bad:.0f} of {len(files)} images below {files.root}.")
    return dict(zip(COLUMNS, (100 * top1 / len(files), 100 * top5 / len(files), loss / len(files), len(files))))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    enabled = precision != "float32"
    return torch.autocast(device.type, getattr(torch, precision) if enabled else None, enabled=enabled)


def loader(images: Dataset, device: torch.device, workers: int, **how) -> DataLoader:
    return DataLoader(
        images, num_workers=workers, pin_memory=device.type == "cuda", worker_init_fn=start_worker,
        persistent_workers=workers > 0 and "batch_sampler" in how, **how,
    )  # fmt: skip


def claim(out: Path, first: bool) -> contextlib.AbstractContextManager:
    """Until its context is left, `out` is this run's, and its `first` rank can write to it. Refusal if not."""
    if not first:
        return contextlib.nullcontext()
    try:
        out.mkdir(parents=True, exist_ok=True)
        return FileLock(out / ".lock").acquire(timeout=0)
    except Timeout:
        raise Refusal(f"Another run is writing to {out}; wait for its end, or give another --out.") from None
    except OSError as error:
        raise Refusal(f"--out {out} is no folder that can be written to ({error.strerror}); give another.") from error


def read_checkpoint(path: Path) -> dict:
    """The state in `path`. OSError if it cannot be opened, ValueError if it is no checkpoint of this program."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file.")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not all(state[name] for name in ("identity", "classes", "model")):
            raise KeyError("empty")
        return state
    except MemoryError:
        raise
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be opened ({error.strerror or error})") from error
    except Exception as error:
        raise ValueError(f"{path} is no checkpoint of this program; give another, or move it away.") from error


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
