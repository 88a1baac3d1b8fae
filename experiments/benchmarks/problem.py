"""What is timed: a file of sizes, the items it has networks for, and the arrays they read.

A file holds the sections `dit`, `vae` and `planner`, with the field names of the released
`config.json`, and `shapes`, lengths that fall back on those of `Shapes`. A section that is missing
takes its items with it. An item is a name of `ITEMS`, at the file's batch size, or name_b2, name_b4
... at another.
"""

import dataclasses
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from acestep_jax.nn import config as config_lib
from acestep_jax.weights import configs

ITEMS = {
    "dit_forward": ("dit",),
    "dit_loop": ("dit",),
    "condition_encoder": ("dit",),
    "tokenizer": ("dit",),
    "detokenizer": ("dit",),
    "vae_encode": ("vae",),
    "vae_decode": ("vae",),
    "song": ("dit", "vae"),
    "planner": ("planner",),
}
"""Every item, and the sections of the file that it needs. `song` goes from encoded text to sound:
conditions, all steps, and the decoding of what they gave. `planner` reads a prompt and writes a
fixed number of audio codes; the other side is transformers with a static cache."""

DEFAULT_ITEMS = (
    *(*ITEMS, "dit_forward_b2", "tokenizer_b2", "vae_decode_b2", "song_b2"),
    "planner_b8",
)
"""What is timed unless items are named: everything once, and what is cheap at batch 2 as well."""

SECTIONS = ("dit", "vae", "planner")
Inputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Lengths of the inputs; what a file leaves out has the value given here."""

    batch: int = 1
    frames: int = 1500  # of the song, 25 Hz
    text_tokens: int = 128
    lyric_tokens: int = 512
    refer_frames: int = 750  # of the one reference clip an item has
    vae_frames: int = 250  # of the audio that the VAE encodes and decodes
    steps: int = 8
    shift: float = 3.0
    prompt_tokens: int = 64  # of the planner
    new_tokens: int = 256

    @property
    def condition_tokens(self) -> int:
        """Length of the joined condition: lyrics, one reference, text."""
        return self.lyric_tokens + 1 + self.text_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Problem:
    """A file of sizes, read.

    Attributes:
      name: of the file.
      dit: its section `dit` as it stands, or None.
      vae: its section `vae`, or None.
      planner: its section `planner`, or None.
      shapes: resolved lengths.
      seed: of weights and inputs.
      dtype: "float32" or "bfloat16".
      threads: processor threads, or None for all.
    """

    name: str
    dit: Mapping[str, Any] | None
    vae: Mapping[str, Any] | None
    planner: Mapping[str, Any] | None = None
    shapes: Shapes = Shapes()
    seed: int = 0
    dtype: str = "float32"
    threads: int | None = None

    @property
    def model_config(self) -> config_lib.ModelConfig:
        """Sizes of the diffusion package."""
        assert self.dit is not None
        return config_lib.model_config_from_json(self.dit)

    @property
    def vae_config(self) -> config_lib.VAEConfig:
        """Sizes of the autoencoder."""
        assert self.vae is not None
        return config_lib.vae_config_from_json(self.vae)

    @property
    def planner_config(self) -> config_lib.Qwen3Config:
        """Sizes of the planner."""
        assert self.planner is not None
        return configs.read_qwen3_config(self.planner)

    def lacks(self, item: str) -> str | None:
        """Says why `item` cannot be timed with this file, or None."""
        for section in ITEMS[split_item(item)[0]]:
            if getattr(self, section) is None:
                return f"the file has no section {section!r}"
        if split_item(item)[0] == "song":
            made = self.model_config.audio_acoustic_hidden_dim
            read = self.vae_config.decoder_input_channels
            if made != read:
                return f"the DiT makes {made} channels, the autoencoder reads {read}"
        return None

    def batch(self, item: str) -> int:
        """Batch size of `item`: its suffix, else the file's."""
        return split_item(item)[1] or self.shapes.batch


def read_problem(path: str | pathlib.Path) -> Problem:
    """Reads a file of sizes.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it is no JSON object or has neither network.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; experiments/shapes/ has some.")
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    sections = {name: values.get(name) for name in SECTIONS} if isinstance(values, dict) else {}
    if not any(sections.values()):
        raise ValueError(f"{path} must be an object with a section 'dit', 'vae' or 'planner'.")
    known = {field.name for field in dataclasses.fields(Shapes)}
    given = values.get("shapes") or {}
    return Problem(
        name=values.get("name", path.stem),
        **sections,
        shapes=Shapes(**{name: value for name, value in given.items() if name in known}),
        **{name: values[name] for name in ("seed", "dtype", "threads") if name in values},
    )


def split_item(item: str) -> tuple[str, int | None]:
    """Splits "tokenizer_b2" into ("tokenizer", 2), and "tokenizer" into ("tokenizer", None).

    Raises:
      ValueError: if there is no such item.
    """
    found = re.fullmatch(r"(.+?)(?:_b([1-9]\d*))?", item)
    if found is None or found[1] not in ITEMS:
        raise ValueError(f"no item {item!r}; there are {', '.join(ITEMS)}, and each with _b2 ...")
    return found[1], int(found[2]) if found[2] else None


def draw_inputs(problem: Problem, item: str) -> Inputs:
    """Draws what `item` reads, float32 and channels last, the same for whoever is timed."""
    rng, shapes, batch = np.random.default_rng(problem.seed), problem.shapes, problem.batch(item)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    name = split_item(item)[0]
    if name == "planner":
        ids = rng.integers(0, problem.planner_config.vocab_size, (batch, shapes.prompt_tokens))
        return {"tokens": ids.astype(np.int32)}
    if name.startswith("vae"):
        vae = problem.vae_config
        if name == "vae_encode":
            samples = shapes.vae_frames * vae.hop
            return {"audio": 0.1 * normal(batch, samples, vae.audio_channels)}
        return {"latents": normal(batch, shapes.vae_frames, vae.decoder_input_channels)}
    config = problem.model_config
    channels, width = config.audio_acoustic_hidden_dim, config.encoder.width
    state = ("x_t", "context"), ("text", "lyric", "timbre")
    drawn = {
        "x_t": (batch, shapes.frames, channels),
        "context": (batch, shapes.frames, 2 * channels),
        "condition": (batch, shapes.condition_tokens, width),
        "text": (batch, shapes.text_tokens, config.text_hidden_dim),
        "lyric": (batch, shapes.lyric_tokens, config.text_hidden_dim),
        "timbre": (batch, shapes.refer_frames, config.timbre_hidden_dim),
    }
    wanted = {
        "dit_forward": (*state[0], "condition"),
        "dit_loop": (*state[0], "condition"),
        "condition_encoder": state[1],
        "song": (*state[0], *state[1]),
    }
    if name in wanted:
        return {key: normal(*drawn[key]) for key in wanted[name]}
    if name == "tokenizer":
        return {"latents": normal(batch, shapes.frames, channels)}
    return {"quantized": normal(batch, -(-shapes.frames // config.pool_window_size), width)}


def choose_items(
    problem: Problem, wanted: Sequence[str] | None
) -> tuple[list[str], dict[str, str]]:
    """Sorts out what to time.

    Args:
      problem: the file.
      wanted: items by name; None for `DEFAULT_ITEMS`.

    Returns:
      The items that the file has networks for, and {item: why not} for the others.

    Raises:
      ValueError: if there is no such item.
    """
    wanted = DEFAULT_ITEMS if wanted is None else wanted
    left_out = {item: reason for item in wanted if (reason := problem.lacks(item))}
    return [item for item in wanted if item not in left_out], left_out
