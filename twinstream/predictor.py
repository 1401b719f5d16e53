"""Class scores straight from video files: `twinstream.predict` and `twinstream predict`.

A video is decoded, its flow computed and both encoded as JPEGs with the settings of the run's
dataset (its manifest is in the run's folder); then it is scored as by `twinstream test`. So a video
of the dataset gets the same scores as in the test. The JPEGs go to a spool on disk: memory does not
grow with the length of a video. The price: it takes as long as to preprocess the video. The module
is not called predict, because it would hide the function `twinstream.predict`.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from twinstream.cores import usable_cores
from twinstream.errors import InputError
from twinstream.preprocess.cluster.worker import WorkerSetup, make_recipe
from twinstream.preprocess.flow.engines import find_engine, resolve_engine
from twinstream.preprocess.job import Filled, Recipe, Stopwatch, fill_spool
from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings, made_settings
from twinstream.progress import LOGGER
from twinstream.section import build_settings
from twinstream.shards.format.manifest import (
    FILE_NAME,
    FLOW_DEFINITION,
    Manifest,
    manifest_bytes,
    pixel_settings,
)
from twinstream.shards.format.video_table import Reason, VideoError
from twinstream.shards.read.samples import StoredSample
from twinstream.shards.settings import ShardSettings
from twinstream.shards.storage.location import locate
from twinstream.shards.write.writer import SampleSpool, sample_spool
from twinstream.train.choices import DeviceName, iteration
from twinstream.train.data.loader import TestSnippets
from twinstream.train.data.transforms import crops_to_score
from twinstream.train.device import choose_device
from twinstream.train.run_folder import read_run_manifest
from twinstream.train.score.evaluate import score_videos
from twinstream.train.score.metrics import Weights, fuse, fusion_weights, ranked_classes
from twinstream.train.score.predictions import BranchScores
from twinstream.train.settings import TestSettings
from twinstream.train.trained import TrainedNetwork, load_network

Ranking = list[tuple[str, float]]


@dataclass(frozen=True)
class Prediction:
    """The best classes of one video, best first, each as (class, score).

    The score is the softmax of the mean snippet score, in [0, 1]; over all classes it adds up to 1.
    None for a branch that the run has not trained, and for `fused` where it has not both.
    """

    video: str
    num_frames: int
    rgb: Ranking | None
    flow: Ranking | None
    fused: Ranking | None
    """Of the weighted mean of both branches' mean snippet scores"""
    fused_weights: Weights
    """Of RGB and flow: those of `twinstream report` for the stage, 1:1, 5:1 or 1:5"""


class Options(TypedDict, total=False):
    """The keyword arguments of `predict`, for type checkers."""

    top: int
    segments: int | None
    crops: int | None
    flip: bool | None
    stage: str | None
    engine: str | None
    device: DeviceName | None


class Predictor:
    """A run's network with its dataset's settings, ready for one video after another.

    `segments`, `crops` and `flip` are the run's test settings when None, `stage` the last one. Half
    of 10 crops are mirrors, and where `flip` is off there are 5. `engine` computes flow with
    another engine than the dataset's: auto, numba, cuda ...; `device` is auto, cpu or cuda, the
    run's train.device when None. With `shown` the progress within a video is told on stderr.
    InputError for a run that cannot be used.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        segments: int | None = None,
        crops: int | None = None,
        flip: bool | None = None,
        stage: str | None = None,
        engine: str | None = None,
        device: DeviceName | None = None,
        shown: bool = False,
    ) -> None:
        run = Path(run)
        self.network = load_network(run, stage)
        settings = self.network.settings
        given = {"segments": segments, "crops": crops, "flip": flip}
        tree = settings.test.model_dump() | {k: v for k, v in given.items() if v is not None}
        self._test = build_settings(TestSettings, tree, source="predict")
        self._crops = crops_to_score(self._test.crops, self._test.flip, settings.train.flip)
        manifest = read_run_manifest(run, settings)
        _refuse_other_manifest(run, self.network, manifest)
        made = made_settings(manifest.settings, f"{run}: {FILE_NAME}")
        self._recipe = _recipe(run, manifest, made, engine)
        self._device, self._shown = choose_device(device or settings.train.device), shown
        self.network.to(self._device)

    def __call__(self, video: str | Path, *, top: int = 5) -> Prediction:
        """The `top` best classes of a video file; InputError in one line if it cannot be used."""
        if top < 1:
            raise InputError(f"predict: top is {top}, expected at least 1")
        scores, num_frames = self.scores(video)
        weights = fusion_weights(iteration(self.network.stage))
        named: BranchScores = dict(scores)
        if {"rgb", "flow"} <= scores.keys():
            fused = fuse(scores["rgb"], scores["flow"], weights) / sum(weights)
            named["fused"] = fused.astype(np.float32)
        rankings = {name: ranking(row, self.network.classes, top) for name, (row,) in named.items()}
        return Prediction(
            video=str(video),
            num_frames=num_frames,
            rgb=rankings.get("rgb"),
            flow=rankings.get("flow"),
            fused=rankings.get("fused"),
            fused_weights=weights,
        )

    def scores(self, video: str | Path) -> tuple[BranchScores, int]:
        """(1, C) float32 scores of each trained branch, and the number of frames.

        Mean snippet scores, as in predictions.parquet. InputError as for a call.
        """
        with self._spooled(video) as (sample, num_frames):
            views = TestSnippets(
                SpooledVideo(sample),
                segments=self._test.segments,
                shape=self.network.settings.model.snippet,
                crops=self._crops,
                scale=self._test.scale,
                crop_size=self.network.settings.train.crop_size,
                scale_motion=self.network.settings.train.scale_motion,
            )
            scores = score_videos(
                self.network,
                views,
                self._device,
                outputs=self.network.outputs,
                attending=self.network.attending,
                batch_views=self._test.batch_views,
                workers=0,
                shown=self._shown,
            )
        return scores, num_frames

    @contextmanager
    def _spooled(self, video: str | Path) -> Iterator[tuple["SpooledSample", int]]:
        """The video as a sample on disk, which is removed at the end of the block."""
        path = locate(video)
        # The network needs a whole snippet; the dataset may ask for more.
        filled, least = Filled(), self.network.settings.model.snippet.span + 1
        least = max(least, self._recipe.min_frames)
        with sample_spool(Path(tempfile.gettempdir())) as spool:
            try:
                for _ in fill_spool(filled, spool, path, self._recipe, Stopwatch()):
                    pass
                if spool.num_frames < least:
                    detail = f"{spool.num_frames} of at least {least} frames"
                    raise VideoError(Reason.TOO_SHORT, detail)
            except VideoError as error:
                raise InputError(f"{video}: {error}") from error
            # A store that does not answer, or a disk that fails, costs this video alone.
            except OSError as error:
                raise InputError(f"{video}: {error.strerror or error}") from error
            # -1: the video has no label.
            index = spool.sample_index(str(video), -1, filled.height, filled.width)
            yield SpooledSample(Path(path.name), index, spool=spool), spool.num_frames


@dataclass(frozen=True)
class SpooledSample(StoredSample):
    """A sample that is in no shard: its members are read from a spool."""

    spool: SampleSpool = field(kw_only=True)

    def read(self, begin: int, num_bytes: int) -> bytes:
        """`num_bytes` of the spool from `begin` on."""
        return self.spool.read(begin, num_bytes)


@dataclass(frozen=True)
class SpooledVideo:
    """One spooled sample where a split of a dataset is expected (`train.loader.Videos`)."""

    sample: SpooledSample

    def __len__(self) -> int:
        return 1

    def __getitem__(self, position: int, /) -> StoredSample:
        return (self.sample,)[position]

    def shortest(self) -> StoredSample:
        """The only sample."""
        return self.sample

    @property
    def keys(self) -> tuple[str, ...]:
        """(its name,)"""
        return (self.sample.index.key,)

    @property
    def labels(self) -> NDArray[np.int64]:
        """(1,) its label."""
        return np.array([self.sample.index.label], np.int64)


@overload
def predict(video: str | Path, run: str | Path, **options: Unpack[Options]) -> Prediction: ...
@overload
def predict(
    video: list[str] | list[Path] | tuple[str | Path, ...],
    run: str | Path,
    **options: Unpack[Options],
) -> list[Prediction]: ...
def predict(
    video: str | Path | list[str] | list[Path] | tuple[str | Path, ...],
    run: str | Path,
    *,
    top: int = 5,
    segments: int | None = None,
    crops: int | None = None,
    flip: bool | None = None,
    stage: str | None = None,
    engine: str | None = None,
    device: DeviceName | None = None,
) -> Prediction | list[Prediction]:
    """The `top` best classes of a video file by a trained run; a list of files gives a list.

    Each score is the softmax of the mean score over `segments` snippets and their `crops`, with
    mirrors among 10 of them where `flip` says so, as `twinstream test` computes it: for a video of
    the run's dataset it is the same. InputError in one line for the first video that cannot be
    used; `Predictor`, which takes the same options, loads a run once and takes videos one by one.
    """
    predictor = Predictor(
        run,
        segments=segments,
        crops=crops,
        flip=flip,
        stage=stage,
        engine=engine,
        device=device,
    )
    if isinstance(video, str | Path):
        return predictor(video, top=top)
    return [predictor(each, top=top) for each in video]


def ranking(scores: NDArray[np.float32], classes: Sequence[str], top: int) -> Ranking:
    """(C,) mean snippet scores -> the `top` best classes with their softmax, best first."""
    # Less the maximum: exp of a large score would overflow.
    weights = np.exp(scores.astype(np.float64) - scores.max())
    softmax = weights / weights.sum()
    best = ranked_classes(scores[None])[0, :top]
    return [(classes[number], float(softmax[number])) for number in best]


def lines(prediction: Prediction) -> Iterator[str]:
    """A prediction as text: the video, then a line for each score."""
    yield prediction.video
    rgb_weight, flow_weight = prediction.fused_weights
    for name, best in (
        ("rgb", prediction.rgb),
        ("flow", prediction.flow),
        (f"fused {rgb_weight:g}:{flow_weight:g}", prediction.fused),
    ):
        if best is not None:
            listed = " · ".join(f"{class_name} {score:.1%}" for class_name, score in best)
            yield f"{name:>10}  {listed}"


def _refuse_other_manifest(run: Path, network: TrainedNetwork, manifest: Manifest) -> None:
    """InputError when the manifest is not that of the dataset the network was trained on."""
    # Other flow or sizes would still give scores, and they would mean nothing.
    found = sha256(manifest_bytes(manifest)).hexdigest()
    if network.dataset_sha256 != found:
        raise InputError(
            f"{run}: was trained on another dataset than the one that is now at "
            f"{network.settings.shards.path}"
        )


def _recipe(run: Path, manifest: Manifest, made: PreprocessSettings, engine: str | None) -> Recipe:
    """The recipe from a video to frames and flow; the dataset's engine unless one is named."""
    made_with = manifest.settings
    name = resolve_engine(engine or made.engine)
    here, there = find_engine(name).definition, pixel_settings(made_with)[FLOW_DEFINITION]
    if here not in (None, there):
        LOGGER.warning(
            f"{run}: was trained on flow of definition {there}, that of new videos is of {here}; "
            "they differ by about 0.1 px"
        )
    setup = WorkerSetup(
        # Not used here: each video is opened by its own path, and no shard is written.
        root=Path(),
        out=Path(),
        dataset=DatasetSettings(kind=made_with["dataset.kind"]),
        # Of a part of a video there is no score: a damaged one is refused.
        preprocess=made.model_copy(update={"on_damage": "skip"}),
        shards=ShardSettings(jpeg_quality=made_with["shards.jpeg_quality"]),
        engine=name,
        cores=usable_cores(),
    )
    try:
        return make_recipe(setup)
    except InputError as error:
        if engine is not None:
            raise
        raise InputError(
            f"{run}: its dataset has flow of engine {name}, which is not here ({error}); name "
            "another engine if its flow may differ a little: --engine numba, engine='numba'"
        ) from error
