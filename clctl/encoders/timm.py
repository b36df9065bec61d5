"""Any model of timm as timm/<name>, such as timm/convnext_atto; needs clctl[timm].

Differs: weights are drawn fresh, as timm draws them; public ones only by `weights: imagenet`.
"""

import difflib
import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, cast, final

import torch
from pydantic import Field

from clctl.console import Exit, Problem
from clctl.method import Encoder
from clctl.recipe.section import Conflict, Section, Weights

if TYPE_CHECKING:
    from clctl.recipe.sections import Recipe


@final
class Config(Section):
    """name: timm/ and a name of `timm.list_models()`, without the tag of pretrained weights.

    weights: what training starts from: imagenet, the weights that timm has first for this name,
    or a .safetensors file with timm's keys; null draws them.
    """

    name: Annotated[str, Field(pattern=r"^timm/[A-Za-z0-9_]+$")]
    weights: Weights | None = None

    @property
    def model(self) -> str:
        """The name in timm."""
        return self.name.removeprefix("timm/")

    def build(self, size: int) -> Encoder:
        """timm's own model without classifier, and `width` beside it; keys are timm's.

        Raises:
            Problem: Exit.USAGE if timm is not installed, Exit.RECIPE if the model cannot be built
                for views of `size` pixels or its features are not one vector of an image.
        """
        if not _installed():
            raise Problem(
                f"encoder {self.name} needs timm, which is not installed",
                Exit.USAGE,
                "encoder.missing-extra",
                "pip install 'clctl[timm]'",
            )
        import timm

        try:
            arguments = self._arguments(size)
            model = timm.create_model(self.model, pretrained=False, num_classes=0, **arguments)
            with torch.no_grad():
                features = model.eval()(torch.zeros(1, 3, size, size))
        except Exception as error:  # each of timm's models has its own way to fail
            raise self._unfit(size, str(error).partition("\n")[0]) from error
        # What forward gives is not always `model.num_features`: MobileNetV3 has a layer behind.
        if not isinstance(features, torch.Tensor) or features.dim() != 2:
            raise self._unfit(size, "its features are not one vector of an image")
        encoder = cast(Encoder, model.train())
        encoder.width = features.shape[1]
        return encoder

    def facts(self, size: int) -> dict[str, Any]:
        """What was settled when the encoder was built, for the log and for export."""
        import timm

        return {"timm": timm.__version__, **self._arguments(size)}

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """A name that this timm does not know, and views of several sizes where one is fixed."""
        if not _installed():
            return
        import timm

        known = timm.list_models()
        if self.model not in known:
            near = difflib.get_close_matches(self.model, known, n=3)
            proposal = f"did you mean {' or '.join(f'`timm/{n}`' for n in near)}? " if near else ""
            yield Conflict(
                "encoder.name",
                f"timm {timm.__version__} has no model {self.model}",
                f"{proposal}`timm.list_models()` gives all {len(known)}",
            )
        elif self._arguments(size := recipe.views.size):
            for i, group in enumerate(recipe.views.groups):
                if group.size not in (None, size):
                    yield Conflict(
                        f"views.groups[{i}].size",
                        f"{self.name} is built for one size of views: {size} and {group.size} "
                        "pixels cannot both be",
                        "leave out the size of the group, or take one of clctl's own vit_*",
                    )

    def _arguments(self, size: int) -> dict[str, Any]:
        """Of `timm.create_model`: models that fix their input size, transformers, are told it."""
        from timm.models import get_pretrained_cfg

        described = get_pretrained_cfg(self.model)
        fixed = described is not None and described.fixed_input_size
        return {"img_size": size} if fixed else {}

    def _unfit(self, size: int, why: str) -> Problem:
        return Problem(
            f"{self.name} cannot be an encoder of views of {size} pixels: {why}",
            Exit.RECIPE,
            "encoder.unfit",
            "try another views.size, such as 224, or another model",
        )


def _installed() -> bool:
    return importlib.util.find_spec("timm") is not None
