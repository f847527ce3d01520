"""The networks of the zoo: small or plain architectures with random, fully alive weights.

Nothing is downloaded. Every entry of `ZOO` builds a network in eval mode from a fixed seed and knows the
inputs it takes, so that an export can be made and checked again at any time.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.zoo.entries import SEQ, VOCAB, Entry, Input, Plain, randomise

if TYPE_CHECKING:
    from torch import Tensor, nn

TEXT = (Input("input_ids", ("batch", "seq"), "ids"), Input("attention_mask", ("batch", "seq"), "mask"))
FIXED_TEXT = (Input("input_ids", ("batch", SEQ), "ids"),)


def image(size: int = 224, name: str = "pixel_values") -> tuple[Input, ...]:
    """The input of a vision network."""
    return (Input(name, ("batch", 3, size, size)),)


def vision(name: str, outputs: tuple[str, ...] = ("logits",), size: int = 224, **kwargs: Any) -> Entry:
    """A torchvision image network."""

    def build() -> nn.Module:
        from torchvision import models

        return Plain(models.get_model(name, weights=None, **kwargs), None, outputs, {})

    return Entry(build, image(size, "x"), outputs)


def video(name: str) -> Entry:
    """A torchvision video network."""
    return Entry(vision(f"{name}").build, (Input("x", ("batch", 3, 8, 112, 112)),))


def segmentation(name: str) -> Entry:
    """A torchvision segmentation network, with its main output only."""
    return vision(name, ("out",), weights_backbone=None)


def transformer(
    kind: str,
    head: str,
    inputs: tuple[Input, ...] = TEXT,
    outputs: tuple[str, ...] = ("logits",),
    *,
    part: str | None = None,
    cache: bool = False,
    **config: Any,
) -> Entry:
    """A network of the transformers library: `head` completes `AutoModel...`, `part` picks a submodule."""

    def build() -> nn.Module:
        import transformers

        settings = transformers.AutoConfig.for_model(kind, **config)
        for name in ("initializer_range", "init_std"):  # the usual 0.02 leaves a narrow network almost linear
            if hasattr(settings, name):
                setattr(settings, name, 0.1)
        model = getattr(transformers, f"AutoModel{head}").from_config(settings)
        model = getattr(model, part) if part else model
        extra = {"use_cache": False} if cache else {}
        return Plain(model, tuple(value.name for value in inputs), outputs, extra)

    return Entry(build, inputs, outputs)


SPECIAL: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LABELS: dict[str, Any] = {"num_labels": 10}
WIDTH: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def encoder(kind: str, **config: Any) -> Entry:
    """A text encoder with a classification head."""
    return transformer(
        kind, "ForSequenceClassification", **{"vocab_size": VOCAB, **SPECIAL, **LABELS, **WIDTH, **config}
    )


def causal(kind: str, **config: Any) -> Entry:
    """A decoder-only language model, whole (with the vocabulary head)."""
    return transformer(kind, "ForCausalLM", cache=True, **{"vocab_size": VOCAB, **SPECIAL, **WIDTH, **config})


def classifier(kind: str, size: int = 224, **config: Any) -> Entry:
    """An image classifier of the transformers library."""
    return transformer(kind, "ForImageClassification", image(size), **{**LABELS, **config})


def tower(kind: str, **vision_config: Any) -> Entry:
    """The image side of a text-image model, with a classification head."""
    settings = {**WIDTH, "patch_size": 32, "image_size": 224, **vision_config}
    return classifier(kind, vision_config=settings)


GROUPED: dict[str, Any] = {"num_key_value_heads": 2}
VIT: dict[str, Any] = {**WIDTH, "image_size": 224, "patch_size": 32}

TORCHVISION: dict[str, Entry] = {
    **{
        name: vision(name)
        for name in (
            "squeezenet1_1",
            "mobilenet_v3_small",
            "mobilenet_v2",
            "mnasnet0_5",
            "shufflenet_v2_x1_0",
            "regnet_x_400mf",
            "regnet_y_400mf",
            "resnet18",
            "efficientnet_b0",
            "resnet50",
            "resnext50_32x4d",
            "densenet121",
            "convnext_tiny",
            "efficientnet_v2_s",
            "swin_t",
            "swin_v2_t",
            "maxvit_t",
            "wide_resnet50_2",
            "vit_b_16",
            "alexnet",
            "vgg11_bn",
        )
    },
    "googlenet": vision("googlenet", init_weights=True),
    "inception_v3": vision("inception_v3", size=299, init_weights=True),
    **{
        name: segmentation(name)
        for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50")
    },
    **{name: video(name) for name in ("r3d_18", "mc3_18", "r2plus1d_18")},
}

TRANSFORMERS: dict[str, Entry] = {
    "bert": encoder("bert"),
    "distilbert": encoder("distilbert", dim=64, n_layers=2, n_heads=4, hidden_dim=128),
    "roberta": encoder("roberta", hidden_size=96, num_attention_heads=6),
    "electra": encoder("electra", embedding_size=32),
    "albert": encoder("albert", embedding_size=32, num_hidden_layers=3),
    "mobilebert": encoder(
        "mobilebert", hidden_size=96, embedding_size=32, intra_bottleneck_size=48, num_feedforward_networks=2
    ),
    "deberta_v2": encoder(
        "deberta-v2",
        relative_attention=True,
        pos_att_type=["p2c", "c2p"],
        position_buckets=16,
        share_att_key=True,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
    ),
    "mpnet": encoder("mpnet"),
    "modernbert": encoder("modernbert", cls_token_id=1, sep_token_id=2, num_hidden_layers=3, local_attention=8),
    "gpt2": causal("gpt2"),
    "gpt_neox": causal("gpt_neox"),
    "opt": causal("opt", ffn_dim=128, word_embed_proj_dim=64),
    "llama": causal("llama", **GROUPED),
    "mistral": causal("mistral", num_key_value_heads=1, head_dim=16, sliding_window=8),
    "qwen2": causal("qwen2", **GROUPED),
    "qwen3": causal("qwen3", head_dim=32, **GROUPED),
    "gemma2": causal("gemma2", head_dim=32, query_pre_attn_scalar=32, sliding_window=8, **GROUPED),
    "phi3": causal("phi3", hidden_size=96, num_attention_heads=6, **GROUPED),
    "bloom": causal("bloom"),
    "t5_encoder": transformer(
        "t5",
        "",
        outputs=("last_hidden_state",),
        part="encoder",
        cache=True,
        vocab_size=VOCAB,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    ),
    "vit": classifier("vit", **VIT),
    "clip_vision": tower("clip"),
    "siglip_vision": tower("siglip", hidden_size=96),
    "dinov2": classifier("dinov2", **VIT, mlp_ratio=2),
    "segformer": transformer(
        "segformer",
        "ForSemanticSegmentation",
        image(),
        num_labels=10,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 3, 4],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=64,
    ),
    "swin": classifier("swin", embed_dim=24, depths=[2, 2], num_heads=[2, 4], window_size=7, mlp_ratio=2.0),
    "mobilevit": classifier(
        "mobilevit",
        256,
        hidden_sizes=[32, 48, 64],
        neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96],
        num_attention_heads=4,
    ),
    "convnextv2": classifier("convnextv2", hidden_sizes=[24, 32, 48, 64], depths=[1, 1, 2, 1]),
    "whisper_encoder": transformer(
        "whisper",
        "",
        (Input("input_features", ("batch", 40, 100)),),
        ("last_hidden_state",),
        part="encoder",
        **SPECIAL,
        decoder_start_token_id=1,
        vocab_size=VOCAB,
        num_mel_bins=40,
        d_model=64,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_layers=1,
        decoder_attention_heads=4,
        decoder_ffn_dim=128,
        max_source_positions=50,
    ),
    "wav2vec2": transformer(
        "wav2vec2",
        "ForCTC",
        (Input("input_values", ("batch", 8000)),),
        **WIDTH,
        vocab_size=32,
        conv_dim=[48] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    ),
    "yolos": transformer(
        "yolos",
        "ForObjectDetection",
        image(),
        ("logits", "pred_boxes"),
        num_labels=10,
        num_detection_tokens=10,
        **{**VIT, "image_size": [224, 224]},
    ),
    "mamba": transformer(
        "mamba",
        "ForCausalLM",
        FIXED_TEXT,
        cache=True,
        vocab_size=VOCAB,
        hidden_size=64,
        num_hidden_layers=2,
        state_size=8,
        time_step_rank=4,
        **SPECIAL,
    ),
}

ZOO: dict[str, Entry] = {**TRANSFORMERS, **TORCHVISION}


def build(name: str) -> nn.Module:
    """Build one network of the zoo: eval mode, the same weights every time."""
    torch.manual_seed(zlib.crc32(name.encode()))
    model = ZOO[name].build().eval().requires_grad_(requires_grad=False)
    randomise(model, sample(name, {"batch": 4, "seq": SEQ}, seed=1))
    return model


def sample(name: str, sizes: dict[str, int], seed: int = 0) -> tuple[Tensor, ...]:
    """Draw inputs of one network for the given batch (and sequence) size."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(value.sample(sizes, generator) for value in ZOO[name].inputs)
