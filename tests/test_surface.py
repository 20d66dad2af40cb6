"""What users rely on, frozen: a change here is a change to them."""

import argparse
import importlib
from pathlib import Path

import pytest

import ffds
from ffds.cli.main import parser
from ffds.recipes.load import load_recipe

VERBS = {"train", "compare", "eval", "predict", "adjust", "sweep", "table", "figure", "recipes", "show"}
VERBS |= {"methods", "data info", "data pack", "data cache", "data ictext", "report", "init"}
VERBS |= {"runs list", "runs clean", "export"}

PUBLIC = {
    "ffds": "Run compare load report train",
    "ffds.losses": "DifficultyBalancedLoss FFDSLoss FocalLoss GCLLoss InfluenceBalancedLoss LADELoss "
    "LDAMLoss LogitAdjustedLoss ProCoLoss SigmoidFocalLoss VSLoss WeightedCrossEntropyLoss "
    "class_balanced_weights inverse_frequency_weights",
    "ffds.data": "Dataset long_tail_counts long_tail_indices open_dataset",
}


KEYS = {
    "data": "name root images download imbalance_factor profile seed validation test_split test_fraction cut "
    "image_column label_column split_column on_bad_image in_memory workers cache image_size eval_resize "
    "interpolation augment padding randaugment_ops randaugment_magnitude color_jitter "
    "color_jitter_probability grayscale_probability cutout_size erasing_probability mixup cutmix mean std",
    "model": "name pretrained weights weights_sum head head_scale head_init adapt adapter_dim lora_alpha",
    "optimizer": "name lr momentum weight_decay nesterov betas layer_decay head_lr",
    "schedule": "epochs warmup milestones shape frozen_epochs",
    "trainer": "batch_size precision compile cuda_graphs channels_last devices num_nodes accelerator seed "
    "eval_every checkpoint_every deterministic accumulate clip_norm ema keep best_by patience track",
}

SUMMARY = (
    "recipe method seed config_hash epochs accuracy balanced_accuracy macro_f1 ece head middle tail "
    "many medium few train_accuracy seconds images_per_second"
)


def verbs(parser: argparse.ArgumentParser, prefix: str = "") -> set[str]:
    names: set[str] = set()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                names |= verbs(inner, f"{prefix}{name} ") or {f"{prefix}{name}"}
    return names


def test_verbs() -> None:
    assert verbs(parser()) == VERBS


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(module.__all__) == PUBLIC[name].split()
    assert all(getattr(module, public) is not None for public in module.__all__)


def test_keys_of_a_recipe() -> None:
    """The names of the recipes and the keys of `method` are frozen in `tests/recipes` and `tests/methods`."""
    keys = {key for key in load_recipe("cifar10-lt-100").recipe.by_key if not key.startswith("method.")}
    assert keys == {"name", *(f"{part}.{key}" for part, names in KEYS.items() for key in names.split())}


def test_files_of_a_run_and_keys_of_its_summary(tmp_path: Path) -> None:
    settings = {"schedule.epochs": 1, "data.imbalance_factor": 100}
    run = ffds.train("digits", method="ce", seed=3, out=tmp_path, overrides=settings, shown=False)
    assert list(run.summary) == SUMMARY.split()
    assert list(run.summary["accuracy"]) == ["last", "best_on_test", "best_epoch"]
    assert run.path == tmp_path / "digits" / "ce" / f"seed3-{run.summary['config_hash'][:8]}"
    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    parts = ("model.safetensors", "optimizer.safetensors", "loss.safetensors", "state.json", "manifest.json")
    assert files == {
        *(
            "recipe.yaml",
            "environment.json",
            "metrics.jsonl",
            "summary.json",
            "predictions.parquet",
            "lock",
            "classes.json",
        ),
        *(f"checkpoints/epoch-0001/{part}" for part in parts),
    }
