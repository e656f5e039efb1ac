"""A root of its own for one test: a writable layer over a tree that stays as it is, in namespaces that end with it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType

LONG_S = 300
_LAYER = """
set -e
mount -t tmpfs -o size=1g tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=$2,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
mount -t proc proc proc
mount --rbind /dev dev
mount -t tmpfs tmpfs tmp
mount -t tmpfs tmpfs run
mkdir -p mnt
mount --bind "$3" mnt
ip link set lo up
echo ready
exec sleep infinity
"""


def possible() -> bool:
    """Whether this machine lets us make one: root, namespaces, overlayfs."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    script = 'mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay o -o "$0" /mnt/r'
    words = ["unshare", "--mount", "sh", "-c", script, "lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Root:
    """`lower` as it is, seen at /, with `shared` at /mnt; what is written goes with it. No network but loopback."""

    def __init__(self, lower: Path, place: Path, shared: Path) -> None:
        self._lower, self._place, self._shared = lower, place, shared
        self.said = ""
        """What the installation said, where a fixture made one."""

    def __enter__(self) -> Root:
        self._place.mkdir(parents=True)
        words = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", _LAYER, "sh"]
        places = [str(self._place), str(self._lower), str(self._shared)]
        self._holder = subprocess.Popen([*words, *places], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if self._holder.stdout is None or self._holder.stdout.readline() != "ready\n":
            raise RuntimeError(f"cannot make a root over {self._lower}: {self._holder.communicate()[1]}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text().split()
        self._enter = ["nsenter", "--target", children[0], "--mount", "--pid", "--net", "chroot", f"{self._place}/root"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._holder.kill()  # its child, and with that everything in the root, goes with it
        self._holder.communicate()

    def run(self, script: str, *, ok: bool = True) -> str:
        """What a shell script says, on both outputs; it must end with 0 (`ok`), or must not."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(
            [*self._enter, "sh", "-c", f"cd /\n{script}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=LONG_S,
            env=env,
        )
        if (done.returncode == 0) != ok:
            raise AssertionError(f"{script!r} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def exit_code(self, script: str) -> tuple[int, str]:
        """The exit code, and what was said."""
        said = self.run(f"({script}\n); code=$?; echo; echo $code")
        text, _, code = said.rstrip("\n").rpartition("\n")
        return int(code), text

    def written(self) -> set[str]:
        """Every path that was written or removed since the beginning, below /; /proc, /dev, /run and /tmp are apart."""
        found = self._outside(f"cd {self._place}/upper && find . -mindepth 1 -printf '%P\\n'")
        return set(found.splitlines())

    def is_folder(self, name: str) -> bool:
        """Whether a path of `written` is a folder, which is written as soon as anything in it is."""
        return self._outside(f"test ! -d '{self._place}/upper/{name}' || echo yes") != ""

    def _outside(self, script: str) -> str:
        """In the namespaces, but not in the root."""
        words = [*self._enter[: self._enter.index("chroot")], "sh", "-c", script]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=LONG_S).stdout
