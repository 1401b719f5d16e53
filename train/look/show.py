"""`twinstream attention` from the run to the file: a picture or a video of one look, or of all."""

from collections.abc import Sequence
from pathlib import Path

from twinstream.errors import InputError
from twinstream.shards.read.members import read_meta
from twinstream.train.look.clip import query_frames, write_clip, write_strip
from twinstream.train.look.maps import Observer, looks
from twinstream.train.look.picture import write_look, write_looks


def show(
    run: Path,
    key: str,
    out: Path,
    queries: Sequence[tuple[int, int]],
    *,
    times: Sequence[int | None] = (),
    t: int | None = None,
    at: str | None = None,
    stage: str | None = None,
    shards_path: str | None = None,
) -> None:
    """Write the picture of one frame, or a video of all frames where `out` ends in .mp4.

    Of a network that sees clips: the strip of one clip's frames, or a video of them; `times` has
    the frame of each query, or None. InputError for a run, key, frame or block that is not there.
    """
    if out.suffix not in (".png", ".mp4"):
        raise InputError(f"--out {out}: expected a name that ends in .png or .mp4")
    # After the check of `out`, which costs nothing: this loads the network.
    observer = Observer(run, shards_path, at, stage)
    starts = observer.times(key)
    if t is not None and t not in starts:
        raise InputError(f"--frame {t}: a snippet of {key} starts at 0 to {starts[-1]}")
    first = observer.moving(key) if t is None and out.suffix == ".png" else t
    if first is None:
        first = starts[len(starts) // 2]
    fps = read_meta(observer.dataset.sample(key)).fps
    shape = observer.settings.model.snippet
    if shape.has_time:
        seen = observer.see(key, first, queries)
        numbers = query_frames(seen, times, range(first, first + shape.span, shape.stride))
        if out.suffix == ".mp4":
            write_clip(seen, numbers, fps / shape.stride, out, first=first, stride=shape.stride)
        else:
            write_strip(seen, numbers, key, out, first=first, stride=shape.stride)
        return
    for asked in (n for n in times if n is not None):
        raise InputError(f"--query X,Y,{asked}: this network sees single frames; expected X,Y")
    if out.suffix == ".mp4":
        write_looks(looks(observer, key, queries), fps, out)
    else:
        write_look(observer.look(key, first, queries), key, out)
