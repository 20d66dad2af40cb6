"""A network in the layout of timm on the Hugging Face hub: ``config.json`` and ``model.safetensors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ffds.errors import InputError
from ffds.inference.graph import side_of
from ffds.inference.predictor import Predictor
from ffds.models.adapt import merged

__all__ = ["timm_folder"]


def timm_folder(predictor: Predictor, folder: Path) -> None:
    """Write the folder; an adjustment becomes a part of the classifier's weights.

    Raises:
        InputError: the network is none of timm's, or its head is no linear one.
    """
    recipe, fix = predictor.recipe, "use --format onnx or --format torch"
    if not recipe.model.name.startswith("timm/"):
        what = "only networks of timm have a place in its layout"
        raise InputError(what, where="--format timm", got=recipe.model.name, allowed="timm/NAME", fix=fix)
    if recipe.head != "linear":
        what = "timm's networks have linear heads"
        raise InputError(what, where="--format timm", got=f"a {recipe.head} head", fix=fix)
    if recipe.model.adapt == "adaptformer":
        what = "timm's networks have no adapters"
        raise InputError(what, where="--format timm", got="model.adapt=adaptformer", fix=fix)
    import timm
    from timm.models import save_for_hf

    data, names = recipe.data, list(predictor.class_names)
    channels, name = 1 if predictor.stored.mode == "L" else 3, recipe.model.name.removeprefix("timm/")
    network = timm.create_model(name, pretrained=False, num_classes=len(names), in_chans=channels)
    trained: Any = predictor.network
    state = merged(trained.backbone).state_dict() | _classifier(predictor, network)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        what = "the classifier of this network does not fit timm's"
        raise InputError(what, where="--format timm", got=str(error).splitlines()[0], fix=fix) from error
    side = data.image_size or side_of(predictor)
    config = {
        "label_names": names,
        "num_classes": len(names),
        "pretrained_cfg": {
            "input_size": [channels, side, side],
            "mean": list(data.mean) * (channels // len(data.mean)),
            "std": list(data.std) * (channels // len(data.std)),
            "crop_pct": side / (data.eval_resize or side),
            "interpolation": data.interpolation,
            "crop_mode": "center",
            "num_classes": len(names),
        },
    }
    arguments = {"in_chans": channels} if channels != 3 else None
    save_for_hf(network, str(folder), model_config=config, model_args=arguments, safe_serialization=True)


def _classifier(predictor: Predictor, network: Any) -> dict[str, Tensor]:
    """The weights of the head under timm's own name, with z / T + b in them."""
    place = network.pretrained_cfg["classifier"]
    head: Any = predictor.network
    weight, bias = head.head.weight.detach(), head.head.bias.detach()
    if (adjustment := predictor.adjustment) is not None:
        shift = adjustment.bias(predictor.class_names, predictor.class_counts).float()
        weight, bias = weight / adjustment.temperature, bias / adjustment.temperature + shift
    if not isinstance(place, str):
        fix = "use --format onnx or --format torch"
        raise InputError("timm's network has several classifiers", where="--format timm", got=place, fix=fix)
    wanted = network.state_dict()[f"{place}.weight"].shape
    return {f"{place}.weight": weight.reshape(wanted), f"{place}.bias": torch.as_tensor(bias)}
