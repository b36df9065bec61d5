"""clctl doctor: whether this machine can train, and what to do where it cannot."""

import json
import re
import shutil
import signal
import subprocess
import sys
from typing import Any

from clctl.commands import _checks
from clctl.commands._checks import Check, installed, private
from clctl.console import Exit, Talk
from clctl.report.document import Report

SECONDS = 5.0  # of training on each device
PATIENCE = 180.0  # seconds that a process may take; the first import from a network disk is slow
REINSTALL = "pip install --force-reinstall torch torchvision, both from one index (pytorch.org)"

# The child gets this process's own search path: `-P` keeps a torch.py of the working folder out.
_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from clctl.commands._trial import main; main(sys.argv[2:])"
)


def doctor(talk: Talk) -> Report:
    """Look at everything; exit 1 where something would stop a run, 0 where there are only notes."""
    checks = [_checks.python(), _checks.extras()]
    talk.say("looking at torch ...")
    found = _child("facts")
    loads = _torch(found)
    checks += [loads, *(_cards(found) if loads.state != "problem" else ())]
    checks += [_checks.processor(), _checks.memory(), *_checks.folders()]
    checks += [_checks.output(), _checks.clock()]
    if loads.state != "problem":
        for device in _devices(found):
            talk.say(f"training for {SECONDS:g} seconds on {device} ...")
            trained = _child("train", device, str(SECONDS)).get("train", {})
            checks.append(_trained(device, trained, needed=device == _devices(found)[-1]))
    return _report(checks)


def _report(checks: list[Check]) -> Report:
    rows = [private(vars(check)) for check in checks]
    count = {state: sum(c.state == state for c in checks) for state in ("problem", "note")}
    wide = max(len(row["name"]) for row in rows)
    lines: list[str] = []
    for row in rows:
        lines.append(f"{row['state']:<8} {row['name']:<{wide}}  {row['words']}")
        if row["remedy"]:
            lines.append(f"{'':<8} {'':<{wide}}  -> {row['remedy']}")
    ready = not count["problem"]
    says = "ready to train" if ready else f"not ready: problems {count['problem']}"
    lines.append(says + (f"; notes {count['note']}" if count["note"] else ""))
    document = {
        "schema": "clctl/doctor/1",
        "ready": ready,
        "problems": count["problem"],
        "notes": count["note"],
        "checks": rows,
    }
    short = "ready" if ready else "not ready"
    return Report(document, "\n".join(lines), short, Exit.OK if ready else Exit.GATE)


def _child(*job: str) -> dict[str, dict[str, Any]]:
    """What a process of its own found, by stage; a stage that it did not outlive has an error."""
    command = [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path), *job]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, encoding="utf-8", errors="replace", **pipes) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE)
            end = _end(process.returncode, err)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            end = f"no answer within {PATIENCE:g} seconds"
    found: dict[str, dict[str, Any]] = {}
    for line in out.splitlines():
        if line.startswith('{"stage"'):  # libraries print, too
            stage = json.loads(line)
            name = stage.pop("stage")
            found[name] = stage or {"error": end}  # begun and not ended
    return found or {"torch": {"error": end}, "train": {"error": end}}


def _end(code: int, err: str) -> str:
    """How a process ended, in words."""
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    last = (err.strip() or "no reason given").splitlines()[-1]
    return f"the process ended with code {code}: {last}"


def _torch(found: dict[str, dict[str, Any]]) -> Check:
    """Whether torch and torchvision load, and fit each other."""
    torch, vision = found.get("torch", {}), found.get("torchvision", {})
    versions = {"torch": installed("torch"), "torchvision": installed("torchvision")}
    words = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    absent = [name for name, version in versions.items() if version is None]
    facts: dict[str, Any] = {**versions, "build": torch.get("build")}
    if "error" in torch:
        advice = f"pip install {' '.join(absent)}" if absent else REINSTALL
        return Check("torch", "problem", f"{words}: {torch['error']}", advice, facts)
    words += f", {torch['build']} build"
    if "error" in vision:
        if absent:
            return Check("torch", "problem", words, f"pip install {' '.join(absent)}", facts)
        words += f"; they do not fit each other: {vision['error']}"
        return Check("torch", "problem", words, REINSTALL, facts)
    facts |= {"torch": torch["version"], "torchvision": vision["version"]}
    if not fitting(torch["version"], vision["version"]):
        words += "; they were not released together"
        return Check("torch", "note", words, REINSTALL, facts)
    return Check("torch", "ok", words, facts=facts)


def fitting(torch: str, vision: str) -> bool:
    """Whether two releases were made for each other: torch 2.N goes with torchvision 0.(N + 15)."""
    a, b = (re.match(r"(\d+)\.(\d+)", version) for version in (torch, vision))
    if not a or not b or a[1] != "2" or b[1] != "0":
        return True  # another numbering, of which nothing is known here
    return int(b[2]) == int(a[2]) + 15


def _cards(found: dict[str, dict[str, Any]]) -> list[Check]:
    """The GPUs that torch sees, and why it sees none where there are some."""
    seen, driver = found.get("devices", {}), _driver()
    cards, build = seen.get("cards", []), found.get("torch", {}).get("build")
    checks = [
        Check(
            f"cuda:{i}",
            "ok",
            f"{card['name']}, {card['free'] / 2**30:.1f} of {card['total'] / 2**30:.1f} GiB free"
            + (f", driver {driver[0]}" if driver else ""),
            facts={**card, "driver": driver and driver[0]},
        )
        for i, card in enumerate(cards)
    ]
    if seen.get("mps"):
        checks.append(Check("mps", "ok", "Apple GPU; taken with --device mps"))
    if checks or not seen:
        return checks
    if "error" in seen:
        return [Check("gpu", "problem", seen["error"], "CUDA_VISIBLE_DEVICES= runs without GPUs")]
    if not driver:
        return [Check("gpu", "ok", "none; training runs on the processor")]
    words = f"{driver[1]} with driver {driver[0]}, which torch does not see"
    words += "".join(f"; {said}" for said in seen["warnings"][:1])
    advice = "install torch's CUDA build: pytorch.org gives the line"
    if build != "CPU":
        advice = (
            f"update the driver for {build}, or install torch for an older CUDA; see nvidia-smi"
        )
    return [Check("gpu", "note", words, advice, {"driver": driver[0]})]


def _driver() -> tuple[str, str] | None:
    """Version of NVIDIA's driver and name of the first card, by its own tool."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    ask = [tool, "--query-gpu=driver_version,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    version, _, name = done.stdout.partition("\n")[0].partition(", ")
    return (version, name) if name else None


def _devices(found: dict[str, dict[str, Any]]) -> list[str]:
    """Where training is tried; the last is the one that `--device auto` takes."""
    seen = found.get("devices", {})
    cards = [f"cuda:{i}" for i in range(len(seen.get("cards", [])))]
    apple = ["mps"] if seen.get("mps") else []
    return [*apple, "cpu", *cards[::-1]]


def _trained(device: str, found: dict[str, Any], needed: bool) -> Check:
    """How a device trained; that of `--device auto` must."""
    name = f"train {device}"
    if "error" in found or not found:
        words = found.get("error", "no answer")
        advice = f"--device {device} will fail like this"
        if needed and device != "cpu":
            advice = "--device cpu trains meanwhile; a newer driver or torch build may help"
        return Check(name, "problem" if needed else "note", words, advice)
    words = (
        f"{found['images_per_second']:,.0f} images/s at {found['size']} px, {found['where']}; "
        f"loss {found['loss_first']:.2f} to {found['loss_last']:.2f} in {found['steps']} steps"
    )
    if found["loss_last"] >= found["loss_first"]:
        advice = "with so few steps this may be chance; run it again on an idle machine"
        return Check(name, "note", f"{words}: it did not fall", advice, found)
    return Check(name, "ok", words, facts=found)
