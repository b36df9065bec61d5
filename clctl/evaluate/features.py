"""Features of a frozen encoder, computed once."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from clctl.distributed import gather, world
from clctl.images import Images

Prepare = Callable[[Images], Tensor]  # images -> float [B, 3, size, size], normalised


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside the block, and proof that nothing was changed by it."""
    state = [*encoder.parameters(), *encoder.buffers()]
    before = [(id(tensor), tensor._version) for tensor in state]
    training = {name: module.training for name, module in encoder.named_modules()}
    encoder.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for name, module in encoder.named_modules():
            module.training = training[name]
    now = [*encoder.parameters(), *encoder.buffers()]
    if before != [(id(tensor), tensor._version) for tensor in now]:
        raise AssertionError("evaluation changed the encoder's parameters or statistics")


def extract(
    encoder: nn.Module,
    images: Images,
    prepare: Prepare,
    device: torch.device,
    batch: int = 256,
    tick: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Features of every image, float32 [N, D] on the CPU, in order.

    Of several ranks, which all call this alike, each encodes an equal part, and all get the whole.

    Args:
        tick: Called with the number of images done after every batch.
    """
    rank, ranks = world()
    share = -(-len(images) // ranks)
    # The last part is filled up with the last image, for all ranks gather alike.
    mine = torch.arange(rank * share, (rank + 1) * share).clamp(max=len(images) - 1)
    parts: list[Tensor] = []
    with frozen(encoder):
        for rows in mine.split(batch):
            chunk = images.take(rows).to(device)
            x = prepare(chunk).contiguous(memory_format=torch.channels_last)
            each = gather(encoder(x).float()).cpu()
            parts.append(each.unflatten(0, (ranks, -1)))
            tick(min(len(images), ranks * sum(part.shape[1] for part in parts)))
    return torch.cat(parts, dim=1).flatten(0, 1)[: len(images)]


def pixels(images: Images, prepare: Prepare, batch: int = 256) -> Tensor:
    """The prepared pictures themselves as vectors, float32 [N, 3 size²]: what learning must beat."""
    return torch.cat([prepare(chunk).flatten(1) for chunk in chunks(images, batch)])


def chunks(images: Images, batch: int) -> Iterator[Images]:
    """The images in order, `batch` at a time."""
    for start in range(0, len(images), batch):
        yield images.take(torch.arange(start, min(start + batch, len(images))))


def calibrate(encoder: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set batch-norm statistics to the mean over `batches`; weights stay.

    An untrained encoder has made-up statistics; without this its score is too low and flatters
    whatever is compared with it.
    """
    norms = [m for m in encoder.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    encoder.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    with torch.no_grad():
        for x in batches:
            encoder(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
