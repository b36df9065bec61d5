"""One ONNX file, input `image`, output `features`, any batch; run before it is written.

Differs: the exporter's notes on every node, which hold paths and lines of source files, are
taken out, so that the bytes depend on the weights and the versions of torch and onnxscript.
"""

import io
import os
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clctl.console import Exit, Problem
from clctl.export._subject import Subject, need
from clctl.rng import generator
from clctl.store import files

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

WEIGHTS = LOADED = "model.onnx"
BATCHES = (1, 3, 17)
TOLERANCE = 1e-3  # of features, relative to the largest of them

# Else onnxruntime, once imported, writes an identifier into the home folder and reports to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def refusal(subject: Subject) -> str | None:
    """Nothing is refused."""
    return None


def config(subject: Subject) -> dict[str, Any]:
    """What config.json says besides: the ends of the graph."""
    ends = {"image": ["batch", 3, subject.size, subject.size]}
    return {"inputs": ends, "outputs": {"features": ["batch", subject.encoder.width]}}


def save(subject: Subject, path: Path) -> None:
    """Write the graph, once onnxruntime was seen to compute what torch computes.

    Raises:
        Problem: Exit.USAGE if the extra is not installed, Exit.GATE if the sides differ;
            Exit.RESOURCES from the disk.
    """
    need("onnx", "onnx", "onnxscript", "onnxruntime")
    model = _traced(subject)
    data = model.SerializeToString(deterministic=True)
    _check(model, data, subject)
    files.write(path, data)


def outputs(folder: Path, subject: Subject, x: "Tensor") -> "Tensor":
    """Features [N, width] of x [N, 3, size, size] from onnxruntime.

    Raises:
        Problem: Exit.USAGE if onnxruntime is not installed.
    """
    need("onnx", "onnxruntime")
    return _run(_session(str(folder / WEIGHTS)), x)


def paste(subject: Subject, path: Path) -> str:
    """Lines of Python that load the file and give features of a picture; without torch."""
    side = (subject.size, subject.size)
    return f"""\
import numpy as np, onnxruntime
from PIL import Image, ImageOps

model = onnxruntime.InferenceSession({str(path)!r}, providers=["CPUExecutionProvider"])
image = ImageOps.exif_transpose(Image.open("picture.jpg")).convert("RGB")
s = min(image.size)
left, top = (round((side - s) / 2) for side in image.size)
image = image.crop((left, top, left + s, top + s)).resize({side}, Image.Resampling.BILINEAR)
x = (np.float32(image) / 255 - {list(subject.mean)}) / {list(subject.std)}
x = np.float32(x.transpose(2, 0, 1)[None])
features = model.run(None, {{"image": x}})[0]
"""


def _traced(subject: Subject) -> "ModelProto":
    """The encoder as a graph."""
    import torch

    # The exporter reports its progress with print and its own affairs with warnings.
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.helper import set_model_props

        program = torch.onnx.export(
            subject.encoder,
            (torch.zeros(2, 3, subject.size, subject.size),),
            input_names=["image"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    graph = model.graph
    graph.ClearField("metadata_props")
    graph.ClearField("value_info")
    for part in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    set_model_props(model, subject.metadata())
    return model


def _check(model: "ModelProto", data: bytes, subject: Subject) -> None:
    """Compare both sides on noise at several batch sizes."""
    import onnx
    import torch

    onnx.checker.check_model(model, full_check=True)
    session = _session(data)
    noise = generator(0, "export")
    for batch in BATCHES:
        x = torch.randn(batch, 3, subject.size, subject.size, generator=noise)
        with torch.inference_mode():
            ours = subject.encoder(x)
        theirs = _run(session, x)
        difference = ((ours - theirs).abs().max() / ours.abs().max()).item()
        if not difference <= TOLERANCE:  # true for NaN too
            raise Problem(
                f"onnxruntime differs from torch by {difference:.2g} of the largest feature "
                f"on {batch} images; nothing was written",
                Exit.GATE,
                "export.differs",
                "try other versions of torch, onnxscript and onnxruntime",
            )


def _session(source: str | bytes) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _run(session: Any, x: "Tensor") -> "Tensor":
    import torch

    return torch.from_numpy(session.run(["features"], {"image": x.contiguous().numpy()})[0])
