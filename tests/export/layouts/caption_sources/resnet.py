"""A ResNet as torchvision names its modules, which all captioning sources build upon.

Written again from the paper and the repository: nothing here is shared with the exporter, whose networks are held
against it. Modules bear the names that give the source's state_dict keys.
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Block(nn.Module):
    """A residual block of two or, `deep`, three convolutions; `caffe` strides in the first of three."""

    def __init__(self, inputs: int, planes: int, stride: int, *, deep: bool, caffe: bool) -> None:
        super().__init__()
        outputs = planes * 4 if deep else planes
        if deep:
            self.conv1 = nn.Conv2d(inputs, planes, 1, stride if caffe else 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1 if caffe else stride, 1, bias=False)
            self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Net(nn.Module):
    """A ResNet whose children are torchvision's, in their order."""

    def __init__(self, planes: int = 8, *, deep: bool = False, caffe: bool = False, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, planes, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if caffe else nn.MaxPool2d(3, 2, 1)
        inputs = planes
        for stage in range(4):
            outputs = planes << stage
            block = Block(inputs, outputs, 2 if stage else 1, deep=deep, caffe=caffe)
            inputs = outputs * 4 if deep else outputs
            self.add_module(f"layer{stage + 1}", nn.Sequential(block))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, classes)

    def grid(self, x: Tensor) -> Tensor:
        for child in list(self.children())[:-2]:
            x = child(x)
        return x
