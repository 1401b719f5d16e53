"""Addresses at which no cluster answers, and what a node has."""

import socket
from collections.abc import Iterator

import pytest

from twinstream.errors import InputError
from twinstream.preprocess.cluster import session
from twinstream.preprocess.cluster.resources import Node
from twinstream.preprocess.cluster.session import cluster_nodes, node_with


@pytest.fixture
def silent() -> Iterator[str]:
    """An address where someone listens and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("address", ["auto", "there"])
def test_who_listens_and_is_no_cluster_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, silent: str, address: str
) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.2)
    # What Ray takes for `auto`; a cluster that has died leaves its address in a file likewise.
    monkeypatch.setenv("RAY_ADDRESS", silent)
    given = silent if address == "there" else address
    # Refused where Ray takes this machine's other address for the loopback's.
    reason = r"\((timed out|.*Connection refused)\)"
    with pytest.raises(InputError, match=f"--address {given}: no Ray cluster answers.*{reason}"):
        cluster_nodes(given)


def test_auto_without_any_cluster_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Others may run Ray on this machine.
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", lambda: set())
    monkeypatch.setattr("ray._private.services.find_bootstrap_address", lambda folder: None)
    with pytest.raises(InputError, match="--address auto: no Ray cluster answers") as error:
        cluster_nodes("auto")
    assert "\n" not in str(error.value)


def test_a_node_has_clusters_where_ray_names_a_gpu_with_them() -> None:
    assert node_with({"CPU": 4.0}) == Node(4)
    assert node_with({"CPU": 16.0, "GPU": 2.0, "accelerator_type:A100": 1.0}) == Node(16, 2)
    newer = {"CPU": 16.0, "GPU": 2.0, "accelerator_type:H200": 1.0}
    assert node_with(newer) == Node(16, 2, has_clusters=True)
