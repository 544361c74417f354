"""`xidwatch doctor`: what can run here, and exactly what is missing where something cannot.

Looks, and changes nothing: no directory is made, nothing is read away from a daemon that runs, and the
eBPF program that it loads is let go again.
Exit code 0 when the kernel log can be heard, 1 when not, whatever the other checks say.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import sqlite3
import stat
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TextIO

from daemon.config import Address, Config, Ebpf
from daemon.gpu import check as gpu_check
from probes import kernel, klog, procfs
from probes.bpf import availability, driver_probe
from probes.health import Check, Verdict
from probes.kmsg_access import open_log, refusal
from xidwatch import access, alarms, contained, outlets, tracking
from xidwatch.ears import choose, loader_of
from xidwatch.gpu_source import source_of
from xidwatch.terminal import Style, columns, for_stream

CANNOT_HEAR = 1
_KMSG = "kmsg"
_EARS = (_KMSG, availability.NAME, klog.NAME)
_SMALL_LOG_BYTES = 2**20
_RECORD_BYTES = 119
"""Log memory that a line of 110 characters takes: 128 KiB held 1,100 of them (Linux 6.18)."""


def run(config: Config, *, as_json: bool, out: TextIO) -> int:
    """Check everything, print it to `out`, return the exit code.

    Raises UserError when `config.kmsg` names something that can never be a kernel log.
    """
    found = checks(config)
    hears = any(check.name in _EARS and check.verdict is Verdict.OK for check in found)
    if as_json:
        print(json.dumps({"hears": hears, "checks": [asdict(check) for check in found]}), file=out)
    else:
        for line in _table(found, hears, for_stream(out)):
            print(line, file=out)
    return 0 if hears else CANNOT_HEAR


def checks(config: Config) -> list[Check]:
    """Every check, what decides most first. Raises UserError as `run` does."""
    choice, log_access = choose(config), kernel.log_access()
    kmsg = check_kmsg(config.kmsg, log_access) if choice.kmsg else _not_asked_for(_KMSG)
    hears = kmsg.verdict is Verdict.OK
    return [
        kmsg,
        check_ebpf(config, hears=hears),
        check_klog(config, hears=hears),
        check_tracepoint(config),
        tracking.check(config),
        *contained.checks(config, log_access),
        check_log_size(),
        check_driver(procfs.ROOT),
        check_state_dir(config.state_dir),
        check_disk(config.state_dir, config.retention_bytes),
        check_socket(config.socket),
        check_listen(config.listen),
        access.check(config),
        check_tls(config),
        alarms.check(config),
        *outlets.checks(config),
        check_python(),
        gpu_check.check(source_of(config)),
    ]


def check_kmsg(path: Path, access: kernel.LogAccess) -> Check:
    """Whether the kernel log opens, and if not which permission, device rule or sysctl is in the way."""
    try:
        log = open_log(path)
    except OSError as error:
        why = refusal(error, path, access)
        return Check(_KMSG, Verdict.FAIL, why.reason, why.hint)
    os.close(log.fd)
    what = "every record is heard as it is printed" if log.is_device else "a FIFO, heard live"
    return Check(_KMSG, Verdict.OK, f"{path} opens: {what}")


def check_log_size() -> Check:
    """Whether the kernel's log buffer survives a burst of lines."""
    name = "log_buf_len"
    try:
        size = kernel.klogctl(kernel.SyslogAction.SIZE_BUFFER)
    except OSError as error:
        return Check(name, Verdict.WARN, f"the size of the kernel log is unknown: {_said(error)}")
    finding = f"the kernel log holds {size // 1024} KiB, about {size // _RECORD_BYTES:,} lines"
    if size >= _SMALL_LOG_BYTES:
        return Check(name, Verdict.OK, finding)
    return Check(
        name,
        Verdict.WARN,
        f"{finding}: a burst overwrites it before it is read",
        "boot with log_buf_len=4M",
    )


def check_klog(config: Config, *, hears: bool) -> Check:
    """Whether syslog(2) shows the log; `hears`: /dev/kmsg does, and makes it needless."""
    choice = choose(config)
    if not choice.klog and not choice.klog_instead:
        return _not_asked_for(klog.NAME)
    found = klog.check()
    if hears and not choice.klog:
        return replace(
            found, verdict=Verdict.OFF, finding=f"{found.finding}; not needed: kmsg hears", hint=None
        )
    return found


def check_tracepoint(config: Config) -> Check:
    """Whether the driver's own tracepoint can be heard, where it is asked for; it is a second witness."""
    if not choose(config).driver:
        return _not_asked_for(driver_probe.CHECK)
    found = driver_probe.check()
    return replace(found, verdict=Verdict.WARN) if found.verdict is Verdict.FAIL else found


def check_driver(root: Path) -> Check:
    """Which NVIDIA driver runs, and how many GPUs it has."""
    version = procfs.driver_version(root)
    gpus = procfs.gpus(root)
    if version is None and not gpus:
        return Check(
            "driver",
            Verdict.WARN,
            "no NVIDIA driver is loaded: there is nothing yet that could print an Xid",
            "load the nvidia kernel module, if this machine has NVIDIA GPUs",
        )
    number = f"{len(gpus)} GPU{'' if len(gpus) == 1 else 's'}"
    return Check("driver", Verdict.OK, f"NVIDIA driver {version or 'of unknown version'}, {number}")


def check_state_dir(path: Path) -> Check:
    """Whether the journal can be written."""
    name = "state_dir"
    existing = _nearest_existing(path)
    if not existing.is_dir():
        return Check(name, Verdict.FAIL, f"{existing} is not a directory", "choose another with --state-dir")
    if not os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        why, hint = _not_writable(existing)
        return Check(name, Verdict.FAIL, why, f"{hint} or choose another with --state-dir")
    return Check(name, Verdict.OK, f"{path} can be {'written' if existing == path else 'created'}")


def check_disk(path: Path, wanted_bytes: int) -> Check:
    """Whether the journal has room for what it may keep."""
    try:
        free = shutil.disk_usage(_nearest_existing(path)).free
    except OSError as error:
        return Check("disk", Verdict.WARN, f"free space for {path} is unknown: {_said(error)}")
    finding = f"{_mib(free)} free for up to {_mib(wanted_bytes)} of journal"
    if free >= wanted_bytes:
        return Check("disk", Verdict.OK, finding)
    return Check("disk", Verdict.WARN, finding, "free some space, or lower --retention-size")


def check_socket(path: Path) -> Check:
    """Whether local clients can be served, or already are."""
    name = "socket"
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return _check_socket_dir(path)
    except OSError as error:
        return Check(name, Verdict.FAIL, f"{path}: {_said(error)}", "choose another with --socket")
    if not stat.S_ISSOCK(mode):
        return Check(name, Verdict.FAIL, f"{path} exists and is not a socket", "choose another with --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return Check(name, Verdict.OK, f"{path} was left by a daemon that is gone; it will be replaced")
        except OSError as error:
            return Check(name, Verdict.WARN, f"{path}: {_said(error)}", "run as the daemon's user or group")
    return Check(name, Verdict.OK, f"a daemon listens at {path}")


def _check_socket_dir(path: Path) -> Check:
    existing = _nearest_existing(path.parent)
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK, effective_ids=True):
        return Check("socket", Verdict.OK, f"{path} can be created")
    why, hint = _not_writable(existing)
    return Check(
        "socket", Verdict.FAIL, f"{path} cannot be created: {why}", f"{hint} or choose another with --socket"
    )


def check_listen(address: Address) -> Check:
    """Whether HTTP can listen at `address`."""
    name = "listen"
    other = "choose another with --listen"
    try:
        family, kind, protocol, _, resolved = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # a name that cannot be asked for is a UnicodeError
        return Check(name, Verdict.FAIL, f"{address.host} does not resolve: {_said(error)}", other)
    with socket.socket(family, kind, protocol) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(resolved)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                hint = f"if that is not a running xidwatch, {other}"
                return Check(name, Verdict.WARN, f"{address} is in use", hint)
            return Check(name, Verdict.FAIL, f"cannot listen at {address}: {_said(error)}", other)
    return Check(name, Verdict.OK, "a free port will be taken" if not address.port else f"{address} is free")


def check_tls(config: Config) -> Check:
    """Whether the certificate of HTTPS can be used, and how long."""
    from mcp_server import tls_files

    return tls_files.check(tls_files.TlsFiles.of(config))


def check_python() -> Check:
    """The interpreter and its SQLite."""
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", Verdict.OK, f"Python {version}, SQLite {sqlite3.sqlite_version}")


def check_ebpf(config: Config, *, hears: bool) -> Check:
    """Whether eBPF hears the log, by loading the program and letting it go; `hears`: /dev/kmsg does."""
    name = availability.NAME
    if config.ebpf is Ebpf.OFF:
        return Check(name, Verdict.OFF, "switched off")
    if not choose(config).bpf:
        return _not_asked_for(name)
    found = availability.check(loader_of(config))
    if found.verdict is Verdict.FAIL and hears and config.ebpf is not Ebpf.REQUIRED:
        return replace(found, verdict=Verdict.WARN, finding=f"{found.finding}; kmsg hears without it")
    return found


def _not_asked_for(name: str) -> Check:
    return Check(name, Verdict.OFF, "not asked for with these settings")


def _table(found: Sequence[Check], hears: bool, style: Style) -> list[str]:
    colour = {
        Verdict.OK: style.green,
        Verdict.WARN: style.yellow,
        Verdict.FAIL: style.red,
        Verdict.OFF: style.dim,
    }
    rows: list[tuple[str, ...]] = []
    for check in found:
        rows.append((colour[check.verdict](check.verdict), style.bold(check.name), check.finding))
        if check.hint:
            rows.append(("", "", style.dim(f"hint: {check.hint}")))
    summary = (
        style.green("The kernel log can be heard here.")
        if hears
        else style.red("The kernel log cannot be heard here.")
    )
    return [*columns(rows), "", summary]


def _not_writable(path: Path) -> tuple[str, str]:
    """Why this user cannot write there, and what to do about it."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{path} is on a read-only file system", "mount a volume or a tmpfs there,"
    return f"{path} cannot be written by user {os.geteuid()}", "run as its owner,"


def _nearest_existing(path: Path) -> Path:
    return next((each for each in (path, *path.parents) if os.path.lexists(each)), Path("/"))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def _said(error: OSError | UnicodeError) -> str:
    words = error.strerror if isinstance(error, OSError) else None
    return (words or str(error)).lower()
