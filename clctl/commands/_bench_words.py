"""A bench in words: the table, and the sentence that names the bottleneck and what to change."""

from typing import Any

from clctl.report.document import percent

BAR = 28  # signs of the longest bar
LITTLE = 0.01  # share of a step below which a rate says nothing
NOISY = 0.3  # spread of steps above which something else seems to use the machine
SENDING = 0.25  # share of a step from which on ranks are named
GAIN = 1.1  # a larger batch is worth a word from here on
NUMBERS = {1: "one thread", 2: "two threads"}


def table(found: dict[str, Any]) -> str:
    """The whole report as lines for people."""
    lines = [_head(found), f"{'':<10} {'ms/step':>9} {'images/s':>11}"]
    stages = found["stages"]
    for name, stage in stages.items():
        share = stage["share"]
        bar = "#" * round(BAR * share) if name != "together" else ""
        shown = _count(stage["images_per_second"]) if share >= LITTLE else ""
        tail = f"{100 * share:4.0f} % {bar}" if name != "together" else _noise(found["spread"])
        line = f"{name:<10} {1000 * stage['seconds_per_step']:>9.2f} {shown:>11}  {tail}"
        lines.append(line.rstrip())
    lines += [_memory(found), _limits(found)]
    if (batch := found["batch"]) is not None:
        rates = (f"{n}: {_count(rate)}" for n, rate in batch["images_per_second"].items())
        lines.append(f"batch      images/s {', '.join(rates)}; {batch['enough']} is enough")
    startup = found["startup"]
    said = (f"{name.replace('_', ' ')} {s:.1f} s" for name, s in startup.items() if s is not None)
    lines.append(f"startup    {', '.join(said)}")
    if (ranks := found["ranks"]) is not None:
        lines += _ranks(ranks)
    return "\n".join([*lines, found["bottleneck"]])


def _head(found: dict[str, Any]) -> str:
    return (
        f"{found['recipe']}: {found['method']} with {found['encoder']} on {found['data']}, batch "
        f"{found['batch_size']}, {found['views']} x {found['size']} px; {found['device']}"
    )


def _count(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _noise(spread: float) -> str:
    words = f"the middle half of the steps lies within {percent(spread)} of the median"
    return words + ("; something else seems to use this machine" if spread > NOISY else "")


def _memory(found: dict[str, Any]) -> str:
    memory = found["memory"]
    words = f"{memory['rss_bytes'] / 2**30:.2f} GiB"
    if memory["cuda_bytes"] is not None:
        words += f", {memory['cuda_bytes'] / 2**30:.2f} GiB of GPU"
    return f"memory     {words} at most; waiting for data {percent(found['waiting'])}"


def _limits(found: dict[str, Any]) -> str:
    sums, top = found["arithmetic"], found["peaks"]
    words = f"{sums['flops_per_image'] / 1e6:,.0f} MFLOP per image"
    if sums["of_matmul"] is not None:
        words += (
            f", {percent(sums['of_matmul'])} of this device's {top['matmul_flops'] / 1e9:,.0f} "
            f"GFLOP/s in {top['precision']}"
        )
    if sums["of_copy"] is not None:
        words += (
            f"; moves {percent(sums['of_copy'])} of the {top['copy_bytes_per_second'] / 1e9:,.1f} "
            "GB/s of a copy"
        )
    return f"model      {words}"


def _ranks(ranks: dict[str, Any]) -> list[str]:
    lines = [
        f"ranks      {ranks['count']}, each sends {ranks['bytes_per_step'] / 1e6:,.2f} MB per step; "
        f"alone that takes {1000 * ranks['seconds_per_step']:.1f} ms, {percent(ranks['share'])} "
        "of a step"
    ]
    return lines + [
        f"           {one['name']} for {one['for']}: {one['calls']} calls, {one['bytes']:,} bytes"
        for one in ranks["collectives"]
    ]


def costs(stages: dict[str, dict[str, float]]) -> dict[str, float]:
    """Shares of the step by what one can change: forward and backward are one, the model."""
    shares = {name: stage["share"] for name, stage in stages.items() if name != "together"}
    model = shares.pop("forward") + shares.pop("backward")
    return {**shares, "model": model}


def bottleneck(found: dict[str, Any], cores: int) -> tuple[str, float, str]:
    """What takes most of the step, its share, and one sentence with what to change.

    Args:
        found: The document without it.
        cores: That this process may use.
    """
    shares = costs(found["stages"])
    name = max(shares, key=lambda key: shares[key])
    ranks = found["ranks"]
    # Nearly all is sent within the model's own time, in part while backward goes on.
    if ranks is not None and name == "model" and ranks["share"] >= SENDING:
        name, shares = "ranks", {**shares, "ranks": ranks["share"]}
    place = found["device"].split(",")[0]
    threads = found["threads"]
    on = f"on {NUMBERS.get(threads, f'{threads} threads')}" if place == "cpu" else f"on {place}"
    what = {
        "data": "fetching the pictures takes",
        "views": "views take",
        "model": "the model (forward and backward) takes",
        "optimizer": "the optimizer takes",
        "after": "what the method does after the update takes",
        "rest": "what lies between the stages takes",
        "ranks": "what ranks send each other takes",
    }[name]
    if name == "ranks":
        on = "when sent by itself"
    advice = _advice(name, found, cores if place == "cpu" else threads)
    return name, shares[name], f"{what} {100 * shares[name]:.0f} % of the step {on}: {advice}"


def _advice(name: str, found: dict[str, Any], cores: int) -> str:
    """What to change."""
    threads, gpu = found["threads"], not found["device"].startswith("cpu")
    if name == "ranks":
        return "a larger train.batch_size sends the gradients less often, fewer ranks send less"
    if name == "data":
        return (
            "keep the cache (CLCTL_CACHE) on a local disk, and views.size no larger than needed, "
            "for pictures are stored by it"
        )
    if threads < cores and name in ("views", "model"):
        return f"OMP_NUM_THREADS={cores} would use all {cores} cores"
    if name == "views":
        if gpu:
            return "fewer or smaller views, or fewer operations in views.groups"
        return (
            "a GPU makes them while it trains; else fewer or smaller views, or fewer operations "
            "in views.groups"
        )
    if name != "model":
        return "it is paid once per step, so a larger train.batch_size pays it less often"
    return _model(found, gpu)


def _model(found: dict[str, Any], gpu: bool) -> str:
    """What to change about a step that is mostly the model's."""
    sums, batch = found["arithmetic"], found["batch"]
    used = sums["of_matmul"] or 0.0
    if gpu and found["peaks"]["precision"] == "fp32":
        return "--set train.precision=bf16 uses the faster units of the GPU"
    if batch is not None and batch["enough"] > found["batch_size"]:
        more = batch["images_per_second"][str(batch["enough"])] / found["images_per_second"]
        if more >= GAIN:
            return (
                f"--set train.batch_size={batch['enough']} gives {100 * (more - 1):.0f} % more "
                "images/s; it changes what is learnt, so it is a run of its own"
            )
    share = f"it reaches {percent(used)} of what this device multiplies at most"
    if used >= 0.4:
        return f"{share}, so only a smaller encoder, smaller views or a faster device is faster"
    if (sums["of_copy"] or 0.0) >= 0.5:
        return f"{share} and is held up by memory: smaller views or fewer channels move less"
    return (
        f"{share}, as its operations are small or thin: a smaller encoder or smaller views are "
        "faster" + ("" if gpu else ", and so is a GPU")
    )
