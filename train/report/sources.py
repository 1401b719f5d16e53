"""The predictions that a report is made of, and what a reader of its numbers has to know of them.

Content decides, not paths. Runs on the same videos are repeats (seeds). Runs on others are folds,
also where they overlap: the three test lists of HMDB-51 do. A part of another run's videos is
neither and is refused: no number of it may stand beside one of all. The same videos out of two
datasets (another engine, size or codec) are repeats and are told, not refused: to compare them may
be what the report is for.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from twinstream.errors import InputError
from twinstream.progress import Progress
from twinstream.shards.format.classes import class_difference
from twinstream.train.choices import BOTH, STAGE_NAME, BranchName, ModelKind, iteration
from twinstream.train.network.families import DEFAULT_FAMILY
from twinstream.train.network.two_branch import NON_LOCAL
from twinstream.train.run_folder import read_run_settings
from twinstream.train.score.predictions import (
    BranchScores,
    Predictions,
    predictions_file,
    read_predictions,
)
from twinstream.train.settings import TestSettings, stage_file

# In files of every version
WRITTEN = (
    *("classes", "split", "segments", "crops", "depth"),
    *("kind", "stage", "dataset_kind", "attention_at"),
)
MUST_AGREE = (*WRITTEN[:5], "family", "scale")
DATASET, WEIGHTS = "dataset_sha256", "weights_sha256"
File = tuple[Path, Predictions]


class Variant(NamedTuple):
    """A trained network of the paper's tables."""

    network: str
    """baseline, nonlocal, cma or cma_nonlocal"""
    iteration: int
    """0 before any attention across branches"""
    clip_length: int | None = None
    """Frames of a snippet of a 3-D network"""

    def __str__(self) -> str:
        name = f"{self.network} iter{self.iteration}" if self.iteration else self.network
        return f"{name} of {self.clip_length} frames" if self.clip_length else name


@dataclass(frozen=True)
class Source:
    """Predictions of one variant, in the order of their keys, and the file that has them."""

    path: Path
    variant: Variant
    predictions: Predictions

    @property
    def run(self) -> Path:
        """The folder of the file."""
        return self.path.parent

    def __str__(self) -> str:
        return f"{self.run} {self.predictions.about['stage']}"


def read_sources(runs: Sequence[Path], *, unfinished: bool) -> tuple[list[Source], list[str]]:
    """The predictions in these folders that count, and a line on each that does not.

    InputError for a folder without any, for none that counts, for those that do not compare.
    """
    folders: dict[Path, Path] = {}
    notes = []
    for run in runs:
        if run.resolve() in folders:
            notes.append(f"{run}: is the folder {folders[run.resolve()]} again; counted once")
        folders.setdefault(run.resolve(), run)
    found: list[File] = []
    files_of = {run: prediction_files(run) for run in folders.values()}
    with Progress("predictions", sum(len(files) for files, _ in files_of.values()), "file") as bar:
        for path in (path for files, _ in files_of.values() for path in files):
            found.append((path, _in_order(path, read_predictions(path))))
            bar.advance()
    for _, others in files_of.values():
        notes += [
            f"{path}: is neither predictions.parquet nor predictions-STAGE.parquet; left out"
            for path in others
        ]
    early = {path: told for path, p in found if (told := _unfinished(path, p.about))}
    if len(early) == len(found) and not unfinished:
        raise InputError(
            f"no finished stage for a report: {'; '.join(early.values())}; train on and test "
            "again, or give --unfinished"
        )
    outcome = (
        "its numbers are in, as --unfinished asks"
        if unfinished
        else "left out, --unfinished takes it"
    )
    notes += [f"{text}; {outcome}" for text in early.values()]
    taken = [(path, p) for path, p in found if unfinished or path not in early]
    _refuse_other_tests(taken)
    _refuse_other_labels(taken)
    _refuse_parts(taken)
    sources = [Source(path, *piece) for path, p in taken for piece in _by_variant(p)]
    kept, copies = _without_copies(sources)
    return kept, [*notes, *copies]


def prediction_files(run: Path) -> tuple[list[Path], list[Path]]:
    """predictions.parquet and predictions-STAGE.parquet of a run; then others so named.

    InputError where there is none of the first.
    """
    files: list[Path] = []
    others: list[Path] = []
    for path in sorted(run.glob(predictions_file(run, "*").name)):
        stage = path.stem.removeprefix("predictions-")
        named = path == predictions_file(run, "") or re.fullmatch(STAGE_NAME, stage)
        (files if named else others).append(path)
    if not files:
        # For its InputError: a folder that is no run gets another message than one not tested.
        read_run_settings(run)
        raise InputError(f"{run}: not tested yet; `twinstream test {run}` writes its predictions")
    return files, others


def variant_of(kind: ModelKind, stage: str, branch: BranchName) -> Variant:
    """two_stream, rgb -> (baseline, 0); cma, iter2 -> (cma, 2); cma, flow -> (baseline, 0)."""
    # Before its first iteration a CMA network computes what two_stream does: no block is trained.
    # Non-local blocks are trained from the start, in cma_nonlocal those of the RGB branch alone.
    if iteration(stage):
        return Variant(kind, iteration(stage))
    return Variant("nonlocal" if branch in NON_LOCAL.get(kind, ()) else "baseline", 0)


def how_tested(sources: Sequence[Source]) -> list[str]:
    """A line for each thing that numbers of one table do not share, or that makes them too good."""
    notes = []
    seen: dict[str, list[str]] = {}
    for source in sources:
        if count := source.predictions.about.get("trained_on"):
            share = f"{count} of {len(source.predictions.keys)}"
            seen.setdefault(share, []).append(str(source))
    for share, names in seen.items():
        notes.append(f"{share} tested videos were trained on: {_listed(names)}")
    for keys in dict.fromkeys(source.predictions.keys for source in sources):
        same = [source for source in sources if source.predictions.keys == keys]
        if shards := _differing(same, DATASET):
            notes.append(
                f"the same {len(keys)} videos out of different datasets, perhaps of another engine "
                f"or size: {shards}"
            )
    if parts := _differing(sources, "trainable"):
        notes.append(f"not the same layers were trained in all runs: {parts}")
    for variant in dict.fromkeys(source.variant for source in sources):
        repeats = [source for source in sources if source.variant == variant]
        # A baseline has the setting of attention too, but no block to place.
        keys = ("epochs", "clip_stride", "attention_at")
        for key in keys[:2] if variant.network == "baseline" else keys:
            if values := _differing(repeats, key):
                notes.append(f"{variant}: runs differ in {key}: {values}")
    if kinds := _differing(sources, "dataset_kind"):
        notes.append(f"datasets of different kinds: {kinds}")
    return notes


def datasets(sources: Iterable[Source]) -> tuple[str, ...]:
    """`shards/fold1 [3f2a91bc]`, path and digest, once for each digest that a file names."""
    named: dict[str, str] = {}
    for source in sources:
        if digest := source.predictions.about.get(DATASET):
            named.setdefault(digest, f"{source.predictions.about.get('dataset')} [{digest[:8]}]")
    return tuple(named.values())


def same_network(one: Predictions, other: Predictions, branch: str) -> bool:
    """Whether both have their scores of `branch`, of the same videos, from the same weights.

    By the digests of the weights; where a file has none, by whether the scores are near.
    """
    digests = [weights_digest(p, branch) for p in (one, other)]
    # The same weights have other scores where another engine or codec made the dataset.
    out_of = {p.about.get(DATASET) for p in (one, other)} - {None}
    if None not in digests and (digests[0] != digests[1] or len(out_of) < 2):
        return digests[0] == digests[1]
    # Another machine or number of views in a batch rounds otherwise.
    return np.allclose(one.scores[branch], other.scores[branch], rtol=1e-4, atol=1e-5)


def weights_digest(predictions: Predictions, branch: str) -> str | None:
    """SHA-256 of all weights behind a branch's scores; None in older files."""
    digest: str | None = predictions.about.get(WEIGHTS, {}).get(branch)
    return digest


def _unfinished(path: Path, about: Mapping[str, Any]) -> str | None:
    """What is told of a stage that had not ended, or may not have; None of a finished one."""
    stage, finished = about["stage"], about.get("finished")
    if finished is not None:
        where = f"at {about['progress']}" if about.get("progress") else "before its end"
        return None if finished else f"{path.parent}: {stage} was tested {where}"
    # Files written before there was the key: weights are written at the end of the stage.
    weights = stage_file(path.parent, stage)
    if not weights.exists():
        why = f"there is no {weights.name} in its run"
    elif weights.stat().st_mtime > path.stat().st_mtime:
        why = f"{weights.name} in its run is newer"
    else:
        return None
    return f"{path}: does not say whether it was finished, and {why}"


def _in_order(path: Path, predictions: Predictions) -> Predictions:
    """The same in the order of the keys; InputError for a file that lacks what it must say."""
    for key in WRITTEN:
        if key not in predictions.about:
            raise InputError(f"{path}: does not say {key}; run `twinstream test` again")
    stage = predictions.about["stage"]
    if path not in {predictions_file(path.parent, suffix) for suffix in ("", f"-{stage}")}:
        raise InputError(f"{path}: holds predictions of {stage}; those of a stage bear its name")
    order = sorted(range(len(predictions.keys)), key=predictions.keys.__getitem__)
    # What files say by now, and what it was when they did not say it.
    about = {"family": DEFAULT_FAMILY, "scale": TestSettings().scale, **predictions.about}
    return replace(
        predictions,
        about=about,
        keys=tuple(predictions.keys[n] for n in order),
        labels=predictions.labels[order],
        scores={branch: values[order] for branch, values in predictions.scores.items()},
    )


def _refuse_other_tests(files: Sequence[File]) -> None:
    first_path, first = files[0]
    for path, predictions in files:
        for key in MUST_AGREE:
            found, wanted = predictions.about[key], first.about[key]
            # The lists of folds have names of their own; their videos are compared.
            if found != wanted and not (
                key == "split" and (is_list(predictions) or is_list(first))
            ):
                differ = (
                    f"other classes than {first_path}: {class_difference(found, wanted)}"
                    if key == "classes"
                    else f"{key} {found}, {first_path} has {key} {wanted}"
                )
                raise InputError(f"{path}: {differ}; one report holds what was tested in one way")


def is_list(predictions: Predictions) -> bool:
    """Whether a list chose the videos that were scored, and no split of the shards."""
    return predictions.about.get("list_sha256") is not None


def _refuse_other_labels(files: Sequence[File]) -> None:
    seen: dict[str, tuple[int, Path]] = {}
    for path, predictions in files:
        classes = predictions.about["classes"]
        for key, label in zip(predictions.keys, predictions.labels.tolist(), strict=True):
            other, first = seen.setdefault(key, (label, path))
            if label != other:
                raise InputError(
                    f"{path}: {key} is {classes[label]}, in {first} it is {classes[other]}; one "
                    "report holds one labelling of the videos"
                )


def _refuse_parts(files: Sequence[File]) -> None:
    # One file for each set of videos will do.
    sets = {frozenset(p.keys): path for path, p in files}
    for one, other in combinations(sorted(sets, key=len), 2):
        if one < other:
            raise InputError(
                f"{sets[one]}: {len(one)} of the {len(other)} videos of {sets[other]}; one table "
                "is of one set of videos, so test both on the same split of the same dataset"
            )


def _by_variant(predictions: Predictions) -> Iterator[tuple[Variant, Predictions]]:
    """A piece for each variant: a cma_nonlocal run may have scored two baselines."""
    about = predictions.about
    pieces: dict[Variant, BranchScores] = {}
    for name in BOTH:
        if name in predictions.scores:
            variant = variant_of(about["kind"], about["stage"], name)
            variant = variant._replace(clip_length=about.get("clip_length"))
            pieces.setdefault(variant, {})[name] = predictions.scores[name]
    for variant, scores in pieces.items():
        yield variant, replace(predictions, scores=scores)


def _without_copies(sources: Sequence[Source]) -> tuple[list[Source], list[str]]:
    """Each network once, and a line for each folder with what another one has."""
    kept: list[Source] = []
    copies: dict[tuple[Path, str], dict[str, None]] = {}
    for place, source in enumerate(sources):
        others = (
            other
            for n, other in enumerate(sources)
            if n != place and _stands_for(other, source, first=n < place)
        )
        other = next(others, None)
        if other is None:
            kept.append(source)
        else:
            name = str(other if source.run == other.run else other.run)
            why = (
                "is on the way to a later stage"
                if _of_one_run(source, other)
                else f"is the network of {name}"
            )
            stages = copies.setdefault((source.run, why), {})
            stages[str(source.predictions.about["stage"])] = None
    return kept, [
        f"{run}: {', '.join(stages)} {why}; counted once" for (run, why), stages in copies.items()
    ]


def _stands_for(one: Source, other: Source, *, first: bool) -> bool:
    """Whether `other` is the network of `one` and adds no branch to it; `first`: one comes first.

    So are the stages flow and rgb of one run, whatever their weights: both are iteration 0, and the
    later of them has both branches.
    """
    mine, theirs = one.predictions, other.predictions
    if (one.variant, mine.keys) != (other.variant, theirs.keys):
        return False
    if not theirs.scores.keys() <= mine.scores.keys():
        return False
    more = mine.scores.keys() > theirs.scores.keys()
    # In the order of their names predictions.parquet, that of the last stage, comes last.
    if _of_one_run(one, other):
        return more or not first
    same = all(same_network(mine, theirs, name) for name in theirs.scores)
    return same and (more or first)


def _of_one_run(one: Source, other: Source) -> bool:
    # A folder may hold tests of several runs, and a path may name another run on another machine.
    named = {source.predictions.about.get("run") for source in (one, other)} - {None}
    return one.run == other.run and len(named) < 2


def _differing(sources: Iterable[Source], key: str) -> str | None:
    """`8 (runs/a), 30 (runs/b, runs/c)`; None where all that say it agree."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        value = source.predictions.about.get(key)
        if value is not None:
            groups.setdefault(str(value), []).append(source)
    if len(groups) < 2:
        return None
    return ", ".join(
        f"{datasets(each)[0] if key == DATASET else value} ({_listed(str(s.run) for s in each)})"
        for value, each in groups.items()
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
