"""torchvision's ResNet-34: 512 features."""

from typing import Literal, final

from clctl.encoders._resnet import ResNet, ResNetConfig


@final
class Config(ResNetConfig):
    """Stem and norm are the only choices."""

    name: Literal["resnet34"] = "resnet34"

    def build(self, size: int) -> ResNet:
        """Freshly drawn weights for views of `size` pixels."""
        return ResNet(self.name, self.resolved_stem(size), self.norm)
