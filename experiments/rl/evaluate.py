"""Did reinforcement help, by more than choosing the best of several does, and at what price?

    python -m experiments.rl.evaluate [--quick] [--of dit planner] [--dit FOLDER] [--planner FOLDER]
    python -m experiments.rl.evaluate --of planner --planner FOLDER FOLDER FOLDER     (three seeds)

Start and tuned weights answer the same held-out prompts, from the same draws, several times each.
Reported are mean rewards, the start's best of 2 and 4 (which costs as many songs), what tuning
gained over each, and the watch-list: readers and scorers that training never had, the reward's
parts, the distance from the start, style and diversity. All with 95 % intervals over prompts; of
several folders the first is reported so, and the means of what all of them gained over seeds.

Of weights that do not exist nothing is reported. `--quick` takes 16 prompts, within five minutes on
two cores. The last line is one JSON object.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from acestep_jax import compilation
from acestep_jax.training import models
from acestep_jax.training.config import Model
from configs.nano import grpo_dit as dit_recipe
from configs.nano import grpo_planner as planner_recipe
from experiments.distill import seeds
from experiments.rl import gains, planning, singing


def evaluate_dit(
    tuned: Sequence[str], prompts: int, songs: int, *, other: str = "", shards: str = ""
) -> dict[str, Any]:
    """Compares tuned DiTs with the shipped one."""
    config = with_shards(dit_recipe.get_config(), shards)
    stage = singing.open_stage(config, prompts, other)
    start = singing.sing(stage, stage.frozen["start"], songs)
    found = []
    for where in tuned:
        model = Model(weights=where, text_weights=config.model.text_weights)
        sung = singing.sing(stage, models.load(model).params["dit"], songs)
        found.append(singing.compare(sung, start))
    return over_seeds(found)


def evaluate_planner(
    tuned: Sequence[str], prompts: int, answers: int, *, scorer: str = "", shards: str = ""
) -> dict[str, Any]:
    """Compares tuned planners with the shipped one."""
    config = with_shards(planner_recipe.get_config(), shards)
    stage = planning.open_stage(config, prompts, scorer)
    start = planning.answer(stage, stage.frozen.reference, answers)
    written = (planning.answer(stage, planning.load(where), answers) for where in tuned)
    return over_seeds([planning.compare(own, start) for own in written])


def over_seeds(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Adds to the first run what all of them gained: {"pmi, gain": {"each", "mean"}, ...}.

    A mean is [mean, low, high] by Student's t over seeds.
    """
    if len(found) == 1:
        return found[0]
    each = {
        f"{reader}, {name}": [run[reader][name][0] for run in found]
        for reader, numbers in found[0].items()
        for name in numbers
        if name.startswith("gain") or reader in ("parts", "watched")
    }
    return found[0] | {"seeds": seeds.gather(each)}


def with_shards(config: Any, shards: str) -> Any:
    """Reads songs from `shards`, or from those in the package."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, shards=shards))


def exists(where: str) -> bool:
    """Tells whether weights that are named are there; hub ids count as there."""
    place = pathlib.Path(models.locate(where))
    return not place.is_absolute() or (place / "config.json").is_file()


def verdict(found: dict[str, Any], reward: str, other: str) -> dict[str, bool]:
    """Holds the numbers against what tuning is asked for.

    Intervals must say so: the tuned mean above the start's best of all that were sampled (four by
    default), and by the other reader not below the start, or above it.
    """
    gained, held = found[reward], found.get(other, {})
    *_, hardest = [name for name in gained if name.startswith("gain")]
    return {
        f"above the start: {hardest}": gained[hardest][1] > 0,
        "not lower by another reader": "gain" in held and held["gain"][2] >= 0,
        "higher by another reader": "gain" in held and held["gain"][1] > 0,
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Evaluates, prints a line a measure, and one JSON object last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="16 prompts, within five minutes")
    parser.add_argument("--of", nargs="*", choices=("dit", "planner"), default=("dit", "planner"))
    parser.add_argument("--dit", nargs="+", default=[singing.TUNED], help="tuned DiTs")
    parser.add_argument("--planner", nargs="+", default=[planning.TUNED], help="tuned planners")
    parser.add_argument("--scorer", default=planning.START, help="one that training never had")
    parser.add_argument("--aligner", default=singing.OTHER, help="one that training never had")
    parser.add_argument("--shards", default="", help="of the prompts; those in the package")
    parser.add_argument("--prompts", type=int, default=0, help="64, or 16 with --quick")
    parser.add_argument("--samples", type=int, default=4, help="songs or answers for a prompt")
    options = parser.parse_args(arguments)
    compilation.enable_cache()
    begin, prompts = time.monotonic(), options.prompts or (16 if options.quick else 64)
    found: dict[str, Any] = {"prompts": prompts, "samples": options.samples}
    if "dit" in options.of and all(map(exists, options.dit)):
        other = options.aligner if exists(options.aligner) else ""
        given = {"other": other, "shards": options.shards}
        sung = evaluate_dit(options.dit, prompts, options.samples, **given)
        found["dit"] = sung | {"targets": verdict(sung, "aas", "other reader")}
    if "planner" in options.of and all(map(exists, options.planner)):
        given = {"scorer": options.scorer, "shards": options.shards}
        planned = evaluate_planner(options.planner, prompts, options.samples, **given)
        found["planner"] = planned | {"targets": verdict(planned, "pmi", "other scorer")}
    for subject in ("dit", "planner"):
        if subject in options.of and subject not in found:
            print(f"{subject}: no tuned weights in {' '.join(getattr(options, subject))}")
        for name, numbers in found.get(subject, {}).items():
            if name not in ("targets", "seeds"):
                print(gains.line(f"{subject}, {name}", numbers), flush=True)
    found["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
