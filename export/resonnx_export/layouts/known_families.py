"""Networks for other purposes and variants of ResNet, by patterns of their keys, and the libraries that build them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        name: With its article.
        keys: Patterns, each of which is found in the lines of the tensors: a dot, the key, and " 4d 3x3" for a
            convolution of 3x3, " 1d" for a vector. A line begins with a line break.
        target: What `resonnx-export module` takes for a network of this kind, one of several; "" if no library has it.
    """

    name: str
    keys: tuple[str, ...]
    target: str | Callable[[str], str] = ""


def _depth(keys: str) -> int:
    """Return the N of ResNet-N: the number of its layers by the blocks of each stage."""
    blocks = set(re.findall(r"(?:layer|stages\.)\d+\.(?:blocks\.)?\d+(?=\.)", keys))
    three = re.search(r"(?:layer|stages\.)\d+\.(?:blocks\.)?\d+\.(?:conv3|bn3|norm3)\.", keys)
    return 2 + len(blocks) * (3 if three else 2)


def _at_the_top(name: str) -> str:
    """Return the pattern of a module of several layers inside at most two others; deeper ones are parts of blocks."""
    return rf"\n\.(?:[\w-]+\.){{0,2}}{name}\.(?!(?:weight|bias) )"


def _named(form: str, *depths: int) -> Callable[[str], str]:
    """Return what makes a library's name of the nearest of the depths that it has."""
    return lambda keys: form.format(min(depths, key=lambda depth: abs(depth - _depth(keys))))


def _resnest(keys: str) -> str:
    return _named("timm:resnest{}d" if _depth(keys) < 100 else "timm:resnest{}e", 14, 26, 50, 101, 200, 269)(keys)


# Networks for another purpose; a ResNet may be a part of them.
OTHER_TASKS: Final = (
    Family("a detector (Mask R-CNN)", (r"roi_heads\.mask_head", r"rpn\.head|proposal_generator")),
    Family("a detector (Keypoint R-CNN)", (r"roi_heads\.keypoint_head",)),
    Family("a detector (Faster R-CNN)", (r"rpn\.head|proposal_generator|rpn_head", r"roi_heads?\.")),
    Family("a detector (RetinaNet, FCOS or SSD)", (r"\.head\.classification_head\.", r"regression_head\.")),
    Family("a detector (DETR)", (r"class_(?:embed|labels_classifier)", r"bbox_(?:embed|predictor)")),
    Family("a detector (MMDetection)", (r"\.bbox_head\.",)),
    Family("a detector (YOLO)", (r"\.model\.\d+\.(?:dfl|cv2|cv3|anchors|m)\.", r"\.model\.0\.conv\.")),
    Family(
        "a segmentation network (FCN or DeepLab)",
        (r"\.backbone\.", r"\.(?:(?:aux_)?classifier\.\S*weight 4d 3x3|low_classifier\.)"),
    ),
    Family("a segmentation network", (r"\.(?:segmentation_head|decode_head|seg_head)\.",)),
    Family(
        "a segmentation network (U-Net)",
        (r"\.(?:up|upconv|up_conv|ups)\.?1\.", r"\.(?:down|downs|inc|outc|enc)"),
    ),
    Family("a pose network", (r"\.(?:keypoint_head|deconv_layers)\.",)),
    Family("a pair of picture and text networks (CLIP)", (r"\.(?:visual|vision_model)\.", r"logit_scale|text_model")),
    Family(
        "a text network",
        (r"\.(?:bert|roberta|gpt2?|transformer)\.\S*(?:attention|attn)", r"word_embeddings|wte\."),
    ),
)
# Trunks trained without labels: what is there in place of a head.
SELF_SUPERVISED: Final = (
    ("MoCo", (r"\.encoder_[qk]\.",)),
    ("SwAV", (r"\.prototypes\.",)),
    ("DINO", (r"\.(?:head\.last_layer\.|last_layer\.(?!(?:weight|bias) ))",)),
    ("BYOL", (r"\.(?:online_encoder|online_network|target_encoder|target_network)\.",)),
    ("SimSiam", (r"\.predictor\.\d", r"\.(?:encoder|projector|backbone)\.")),
    # One linear layer of such a name is a head.
    ("SimCLR, Barlow Twins or VICReg", (_at_the_top(r"(?:projection_head|projector|projection)"),)),
    ("BYOL or SimSiam", (_at_the_top("predictor"),)),
)
# Variants of ResNet, and of their blocks, with other arithmetic.
NEAR: Final = (
    Family(
        "a ResNet-RS (timm)",
        (
            r"\.maxpool\.0\.weight",
            r"layer1\.0\.se\.",
        ),
        _named("timm:resnetrs{}", 50, 101, 152, 200, 270, 350, 420),
    ),
    Family(
        "a selective-kernel ResNet (timm)", (r"layer1\.0\.conv\d\.paths\.0\.",), _named("timm:skresnet{}", 18, 34, 50)
    ),
    Family("a TResNet (timm)", (r"\.body\.layer1\.0\.conv1\.conv\.",), "timm:tresnet_m"),
    Family("a ResNeSt", (r"layer1\.0\.conv2\.(?:fc1|bn0)\.",), _resnest),
    Family("a Res2Net", (r"layer1\.0\.convs\.0\.",), _named("timm:res2net{}_26w_4s", 50, 101)),
    Family("InsightFace's iresnet (PReLU, three normalisations in a block)", (r"layer1\.0\.prelu\.",)),
    Family(
        "a ResNetV2 or BiT (normalisation before each convolution)",
        (
            r"stages\.0\.blocks\.0\.norm1\.weight 1d",
            r"stages\.0\.blocks\.0\.conv1\.weight 4d",
        ),
        _named("timm:resnetv2_{}", 18, 34, 50, 101, 152),
    ),
    Family("an NFNet (timm)", (r"\.stages\.0\.0\.conv1\.gain", r"\.attn_last\."), "timm:dm_nfnet_f0"),
    Family(
        "a normaliser-free ResNet (timm)", (r"\.stages\.0\.0\.conv1\.gain",), _named("timm:nf_resnet{}", 26, 50, 101)
    ),
    Family(
        "a CSP network (timm)",
        (
            r"stages\.0\.conv_exp\.",
            r"stages\.0\.conv_transition",
        ),
        "timm:cspresnet50",
    ),
    Family(
        "a ResNet of timm's byobnet (such as gcresnet50t, resnet51q)",
        (r"stages\.0\.0\.conv\d_(?:1x1|kxk)\.",),
        "timm:resnet33ts",
    ),
    Family("an HRNet", (r"\.stage\d\.0\.(?:branches|fuse_layers)\.",), "timm:hrnet_w18"),
)
