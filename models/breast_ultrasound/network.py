"""The breast-ultrasound network: EfficientNet-Lite0 encoder, light decoder, three small heads.

Responsible for the architecture and for loading the published ImageNet weights. Not responsible for data,
losses or export (see ``dataset.py``, ``train.py`` and ``export.py``).

EfficientNet-Lite0 (Tan & Le 2019, "lite" variant: ReLU6, no squeeze-and-excitation) is used because plain
convolutions run fast on a CPU and survive INT8.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# (repeats, kernel, stride, expansion, output channels) of EfficientNet-Lite0; first and last stage never repeat.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STAGES_USED = 6  # the 320-channel stage and the classifier are left out: weights below 8 MB, no loss seen
CLASSES = ("benign", "malignant", "normal")
_EPS = 1e-3  # batch-norm epsilon of the published weights


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; names follow the published state dict, batch norms are folded into the weights."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = nn.Conv2d(inputs, hidden, 1)
        self._depthwise_conv = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self._project_conv = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block; NCHW in, NCHW out."""
        y = F.relu6(self._expand_conv(x), inplace=True) if self.expands else x
        y = F.relu6(self._depthwise_conv(y), inplace=True)
        y = self._project_conv(y)
        return x + y if self.residual else y


class Encoder(nn.Module):
    """EfficientNet-Lite0 without its classifier, for one-channel input; returns the last map of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = nn.Conv2d(1, 32, 3, 2, 1)
        blocks, inputs, self.ends = [], 32, []
        for repeats, kernel, stride, expansion, outputs in STAGES[:STAGES_USED]:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
            self.ends.append(len(blocks) - 1)
        self._blocks = nn.ModuleList(blocks)
        self.frozen = 0  # while training: so many first blocks (and the stem) run without gradient, in bfloat16

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return maps of 16, 24, 40, 80, 112 and 192 channels at strides 2, 4, 8, 16, 16 and 32."""
        maps = []
        frozen = self.frozen if self.training else 0
        with (
            torch.set_grad_enabled(frozen == 0 and torch.is_grad_enabled()),
            torch.autocast("cpu", torch.bfloat16, enabled=frozen > 0),
        ):
            x = F.relu6(self._conv_stem(x), inplace=True)
            for block in self._blocks[:frozen]:
                x = block(x)
                maps.append(x)
        maps = [maps[i].float() for i in self.ends if i < frozen]
        x = x.float()
        for i, block in enumerate(self._blocks):
            if i < frozen:
                continue
            x = block(x)
            if i in self.ends:
                maps.append(x)
        return maps

    def load_imagenet(self, path: Path) -> None:
        """Load the published state dict.

        The colour stem is summed over its inputs, which is exact for grey input. Batch norms are folded: with 609
        images their statistics are better kept than re-estimated, and training is twice as fast on a CPU.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["_conv_stem.weight"] = state["_conv_stem.weight"].sum(1, keepdim=True)
        own = self.state_dict()
        for name in [k.removesuffix(".weight") for k in own if k.endswith(".weight")]:
            block = name.rsplit(".", 1)[0] + "." if "." in name else ""
            order = {"_conv_stem": 0, "_expand_conv": 0, "_depthwise_conv": 1, "_project_conv": 2}
            bn = f"{block}_bn{order[name.rsplit('.', 1)[-1]]}"
            if f"{name}.weight" not in state or f"{bn}.weight" not in state:
                raise ValueError(f"{path} lacks {name} or {bn}: not an EfficientNet-Lite0 state dict")
            scale = state[f"{bn}.weight"] / torch.sqrt(state[f"{bn}.running_var"] + _EPS)
            own[f"{name}.weight"] = state[f"{name}.weight"] * scale[:, None, None, None]
            own[f"{name}.bias"] = state[f"{bn}.bias"] - state[f"{bn}.running_mean"] * scale
        self.load_state_dict(own)


class _Up(nn.Module):
    """Upsample twofold, join with a skip connection, two depthwise-separable convolutions."""

    def __init__(self, deep: int, skip: int, outputs: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(deep, outputs, 1, bias=False)
        self.skip = nn.Conv2d(skip, outputs, 1, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.mix = nn.ModuleList()
        for _ in range(2):
            self.mix.append(
                nn.Sequential(
                    nn.Conv2d(outputs, outputs, 5, padding=2, groups=outputs, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.Conv2d(outputs, outputs, 1, bias=False),
                    nn.BatchNorm2d(outputs),
                    nn.ReLU6(),
                )
            )

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        deep = self.deep(deep)
        if deep.shape[-1] != skip.shape[-1]:
            deep = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        x = F.relu6(self.bn(deep + self.skip(skip)))
        for layer in self.mix:
            x = x + layer(x)
        return x


class BreastUltrasoundNet(nn.Module):
    """Segments the lesion, tells benign from malignant from normal, and describes how familiar the image is.

    Input ``(N, 1, H, W)`` float, grey scaled to [-1, 1], H and W multiples of 32.
    Output: mask logits ``(N, 1, H/2, W/2)``, class logits ``(N, 3)``, domain logit ``(N, 1)`` (positive: looks like
    breast ultrasound), features ``(N, F)`` for the distance-based refusal.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.up16 = _Up(192, 112, 64)
        self.up8 = _Up(64, 40, 48)
        self.up4 = _Up(48, 24, 32)
        self.up2 = _Up(32, 16, 24)
        self.mask = nn.Conv2d(24, 1, 1)
        self.drop = nn.Dropout(0.3)
        self.classify = nn.Sequential(nn.Linear(192 + 192 + 64, 96), nn.ReLU6(), nn.Dropout(0.3), nn.Linear(96, 3))
        self.domain = nn.Linear(40 + 112 + 192, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """See the class."""
        maps = self.encoder(x)
        d16 = self.up16(maps[5], maps[4])
        d8 = self.up8(d16, maps[2])
        d4 = self.up4(d8, maps[1])
        logits = self.mask(self.up2(d4, maps[0]))
        # The class looks at the whole image and, through the predicted mask, at the lesion and its rim.
        weight = torch.sigmoid(logits.detach())
        weight = F.avg_pool2d(weight, 8, 8)
        weight = F.max_pool2d(weight, 3, 1, 1) + 1e-3
        w16 = weight / weight.sum((2, 3), keepdim=True)
        weight = F.avg_pool2d(weight, 2, 2)
        w32 = weight / weight.sum((2, 3), keepdim=True)
        whole = maps[5].mean((2, 3))
        lesion = (maps[5] * w32).sum((2, 3))
        shape = (d16 * w16).sum((2, 3))
        classes = self.classify(self.drop(torch.cat([whole, lesion, shape], 1)))
        features = torch.cat([maps[2].mean((2, 3)), maps[4].mean((2, 3)), whole], 1)
        return logits, classes, self.domain(features), features
