"""The networks that are known by patterns of their keys, and the libraries that build them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        name: With its article.
        keys: Patterns, each of which is found in a key.
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


def _named(form: str) -> Callable[[str], str]:
    return lambda keys: form.format(_depth(keys))


def _resnest(keys: str) -> str:
    depth = _depth(keys)
    return f"timm:resnest{depth}{'e' if depth > 100 else 'd'}"


# Networks for another purpose; a ResNet may be a part of them.
OTHER_TASKS: Final = (
    Family("a detector (Mask R-CNN)", (r"roi_heads\.mask_head", r"rpn\.head|proposal_generator")),
    Family("a detector (Keypoint R-CNN)", (r"roi_heads\.keypoint_head",)),
    Family("a detector (Faster R-CNN)", (r"rpn\.head|proposal_generator|rpn_head", r"roi_heads?\.")),
    Family("a detector (RetinaNet, FCOS or SSD)", (r"(?:^|\.)head\.classification_head\.", r"regression_head\.")),
    Family("a detector (DETR)", (r"class_(?:embed|labels_classifier)", r"bbox_(?:embed|predictor)")),
    Family("a detector (MMDetection)", (r"(?:^|\.)bbox_head\.",)),
    Family("a detector (YOLO)", (r"(?:^|\.)model\.\d+\.(?:dfl|cv2|cv3|anchors|m)\.", r"(?:^|\.)model\.0\.conv\.")),
    Family(
        "a segmentation network (FCN or DeepLab)",
        (r"(?:^|\.)backbone\.", r"(?:^|\.)(?:(?:aux_)?classifier\.\S*weight 4d 3x3|low_classifier\.)"),
    ),
    Family("a segmentation network", (r"(?:^|\.)(?:segmentation_head|decode_head|seg_head)\.",)),
    Family(
        "a segmentation network (U-Net)",
        (r"(?:^|\.)(?:up|upconv|up_conv|ups)\.?1\.", r"(?:^|\.)(?:down|downs|inc|outc|enc)"),
    ),
    Family("a pose network", (r"(?:^|\.)(?:keypoint_head|deconv_layers)\.",)),
    Family(
        "a pair of picture and text networks (CLIP)", (r"(?:^|\.)(?:visual|vision_model)\.", r"logit_scale|text_model")
    ),
    Family(
        "a text network",
        (r"(?:^|\.)(?:bert|roberta|gpt2?|transformer)\.\S*(?:attention|attn)", r"word_embeddings|wte\."),
    ),
)
# Trunks trained without labels: what is there in place of a head.
SELF_SUPERVISED: Final = (
    ("MoCo", (r"(?:^|\.)encoder_q\.",)),
    ("SwAV", (r"(?:^|\.)prototypes\.",)),
    ("DINO", (r"(?:^|\.)head\.last_layer\.",)),
    ("BYOL", (r"(?:^|\.)(?:online_encoder|online_network|target_encoder|target_network)\.",)),
    ("SimSiam", (r"(?:^|\.)predictor\.\d", r"(?:^|\.)(?:encoder|projector|backbone)\.")),
    ("SimCLR, Barlow Twins or VICReg", (r"(?:^|\.)(?:projection_head|projector|projection)\.(?!(?:weight|bias) )",)),
)
# Variants of ResNet, and of their blocks, with other arithmetic.
NEAR: Final = (
    Family(
        "a ResNet-RS (timm)",
        (
            r"(?:^|\.)maxpool\.0\.weight",
            r"layer1\.0\.se\.",
        ),
        _named("timm:resnetrs{}"),
    ),
    Family("a selective-kernel ResNet (timm)", (r"layer1\.0\.conv\d\.paths\.0\.",), _named("timm:skresnet{}")),
    Family("a TResNet (timm)", (r"(?:^|\.)body\.layer1\.0\.conv1\.conv\.",), "timm:tresnet_m"),
    Family("a ResNeSt", (r"layer1\.0\.conv2\.(?:fc1|bn0)\.",), _resnest),
    Family("a Res2Net", (r"layer1\.0\.convs\.0\.",), _named("timm:res2net{}_26w_4s")),
    Family("InsightFace's iresnet (PReLU, three normalisations in a block)", (r"layer1\.0\.prelu\.",)),
    Family(
        "a ResNetV2 or BiT (normalisation before each convolution)",
        (
            r"stages\.0\.blocks\.0\.norm1\.weight 1d",
            r"stages\.0\.blocks\.0\.conv1\.weight 4d",
        ),
        _named("timm:resnetv2_{}"),
    ),
    Family("a normaliser-free ResNet (timm)", (r"(?:^|\.)stages\.0\.0\.conv1\.gain",), _named("timm:nf_resnet{}")),
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
    Family("an HRNet", (r"(?:^|\.)stage\d\.0\.(?:branches|fuse_layers)\.",), "timm:hrnet_w18"),
)
# Other classifiers; the last are of no known name.
OTHERS: Final = (
    Family("a MobileNetV2 (torchvision)", (r"features\.1\.conv\.0\.0\.weight",), "torchvision:mobilenet_v2"),
    Family(
        "a MobileNetV3 (torchvision)",
        (
            r"features\.1\.block\.0\.0\.weight",
            r"classifier\.3\.weight",
        ),
        "torchvision:mobilenet_v3_large",
    ),
    Family("an EfficientNet (torchvision)", (r"features\.1\.0\.block\.0\.0\.weight",), "torchvision:efficientnet_b0"),
    Family(
        "an EfficientNet (efficientnet_pytorch)",
        (
            r"_conv_stem\.weight",
            r"_blocks\.0\._depthwise_conv\.",
        ),
    ),
    Family("a GhostNet (timm)", (r"blocks\.0\.0\.ghost1\.",), "timm:ghostnet_100"),
    Family(
        "a MobileNetV3 (timm)",
        (
            r"(?:^|\.)conv_stem\.weight",
            r"(?:^|\.)blocks\.0\.0\.conv",
            r"(?:^|\.)conv_head\.bias",
        ),
        "timm:mobilenetv3_large_100",
    ),
    Family(
        "a MobileNetV2 (timm)",
        (
            r"\A(?![\s\S]*\.se\.)",
            r"(?:^|\.)conv_stem\.weight",
            r"(?:^|\.)blocks\.0\.0\.conv",
        ),
        "timm:mobilenetv2_100",
    ),
    Family(
        "an EfficientNet (timm)",
        (
            r"(?:^|\.)conv_stem\.weight",
            r"(?:^|\.)blocks\.0\.0\.",
        ),
        "timm:efficientnet_b0",
    ),
    Family(
        "a Swin Transformer (timm)",
        (r"layers\.0\.blocks\.0\.attn\.relative_position_bias_table",),
        "timm:swin_tiny_patch4_window7_224",
    ),
    Family(
        "a Swin Transformer (torchvision)",
        (r"features\.1\.0\.attn\.(?:relative_position_bias_table|cpb_mlp|logit_scale)",),
        "torchvision:swin_t",
    ),
    Family(
        "a ViT (timm)",
        (
            r"(?:^|\.)patch_embed\.proj\.weight",
            r"(?:^|\.)blocks\.0\.attn\.qkv\.",
        ),
        "timm:vit_base_patch16_224",
    ),
    Family(
        "a ViT (torchvision)",
        (
            r"(?:^|\.)conv_proj\.weight",
            r"encoder_layer_0\.",
        ),
        "torchvision:vit_b_16",
    ),
    Family(
        "a ViT (transformers)",
        (
            r"embeddings\.patch_embeddings\.projection\.weight",
            r"encoder\.layer\.0\.attention",
        ),
        "transformers:FOLDER",
    ),
    Family("a DenseNet", (r"denseblock1\.denselayer1\.",), "torchvision:densenet121"),
    Family(
        "a ConvNeXt (torchvision)",
        (
            r"features\.1\.0\.layer_scale",
            r"features\.1\.0\.block\.0\.weight",
        ),
        "torchvision:convnext_tiny",
    ),
    Family(
        "a ConvNeXt (timm)",
        (
            r"stages\.0\.blocks\.0\.(?:gamma|mlp\.grn)",
            r"stages\.0\.blocks\.0\.conv_dw\.",
        ),
        "timm:convnext_tiny",
    ),
    Family("a ConvNeXt (transformers)", (r"encoder\.stages\.0\.layers\.0\.dwconv\.",), "transformers:FOLDER"),
    Family("a RegNet (torchvision)", (r"trunk_output\.block1\.",), "torchvision:regnet_y_400mf"),
    Family("a RegNet (timm)", (r"(?:^|\.)s1\.b1\.conv1\.conv\.",), "timm:regnety_002"),
    Family("a ShuffleNetV2 (torchvision)", (r"(?:^|\.)stage2\.0\.branch\d\.",), "torchvision:shufflenet_v2_x1_0"),
    Family("a SqueezeNet (torchvision)", (r"features\.\d+\.squeeze\.weight",), "torchvision:squeezenet1_1"),
    Family("an MNASNet (torchvision)", (r"(?:^|\.)layers\.8\.0\.layers\.0\.weight",), "torchvision:mnasnet1_0"),
    Family("a GoogLeNet (torchvision)", (r"(?:^|\.)inception3a\.",), "torchvision:googlenet"),
    Family("an Inception v3", (r"(?:^|\.)Mixed_5b\.",), "torchvision:inception_v3"),
    Family(
        "an AlexNet (torchvision)",
        (
            r"features\.3\.weight 4d 5x5",
            r"features\.10\.weight 4d",
            r"classifier\.6\.weight 2d",
        ),
        "torchvision:alexnet",
    ),
    Family(
        "a VGG (torchvision)",
        (
            r"features\.0\.weight 4d",
            r"classifier\.3\.weight 2d",
            r"classifier\.6\.weight 2d",
        ),
        "torchvision:vgg16",
    ),
    Family(
        "a VGG (timm)",
        (
            r"features\.0\.weight 4d",
            r"pre_logits\.fc1\.weight",
        ),
        "timm:vgg16",
    ),
    Family(
        "an Xception",
        (
            r"(?:^|\.)block1\.rep\.",
            r"\.pointwise\.weight",
        ),
        "timm:legacy_xception",
    ),
    Family("a DLA (timm)", (r"(?:^|\.)level3\.tree1\.",), "timm:dla34"),
    Family(
        "a vision transformer",
        (
            r"attn\.(?:qkv|q|proj)\.weight",
            r"(?:patch_embed|stem|pos_embed)",
        ),
        "timm:NAME",
    ),
    Family(
        "a network of timm",
        (
            r"(?:^|\.)stem\.",
            r"(?:^|\.)stages\.0\.",
            r"(?:^|\.)head\.",
        ),
        "timm:NAME",
    ),
)
