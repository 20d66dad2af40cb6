"""The best settings of a sweep, as a recipe that `ffds train` takes as it is."""

from __future__ import annotations

from ffds.files import write_text
from ffds.recipes.load import dump_recipe
from ffds.recipes.schema import Recipe
from ffds.sweep.found import Found, Tried
from ffds.sweep.recipe import with_settings

__all__ = ["best_text", "write_best"]


def write_best(found: Found) -> bool:
    """Write the best recipe to `found.best_path`; whether there is one."""
    if found.best is None:
        return False
    write_text(found.best_path, best_text(found, found.best))
    return True


def best_text(found: Found, best: Tried) -> str:
    """A recipe with the settings of a trial and the validation set of the recipe that was asked for.

    Args:
        found: the whole study, told in the header.
        best: a finished trial of it.
    """
    recipe = with_settings(found.recipe, best.settings)
    return "\n".join(_header(found, best, recipe)) + "\n\n" + dump_recipe(recipe)


def _header(found: Found, best: Tried, recipe: Recipe) -> list[str]:
    with_images, classes = found.classes
    return [
        f"# {recipe.name}, {recipe.method.name}: the best settings of a sweep",
        "#",
        f"# Found by  ffds sweep, study {found.study}: trial {best.number} of {len(found.trials)}",
        f"#           ({found.tally})",
        f"# Score     {best.score:.2f} percent: balanced accuracy after epoch {best.epoch} on {found.images}",
        f"#           images of {with_images} of {classes} classes, held out of the training set",
        f"#           (data.validation={found.validation:g}). The highest of many scores is a lucky one.",
        f"# Seeds     trainer.seed {recipe.trainer.seed}, data.seed {recipe.data.seed}",
        "# Test set  not used",
        f"# Command   ffds train {found.best_path.name}",
    ]
