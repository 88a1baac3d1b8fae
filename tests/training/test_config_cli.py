"""Fields are set by name and type, and mistakes are answered with the nearest real name."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Literal

import pytest

from acestep_jax.training import cli, overrides
from acestep_jax.training import config as config_lib

ROOT = pathlib.Path(__file__).parents[2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method(config_lib.Run):
    """A method with every kind of field."""

    name: str = "method"
    student: config_lib.Optimizer = config_lib.Optimizer()
    critic: config_lib.Optimizer = config_lib.Optimizer(peak_lr=2e-4)
    critic_steps: int = 5  # critic updates per student update
    # A comment above a field gives way to the one beside it
    shifts: tuple[float, ...] = (1.0, 2.0, 3.0)  # drawn from per step
    # A longer help text
    # takes two lines
    window: tuple[int, str] = (1, "hann")
    silent: int = 0
    law: Literal["max2", "single"] = "max2"  # of the training times
    teacher: str | None = None  # folder; none: embedded
    limit: int | None = 3
    masked: bool = False  # leave padding out of the loss

    def __post_init__(self):
        super().__post_init__()
        config_lib.require(
            self.critic_steps > 0, f"critic_steps={self.critic_steps}; one at least."
        )


@pytest.mark.parametrize(
    ("text", "read", "value"),
    [
        ("critic_steps=2", lambda c: c.critic_steps, 2),
        ("student.peak_lr=1e-5", lambda c: c.student.peak_lr, 1e-5),
        ("critic.name=muon", lambda c: c.critic.name, "muon"),
        ("shifts=3", lambda c: c.shifts, (3.0,)),
        ("shifts=1, 2.5", lambda c: c.shifts, (1.0, 2.5)),
        ("shifts=(1, 2)", lambda c: c.shifts, (1.0, 2.0)),
        ("shifts=()", lambda c: c.shifts, ()),
        ("window=2,flat", lambda c: c.window, (2, "flat")),
        ("law=single", lambda c: c.law, "single"),
        ("teacher=runs/a=b", lambda c: c.teacher, "runs/a=b"),
        ("teacher=none", lambda c: c.teacher, None),
        ("limit=None", lambda c: c.limit, None),
        ("limit=7", lambda c: c.limit, 7),
        ("masked=True", lambda c: c.masked, True),
        ("mesh.fsdp=-1", lambda c: c.mesh.fsdp, -1),
        ("student.frozen=vae/,dit/", lambda c: c.student.frozen, ("vae/", "dit/")),
    ],
)
def test_a_field_takes_a_value_of_its_type(text, read, value):
    config = overrides.override(Method(), [text])
    assert read(config) == value
    assert type(read(config)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("critc_steps=2", "Method has no field critc_steps; did you mean critic_steps"),
        ("student.peek_lr=1", "no field student.peek_lr; did you mean student.peak_lr"),
        ("peak_lr=1", "did you mean student.peak_lr or critic.peak_lr"),
        ("studnet.warmup_steps=1", "did you mean student.warmup_steps"),
        ("zzz=1", "no field zzz; see --help_config"),
        ("critic_steps.x=1", "no field critic_steps.x"),
        ("critic_steps=2.5", "critic_steps=2.5: expected a whole number"),
        ("student.peak_lr=fast", "expected a number"),
        ("masked=1", "masked=1: expected true or false"),
        ("law=maxx2", "expected one of max2, single; did you mean max2"),
        ("window=1", "expected 2 values"),
        ("shifts=(1", "expected a Python tuple"),
        ("shifts=1,a", "expected a number"),
        ("limit=x", "limit=x: expected a whole number, or none"),
        ("student=adamw", "student is a group of fields; set one of student.name"),
        ("critic_steps", "expected field=value"),
        ("critic_steps=0", "one at least"),
        ("mesh.fsdp=0", "mesh.fsdp=0; use a size of 1 or more, or -1"),
        ("student.frozen=(", "expected a Python tuple"),
        ("student.frozen=[')']", "is not a regular expression"),
    ],
)
def test_a_mistake_is_refused_by_name(text, message):
    with pytest.raises(overrides.ConfigError) as caught:
        overrides.override(Method(), [text])
    assert message in str(caught.value)


def test_the_comment_beside_a_field_is_its_help():
    described = overrides.describe(Method())
    assert "critic_steps = 5" in described
    help_texts = {name: text for name, _, text in overrides.leaves(Method())}
    assert help_texts["critic_steps"] == "critic updates per student update"
    assert help_texts["shifts"] == "drawn from per step"
    assert help_texts["window"] == "A longer help text takes two lines"
    assert help_texts["silent"] == ""
    assert help_texts["student.peak_lr"] == "learning rate after warm-up"
    assert help_texts["num_steps"] == "train until this many steps are done"  # inherited


def test_every_shared_field_has_a_help_text():
    for config in (config_lib.Run(name="run"), config_lib.Optimizer()):
        assert [name for name, _, text in overrides.leaves(config) if not text] == []


def test_a_run_resumes_with_its_own_configuration_only(tmp_path):
    config = Method(workdir=str(tmp_path / "run"))
    workdir = cli.prepare_workdir(config)
    assert json.loads((workdir / "config.json").read_text())["shifts"] == [1.0, 2.0, 3.0]
    assert "critic_steps=5" in (workdir / "config.py.txt").read_text()
    cli.prepare_workdir(
        overrides.override(config, ["log_every=7", "mesh.fsdp=2", "data.num_workers=3"])
    )  # these are free
    changed = overrides.override(config, ["critic_steps=2", "student.b2=0.9"])
    with pytest.raises(overrides.ConfigError, match=r"differs in student\.b2, critic_steps"):
        cli.prepare_workdir(changed)
    cli.prepare_workdir(changed, "changed")
    cli.prepare_workdir(config, "fresh")
    assert json.loads((tmp_path / "run.1" / "config.json").read_text())["critic_steps"] == 2


CONFIG_FILE = '''
"""A configuration."""
from acestep_jax.training.config import Run


def get_config(quick=False):
    return Run(name="test", num_steps=2 if quick else 100)
'''
SCRIPT = """
from acestep_jax.training import cli
cli.run(lambda c: print("training", c.name, c.num_steps, c.seed, c.workdir))
"""


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--quick", "--set", "seed=7"], 0, "training test 2 7 runs/test_quick"),
        (["--set", "num_step=7"], 1, "did you mean num_steps?"),
        (["--help_config"], 0, "train until this many steps are done"),
    ],
)
def test_the_command_line_reaches_the_run(tmp_path, arguments, status, text):
    (tmp_path / "config.py").write_text(CONFIG_FILE)
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py", "--config", "config.py", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == status
    assert text in done.stdout + done.stderr


def test_a_config_file_that_is_absent_or_empty_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no configuration file .*absent.py"):
        cli.load_config(tmp_path / "absent.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(overrides.ConfigError, match="has no function get_config"):
        cli.load_config(tmp_path / "empty.py")
