#!/usr/bin/python3
"""Builds the test images: `build.py --cache FOLDER OUTPUT [NAME...]`, all of them without names."""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Protocol, cast

import ace_validator
import ace_validator_main
import ace_validator_sidekick
import busybox
import inside
import redis

FOLDER = Path(__file__).resolve().parent


class Recipe(Protocol):
    """What a module of this folder offers to build one image."""

    NAME: str

    def inputs(self) -> list[str]:
        """What the image depends on beside the recipe's code."""

    def build(self, output: Path) -> None:
        """Write the image."""


ACE = [ace_validator_main, ace_validator_sidekick] if ace_validator.is_offered() else []
MODULES = [*ACE, busybox, inside, redis]
RECIPES = {recipe.NAME: recipe for recipe in cast("list[Recipe]", MODULES)}


def cached(recipe: Recipe, cache: Path) -> Path:
    """Where the cache keeps the image as it would be built now."""
    total = hashlib.sha256("\0".join(recipe.inputs()).encode())
    for source in (FOLDER / "aci.py", FOLDER / f"{recipe.NAME}.py"):
        total.update(source.read_bytes())
    return cache / total.hexdigest()[:32] / f"{recipe.NAME}.aci"


def put(recipe: Recipe, cache: Path, output: Path) -> None:
    """Build the image unless the cache has it, and link it into the output folder."""
    image = cached(recipe, cache)
    if not image.exists():
        print(f"kvmrkt: image {recipe.NAME} (a minute at most)", file=sys.stderr, flush=True)
        image.parent.mkdir(parents=True, exist_ok=True)
        recipe.build(image)
    target = output / image.name
    if not (target.exists() and target.samefile(image)):
        target.unlink(missing_ok=True)
        try:
            os.link(image, target)
        except OSError:  # the cache is on another filesystem
            target.symlink_to(image)


def main() -> int:
    """Parse the command line and build; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the test images.")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("output", type=Path)
    parser.add_argument("names", nargs="*", choices=[*RECIPES, []], metavar="NAME")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    try:
        for name in options.names or RECIPES:
            put(RECIPES[name], options.cache, options.output)
    except subprocess.CalledProcessError as error:
        print(f"kvmrkt: cannot build a test image: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
