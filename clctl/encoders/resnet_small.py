"""A ResNet-10 of a quarter's width for processors: 128 features, 4 M multiply-adds at 32 px.

Source: the basic block of He et al. 2016, arXiv:1512.03385, one per stage.
Differs: widths 16 to 128, and a 3x3 stem of stride 2 without max-pool.
"""

from typing import Any, Literal, final

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from clctl.method import Encoder
from clctl.recipe.sections import Count, Section


@final
class Config(Section):
    """width: channels of the first stage; the features are eight times as many."""

    name: Literal["resnet_small"] = "resnet_small"
    width: Count = 16

    def build(self, size: int) -> "ResNetSmall":
        """Freshly drawn weights for views of any size."""
        return ResNetSmall(self.width)

    def facts(self, size: int) -> dict[str, Any]:
        """What was settled when the encoder was built, for the log and for export."""
        return {"stem": "3x3, stride 2"}


@final
class ResNetSmall(Encoder):
    """Four stages of one basic block each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = 8 * width
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = BasicBlock(width, width)
        self.layer2, self.layer3, self.layer4 = (_down(width * 2**i) for i in range(3))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean(dim=(2, 3))


def _down(width: int) -> BasicBlock:
    shortcut = nn.Sequential(conv1x1(width, 2 * width, stride=2), nn.BatchNorm2d(2 * width))
    return BasicBlock(width, 2 * width, stride=2, downsample=shortcut)
