"""Recipes: one YAML document that decides a run."""

from ffds.recipes.load import Resolved, dump_recipe, load_recipe, recipe_text, shipped_recipes

__all__ = ["Resolved", "dump_recipe", "load_recipe", "recipe_text", "shipped_recipes"]
