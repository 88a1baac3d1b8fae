"""Training runs of experiments: made once, and found again by those who ask later."""

import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from acestep_jax.training import cli, files


def run_once(main: Callable[[Any], None], config: Any) -> float:
    """Runs a trainer to its end, or what is left of the run; gives processor seconds.

    A run that has ended is left as it is, and its seconds are read: they stand in its folder, from
    which the checkpoints are gone. What a stopped run took is lost.
    """
    done = pathlib.Path(config.workdir) / "seconds"
    if not done.exists():
        begin = time.process_time()
        cli.prepare_workdir(config)
        main(config)
        shutil.rmtree(done.parent / "checkpoints", ignore_errors=True)
        files.write_atomically(done, f"{time.process_time() - begin:.1f}")
    return float(done.read_text())
