"""A ResNet-10 of a quarter's width for processors: 128 features, 4 M multiply-adds at 32 px.

Source: the basic block of He et al. 2016, arXiv:1512.03385, one per stage.
Differs: widths 16 to 128, and a 3x3 stem of stride 2 without max-pool.
"""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, final

from pydantic import Field
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from clctl.encoders._norm import Norm, layer
from clctl.method import Encoder
from clctl.recipe.section import Conflict, Section, Weights

if TYPE_CHECKING:
    from clctl.recipe.sections import Recipe


@final
class Config(Section):
    """width: channels of the first stage, 8 or more; the features are eight times as many.

    norm: batch, or group, whose output for an image depends on no other image.
    weights: a .safetensors file of clctl that training starts from; null draws them.
    """

    name: Literal["resnet_small"] = "resnet_small"
    # The backward of torch 2.14's convolutions on a processor writes past its memory under 8.
    width: Annotated[int, Field(ge=8)] = 16
    norm: Norm = "batch"
    weights: Weights | None = None

    def build(self, size: int) -> "ResNetSmall":
        """Freshly drawn weights for views of any size."""
        return ResNetSmall(self.width, self.norm)

    def facts(self, size: int) -> dict[str, Any]:
        """What was settled when the encoder was built, for the log and for export."""
        return {"stem": "3x3, stride 2", "norm": self.norm}

    def conflicts(self, recipe: "Recipe") -> Iterable[Conflict]:
        """Public weights, which nobody has."""
        if self.weights == "imagenet":
            yield Conflict(
                "encoder.weights",
                "resnet_small has no public ImageNet weights",
                "take encoder resnet18, or leave out encoder.weights",
            )


@final
class ResNetSmall(Encoder):
    """Four stages of one basic block each."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        normed = layer(norm)
        self.width = 8 * width
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = normed(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(width, width, norm_layer=normed)
        self.layer2, self.layer3, self.layer4 = (_down(width * 2**i, normed) for i in range(3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def _down(width: int, normed: Callable[[int], nn.Module]) -> BasicBlock:
    shortcut = nn.Sequential(conv1x1(width, 2 * width, stride=2), normed(2 * width))
    return BasicBlock(width, 2 * width, stride=2, downsample=shortcut, norm_layer=normed)
