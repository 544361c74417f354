"""The GPU's own processors, and what the driver advises: 61, 62, 110, 119, 120, 143, 154, 175.

Forms: open-gpu-kernel-modules, tags 515.43.04 to 595.45.04.
"""

from __future__ import annotations

import re

from daemon.grammar.fields.values import HEX, Fields, words

_PMU = re.compile(rf"{HEX}{{4}}\({HEX}{{4}}\)(?: {HEX}{{8}}(?!\w)){{0,6}}")
_SEC_FAULT = re.compile(r"SEC(?:_2)?_FAULT: _?([A-Z0-9_]{1,64})(?: value: (0x[0-9a-fA-F]{1,8}))?")
_RPC = re.compile(
    # Up to 545 the driver did not say how long it had waited; 515 printed only the function's name.
    r"Timeout (?:after ([0-9]{1,6})s of waiting for RPC response from GPU([0-9]{1,4}) GSP!|"
    r"waiting for RPC from GSP([0-9]{0,4})!)"
    r"(?: Expected function (?:([0-9]{1,6}) \(([^)\n]{0,64})\)|([A-Z][A-Z0-9_]{1,64})(?= \())"
    rf"(?: sequence ([0-9]{{1,10}})(?= ))?(?: \((0x{HEX}{{1,16}}) (0x{HEX}{{1,16}})\))?)?"
)
_CRASH = re.compile(
    r"GSP (\w{1,16}) (exception|panic|timeout)"
    rf"(?:: ([^(\n]{{1,80}}?) \((?:cause:(0x{HEX}{{1,16}})|([0-9]{{1,6}}))\))?"
    rf"(?: @ pc:(0x{HEX}{{1,16}})(?=,))?"
    rf"(?:, aux:(0x{HEX}{{1,16}})(?=,))?"
    r"(?:, partition:([0-9]{1,4}#[0-9]{1,4})(?=,|\Z))?(?:, task:([0-9]{1,6})\b)?"
)
_FSP_BOOT = re.compile(rf"Error status (0x{HEX}{{1,8}}) while polling for FSP boot complete")
_FSP_FUSE = re.compile(rf"FSP fuse error check has failed\.(?: Status = (0x{HEX}{{1,8}})\.)?")
_RECOVERY = re.compile(
    rf"GPU recovery action changed from (0x{HEX}{{1,8}}) \(([^)\n]{{0,64}})\)"
    rf"(?: to (0x{HEX}{{1,8}}) \(([^)\n]{{0,64}})\))?"
)
_SUBSYSTEM = re.compile(r"GPU memory subsystem timeout \(type ([0-9]{1,6})\)")


def pmu_words(text: str) -> Fields:
    """61, 62: the words the PMU left, as printed; NVIDIA does not publish what they mean."""
    match = _PMU.match(text)
    return {"pmu_words": match[0].split(" ")} if match else {}


def security_fault(text: str) -> Fields:
    """110: the guard that locked the GPU."""
    match = _SEC_FAULT.match(text)
    if match is None:
        return {}
    return {"sec_fault": match[1], **({"sec_fault_value": match[2]} if match[2] else {})}


def rpc_timeout(text: str) -> Fields:
    """119: how long the driver waited, and for what. `rm_gpu` is the driver's own GPU number."""
    match = _RPC.match(text)
    if match is None:
        return {}
    found: Fields = {}
    if match[1]:
        found["timeout_s"] = int(match[1])
    if gpu := match[2] or match[3]:
        found["rm_gpu"] = int(gpu)
    if match[4]:
        found["rpc_function"] = int(match[4])
    if name := match[5] or match[6]:
        found["rpc_function_name"] = name
    if match[7]:
        found["rpc_sequence"] = int(match[7])
    if match[8]:
        found["rpc_data"] = [match[8], match[9]]
    return found


def firmware_crash(text: str) -> Fields:
    """120: what the firmware's kernel or task did, and where."""
    match = _CRASH.match(text)
    if match is None:
        return {}
    found: Fields = {"crashed": match[1], "crash": match[2]}
    named = {
        "exception": match[3],
        "cause": match[4],
        "program_counter": match[6],
        "aux": match[7],
        "partition": match[8],
    }
    found |= {key: value for key, value in named.items() if value}
    found |= {key: int(value) for key, value in (("panic_code", match[5]), ("task", match[9])) if value}
    return found


def initialisation(text: str) -> Fields:
    """143: which step of the start failed, its status, and the registers printed with it."""
    if match := _FSP_BOOT.match(text):
        return {"failed_step": "fsp_boot", "status": match[1], "words": words(text, match.end())}
    if match := _FSP_FUSE.match(text):
        return {"failed_step": "fsp_fuse_check", **({"status": match[1]} if match[1] else {})}
    return {}


def recovery_action(text: str) -> Fields:
    """154: the driver's own advice, before and now."""
    match = _RECOVERY.match(text)
    if match is None:
        return {}
    found: Fields = {"recovery_from": int(match[1], 16), "recovery_from_word": match[2]}
    if match[3]:
        found |= {"recovery_to": int(match[3], 16), "recovery_to_word": match[4]}
    return found


def subsystem_timeout(text: str) -> Fields:
    """175: the type of timeout."""
    match = _SUBSYSTEM.match(text)
    return {"timeout_type": int(match[1])} if match else {}
