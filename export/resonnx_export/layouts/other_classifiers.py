"""Classifiers that are no ResNets, by patterns of their keys, and the libraries that build them."""

from typing import Final

from resonnx_export.layouts.known_families import Family

# Of timm only, each with a pattern and a network of the family.
_OF_TIMM: Final = (
    ("a ReXNet", r"\.features\.\d+\.conv_pwl\.", "rexnet_100"),
    ("a DPN", r"\.conv2_1\.c1x1_a\.", "dpn68"),
    ("an Inception v4", r"\.features\.4\.branch0\.0\.conv\.", "inception_v4"),
    ("an Inception-ResNet v2", r"\.repeat_1\.0\.branch0\.", "inception_resnet_v2"),
    ("a NASNet or PNASNet", r"\.cell_stem_0\.comb_iter_0_left\.", "nasnetalarge"),
    ("a SelecSLS", r"\.features\.0\.conv6\.0\.", "selecsls42b"),
    ("an MLP-Mixer, ResMLP or gMLP", r"\.blocks\.0\.(?:mlp_tokens|linear_tokens|mlp_channels)\.", "mixer_b16_224"),
    ("a ConvMixer", r"\.blocks\.0\.0\.fn\.0\.", "convmixer_768_32"),
    ("a FocalNet", r"\.modulation\.focal_layers\.", "focalnet_tiny_srf"),
    ("a FasterNet", r"\.partial_conv3\.", "fasternet_t0"),
    ("an EfficientViT of Microsoft", r"\.blocks\.0\.mixer\.m\.attn\.", "efficientvit_m0"),
    ("a CoaT", r"\.factoratt_crpe", "coat_tiny"),
    ("a TNT", r"\.blocks\.0\.attn_in\.", "tnt_s_patch16_224"),
    ("an RDNet", r"\.dense_stages\.0\.", "rdnet_tiny"),
    ("an SHViT", r"\.patch_embed\.0\.c\.weight", "shvit_s1"),
    ("a LowFormer", r"\.main\.spatial_conv\.", "lowformer_b0"),
    ("a RegNetV", r"\.s1\.b1\.norm1\.", "regnetv_040"),
    ("an XCiT", r"\.blocks\.0\.local_mp\.", "xcit_tiny_12_p16_224"),
    ("a VoVNet", r"\.blocks\.0\.conv_mid\.", "ese_vovnet19b_dw"),
    ("a VOLO", r"\.network\.0\.0\.attn\.", "volo_d1_224"),
    ("a Next-ViT", r"\.blocks\.0\.mhca\.", "nextvit_small"),
    ("an Xception of aligned blocks", r"\.blocks\.0\.stack\.conv1\.", "xception41"),
    ("a MobileOne or RepVGG", r"\.stages\.0\.0\.conv_kxk\.", "mobileone_s1"),
    ("a MobileViT", r"\.stages\.\d\.1\.transformer\.0\.", "mobilevit_s"),
    ("an HGNet", r"\.stem\.stem(?:\.0|1)\.", "hgnet_small"),
    ("a LeViT", r"\.stem\.conv1\.linear\.", "levit_128"),
    ("a RepViT", r"\.token_mixer\.conv\.c\.", "repvit_m1"),
    ("a CAFormer or ConvFormer", r"\.token_mixer\.pwconv\d\.", "caformer_s18"),
    ("a Swin Transformer V2", r"\.attn\.meta_mlp\.|\.blocks\.0\.attn\.cpb_mlp\.", "swinv2_tiny_window8_256"),
    ("a BEiT", r"\.blocks\.0\.attn\.v_bias", "beit_base_patch16_224"),
    ("a CaiT", r"\.blocks\.0\.attn\.proj_l\.", "cait_s24_224"),
)
SPECIFIC: Final = tuple(Family(f"{name} (timm)", (pattern,), f"timm:{target}") for name, pattern, target in _OF_TIMM)
# The last are of no known name.
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
            r"\.conv_stem\.weight",
            r"\.blocks\.0\.0\.conv",
            r"\.conv_head\.bias",
        ),
        "timm:mobilenetv3_large_100",
    ),
    Family(
        "a MobileNetV2 (timm)",
        (
            r"\A(?![\s\S]*\.se\.)",
            r"\.conv_stem\.weight",
            r"\.blocks\.0\.0\.conv",
        ),
        "timm:mobilenetv2_100",
    ),
    Family(
        "an EfficientNet (timm)",
        (
            r"\.conv_stem\.weight",
            r"\.blocks\.0\.0\.",
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
            r"\.patch_embed\.proj\.weight",
            r"\.blocks\.0\.attn\.qkv\.",
        ),
        "timm:vit_base_patch16_224",
    ),
    Family(
        "a ViT (torchvision)",
        (
            r"\.conv_proj\.weight",
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
    Family("a RegNet (timm)", (r"\.s1\.b1\.conv1\.conv\.",), "timm:regnety_002"),
    Family("a ShuffleNetV2 (torchvision)", (r"\.stage2\.0\.branch\d\.",), "torchvision:shufflenet_v2_x1_0"),
    Family("a SqueezeNet (torchvision)", (r"features\.\d+\.squeeze\.weight",), "torchvision:squeezenet1_1"),
    Family("an MNASNet (torchvision)", (r"\.layers\.8\.0\.layers\.0\.weight",), "torchvision:mnasnet1_0"),
    Family("a GoogLeNet (torchvision)", (r"\.inception3a\.",), "torchvision:googlenet"),
    Family("an Inception v3", (r"\.Mixed_5b\.",), "torchvision:inception_v3"),
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
            r"\.block1\.rep\.",
            r"\.pointwise\.weight",
        ),
        "timm:legacy_xception",
    ),
    Family("a DLA (timm)", (r"\.level3\.tree1\.",), "timm:dla34"),
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
            r"\.stem\.",
            r"\.stages\.0\.",
            r"\.head\.",
        ),
        "timm:NAME",
    ),
)
