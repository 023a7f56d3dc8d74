# SPDX-FileCopyrightText: 2026 The diffusers-difftune authors
# SPDX-License-Identifier: Apache-2.0
"""The recipes that come with the package: files of flags, known by their names."""

from pathlib import Path


RECIPES = Path(__file__).parents[1] / "scripts" / "recipes"


def flags_file(name: str) -> Path:
    """The file that `--config` means.

    Args:
        name (`str`): A path, or the name of a recipe; a file of that name comes first.
    """
    recipe = RECIPES / f"{name}.yaml"
    return recipe if not Path(name).exists() and recipe.is_file() else Path(name)
