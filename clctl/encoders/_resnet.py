"""torchvision's ResNets without their classifier, with a stem for small images.

Source: He et al. 2016, arXiv:1512.03385; the small stem as in Chen et al. 2020,
arXiv:2002.05709, App. B.9: 3x3 convolution of stride 1, no max-pool.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import torchvision
from torch import Tensor, nn

from clctl.encoders._norm import Norm, layer
from clctl.method import Encoder
from clctl.recipe.section import Conflict, Section, Weights

if TYPE_CHECKING:
    from clctl.recipe.sections import Recipe

LARGEST_SMALL = 48  # pixels; from 64 on, the small stem makes a processor's day too long


class ResNetConfig(Section):
    """stem: small is a 3x3 convolution of stride 1 without max-pool; auto takes it to 48 px.

    norm: batch, or group, whose output for an image depends on no other image.
    weights: what training starts from: imagenet, torchvision's public IMAGENET1K_V1, or a
    .safetensors file with the keys of torchvision, timm or clctl; null draws them.
    """

    stem: Literal["auto", "imagenet", "small"] = "auto"
    norm: Norm = "batch"
    weights: Weights | None = None

    def resolved_stem(self, size: int) -> str:
        """The stem for views of `size` pixels, "imagenet" or "small"."""
        if self.stem != "auto":
            return self.stem
        return "small" if size <= LARGEST_SMALL else "imagenet"

    def facts(self, size: int) -> dict[str, Any]:
        """What was settled when the encoder was built, for the log and for export."""
        return {"stem": self.resolved_stem(size), "norm": self.norm}

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """Public weights of another norm."""
        if self.weights == "imagenet" and self.norm != "batch":
            yield Conflict(
                "encoder.weights",
                f"the public ImageNet weights are of batch norm, and encoder.norm is {self.norm}",
                "leave out encoder.norm, or weights: FILE.safetensors of your own",
            )


class ResNet(Encoder):
    """Keys of the state dict are torchvision's, without `fc`."""

    def __init__(self, architecture: str, stem: str, norm: Norm) -> None:
        super().__init__()
        model = getattr(torchvision.models, architecture)(norm_layer=layer(norm))
        self.width = model.fc.in_features
        self.conv1: nn.Module = model.conv1
        self.bn1, self.relu = model.bn1, model.relu
        self.maxpool: nn.Module = model.maxpool
        self.layer1, self.layer2 = model.layer1, model.layer2
        self.layer3, self.layer4 = model.layer3, model.layer4
        self.avgpool = model.avgpool
        if stem == "small":
            self.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.avgpool(x).flatten(1)
