"""RGB of a trained CMA network without what it reads: the same weights, the blocks left out.

A network that scores the same without them has not learnt to attend.
"""

from pathlib import Path

import numpy as np

from twinstream.shards.read.dataset import ShardDataset
from twinstream.train.data.loader import TestSnippets
from twinstream.train.device import choose_device
from twinstream.train.score.evaluate import score_videos
from twinstream.train.score.predictions import Predictions
from twinstream.train.trained import load_network


def without_blocks(run: Path, tested: Predictions) -> Predictions:
    """RGB's scores of the videos that the run was tested on, in the same way.

    Zeros for flow's, which is not computed.
    """
    network = load_network(run)
    model, train, test = network.settings.model, network.settings.train, network.settings.test
    dataset = ShardDataset(network.settings.shards.path)
    assert network.classes == dataset.classes
    views = TestSnippets(
        dataset.samples(tested.about["split"]),
        segments=tested.about["segments"],
        shape=model.snippet,
        crops=tested.about["crops"],
        scale=test.scale,
        crop_size=train.crop_size,
        scale_motion=train.scale_motion,
    )
    device = choose_device(train.device)
    scores = score_videos(
        network.to(device),
        views,
        device,
        outputs=("rgb",),
        attending=(),
        batch_views=test.batch_views,
        workers=0,
    )
    both = {"rgb": scores["rgb"], "flow": np.zeros_like(scores["rgb"])}
    return Predictions(views.samples.keys, views.labels, both, {})
