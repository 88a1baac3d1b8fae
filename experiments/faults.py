"""Does a run that is killed end as one that is not, bit for bit?

    python -m experiments.faults --kills 20 --seed 0
    python -m experiments.faults --kills 5 --trainers dit,vae --jobs 2

For each script of train/ with a configuration in configs/nano, its quick form runs once in peace,
and the state of every step is kept. Then it runs again, and is killed and started with the same
command over and over, until it comes to its end and another begins. Three ways of dying take turns:

    kill   SIGKILL, a random while after a random step
    save   SIGKILL while a random checkpoint is being written
    term   SIGTERM after a random step: the run must save, and end with the signal's status

A kill is passed if what it left on disk is, bit for bit, a state that the peaceful run went through
(parameters, averages, optimizer state, counters, key, position in the data), and what the run made
of that in its next life, up to the next kill or its end, is so too. What follows the last
checkpoint of a run (evaluation, export, report) is cut off: it changes no state.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import pathlib
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from absl import app, flags, logging

from acestep_jax.training import checkpoint
from experiments.lives import Life, Trainer, discover, is_saved, is_saving, newest, steps_logged

WAYS = ("kill", "save", "term")
FARTHEST = 3  # steps from the start of a life to its end
DELAY_SECONDS = 0.3  # at most, from a step to the blow; 0.05 in a save

FLAGS = flags.FLAGS

Digests = Callable[[int], str]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was done to a run, and what was wrong with it afterwards ("" if nothing)."""

    story: str
    problem: str


def reached(workdir: pathlib.Path) -> int:
    """Gives the last step that a run has done, saved or not."""
    return max(newest(workdir), steps_logged(workdir))


def run_in_peace(trainer: Trainer, workdir: pathlib.Path, keep: Sequence[str]) -> Digests:
    """Runs from start to end; gives the digest of the state after any step.

    Args:
      trainer: the run.
      workdir: its folder.
      keep: arguments that make it keep all its checkpoints.

    Raises:
      RuntimeError: if it does not come to its end; it says what the run printed.
    """
    life = Life(trainer, workdir, keep)
    done = life.wait_for(lambda: is_saved(workdir, trainer.num_steps))
    life.end(signal.SIGKILL)
    if not done:
        raise RuntimeError(f"{trainer.name} does not run:\n{life.last_words()}")
    return functools.cache(functools.partial(checkpoint.digest, workdir))


def strike(trainer: Trainer, workdir: pathlib.Path, way: str, rng: random.Random) -> Outcome | None:
    """Starts a life and ends it at a random moment in one of `WAYS`; None if that came too late."""
    step = min(reached(workdir) + rng.randint(1, FARTHEST), trainer.num_steps - 1)
    life = Life(trainer, workdir)
    moment: Callable[[], bool] = lambda: steps_logged(workdir) >= step  # noqa: E731
    if way == "save":
        moment = lambda: is_saving(workdir, step)  # noqa: E731
    if not life.wait_for(moment):
        # It may have come to its end before; if not, it broke
        broken = "" if is_saved(workdir, trainer.num_steps) else life.last_words()
        return Outcome(way, f"ended before it was struck:\n{broken}") if broken else None
    time.sleep(rng.uniform(0, 0.05 if way == "save" else DELAY_SECONDS))
    saving = is_saving(workdir)
    status = life.end(signal.SIGTERM if way == "term" else signal.SIGKILL)
    story = f"{way} at step {steps_logged(workdir)}"
    if way == "term":
        done = is_saved(workdir, trainer.num_steps)  # no steps were left to be stopped
        in_order = status == 128 + signal.SIGTERM or done
        return Outcome(story, "" if in_order else f"SIGTERM ended it with status {status}")
    return Outcome(f"{story}, in the middle of a save" if saving else story, "")


def compare(workdir: pathlib.Path, expected: Digests) -> str:
    """Says what is wrong with a run's newest checkpoint; "" if nothing, or if there is none."""
    step = newest(workdir)
    if not step or checkpoint.digest(workdir, step) == expected(step):
        return ""
    return f"the state after step {step} is another one"


def run_to_end(trainer: Trainer, workdir: pathlib.Path, expected: Digests) -> str:
    """Starts a run for the last time; says what is wrong with its end."""
    life = Life(trainer, workdir)
    done = life.wait_for(lambda: is_saved(workdir, trainer.num_steps))
    life.end(signal.SIGKILL)
    if not done:
        return f"did not come to its end when started again:\n{life.last_words()}"
    return compare(workdir, expected)


def kills(
    trainer: Trainer, folder: pathlib.Path, seed: str, expected: Digests
) -> Iterator[Outcome]:
    """Kills a run until it comes to its end, or is found broken; then begins another, for ever.

    The ways of dying take turns, but the first is drawn.
    """
    rng = random.Random(seed)
    ways = itertools.islice(itertools.cycle(WAYS), rng.randrange(len(WAYS)), None)
    for number in itertools.count():
        workdir = folder / str(number) / "run"
        workdir.parent.mkdir(parents=True)
        before: Outcome | None = None  # the kill that this life must make good
        while reached(workdir) < trainer.num_steps - 1:
            struck = strike(trainer, workdir, next(ways), rng)
            if struck is None:
                break
            problem = struck.problem or compare(workdir, expected)
            if problem:
                yield Outcome(struck.story, problem)
                before = None
                break
            if before is not None:
                yield before
            before = struck
        if before is not None:
            yield Outcome(before.story, run_to_end(trainer, workdir, expected))


def trials(
    trainer: Trainer, count: int, seed: int, folder: pathlib.Path, jobs: int, keep: Sequence[str]
) -> Iterator[Outcome]:
    """Runs a trainer once in peace, and kills it `count` times, `jobs` runs at a time."""
    try:
        expected = run_in_peace(trainer, folder / "peace", keep)
    except (RuntimeError, TimeoutError) as error:
        yield from itertools.repeat(Outcome("undisturbed", str(error)), count)
        return

    def share(number: int) -> Iterator[Outcome]:
        place, name = folder / str(number), f"{trainer.name}-{seed}-{number}"
        mine = len(range(number, count, jobs))
        return itertools.islice(kills(trainer, place, name, expected), mine)

    if jobs == 1:  # tell as it goes
        yield from share(0)
        return
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for outcomes in pool.map(lambda number: list(share(number)), range(jobs)):
            yield from outcomes


def main(argv: Sequence[str]) -> None:
    """Tries every trainer, prints a line a kill and the sum, and fails if any did."""
    del argv
    logging.set_verbosity(logging.WARNING)
    passed = failed = 0
    with tempfile.TemporaryDirectory() as folder:
        for trainer in discover(FLAGS.trainers):
            place, before = pathlib.Path(folder) / trainer.name, Life.processor_seconds()
            place.mkdir()
            keep = ("--set", "keep=1000")
            for outcome in trials(trainer, FLAGS.kills, FLAGS.seed, place, FLAGS.jobs, keep):
                passed, failed = passed + (not outcome.problem), failed + bool(outcome.problem)
                verdict = f"FAILED: {outcome.problem}" if outcome.problem else "passed"
                print(f"{trainer.name}: {outcome.story}: {verdict}", flush=True)
            spent = Life.processor_seconds() - before
            print(f"{trainer.name}: {spent:.0f} s of processor time in its lives", flush=True)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_integer("kills", 20, "How often each trainer is killed.", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "Of steps and moments.")
    flags.DEFINE_list("trainers", [], "Names of scripts in train/; all of them by default.")
    flags.DEFINE_integer("jobs", 1, "Runs at a time.", lower_bound=1)


if __name__ == "__main__":
    define_flags()
    app.run(main)
