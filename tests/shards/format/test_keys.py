"""Keys: what becomes of a path, and the paths that no file in the output could carry."""

import pytest

from twinstream.errors import InputError
from twinstream.shards.format.keys import video_key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("Run/v_Run_g01.avi", "Run/v_Run_g01"),
        ("a.b/c.d.mp4", "a_b/c_d"),
        ("air drumming/-x_000001_000011.mp4", "air drumming/-x_000001_000011"),
        ("no_extension", "no_extension"),
        ("ends_with_dot.", "ends_with_dot"),
        ("日本語/é.webm", "日本語/é"),
        ("a..b.avi", "a__b"),
    ],
)
def test_a_key_is_the_path_without_extension_and_dots(path: str, key: str) -> None:
    assert video_key(path) == key


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/a.avi", "../a.avi", "a/../../b.avi", "a//b.avi", "a\\b.avi", ".", ""),
        *("a\nb.avi", "a\x1b[31mb.avi", "a\x00b.avi", "a\u2028b.avi", "a\udcffb.avi"),
    ],
)
def test_a_path_that_could_leave_the_output_is_refused_by_name(path: str) -> None:
    with pytest.raises(InputError) as caught:
        video_key(path)
    assert str(caught.value).startswith(repr(path))


@pytest.mark.parametrize(
    ("path", "key"),
    [("Run/v.Run_g01", "Run/v_Run_g01"), ("v.avi", "v_avi"), ("a.b/c", "a_b/c")],
)
def test_the_name_of_a_folder_has_no_extension(path: str, key: str) -> None:
    assert video_key(path, is_folder=True) == key
