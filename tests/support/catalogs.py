"""Empty files in place of videos, lists of UCF-101, and a catalog as tuples."""

from pathlib import Path

from twinstream.preprocess.catalog.catalog import Catalog

LISTS = {
    "classInd.txt": "1 Bend\n2 HandstandPushups\n3 Jack\n",
    "trainlist01.txt": "Bend/v_Bend_g01.avi 1\nHandstandPushups/v_HandStandPushups_g01.avi 2\n",
    "testlist01.txt": "Jack/v_Jack_g01.avi\nJack/v_Jack_g02.avi\n",
}


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def rows(catalog: Catalog) -> list[tuple[str, int, str, bool]]:
    return [(video.path, video.label, video.split, video.present) for video in catalog.videos]
