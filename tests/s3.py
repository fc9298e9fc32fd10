"""An S3 of our own, spoken to over HTTP on this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow import fs

from ray_s2v import storage

START_S = 60.0


@contextmanager
def s3_server() -> Iterator[fs.S3FileSystem]:
    """A server without buckets that s3:// means inside the block, here and in processes started there, and its file system."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    output = subprocess.DEVNULL
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=output, stderr=output)
    try:
        _wait_for(server, port)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            environment.delenv("AWS_ENDPOINT_URL_S3", raising=False)
            environment.setenv("AWS_ACCESS_KEY_ID", "anyone")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "anything")
            environment.setenv("AWS_REGION", "us-east-1")
            environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
            storage._file_system.cache_clear()
            yield fs.S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True)
    finally:
        storage._file_system.cache_clear()
        server.terminate()
        server.wait()


def upload(system: fs.S3FileSystem, folder: Path, to: str) -> None:
    """Puts the files of a folder below `bucket/prefix`; the bucket is made."""
    system.create_dir(to.split("/")[0])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with system.open_output_stream(f"{to}/{path.relative_to(folder).as_posix()}") as file:
                file.write(path.read_bytes())


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert server.poll() is None, "moto's server ended; is moto[server] installed?"
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < deadline, f"moto's server did not answer in {START_S} s"
            time.sleep(0.05)
        else:
            return
