"""Numbers that are not finite: nothing of them is saved, and the step that made them is found."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor

from clctl import optim
from clctl.commands._stop import Stop
from clctl.commands._training import Trainer
from clctl.console import Exit, Problem
from clctl.distributed import wait
from clctl.engine import NotFinite, Tick, finite, train
from clctl.method import Method
from clctl.store import checkpoint

FOUND = "not-finite.json"
SHOWN = 5  # ids in the message; the file has all
LEAST, SHARE = 3, 0.01  # steps that may be skipped: so many, or this share of the run


@dataclass(frozen=True)
class Wrong:
    """What was first not finite in one step.

    Attributes:
        what: "loss", "gradient", "weights" or "state" (buffers, and what the optimizer keeps).
        tensor: Its name; of gradients the first that backward came to. None for the loss.
        words: All that in words.
    """

    what: str
    tensor: str | None
    words: str


def rollback(choice: str) -> bool:
    """The choice of --on-nan.

    Raises:
        Problem: If it is neither stop nor rollback.
    """
    if choice not in ("stop", "rollback"):
        raise Problem(
            f"--on-nan {choice} is neither stop nor rollback",
            Exit.USAGE,
            "usage.on-nan",
            "--on-nan rollback goes on without the batch that was not finite",
        )
    return choice == "rollback"


def pretraining(
    trainer: Trainer,
    stop: Stop,
    rollback: bool,
    fresh: Callable[[], Method],
    note: Callable[[], None],
) -> str | None:
    """Train to the end or until `stop` has a reason, and give that; look into what is not finite.

    Args:
        rollback: Whether to go on from the last checkpoint without the step that was not finite.
        fresh: Makes the method of step 0.
        note: Writes down in the run which steps it skips.

    Raises:
        Problem: Exit.NUMERICS, naming the step, what it was, and the images of its batch.
    """
    while True:
        try:
            return trainer.go(stop)
        except NotFinite as problem:
            noticed = problem
        trainer.talk.say(f"{noticed.message}: going back to find the step")
        place = back(trainer, fresh)
        begun = trainer.done
        found = _found(trainer, noticed, stop)
        if found is None:
            raise _unlike(trainer, begun, noticed.step, place)
        step, lr, loss, wrong = found
        ids = _record(trainer, step, lr, loss, wrong, place)
        told = f"not finite at step {step:,}: {wrong.words}"
        if not rollback:
            raise _told(trainer, told, ids)
        if len(trainer.skipped) >= max(LEAST, int(SHARE * trainer.total)):
            raise _hopeless(trainer, told)
        trainer.skipped = sorted({*trainer.skipped, step})
        note()
        back(trainer, fresh)
        trainer.run.rewind(trainer.done)
        wait()  # for the log to be as the first rank left it
        trainer.recall(trainer.run.records())
        trainer.talk.say(f"{told}; going on from step {trainer.done:,} without it")


def back(trainer: Trainer, fresh: Callable[[], Method]) -> Path | None:
    """Put the newest checkpoint into the trainer, or the weights of step 0; gives which."""
    newest = checkpoint.newest(trainer.run.folder, trainer.talk.say)
    if newest is not None:
        trainer.restore(newest)
        return newest
    trainer.method.load_state_dict(fresh().state_dict())
    trainer.optimizer.state.clear()
    trainer.done = 0
    return None


def _found(
    trainer: Trainer, noticed: NotFinite, stop: Stop
) -> tuple[int, float, float, Wrong] | None:
    """Step, rate, loss and what was wrong, by taking the steps again, looking after each.

    None if all is finite this time.
    """
    label, parts = "looking again at step", (trainer.plan, trainer.method, trainer.optimizer)
    with (
        _gradients(trainer.method) as seen,
        trainer.talk.task(label, noticed.step, trainer.done) as show,
    ):
        for tick in map(Tick.whole, train(*parts, trainer.done)):
            wrong = _wrong(trainer, tick, seen)
            if tick.out is not None and wrong is not None:
                return tick.step, tick.lr, float(tick.out.loss.detach()), wrong
            show(tick.step, "")
            if tick.step >= noticed.step:
                return None
            if stop.reason:
                raise Problem(
                    f"{noticed.message}; {stop.reason} ended the search for the step",
                    stop.exit,
                    "train.not-finite",
                    f"clctl pretrain {quote(str(trainer.run.folder))} takes it up again",
                )
    return None


@contextmanager
def _gradients(method: Method) -> Iterator[dict[str, Tensor]]:
    """Gradients made inside the block that are not finite, by parameter, in backward's order."""
    seen: dict[str, Tensor] = {}

    def look(name: str, p: Tensor) -> None:
        if p.grad is not None and not torch.isfinite(p.grad).all():
            seen[name] = p.grad.detach().clone()  # clipping will change it

    hooks = [
        p.register_post_accumulate_grad_hook(lambda p, name=name: look(name, p))
        for name, p in method.named_parameters()
        if p.requires_grad
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _wrong(trainer: Trainer, tick: Tick, gradients: dict[str, Tensor]) -> Wrong | None:
    """What was first not finite in a step, None if nothing was."""
    sound = finite(tick, trainer.tensors())  # all ranks ask this, whatever their gradients
    if tick.out is None or (sound and not gradients):
        return None
    loss, method = tick.out.loss.detach(), trainer.method
    if not torch.isfinite(loss):
        return Wrong("loss", None, f"the loss is {_word(loss)}")
    kinds: tuple[tuple[str, str, Iterable[tuple[str, Tensor]]], ...] = (
        ("gradient", "the gradient of {} is", gradients.items()),
        ("weights", "the update made {}", method.named_parameters()),
        ("state", "the step made {}", method.named_buffers()),
        ("state", "the step made {}", optim.tensors(trainer.optimizer, method).items()),
    )
    for what, form, named in kinds:
        bad = [(name, value) for name, value in named if not torch.isfinite(value).all()]
        if bad:
            name, value = bad[0]
            many = f", the first of {len(bad)}" if len(bad) > 1 else ""
            words = f"the loss is {float(loss):.6g}, but {form.format(name)} {_word(value)}{many}"
            return Wrong(what, name, words)
    return None


def _word(value: Tensor) -> str:
    return "nan" if torch.isnan(value).any() else "infinite"


def _record(
    trainer: Trainer, step: int, lr: float, loss: float, wrong: Wrong, place: Path | None
) -> list[str]:
    """Write what was found into the run; gives the ids of the batch."""
    rows = trainer.feed.rows(step - 1)
    ids = [trainer.split.ids[int(i)] for i in rows.tolist()]
    old: dict[str, Any] = trainer.run.read_json(FOUND) or {}
    earlier = old.pop("earlier", [])
    document = {
        "schema": "clctl/not-finite/1",
        "step": step,
        "what": wrong.what,
        "tensor": wrong.tensor,
        "words": wrong.words,
        "loss": loss,
        "lr": lr,
        "checkpoint": None if place is None else place.name,
        "ids": ids,
        # Those that the run goes on without.
        "earlier": [d for d in [*earlier, old] if d.get("step") in trainer.skipped],
    }
    trainer.run.write_json(FOUND, document)
    return ids


def _told(trainer: Trainer, told: str, ids: list[str]) -> Problem:
    more = ", ..." if len(ids) > SHOWN else ""
    return Problem(
        f"{told}; its batch of {len(ids)}: {', '.join(ids[:SHOWN])}{more} "
        f"(all in {trainer.run.folder / FOUND})",
        Exit.NUMERICS,
        "train.not-finite",
        "lower optimizer.lr, lengthen schedule.warmup or set optimizer.clip_norm; if it is the "
        "batch, --on-nan rollback goes on without it",
    )


def _hopeless(trainer: Trainer, told: str) -> Problem:
    steps = ", ".join(f"{step:,}" for step in trainer.skipped)
    return Problem(
        f"{told}, after {len(trainer.skipped)} steps were skipped ({steps}): it is not the batch",
        Exit.NUMERICS,
        "train.not-finite",
        "lower optimizer.lr, lengthen schedule.warmup or set optimizer.clip_norm",
    )


def _unlike(trainer: Trainer, begun: int, noticed: int, place: Path | None) -> Problem:
    cuda = trainer.where.device.type == "cuda"
    reasons = "memory, processor or GPU" if cuda else "memory or processor"
    order = ", or an operation that adds in another order each time" if cuda else ""
    where = "the beginning" if place is None else place.name
    return Problem(
        f"not finite at or before step {noticed:,}, yet steps {begun + 1:,} to {noticed:,}, taken "
        f"again from {where}, were finite: the same arithmetic gave two results",
        Exit.NUMERICS,
        "train.not-reproduced",
        f"suspect faulty {reasons}{order}; the same command goes on from {where}",
    )
