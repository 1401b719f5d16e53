"""What the documentation tells people to run and to install, as far as no cluster is needed."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

from tests.support.paths import ROOT
from twinstream.cli import cli
from twinstream.preprocess.cluster.resources import Node
from twinstream.preprocess.doctor import predict, stage_rate
from twinstream.section import build_settings
from twinstream.settings import Settings

CLUSTER = ROOT / "docs" / "cluster"
SCRIPTS = ("slurm-preprocess.sbatch", "slurm-train.sbatch", "torchrun.sh")
INSTRUCTIONS = {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT", "CMD"}
# Where a command ends within a line of a shell
OPERATORS = {"&", "&&", "|", "||", ";"}
# What a script or a reader puts in: $SHARDS, FOLD
PLACEHOLDER = re.compile(r"\$|=[A-Z]+$")
STUB = "#!/bin/bash\n"
# The command ends last, as it does in life.
WAIT = 'until [ "$(grep -cs "ray start" "$CALLS")" = 2 ]; do /bin/sleep 0.05; done'


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `twinstream COMMAND ...` and `-m twinstream.train ...` of a text."""
    for line in re.sub(r" *\\\n#? *", " ", text).splitlines():
        if not re.search(r"\btwinstream(\.train| [a-z])", line):
            continue
        words = shlex.split(line.removeprefix("#"), comments=True)
        for at, word in enumerate(words):
            rest = words[at + 1 :]
            is_module = words[max(at - 1, 0) : at + 1] == ["-m", "twinstream.train"]
            if is_module or (word == "twinstream" and {*rest[:1]} & {*cli.commands}):
                end = next((n for n, other in enumerate(rest) if other in OPERATORS), len(rest))
                first = ["train"] if is_module else []
                # An option that a shell puts in.
                yield first + [other for other in rest[:end] if not other.startswith("${")]


def accept(arguments: list[str]) -> None:
    """Parse them as the command line does; click's error where it would refuse them."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(command.name, arguments)
    overrides = [
        item for item in context.params.get("overrides") or () if not PLACEHOLDER.search(item)
    ]
    build_settings(Settings, {}, overrides)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_for_clusters_is_bash_and_its_commands_are_accepted(name: str) -> None:
    subprocess.run(["bash", "-n", CLUSTER / name], check=True)
    found = [*commands((CLUSTER / name).read_text())]
    assert found
    for arguments in found:
        accept(arguments)


def test_the_dockerfile_has_known_instructions_and_its_commands_are_accepted() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    lines = re.sub(r" *\\\n *", " ", text).splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert {line.split()[0] for line in lines} == INSTRUCTIONS
    of = {line.split()[0]: line.partition(" ")[2] for line in lines}
    assert json.loads(of["ENTRYPOINT"]) == ["twinstream"]
    assert json.loads(of["CMD"]) == ["--help"]
    (arguments,) = commands(text)
    accept(arguments)


def test_the_rayjob_is_one_whose_command_is_accepted() -> None:
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    (arguments,) = commands(job["spec"]["entrypoint"])
    accept(arguments)
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert {volume["name"] for volume in pod["volumes"]} == {"data"}
        for container in pod["containers"]:
            assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]


@pytest.mark.parametrize("code", [0, 1, 143])
def test_the_slurm_script_starts_ray_everywhere_and_ends_as_the_command_does(
    code: int, tmp_path: Path
) -> None:
    stubs = {
        "scontrol": "printf 'one\\ntwo\\n'",
        "srun": 'case "$*" in *hostname*) echo 10.0.0.1;; *) echo "$@" >> "$CALLS";; esac',
        "sleep": "",
        "python": "echo secret",
        "twinstream": f'[ "$1" = shards ] || {{ {WAIT}; echo "$@" >> "$CALLS"; exit {code}; }}',
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"{STUB}{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "x", "SLURM_NNODES": "2", "SLURM_CPUS_PER_TASK": "3"}
    calls = tmp_path / "calls"
    environment = os.environ | slurm | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", CLUSTER / "slurm-preprocess.sbatch"], env=environment | {"CALLS": str(calls)}
    )
    assert done.returncode == code
    made = "\n".join(sorted(calls.read_text().splitlines()))
    assert re.search(r"--exclude=one .*ray start --address=10.0.0.1:6379 --num-cpus=3", made)
    assert re.search(r"--nodelist=one .*ray start --head --node-ip-address=10.0.0.1", made)
    assert re.search(r"preprocess -c pipeline.yaml .*--address 10.0.0.1:6379", made)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_accepted(page: Path) -> None:
    code = [line[4:] for line in page.read_text().splitlines() if line.startswith("    ")]
    for arguments in commands("\n".join(code).replace("X,Y,T", "60,90,8")):
        accept(arguments)


def test_the_recipes_are_reckoned_by_the_rates_that_they_name_as_doctor_does() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text().replace(",", "")
    (kilobytes,) = re.findall(r"256x256 ([\d.]+) kB of shards", text)
    (flow,) = re.findall(r"1/(\d+) s of flow", text)
    (cost,) = re.findall(r"([\d.]+) ms to decode and encode", text)
    rows = re.findall(r"\| ([\d.]+) " * 5 + r"\|$", text, re.M)
    assert len(rows) == 6
    for hours, *printed in rows:
        one_core = stage_rate(float(flow), float(cost) / 1e3, Node(1))
        found = predict(float(hours), one_core, float(kilobytes) * 1e3)
        reckoned = (found.num_frames / 1e6, found.num_bytes / 1e9, found.hours, found.hours / 32)
        assert [*map(float, printed)] == pytest.approx(reckoned, rel=6e-3)
