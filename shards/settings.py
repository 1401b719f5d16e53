"""Section `shards` of pipeline.yaml."""

from pydantic import Field

from twinstream.section import Section

# Of the paper. Training takes stacks of it, and videos that have not even one are not stored.
DEFAULT_STACK_LENGTH = 5


class ShardSettings(Section):
    """Section `shards`: the dataset that preprocess writes and train reads."""

    path: str = "out/shards"
    """Folder of the shard dataset: a local path, or a URI such as s3://bucket/shards, which holds
    no credentials.
    """
    videos_per_shard: int = Field(16, ge=1)
    """Videos that share a tar, and the unit of parallel work; 16 ten-second videos at 256x256 are
    about 150 MB.
    """
    jpeg_quality: int = Field(95, ge=1, le=100)
    """JPEG quality of frames and flow."""
    cache_dir: str | None = None
    """Local folder that keeps what training reads of a dataset in an object store; off when not
    set.
    """
    cache_bytes: int = Field(100 * 10**9, ge=2**20)
    """The cache never grows beyond this."""
