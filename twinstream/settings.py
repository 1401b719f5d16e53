"""All sections of pipeline.yaml together.

preprocess and train never import one another, so the class that needs the sections of both is here,
above them.
"""

from twinstream.preprocess.settings import DatasetSettings, PreprocessSettings
from twinstream.section import Section
from twinstream.shards.settings import ShardSettings
from twinstream.train.run_folder import RunSettings
from twinstream.train.settings import ModelSettings, TestSettings, TrainSettings


class Settings(Section):
    """pipeline.yaml as a whole."""

    dataset: DatasetSettings = DatasetSettings()
    """Which videos there are."""
    preprocess: PreprocessSettings = PreprocessSettings()
    """How frames and flow are made."""
    shards: ShardSettings = ShardSettings()
    """The shard dataset."""
    model: ModelSettings = ModelSettings()
    """The network."""
    train: TrainSettings = TrainSettings()
    """How it learns."""
    test: TestSettings = TestSettings()
    """How it is scored."""

    def run_settings(self) -> RunSettings:
        """The sections that training and testing use."""
        return RunSettings(shards=self.shards, model=self.model, train=self.train, test=self.test)
