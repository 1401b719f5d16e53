"""What a network takes of a video at a time: so many frames and flow fields, at equal distances.

A snippet that starts at t has the frames t, t + stride ... and the flow fields t, t + stride ...
A 2-D network takes one frame and L fields as the 2L channels of one image; a 3-D network takes a
clip, T frames and T fields, with time as an axis of its own. Data and networks share this, and
neither knows the other.
"""

from dataclasses import dataclass

from twinstream.shards.settings import DEFAULT_STACK_LENGTH


@dataclass(frozen=True)
class SnippetShape:
    """One frame and `fields` consecutive fields, unless said otherwise."""

    frames: int = 1
    fields: int = DEFAULT_STACK_LENGTH
    stride: int = 1
    has_time: bool = False
    """Whether time is an axis of the batch; else the fields are channels of one image"""

    @property
    def span(self) -> int:
        """Fields from the first to the last; 16 of stride 2: 31, so that a video needs 32 frames.

        A field t lies between the frames t and t + 1, so that a video needs span + 1 frames.
        """
        return (self.fields - 1) * self.stride + 1
