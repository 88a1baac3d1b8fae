"""The launch files say what the command line understands and what their launchers take."""

import pathlib
import subprocess

import pytest
import yaml
from absl import flags

from acestep_jax.training import cli, overrides

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "experiments" / "launch"


def containers(file):
    for document in yaml.safe_load_all((LAUNCH / file).read_text()):
        spec = document["spec"]
        if document["kind"] == "JobSet":
            spec = spec["replicatedJobs"][0]["template"]["spec"]
        if document["kind"] != "Service":
            yield spec, spec["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("file", ["kubernetes.yaml", "jobset.yaml"])
def test_the_command_of_a_manifest_is_understood(file):
    [(job, container)] = containers(file)
    python, m, module, *arguments = container["command"]
    assert (python, m) == ("python", "-m")
    assert (ROOT / f"{module.replace('.', '/')}.py").is_file()
    known = flags.FlagValues()
    cli.define_flags(known)
    indexed = [text.replace("$(JOB_COMPLETION_INDEX)", "3") for text in arguments]
    assert known([module, *indexed]) == [module]
    overrides.override(cli.load_config(ROOT / known.config), known.set)
    assert job["completions"] == job["parallelism"]
    assert known.num_processes in (None, job["completions"])


def test_the_pods_of_an_indexed_job_find_the_first_by_its_name():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    pods = job["spec"]["template"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert pods["subdomain"] == service["metadata"]["name"]
    [(_, container)] = containers("kubernetes.yaml")
    [coordinator] = [text for text in container["command"] if text.startswith("--coordinator")]
    name = f"{job['metadata']['name']}-0.{service['metadata']['name']}"  # as Kubernetes names them
    assert coordinator == f"--coordinator={name}:{container['ports'][0]['containerPort']}"


@pytest.mark.parametrize("file", ["tpu_pod.sh", "slurm.sbatch"])
def test_scripts_are_sound_and_pass_their_options_on(file, tmp_path):
    text = (LAUNCH / file).read_text()
    subprocess.run(["bash", "-n", str(LAUNCH / file)], check=True)
    launcher = tmp_path / ("gcloud" if "gcloud" in text else "srun")  # prints what it is given
    launcher.write_text('#!/bin/sh\necho "$@"\n')
    launcher.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "TPU": "slice", "ZONE": "zone"}
    command = ["bash", str(LAUNCH / file), "--config", "a.py", "--set", "mesh.fsdp=-1"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    cluster = "join" if "gcloud" in text else "auto"
    ending = f"-m train.distill --cluster {cluster} --config a.py --set mesh.fsdp=-1\n"
    assert run.stdout.endswith(ending)
