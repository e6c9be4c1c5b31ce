"""The recipes by name, in the order of the lecture's table. A recipe's module is imported when it is asked for and not before."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgeseq_runtime.errors import UsageError

if TYPE_CHECKING:
    from edgeseq_recipes.recipe import Recipe

# The recipe `some-name` is RECIPE of the module `edgeseq_recipes.experiments.some_name`.
NAMES = (
    "markov-source",
    "digit-names",
    "correlated-outputs",
    "later-input",
    "grid-digits",
    "letters-to-phonemes",
    "deep-transitions",
    "nested-expressions",
    "long-term",
    "adding-problem",
    "gated-cells",
    "clipping",
    "copy",
    "gait-phase",
)


def load_recipe(name: str) -> Recipe:
    """The recipe of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in NAMES:
        raise UsageError(f"there is no recipe '{name}'; choose one of {', '.join(NAMES)}")
    recipe: Recipe = import_module(f"edgeseq_recipes.experiments.{name.replace('-', '_')}").RECIPE
    assert recipe.name == name, f"{recipe.name} is listed as {name}"
    return recipe
