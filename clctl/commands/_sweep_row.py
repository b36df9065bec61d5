"""One row of a sweep: what a run came to, read from its files alone; and the rows that lie there."""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clctl.commands._report_read import number, words
from clctl.console import Exit, Problem
from clctl.store import documents, files, reading

SCHEMA = "clctl/sweep-row/1"
Share = Annotated[float, Field(ge=0, le=1)]


class Score(BaseModel):
    """A top-1 with its 95 % interval, on so many test images, and that of random weights."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    top1: Share
    ci95: tuple[Share, Share]
    images: Annotated[int, Field(ge=1)]
    random_init: Share | None = None


class Row(BaseModel):
    """What is known of one recipe with one seed on one machine.

    Attributes:
        recipe: The name that the sweep gives it; with the seed it names the run's folder.
        why: Of a run that is not done, or of a score that is missing.
        asked: Digest of the recipe as it was asked for, places of data among it.
        digest: Digest of what changes weights, without the seed: one for all seeds and machines.
        passes: Encodings of a view, or of a patch of one, for an image in a step.
        seconds: Of training, over all starts.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    schema_: Literal["clctl/sweep-row/1"] = Field(SCHEMA, alias="schema")
    recipe: str
    seed: int
    state: Literal["done", "stopped", "failed"]
    why: str = ""
    exit: int = 0
    asked: str = ""
    digest: str = ""
    method: str = ""
    year: int | None = None
    negatives: str = ""
    views: int | None = None
    passes: float | None = None
    encoder: str = ""
    data: str = ""
    steps: int | None = None
    knn: Score | None = None
    knn_lightly: Score | None = None
    linear: Score | None = None
    rank_me: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    memory: str = ""
    hardware: str = ""
    precision: str = ""
    date: str = ""
    clctl: str = ""

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return self.model_dump(mode="json", by_alias=True)


def write(folder: Path, name: str, row: Row) -> None:
    """Put a row at FOLDER/NAME.json, unless these bytes lie there."""
    path, made = folder / f"{name}.json", documents.encode(row.document()) + b"\n"
    if not reading.exists(path) or reading.content(path) != made:
        files.write(path, made)


def read(path: Path) -> Row:
    """A row.

    Raises:
        Problem: Exit.CHECKPOINT if the file is none.
    """
    try:
        return Row.model_validate(documents.read(path, "sweep.row"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise Problem(
            f"{path} is no row of a sweep: {where}: {first['msg']}", Exit.CHECKPOINT, "sweep.row"
        ) from error


def rows(folder: Path) -> tuple[dict[str, Row], list[str]]:
    """All rows of a folder by their files' stems, and why others could not be read."""
    found: dict[str, Row] = {}
    broken: list[str] = []
    for name in reading.names(folder):
        if name.startswith(".") or not name.endswith(".json"):
            continue
        try:
            found[name.removesuffix(".json")] = read(folder / name)
        except Problem as problem:
            broken.append(problem.message)
    return found, broken


def score(document: dict[str, Any]) -> Score | None:
    """Of an evaluation's document; None if it has none."""
    try:
        return Score.model_validate(
            {
                "top1": document["metrics"]["top1"],
                "ci95": document["top1_ci95"],
                "images": document["data"]["test_images"],
                "random_init": document["baselines"]["random_init"],
            }
        )
    except (LookupError, TypeError, ValidationError):
        return None


def seconds(
    records: list[dict[str, Any]], resumes: list[int], steps: int, batch: int
) -> float | None:
    """Seconds that a run trained over all its starts; None where the log does not tell.

    Each start's lines carry the rate since that start.

    Args:
        resumes: The steps at which it was continued.
    """
    edges, total = [0, *resumes, steps], 0.0
    for begin, end in pairwise(edges):
        rates = [
            rate
            for record in records
            if begin < record["step"] <= end and (rate := number(record.get("images_per_second")))
        ]
        if end > begin and not rates:
            return None
        total += (end - begin) * batch / rates[-1] if end > begin else 0.0
    return total


def hardware(device: str) -> str:
    """The words of a run's device without its precision, and with the processor's name."""
    parts = [part for part in device.split(", ") if part not in ("bf16", "fp32")]
    if parts[0] == "cpu":
        parts[0] = processor()
    return ", ".join(part for part in parts if part)


def processor() -> str:
    """The name of this machine's processor, as far as the system tells."""
    import platform

    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or words(platform.machine())
