"""Which parameters of a backbone are trained: all, its norms, its biases, or adapters put into it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ffds.errors import InputError
from ffds.recipes.schema import Model

__all__ = ["AdaptFormer", "adapt", "adapter_dim", "keeps_statistics", "merged"]

_NETWORKS = "a vision transformer of timm, such as timm/vit_base_patch16_224"


def adapt(backbone: nn.Module, model: Model, num_classes: int) -> None:
    """Let only those parameters of a backbone be trained that `model.adapt` names, in place.

    ``norm``: scales and shifts of all normalisations. ``bias``: all biases (Ben Zaken et al. 2022, BitFit).
    ``adaptformer``: an `AdaptFormer` beside the MLP of each block. ``lora``: W + (α / r)·B A for the weights
    W of query, key and value, as one matrix, of each attention, with B = 0 at first (Hu et al. 2022). The
    last two are drawn from torch's global generator, and at first change no feature by a bit.

    Raises:
        InputError: the network has nothing of that kind.
    """
    if model.adapt == "full":
        return
    backbone.requires_grad_(False)
    if model.adapt == "adaptformer":
        _insert_adapters(backbone, model.adapter_dim, num_classes)
    elif model.adapt == "lora":
        _insert_lora(backbone, model, num_classes)
    else:
        trained = {"norm": _of_norms, "bias": _biases}[model.adapt](backbone)
        for parameter in trained:
            parameter.requires_grad_(True)
    if not any(parameter.requires_grad for parameter in backbone.parameters()):
        needs = {"norm": "scales of norms", "bias": "biases"}
        what = f"{model.name} has no {needs.get(model.adapt, 'blocks that take such adapters')}"
        allowed = "full, norm or bias for this network" if model.adapt not in needs else "full"
        fix = f"adaptformer and lora need {_NETWORKS}"
        raise InputError(what, where="model.adapt", got=model.adapt, allowed=allowed, fix=fix)


def adapter_dim(num_classes: int, num_layers: int) -> int:
    """2^⌊log₂(C / 2L)⌋, but at least 1: adapters of L layers then have fewer parameters than the classifier.

    Source: Shi et al. 2024 (LIFT), section 4.3.

    >>> adapter_dim(100, 12), adapter_dim(1000, 12), adapter_dim(10, 12)
    (4, 32, 1)
    """
    return int(2 ** (max(1, num_classes // (2 * num_layers)).bit_length() - 1))


def keeps_statistics(model: Model) -> bool:
    """Whether the backbone computes in training as in evaluation, because its norms are not trained."""
    return model.adapt in {"bias", "adaptformer", "lora"}


def merged(backbone: nn.Module) -> nn.Module:
    """A copy of the backbone with LoRA added to the weights that it adapts, under the names of timm."""
    backbone = copy.deepcopy(backbone)
    layers: dict[str, Any] = {name: one for name, one in backbone.named_modules() if hasattr(one, "lora_A")}
    for name, layer in layers.items():
        layer.merge()
        backbone.set_submodule(name, layer.get_base_layer())
    return backbone


class AdaptFormer(nn.Module):
    """s·W↑ ReLU(W↓ LN x), of width `dim` between x and the result, (…, width) → (…, width).

    W↓ begins from Kaiming's normal distribution with a = √5, so N(0, 1 / 3·width), W↑ and all biases as 0,
    s, which is trained, as 1: at first the result is 0.

    Source: Chen et al. 2022 (AdaptFormer); as in Shi et al. 2024 (LIFT), section 4.1, and its released code.

    >>> AdaptFormer(8, 2)(torch.ones(1, 8)).abs().max().item()
    0.0
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down, self.up = nn.Linear(width, dim), nn.Linear(dim, width)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_normal_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Tensor) -> Tensor:
        """What is added beside the MLP."""
        added: Tensor = self.scale * self.up(self.down(self.norm(x)).relu())
        return added


class _AdaptedBlock(nn.Module):
    """A block of a transformer, x′ = x + attention(LN x), then x′ + MLP(LN x′) + adapter(x′)."""

    def __init__(self, block: nn.Module, adapter: nn.Module) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, x: Tensor, **masks: Any) -> Tensor:
        """Tokens (N, T, width) → tokens; `masks` are what the attention takes besides."""
        block: Any = self.block
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), **masks)))
        added: Tensor = block.drop_path2(block.ls2(block.mlp(block.norm2(x)))) + self.adapter(x)
        return x + added


def _insert_adapters(backbone: Any, dim: int | None, num_classes: int) -> None:
    from timm.models.vision_transformer import Block

    blocks = {name: one for name, one in backbone.named_modules() if isinstance(one, Block)}
    for name, block in blocks.items():
        adapter = AdaptFormer(backbone.embed_dim, dim or adapter_dim(num_classes, len(blocks)))
        backbone.set_submodule(name, _AdaptedBlock(block, adapter))


def _insert_lora(backbone: nn.Module, model: Model, num_classes: int) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    layers = [
        name
        for name, one in backbone.named_modules()
        if name.endswith("attn.qkv") and isinstance(one, nn.Linear)
    ]
    if layers:
        rank, alpha = model.adapter_dim or adapter_dim(num_classes, len(layers)), model.lora_alpha
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers)  # type: ignore[arg-type]
        inject_adapter_in_model(config, backbone)


def _of_norms(backbone: nn.Module) -> Iterator[nn.Parameter]:
    """Those of all layers whose type is called a norm, as torch and timm call theirs."""
    for module in backbone.modules():
        if "norm" in type(module).__name__.lower():
            yield from module.parameters(recurse=False)


def _biases(backbone: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for name, parameter in backbone.named_parameters() if name.endswith("bias"))
