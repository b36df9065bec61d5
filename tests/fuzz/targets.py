"""What is fuzzed: each target takes any bytes, and ends in what it reads or in a Problem.

A target raises only where clctl is at fault: an exception that is no Problem, a Problem of the
wrong exit code, or a picture that its bounds do not allow.
"""

import io
import json
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clctl.console import Exit, Problem
from clctl.data import arrayfile, embeddings, labels
from clctl.data.decode import Bad, Bounds, Picture, decode, heic
from clctl.recipe.read import packaged, read
from clctl.store import checkpoint, documents, reference, tensors

BOUNDS = Bounds(16, 1.5)
PIXELS = 1 << 21  # of a picture, so that no input takes long


def expect(exits: tuple[Exit, ...], work: Callable[[], object]) -> None:
    """Do it, and have a Problem, if there is one, be of these exits and fit to be told."""
    try:
        work()
    except Problem as problem:
        for one in (problem, *problem.others):
            assert one.exit in exits, (one.exit, one.message)
            assert one.message
            json.dumps(one.document())
            one.text().encode()


def recipe(data: bytes, folder: Path) -> None:
    """A recipe file."""
    path = folder / "r.yaml"
    path.write_bytes(data)
    expect((Exit.RECIPE,), lambda: read(path))


def override(data: bytes, folder: Path) -> None:
    """Lines of --set over a packaged recipe; the first one is --data where it is not empty."""
    first, *rest = data.decode("utf-8", "surrogateescape").split("\n")[:6]
    path = packaged()["simclr"]
    expect((Exit.RECIPE,), lambda: read(path, rest, first or None))


def weights(data: bytes, folder: Path) -> None:
    """A .safetensors file as a checkpoint."""
    path = folder / "w.safetensors"
    path.write_bytes(data)
    expect((Exit.CHECKPOINT,), lambda: tensors.read(path))
    expect((Exit.CHECKPOINT,), lambda: reference.find(str(path)))


def manifest(data: bytes, folder: Path) -> None:
    """The manifest of a checkpoint, sealed anew where it can be, so that its content is judged."""
    home = folder / "checkpoints" / "step-00000007"
    if not home.exists():
        checkpoint.save(folder, 7, {"w": torch.ones(2)}, {"s": torch.ones(1)}, {}, {})
    raw = data
    with suppress(ValueError):
        found = documents.parse(data)
        found.pop("manifest_sha256", None)
        raw = documents.sealed(found, "manifest_sha256")
    (home / "manifest.json").write_bytes(raw)
    expect((Exit.CHECKPOINT,), lambda: checkpoint.load(home))
    expect((Exit.CHECKPOINT,), lambda: reference.find(str(folder)))


def arrays(data: bytes, folder: Path) -> None:
    """A file of pictures and of features, under each of the suffixes."""
    exits = (Exit.DATA, Exit.RESOURCES)
    for suffix in embeddings.SUFFIXES:
        path = folder / f"a{suffix}"
        path.write_bytes(data)
        expect(exits, lambda path=path: embeddings.read(path))
        if suffix in arrayfile.SUFFIXES:
            expect(exits, lambda path=path: arrayfile.read(path))


def image(data: bytes, folder: Path) -> None:
    """A picture of any format."""
    path = folder / "x.jpg"
    path.write_bytes(data)
    heic()
    usual, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = decode(str(path), BOUNDS)
    finally:
        Image.MAX_IMAGE_PIXELS = usual
    if isinstance(found, Bad):
        assert found.reason
        return
    assert isinstance(found, Picture)
    height, width, channels = found.pixels.shape
    assert 1 <= min(height, width) <= BOUNDS.short_side
    assert max(height, width) <= np.ceil(BOUNDS.short_side * BOUNDS.max_aspect)
    assert channels in (1, 3)
    assert found.pixels.dtype == np.uint8 or np.isfinite(found.pixels).all()


def table(data: bytes, folder: Path) -> None:
    """A table of labels."""
    path = folder / "l.csv"
    path.write_bytes(data)
    names = ["a/0.png", "a/1.png", "b/2.png", "train/3.png"]
    expect((Exit.DATA,), lambda: labels.labelled(names, str(folder), path, True, 1.0))


TARGETS = {one.__name__: one for one in (recipe, override, weights, manifest, arrays, image, table)}


def seeds(name: str, folder: Path) -> list[bytes]:
    """Whole inputs of a target, to be damaged."""
    return SEEDS[name](folder)


def _images(folder: Path) -> list[bytes]:
    heic()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 26, 3), dtype=np.uint8)
    picture, found = Image.fromarray(pixels), []
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [picture.rotate(90 * k) for k in range(3)]
    for form, options in (
        ("JPEG", {"exif": exif}), ("JPEG", {"progressive": True}), ("PNG", {"exif": exif}),
        ("WEBP", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("GIF", {}), ("GIF", {"save_all": True, "append_images": frames}),
        ("PNG", {"save_all": True, "append_images": frames}),
        *([("HEIF", {})] if heic() else []),
    ):  # fmt: skip
        out = io.BytesIO()
        picture.save(out, form, **options)
        found.append(out.getvalue())
    for array in (pixels[..., 0].astype(np.uint16) * 257, pixels[..., 0].astype(np.float32)):
        out = io.BytesIO()
        Image.fromarray(array).save(out, "TIFF")
        found.append(out.getvalue())
    return [*found, b"P3 2 1 255 1 2 3 4 5 6\n", b"P1 2 2 1 0 1 1\n"]


def _arrays(folder: Path) -> list[bytes]:
    found = []
    images = np.zeros((3, 4, 4, 1), np.uint8)
    features = np.ones((3, 2), np.float32)
    names = {"labels": np.arange(3), "classes": np.array(["a", "b", "c"])}
    for save in (np.savez, np.savez_compressed):
        for key, value in (("images", images), ("features", features)):
            out = io.BytesIO()
            save(out, **{key: value}, **names)
            found.append(out.getvalue())
    out = io.BytesIO()
    np.save(out, features)
    found.append(out.getvalue())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("features.npy", found[-1])
    return [*found, out.getvalue(), *_weights(folder)]


def _weights(folder: Path) -> list[bytes]:
    found = []
    for given in (
        {"images": torch.zeros(3, 4, 4, dtype=torch.uint8), "labels": torch.arange(3)},
        {"features": torch.ones(3, 2), "w": torch.ones(2, dtype=torch.bfloat16)},
    ):
        meta = {"classes": '["a", "b", "c"]', "clctl": '{"recipe": {}}'}
        tensors.write(folder / "seed.safetensors", given, meta)
        found.append((folder / "seed.safetensors").read_bytes())
    return found


def _manifest(folder: Path) -> list[bytes]:
    about = {"recipe": {"seed": 0}, "data": {"name": "digits"}}
    home = checkpoint.save(folder, 7, {"w": torch.ones(2)}, {"s": torch.ones(1)}, {}, about)
    return [(home / "manifest.json").read_bytes()]


SEEDS: dict[str, Callable[[Path], list[bytes]]] = {
    "recipe": lambda folder: [path.read_bytes() for path in packaged().values()],
    "override": lambda folder: [
        b"\ntrain.epochs=3\nviews.groups.0.count=2\nmethod={name: byol}",
        b"digits\nencoder.weights=imagenet\noptimizer.lr=1e-3",
        b"pictures/\ndata.labels=none\ndata.short_side=null",
    ],
    "weights": _weights,
    "manifest": _manifest,
    "arrays": _arrays,
    "image": _images,
    "table": lambda folder: [b"path,label\na/0.png,cat\nb/2.png,dog\n", b'\xef\xbb\xbfx,label,path\n1,"a, b",a/1.png\n'],
}  # fmt: skip
