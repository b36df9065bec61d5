"""What of this machine can be looked at without torch: processor, memory, disks, output, clock."""

import fcntl
import getpass
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import clctl
from clctl.data.home import home

GIB = 2**30
SCARCE, LITTLE = GIB // 10, 2 * GIB  # free bytes below which a run stops, and may stop
SKEW = 10.0  # seconds between two clocks that nobody would notice


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        state: problem is what would stop a run; note is what may surprise.
        words: What was found.
        remedy: What to do, unless all is well.
        facts: The same for programs.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    words: str
    remedy: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def installed(package: str) -> str | None:
    """The version of a package by its metadata, None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def python() -> Check:
    """Python and the system."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts = {"version": platform.python_version(), "system": system}
    return Check("python", "ok", f"{facts['version']}, {system}", facts=facts)


def extras() -> Check:
    """clctl and which of its extras are whole."""
    asked: dict[str, list[str]] = {}
    for line in metadata.requires("clctl") or () if installed("clctl") else ():
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra == ['\"]([\w-]+)", line)
        if package and extra and extra[1] != "dev":
            asked.setdefault(extra[1], []).append(package[0])
    there = {name: all(map(installed, packages)) for name, packages in asked.items()}
    words = clctl.__version__
    for said, wanted in (("with", True), ("without", False)):
        if names := [name for name, whole in sorted(there.items()) if whole is wanted]:
            words += f", {said} {', '.join(names)}"
    return Check("clctl", "ok", words, facts={"version": clctl.__version__, "extras": there})


def processor() -> Check:
    """Model, cores that this process may use, and flags for bf16."""
    info = _text("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.+)$", info, re.MULTILINE)
    bf16 = [f for f in (flags[1].split() if flags else ()) if f.endswith("bf16")]
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    quota = re.match(r"(\d+) (\d+)", _text("/sys/fs/cgroup/cpu.max"))
    share = int(quota[1]) / int(quota[2]) if quota else None
    words = f"{name[1] if name else platform.machine()}, {usable} of {count} cores"
    words += f", {', '.join(bf16) if bf16 else 'no bf16'}"
    facts = {"cores": count, "usable": usable, "quota": share, "bf16": bf16}
    if share is not None and share < usable - 0.5:
        return Check(
            "processor",
            "note",
            f"{words}; this container may use {share:g}",
            f"export OMP_NUM_THREADS={max(1, int(share))}: more threads than that slow each other",
            facts,
        )
    return Check("processor", "ok", words, facts=facts)


def memory() -> Check:
    """Free and whole memory, and the limit of the container."""
    info = dict(re.findall(r"^(\w+):\s+(\d+) kB$", _text("/proc/meminfo"), re.MULTILINE))
    if not info:
        return Check("memory", "ok", "not told by this system")
    total, free = (1024 * int(info.get(key, 0)) for key in ("MemTotal", "MemAvailable"))
    limit = min(_limits(), default=total)
    facts = {"total": total, "available": free, "limit": limit if limit < total else None}
    words = f"{_size(free)} of {_size(total)} free"
    if limit < total:
        words += f"; this container may use {_size(limit)}"
    if min(free, limit) < LITTLE:
        advice = "end other programs, or take a smaller train.batch_size"
        return Check("memory", "note", words, advice, facts)
    return Check("memory", "ok", words, facts=facts)


def _limits() -> Iterable[int]:
    """Limits of memory in bytes, of this process's control group and those above it."""
    own = re.search(r"^0::/(.*)$", _text("/proc/self/cgroup"), re.MULTILINE)
    top = Path("/sys/fs/cgroup")
    folders = [top / own[1], *(top / own[1]).parents] if own else [top]
    for path in [*(f / "memory.max" for f in folders), top / "memory/memory.limit_in_bytes"]:
        if path.is_relative_to(top) and (text := _text(path).strip()).isdigit():
            yield int(text)


def folders() -> list[Check]:
    """The folder of runs and that of the image stores: room, permission, locks, clock."""
    store = home()
    paths = [path for path in store.rglob("*") if path.is_file()] if store.is_dir() else []
    used = sum(path.lstat().st_size for path in paths if path.exists())
    return [
        folder("runs", Path("runs"), "work in a folder that can be written, or give --out"),
        folder("cache", store, "set CLCTL_CACHE to a folder that can be written", used),
    ]


def folder(name: str, path: Path, advice: str, used: int | None = None) -> Check:
    """Whether something can be written and locked there; nothing stays behind."""
    nearest = path.absolute()
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    words = str(path) + ("" if used is None else f" holds {_size(used)}")
    try:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(b"clctl")
            file.flush()
            skew = os.fstat(file.fileno()).st_mtime - time.time()
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = shutil.disk_usage(nearest).free
    except OSError as error:
        reason = error.strerror or str(error)
        return Check(name, "problem", f"{path} cannot be written or locked: {reason}", advice)
    facts = {"path": str(path), "free": free, "used": used, "clock_skew": round(skew, 3)}
    words += f", {_size(free)} free"
    if free < SCARCE:
        return Check(name, "problem", words, "free a gigabyte there", facts)
    if free < LITTLE:
        return Check(name, "note", words, "checkpoint.keep sets how many checkpoints stay", facts)
    if abs(skew) > SKEW:
        words += f"; that disk's clock is off by {skew:+.0f} s"
        return Check(name, "note", words, "set both clocks by the network", facts)
    return Check(name, "ok", words, facts=facts)


def output() -> Check:
    """Whether names and JSON come out as they are."""
    codec, names = sys.stdout.encoding or "none", sys.getfilesystemencoding()
    facts = {"stdout": codec, "file_names": names}
    words = f"stdout {codec.lower()}, file names {names.lower()}"
    if {codec.lower().replace("-", ""), names.lower().replace("-", "")} <= {"utf8"}:
        return Check("output", "ok", words, facts=facts)
    advice = "export PYTHONUTF8=1, else letters beyond ASCII become question marks"
    return Check("output", "note", words, advice, facts)


def clock() -> Check:
    """A clock that stands before the program was installed cannot be right."""
    now, made = time.time(), Path(clctl.__file__).stat().st_mtime
    words = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if made - now > SKEW:
        return Check("clock", "note", f"{words}, before clctl was installed", "set the clock")
    return Check("clock", "ok", words)


def private(value: Any) -> Any:
    """`value` with ~ for the home folder, and no name of user or host in a path, in all its texts."""
    if isinstance(value, dict):
        return {key: private(item) for key, item in value.items()}
    if isinstance(value, list):
        return [private(item) for item in value]
    if not isinstance(value, str):
        return value
    for whole in {str(Path.home()), os.path.realpath(Path.home())}:
        if len(whole) > 1:
            value = re.sub(rf"{re.escape(whole)}(?![\w-])", "~", value)
    for name, sign in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if name:
            value = re.sub(rf"(?<=/){re.escape(name)}(?![\w-])", sign, value)
    return value


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container may have no name for its user
        return ""


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / 2**20:.0f} MiB"


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""
