"""Does the loader ever starve a device? Examples a second, beside what a training step eats.

    python -m experiments.loader_speed [--quick] [--workers 2] [--folder DIR]

Writes shards of made-up songs (noise of the right shapes, lyrics with word times, two stems, and
standard deviations to sample from) and draws batches of all six tasks: at the nano shapes, and at
those of the 2B models with songs of 30, 60 and 240 seconds. The nano set is small enough for the
loader to keep it in memory, as it does in training; 2B songs are read and parsed anew each time,
from the page cache: a disk has to give up to 3 MB a song of 240 seconds. Examples a second are
given by wall clock and by processor second: the latter depends less on what else the machine does,
and tells how many cores a device needs.

What an H100 eats at most: 6 FLOP a parameter and token in the DiT's layers, at 40 % of its 989
TFLOP/s in bfloat16. Encoders and attention are left out of the count, so a real step eats less.
The nano DiT is far too small to run an H100 at 40 %; there the shortest step that is fed counts.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from acestep_jax import units
from acestep_jax.data import labels as labels_lib
from acestep_jax.data import loader, shards, sources
from acestep_jax.nn.config import MODELS
from acestep_jax.tasks import edits
from acestep_jax.training.config import Data
from acestep_jax.weights import names

PEAK_FLOPS = 989e12
"""Dense bfloat16 products of one H100 SXM, from its data sheet."""
UTILISATION = 0.4
"""Of the peak: what large training runs reach; a device that does less eats less."""
CHANNELS = 64


@dataclasses.dataclass(frozen=True)
class Case:
    """One shape of batch.

    Attributes:
      preset: of the DiT.
      seconds: of the songs on disk.
      num_songs: on disk.
      num_batches: timed, after one that is not.
      cached: whether the loader may keep the songs.
      data: the loader's configuration, but for the folder; the batch of one device.
    """

    preset: str
    seconds: float
    num_songs: int
    num_batches: int
    cached: bool
    data: Data


def cases(quick: bool) -> dict[str, Case]:
    """Lists what is measured; `quick` reads few short songs."""
    tasks = tuple((task, 1.0) for task in edits.TASKS)
    room = {"text_tokens": 256, "timbre_frames": 750, "tasks": tasks}

    def large(frames: int, lyrics: int, batch: int) -> Case:
        data = Data(batch_size=batch, num_frames=frames, lyric_tokens=lyrics, **room)
        sizes = (4, 1) if quick else (48, 24)
        return Case("base", frames / units.FRAME_RATE, *sizes, cached=False, data=data)

    nano = Data(batch_size=16, num_frames=128, tasks=tasks)
    return {
        "nano, 5 s": Case("nano", 28.0, *((4, 2) if quick else (200, 60)), cached=True, data=nano),
        "2B, 30 s": large(750, 512, 16),
        "2B, 60 s": large(1500, 1024, 8),
        "2B, 240 s": large(6000, 2048, 2),
    }


def make_songs(count: int, seconds: float) -> Iterator[shards.Record]:
    """Makes up songs: noise for latents, three words a second in lines of eight."""
    rng = np.random.default_rng(0)
    frames = round(seconds * units.FRAME_RATE)
    for number in range(count):
        mix, std, bass, drums = rng.standard_normal((4, frames, CHANNELS)).astype(np.float16)
        num_words = int(2.5 * seconds)
        words = tuple(
            labels_lib.Word(f"word{i % 97}", i / 3, (i + 0.9) / 3, i // 8) for i in range(num_words)
        )
        lines = tuple(
            labels_lib.Line(" ".join(w.text for w in line), line[0].start, line[-1].end)
            for line in (words[i : i + 8] for i in range(0, num_words, 8))
        )
        labels = labels_lib.SongLabels(
            name=f"song{number}",
            group=f"song{number}",
            split="train",
            seconds=seconds,
            captions=("slow piano ballad with strings and a choir in a large hall",),
            bpm=90,
            keyscale="A minor",
            timesignature="4",
            language="en",
            lines=lines,
            words=words,
        )
        yield shards.Record(labels, mix, abs(std) / 8, {"bass": bass, "drums": drums})


def examples_a_second(data: Data, num_batches: int, warm_up: int = 1) -> tuple[float, float]:
    """Draws batches; gives examples by second of wall clock, and by processor second.

    Time of worker processes is not counted, so the second figure is right without workers only.
    """
    batches = loader.make_batches(data, seed=0, process_index=0, process_count=1)
    for _ in range(warm_up):  # opens files and tokenizer, starts workers, fills the memory
        next(batches)
    wall, processor = time.perf_counter(), time.process_time()
    for _ in range(num_batches):
        next(batches)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    batches.close()
    count = num_batches * data.batch_size
    return count / wall, count / processor


def eaten_a_second(preset: str, num_frames: int) -> float:
    """Counts the examples a second that one H100 trains on at most."""
    config = MODELS[preset]
    parameters = sum(
        math.prod(entry.shape)
        for entry in names.model_entries(config)
        if entry.name.startswith("decoder.") and "time_embed" not in entry.name
    )
    flops = 6 * parameters * num_frames / config.patch_size
    return UTILISATION * PEAK_FLOPS / flops


def measure(case: Case, folder: pathlib.Path, workers: int) -> dict[str, float]:
    """Measures one case with shards in `folder`, in line and with worker processes."""
    silence = np.zeros((1, shards.SILENCE_FRAMES, CHANNELS), np.float32)
    shards.write_shards(folder, {"train": make_songs(case.num_songs, case.seconds)}, silence, {})
    data = dataclasses.replace(case.data, shards=str(folder))
    sources.CACHE_BYTES = 2**30 if case.cached else 0
    warm_up = -(-5 * case.num_songs // data.batch_size) if case.cached else 1  # an epoch
    wall, per_core = examples_a_second(data, case.num_batches, warm_up)
    eaten = eaten_a_second(case.preset, data.num_frames)
    found = {
        "batch": data.batch_size,
        "examples_a_second": wall,
        "examples_a_cpu_second": per_core,
        "shortest_step_ms_a_core": 1e3 * data.batch_size / per_core,
        "h100_eats_at_most": eaten,
        "cores_an_h100": eaten / per_core,
    }
    if workers:
        shared = dataclasses.replace(data, num_workers=workers)
        found["examples_a_second_with_workers"], _ = examples_a_second(shared, case.num_batches)
    return found


def main() -> None:
    """Runs the command line; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few short runs")
    parser.add_argument("--workers", type=int, default=0, help="also with so many processes")
    parser.add_argument("--folder", help="for the shards; a temporary one by default")
    arguments = parser.parse_args()
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # grain reads absl flags
    table = {}
    for name, case in cases(arguments.quick).items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            table[name] = measure(case, pathlib.Path(folder), arguments.workers)
        row = {key: float(f"{value:.3g}") for key, value in table[name].items()}
        print(f"{name}: {row}", flush=True)
    margins = {name: 1 / row["cores_an_h100"] for name, row in table.items()}
    print(json.dumps({"cases": table, "h100s_fed_by_one_core": margins}))


if __name__ == "__main__":
    main()
