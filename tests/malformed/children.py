"""Work in child processes that may hang, crash or eat memory, and are replaced when they do."""

from __future__ import annotations

import multiprocessing
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

MEMORY = 6 << 30  # bytes that a child may allocate
STARTED_S = 300.0  # until the first answer: imports, and clips that the inputs are made of

Work = Callable[[Any, Path], Any]
Setup = Callable[[], Work]


class Child:
    """A process that does one thing after the other, each in an empty folder."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.process: multiprocessing.process.BaseProcess | None = None

    def ask(self, thing: Any, limit_s: float) -> Any:
        """The answer. Raises TimeoutError where none comes, ChildProcessError where the child dies; the next one is asked of another."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_serve, args=(self.setup, theirs), daemon=True)
            self.process.start()
            theirs.close()
            if not self.pipe.poll(STARTED_S):
                self.end()
                raise TimeoutError("the child does not start")
            self.pipe.recv()
        self.pipe.send(thing)
        if not self.pipe.poll(limit_s):
            self.end()
            raise TimeoutError(f"nothing after {limit_s:g} s")
        try:
            return self.pipe.recv()
        except EOFError:
            process = self.process
            process.join()
            self.end()
            raise ChildProcessError(f"the child died, exit code {process.exitcode}") from None

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.pipe.close()
            self.process = None


def answers(setup: Setup, things: Iterable[Any], limit_s: float, processes: int) -> Iterator[tuple[Any, Any]]:
    """Each thing with its answer, or with the exception that says how the child ended."""
    free: SimpleQueue[Child] = SimpleQueue()
    children = [Child(setup) for _ in range(processes)]
    for child in children:
        free.put(child)

    def asked(thing: Any) -> tuple[Any, Any]:
        child = free.get()
        try:
            return thing, child.ask(thing, limit_s)
        except (TimeoutError, ChildProcessError) as end:
            return thing, end
        finally:
            free.put(child)

    try:
        with ThreadPoolExecutor(processes) as pool:
            yield from pool.map(asked, things)
    finally:
        for child in children:
            child.end()


def _serve(setup: Setup, pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    work = setup()
    pipe.send("ready")
    while True:
        try:
            thing = pipe.recv()
        except EOFError:
            return
        with tempfile.TemporaryDirectory(prefix="malformed") as scratch:
            pipe.send(work(thing, Path(scratch)))
