"""What a command reads or has written goes, or is cut short, while it works: one line says what,
and nothing is taken for whole.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.datasets import write_dataset
from tests.support.digests import dataset_digests
from tests.support.stage import prepared, tree, without_ray, write_videos
from tests.support.training import make_settings
from twinstream.errors import InputError
from twinstream.preprocess import run
from twinstream.preprocess.cluster.worker import make_recipe
from twinstream.preprocess.job import VideoDone, run_job
from twinstream.section import build_settings
from twinstream.settings import Settings
from twinstream.shards import verify
from twinstream.shards.rawframes.exporter import export_rawframes
from twinstream.shards.read.dataset import ShardDataset
from twinstream.shards.write.combine import merge, subset
from twinstream.train import fit
from twinstream.train.data.feed import Feed
from twinstream.train.gradient import add_gradients
from twinstream.train.ranks import Ranks
from twinstream.train.settings import TrainSettings
from twinstream.train.snippet_shape import SnippetShape


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


# The last shard of all: at each moment some of the work on it is left.
LAST = "train/train-000003"
FAULTS: dict[str, Callable[[Path], None]] = {
    "the folder goes": shutil.rmtree,
    "its name changes": lambda folder: folder.rename(folder.with_name("elsewhere")) and None,
    "a split's folder goes": lambda folder: shutil.rmtree(folder / "train"),
    "a tar goes": lambda folder: (folder / f"{LAST}.tar").unlink(),
    "an index goes": lambda folder: (folder / f"{LAST}.parquet").unlink(),
    "a tar is cut": lambda folder: cut(folder / f"{LAST}.tar"),
    "an index is cut": lambda folder: cut(folder / f"{LAST}.parquet"),
}
EACH_FAULT = pytest.mark.parametrize("fault", FAULTS)


def batches(dataset: Path, loader: str, out: Path, step: Callable[[str], None]) -> None:
    """A training's reading, in the order of the shards as far as the stream loader keeps it."""
    settings: dict[str, object] = {"batch_size": 1, "crop_size": 33, "segments": 1, "workers": 0}
    settings |= {"loader": loader, "shuffle_window": 1}
    feed = Feed(ShardDataset(dataset), TrainSettings.model_validate(settings), SnippetShape())
    for _ in feed.batches(0, 0, Ranks()):
        step("")


def verified(dataset: Path, out: Path, step: Callable[[str], None]) -> None:
    found = list(verify.faults(dataset, step))
    if found:
        raise InputError(found[0])


READERS: dict[str, Callable[[Path, Path, Callable[[str], None]], object]] = {
    "merge": lambda dataset, out, step: merge([dataset], out, step),
    "subset": lambda dataset, out, step: subset(dataset, out, split="train", progress=step),
    "export": export_rawframes,
    "verify": verified,
    "index loader": lambda dataset, out, step: batches(dataset, "index", out, step),
    "stream loader": lambda dataset, out, step: batches(dataset, "stream", out, step),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of one sample."""
    folder = tmp_path_factory.mktemp("data") / "dataset"
    return write_dataset(folder, {"train": 4}, videos_per_shard=1)


@EACH_FAULT
@pytest.mark.parametrize("reader", READERS)
def test_a_dataset_that_goes_while_it_is_read_is_one_line_that_names_it(
    whole: Path, tmp_path: Path, reader: str, fault: str
) -> None:
    for moment in range(3):
        dataset, out = tmp_path / f"at {moment}", tmp_path / f"out {moment}"
        shutil.copytree(whole, dataset)
        num_steps = 0

        def step(name: str, moment: int = moment, dataset: Path = dataset) -> None:
            nonlocal num_steps
            if num_steps == moment:
                FAULTS[fault](dataset)
            num_steps += 1

        try:
            READERS[reader](dataset, out, step)
        except InputError as error:
            told = str(error)
        except OSError as error:
            # The command line tells of it by its file.
            told = f"{error.filename}: {error.strerror}"
        else:
            # It was read before it went: what came of it is whole.
            assert num_steps == 4
            assert not (out / "dataset.json").exists() or not list(verify.faults(out))
            continue
        assert "\n" not in told
        # What verifies names files as the dataset does.
        assert str(dataset) in told or "train-00000" in told, told
        assert not (out / "dataset.json").exists()


@EACH_FAULT
@pytest.mark.parametrize("moment", ["after a shard", "after the last shard"])
def test_shards_that_go_while_others_are_made_are_told_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, moment: str
) -> None:
    root, out = tmp_path / "videos", tmp_path / "out"
    write_videos(root, 4)
    overrides = ("shards.videos_per_shard=1",)
    without_ray(root, tmp_path / "peace", *overrides)
    _, _, setup, _ = prepared(root, out, *overrides)
    recipe = make_recipe(setup)
    left = [fault]

    def jobs_here(jobs: list[run.Job], *arguments: object) -> Iterator[VideoDone]:
        # The last shard first, so that it can go while others are made.
        for number, job in enumerate(reversed(jobs), 1):
            yield from run_job(job, root=root, out=out, recipe=recipe)
            if left and number == (1 if moment == "after a shard" else len(jobs)):
                FAULTS[left.pop()](out)

    monkeypatch.setattr(run, "started_jobs", jobs_here)
    settings = build_settings(Settings, tree(root, out), overrides)

    def finish() -> None:
        run.preprocess(settings.dataset, settings.preprocess, settings.shards)

    try:
        finish()
    except (InputError, OSError) as error:
        told = str(error)
        assert "\n" not in told
        assert str(out) in told
        assert not (out / "dataset.json").exists()
        if "cut" in fault and "an index" in fault:
            (out / f"{LAST}.parquet").unlink()
        finish()
    assert dataset_digests(out) == dataset_digests(tmp_path / "peace")


def test_a_run_folder_that_goes_while_a_network_is_trained_is_one_line(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, steps = tmp_path / "run", [0]

    def step(*arguments: Any, **options: Any) -> tuple[float, int]:
        steps[0] += 1
        if steps[0] == 2:
            shutil.rmtree(out)
        return add_gradients(*arguments, **options)

    monkeypatch.setattr(fit, "add_gradients", step)
    settings = make_settings(whole, "train.stages=[flow]", "train.epochs=1")
    # TensorBoard's files are written by a thread of their own: whichever is missed first.
    message = rf"^{out}/(log\.jsonl|tensorboard): No such file or directory; .* with --resume$"
    with pytest.raises(InputError, match=message):
        fit.train(settings, out, resume=False)
    assert not out.exists()
