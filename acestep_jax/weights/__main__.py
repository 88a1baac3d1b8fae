"""Saves a model as its difference from another: python -m acestep_jax.weights TUNED BASE OUT."""

import argparse
import os

from acestep_jax.weights import difference, load_model


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Saves a model as its difference from another.")
    add = parser.add_argument
    add("tuned", help="folder of the tuned model")
    add("base", help="folder of the model that it began as")
    add("out", help="folder to write")
    add("--name", default="", help="where OUT shall look for its base; default: BASE")
    arguments = parser.parse_args()
    tuned, base = load_model(arguments.tuned), load_model(arguments.base)
    name = arguments.name or os.path.relpath(arguments.base, arguments.out)
    difference.save_difference(arguments.out, tuned, base, name=name)


if __name__ == "__main__":
    main()
