"""A real S3 server on loopback, and a relay to it that counts traffic and can stop it.

rclone serves a folder, so a test can look at the stored files without S3. `Wire` stops or cuts a
client in the middle of an upload, which an error reply of a server cannot imitate.
"""

import os
import re
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY, SECRET, BUCKET = "loopback-key", "loopback-secret/with+signs", "bucket"
CONNECT_SECONDS = 60


@dataclass(frozen=True)
class Store:
    """A bucket and the folder in which its objects are files."""

    folder: Path
    endpoint: str

    def uri(self, key: str) -> str:
        """`s3://bucket/KEY`."""
        return f"s3://{BUCKET}/{key}"

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        """What a client needs; rclone's server takes no checksums in trailers."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_MAX_ATTEMPTS": "2",
        }


@contextmanager
def serve(folder: Path) -> Iterator[Store]:
    """An S3 server for as long as the block lasts; its bucket is there and empty."""
    (folder / BUCKET).mkdir(parents=True)
    rclone = Path(sys.executable).with_name("rclone")
    command = [str(rclone), "serve", "s3", "--config", os.devnull, "--auth-key", f"{KEY},{SECRET}"]
    # Tests look into the folder and change it behind the server's back.
    command += ["--addr", "127.0.0.1:0", "--dir-cache-time", "1ms", str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            output = ""
            while not (found := re.search(r"Starting s3 server on \[(http://[\d.:]+)/?\]", output)):
                line = process.stderr.readline()
                assert line, f"rclone ended: {output}"
                output += line
            # Read on, or rclone blocks when the pipe is full.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Store(folder / BUCKET, found[1])
        finally:
            process.kill()


class Wire:
    """A relay to a server that counts requests and bytes.

    It goes silent after `most_sent` bytes and drops a request that contains `refuses`.
    """

    def __init__(
        self, endpoint: str, most_sent: int | None = None, refuses: str | None = None
    ) -> None:
        host, port = endpoint.removeprefix("http://").split(":")
        self._server, self._most_sent, self._refuses = (host, int(port)), most_sent, refuses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_sent = self.num_received = 0
        self.requests: list[str] = []
        self.is_full = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, closing(socket.create_connection(self._server, CONNECT_SECONDS)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    try:
                        data = source.recv(2**16)
                        if not data:
                            return
                        if source is client and not self._may_pass(data):
                            return
                        (server if source is client else client).sendall(data)
                    except OSError:
                        return
                    self.num_received += len(data) if source is server else 0

    def _may_pass(self, data: bytes) -> bool:
        """Whether data of the client goes on; where it goes silent it never returns."""
        if match := re.match(rb"(GET|HEAD|PUT|POST|DELETE) (\S+)", data):
            self.requests.append(f"{match[1].decode()} {match[2].decode()}")
            if self._refuses is not None and self._refuses in self.requests[-1]:
                return False
        self.num_sent += len(data)
        if self._most_sent is not None and self.num_sent > self._most_sent:
            self.is_full.set()
            # For ever, with the connection open: a closed one would be an error that is retried.
            threading.Event().wait()
        return True
