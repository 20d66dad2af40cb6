"""The optimizer of a recipe, and which parameters it updates how fast and with how much weight decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ffds.models.build import Classifier
from ffds.recipes.schema import Optimizer as Settings

__all__ = ["make_optimizer", "parameter_groups", "set_lr"]


def make_optimizer(settings: Settings, model: Classifier, losses: nn.ModuleList) -> Optimizer:
    """A fused optimizer, SGD or AdamW, of the network's parameters and those of the losses, if they have any.

    Fused ones read on the device whether the step is finite (`NanGuard`), and so does AdamW count its steps
    there, as CUDA graphs need.
    """
    groups: Any = parameter_groups(settings, model, losses)
    if settings.name == "adamw":
        on_gpu = any(one["params"][0].is_cuda for one in groups)
        return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True, capturable=on_gpu)
    momentum, nesterov = settings.momentum, settings.nesterov
    return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give each group its part of the learning rate: `lr` times the group's own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def parameter_groups(settings: Settings, model: Classifier, losses: nn.ModuleList) -> list[dict[str, Any]]:
    """The parameters to train in groups of one `lr_scale` and one `weight_decay`, in their order.

    With d = `layer_decay`, the k-th layer of the backbone below the head has the scale d^k, in the layers by
    which timm groups a network's parameters. The head has `head_lr` / `lr`, or 1; losses have 1.

    All parameters have the weight decay of the recipe, but with AdamW or a layer decay below 1 only those
    that multiply: not biases and scales, which have one dimension or none, nor what the network excludes,
    such as its position embeddings. What the head excludes has none in any case.

    Source: Bao et al. 2022 (BEiT), as in ``timm.optim.param_groups_layer_decay``.
    """
    head_scale = 1.0 if settings.head_lr is None else settings.head_lr / settings.lr
    scales = _layer_scales(model.backbone, settings.layer_decay) if settings.layer_decay < 1 else {}
    scales |= dict.fromkeys(map(id, model.head.parameters()), head_scale)
    everywhere = settings.name == "sgd" and settings.layer_decay == 1
    excluded = _without_decay(model.head) | (set() if everywhere else _without_decay(model.backbone))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    for parameter in (*trained, *losses.parameters()):
        decays = id(parameter) not in excluded and (everywhere or parameter.ndim > 1)
        decay = settings.weight_decay if decays else 0.0
        groups.setdefault((scales.get(id(parameter), 1.0), decay), []).append(parameter)
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def _layer_scales(backbone: nn.Module, layer_decay: float) -> dict[int, float]:
    """The scale of each parameter of a backbone by the parameter's id."""
    from timm import optim  # takes half a second

    # timm's scale of the last layer is 1, which here belongs to the head above it.
    groups = optim.param_groups_layer_decay(backbone, layer_decay=layer_decay)  # type: ignore[attr-defined]
    return {id(one): layer_decay * group["lr_scale"] for group in groups for one in group["params"]}


def _without_decay(module: Any) -> set[int]:
    """Ids of the parameters that a network of timm, or a head, excludes from weight decay by their names."""
    named = module.no_weight_decay() if hasattr(module, "no_weight_decay") else ()
    return {id(one) for name, one in module.named_parameters() if name in named}
