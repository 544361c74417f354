from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probes.bpf import bcc, native, syscalls
from probes.bpf.availability import attach
from probes.bpf.bcc_installed import Installation
from probes.bpf.descriptors import Loader
from probes.bpf.probe import BpfProbe
from probes.bpf.unavailable import LoaderError, State, Unavailable
from tests.support import bcc as real_bcc
from tests.support.bcc import is_loaded, namesake, program_id, stand_in
from tests.support.bpf import Hear
from tests.support.descriptors import open_descriptors
from tests.support.listening import Listener
from tests.support.real_kernel_log import write
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[3]
MAPS = """
#include "xid.h"
BPF_RINGBUF_OUTPUT(lines, 16);
BPF_PERCPU_ARRAY(counts, struct xid_counts, 1);
"""
NOTHING = "{ return 0; }\n"


@pytest.fixture(scope="session")
def usable(bpf_machine: None) -> None:
    """Skip, with the reason, where bcc cannot load a program."""
    real_bcc.skip_unless_usable()


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], Path]:
    def make(text: str) -> Path:
        path = tmp_path / "mine.c"
        path.write_text(text)
        return path

    return make


def refused(program: Path | None, *places: Installation, **options: object) -> Unavailable:
    """Why it does not load; and nothing stays behind, nor is there a loss of words."""
    before = open_descriptors()
    with pytest.raises(LoaderError) as error:
        bcc.load(program, places=places or None, **options)  # type: ignore[arg-type] # two kinds of options
    assert open_descriptors() == before
    assert error.value.why.reason
    return error.value.why


def test_it_returns_what_the_native_loader_returns(usable: None) -> None:
    ours, theirs = native.load(), bcc.load()
    assert (theirs.loader, theirs.hook, theirs.facility) == ("bcc", ours.hook, ours.facility)
    assert theirs.ring_bytes == ours.ring_bytes
    assert (len(theirs.programs), len(theirs.links)) == (len(ours.programs), len(ours.links))
    for mine, other in ((ours.ring, theirs.ring), (ours.counts, theirs.counts)):
        one, two = syscalls.map_info(mine), syscalls.map_info(other)
        assert (one.kind, one.key_bytes, one.value_bytes) == (two.kind, two.key_bytes, two.value_bytes)
        assert one.max_entries == two.max_entries
    ours.close()
    theirs.close()


@pytest.mark.kmsg
@pytest.mark.parametrize("loader", [native.load, bcc.load], ids=["native", "bcc"])
def test_a_line_of_the_log_is_heard_through_either_loader(
    usable: None, hear: Hear, token: str, loader: Loader
) -> None:
    async def test(listener: Listener, probe: BpfProbe) -> None:
        write(f"NVRM: {token} {'x' * 300}")
        await listener.until(lambda: any(token in text for text in listener.texts))
        counters = probe.health().counters
        assert counters["matched"] == counters["records"] >= 1

    [line] = [line for line in hear(test, loader=loader).lines if token in line.text]
    assert line.text == f"NVRM: {token} {'x' * 300}"


def test_nothing_of_it_stays_behind_in_this_process(usable: None) -> None:
    before, children = open_descriptors(), _children()
    loaded = bcc.load()
    opened = open_descriptors() - before
    assert opened == {loaded.ring, loaded.counts, *loaded.programs, *loaded.links}
    assert not any(os.get_inheritable(fd) for fd in opened)
    assert "LLVM" not in Path("/proc/self/maps").read_text()
    assert _children() <= children
    [number] = map(program_id, loaded.programs)
    assert is_loaded(number)
    loaded.close()
    assert open_descriptors() == before
    wait_for(lambda: not is_loaded(number), "the program to leave the kernel")


def _children() -> set[str]:
    """Of this process: pids. Other tests' may be among them."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


_HOLD = """
import sys, time
from probes.bpf import bcc
from tests.support.bcc import program_id
loaded = bcc.load()
print(program_id(loaded.programs[0]), flush=True)
sys.stdin.read()
"""


def test_the_program_leaves_the_kernel_when_the_process_is_killed(usable: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        number = int(process.stdout.readline())
        assert is_loaded(number)
        process.kill()
    wait_for(lambda: not is_loaded(number), "the program to leave the kernel")


_TELL = """
import json, os, pathlib
class BPF:
    def __init__(self, **_):
        told = {
            "fds": {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                    if os.path.exists(f"/proc/self/fd/{fd}")},
            "variables": sorted(os.environ), "directory": os.getcwd(), "session": os.getsid(0) == os.getpid(),
        }
        pathlib.Path(__file__).with_name("told").write_text(json.dumps(told))
        os._exit(3)
"""


def test_the_compiling_process_inherits_nothing(
    bpf_machine: None, tmp_path: Path, program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XIDWATCH_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with (tmp_path / "open").open("w") as mine:
        os.set_inheritable(mine.fileno(), True)
        why = refused(program(NOTHING), stand_in(tmp_path / "fake", _TELL))
    assert why.state is State.COMPILER_CRASHED
    assert "exit code 3" in why.reason
    told = json.loads((tmp_path / "fake/bcc/told").read_text())
    kinds = sorted(target.partition(":")[0] for target in told["fds"].values())
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]
    # Python adds LC_CTYPE by itself (PEP 538).
    assert set(told["variables"]) - {"LC_CTYPE"} == {"BCC_KERNEL_SOURCE", "HOME", "LC_ALL", "PATH"}
    assert told["directory"] == str(tmp_path)
    assert told["session"]


def test_without_any_bcc_it_says_how_to_install_it(bpf_machine: None) -> None:
    with pytest.raises(LoaderError) as error:
        bcc.load(places=())
    assert error.value.why.state is State.NO_BCC
    assert "python3-bpfcc" in (error.value.why.hint or "")


def test_pypis_namesake_is_told_apart(bpf_machine: None, tmp_path: Path) -> None:
    why = refused(None, namesake(tmp_path))
    assert why.state is State.NAMESAKE_BCC
    assert str(tmp_path / "bcc") in why.reason
    assert "PyPI" in why.reason
    assert "python3-bpfcc" in (why.hint or "")


def test_a_package_without_bpf_is_not_accepted_whatever_its_files(bpf_machine: None, tmp_path: Path) -> None:
    assert refused(None, stand_in(tmp_path, "BFP = 'no'")).state is State.NAMESAKE_BCC


def test_pypis_namesake_is_not_in_the_way_of_the_real_one(usable: None, tmp_path: Path) -> None:
    from probes.bpf.bcc_installed import installations

    loaded = bcc.load(places=[namesake(tmp_path), *installations()])
    assert loaded.loader == "bcc"
    loaded.close()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise OSError('libbcc.so.0: cannot open shared object file')", "OSError: libbcc.so.0"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def", "SyntaxError"),
    ],
)
def test_a_bcc_that_cannot_be_imported_is_named(
    bpf_machine: None, tmp_path: Path, code: str, words: str
) -> None:
    why = refused(None, stand_in(tmp_path, code))
    assert why.state is State.NO_BCC
    assert words in why.reason


def test_an_interpreter_that_is_gone_is_named(bpf_machine: None, tmp_path: Path) -> None:
    place = Installation(stand_in(tmp_path, "").directory, tmp_path / "python3")
    why = refused(None, place)
    assert why.state is State.COMPILER_CRASHED
    assert f"cannot start {tmp_path / 'python3'}" in why.reason


def test_without_its_stub_headers_bcc_is_not_left_to_look_for_others(usable: None, tmp_path: Path) -> None:
    why = refused(None, headers=tmp_path)
    assert why.state is State.NO_HEADERS
    assert str(tmp_path / "include/linux/kconfig.h") in why.reason


def test_stub_headers_that_are_not_enough_are_named(usable: None, tmp_path: Path) -> None:
    if Path(f"/lib/modules/{os.uname().release}/build/include/linux/kconfig.h").exists():
        pytest.skip("headers of this kernel are installed, and would be taken")
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").write_text("#define CONFIG_BPF_SYSCALL 1\n")
    why = refused(None, headers=tmp_path)
    assert why.state is State.NO_HEADERS
    assert "no header" in why.reason


def test_a_header_of_the_kernel_that_is_not_installed_is_named_with_its_line(
    usable: None, program: Callable[[str], Path]
) -> None:
    if Path(f"/lib/modules/{os.uname().release}/build/include/linux/kconfig.h").exists():
        pytest.skip("headers of this kernel are installed")
    mine = program("/* looks at a task */\n#include <linux/sched.h>\n")
    why = refused(mine)
    assert why.state is State.NO_HEADERS
    assert f"{mine}:2: no header linux/sched.h" in why.reason
    assert os.uname().release in (why.hint or "")


def test_headers_named_in_the_environment_are_taken_where_the_stub_lacks_one(
    usable: None, tmp_path: Path, program: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "linux"
    subprocess.run(["cp", "-r", bcc.HEADERS, source], check=True)
    (source / "include/linux/sched.h").write_text("#define ANSWER 0\n")
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(source))
    mine = program(f"#include <linux/sched.h>\n{MAPS}RAW_TRACEPOINT_PROBE(console) {{ return ANSWER; }}\n")
    bcc.load(mine).close()


def test_the_first_error_of_a_program_is_named_with_its_line(
    usable: None, program: Callable[[str], Path]
) -> None:
    mine = program(f"{MAPS}\nRAW_TRACEPOINT_PROBE(console)\n{{\n\treturn nowhere;\n}}\n")
    why = refused(mine)
    assert why.state is State.NOT_COMPILED
    assert why.reason == f"{mine}:8: use of undeclared identifier 'nowhere'"
    assert why.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"BPF_HASH(counts);\nRAW_TRACEPOINT_PROBE(console) {NOTHING}", "no map named `lines`"),
        (f"{MAPS.replace('RINGBUF_OUTPUT(lines, 16)', 'HASH(lines)')}RAW_TRACEPOINT_PROBE(console) {NOTHING}",
         "`lines` is no ring buffer"),
        (f"{MAPS.replace('struct xid_counts', 'u64')}RAW_TRACEPOINT_PROBE(console) {NOTHING}",
         "`counts` is no per-CPU array of struct xid_counts"),
    ],
    ids=["no lines", "lines is a hash", "counts of one number"],
)  # fmt: skip
def test_a_program_with_another_layout_is_refused(
    usable: None, program: Callable[[str], Path], text: str, words: str
) -> None:
    mine = program(text)
    why = refused(mine)
    assert why.state is State.FOREIGN_LAYOUT
    assert why.reason == f"{mine} has another event layout: {words}"
    assert "xid.h" in (why.hint or "")


def test_a_program_that_attaches_to_nothing_is_refused(usable: None, program: Callable[[str], Path]) -> None:
    why = refused(program(f"{MAPS}int lonely(void *context) {NOTHING}"))
    assert why.state is State.NO_PROGRAM
    assert "RAW_TRACEPOINT_PROBE" in (why.hint or "")


def test_a_program_that_cannot_be_read_is_named(bpf_machine: None, tmp_path: Path) -> None:
    why = refused(tmp_path / "gone.c")
    assert why.state is State.NO_PROGRAM
    assert f"{tmp_path / 'gone.c'}: no such file" in why.reason
    os.mkfifo(tmp_path / "fifo.c")
    for path in (tmp_path, tmp_path / "fifo.c"):
        assert "not a regular file" in refused(path).reason


def test_a_tracepoint_that_this_kernel_lacks_is_named(usable: None, program: Callable[[str], Path]) -> None:
    why = refused(program(f"{MAPS}RAW_TRACEPOINT_PROBE(no_such_thing) {NOTHING}"))
    assert why.state is State.TRACEPOINT_ABSENT
    assert "no_such_thing" in why.reason


def test_what_the_verifier_says_of_a_program_is_passed_on(
    usable: None, program: Callable[[str], Path]
) -> None:
    why = refused(program(f"{MAPS}RAW_TRACEPOINT_PROBE(console) {{ for (;;) bpf_ktime_get_ns(); }}\n"))
    assert why.state is State.VERIFIER
    assert "verifier refuses" in why.reason


_HANG = """
import os, pathlib, time
class BPF:
    def __init__(self, **_):
        pathlib.Path(__file__).with_name("pid").write_text(str(os.getpid()))
        while True: CODE
"""


@pytest.mark.parametrize("busy", ["time.sleep(60)", "print('still at it', flush=True)"])
def test_a_compiler_that_does_not_finish_is_killed(bpf_machine: None, tmp_path: Path, busy: str) -> None:
    place = stand_in(tmp_path, _HANG.replace("CODE", busy))
    why = refused(None, place, deadline_s=1.0)
    assert why.state is State.COMPILER_HANGS
    assert "within 1 s" in why.reason
    assert not Path("/proc", (tmp_path / "bcc/pid").read_text()).exists()


def test_the_real_compiler_is_killed_too(
    usable: None, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    os.mkfifo(tmp_path / "never_written.h")
    mine = program('#include "never_written.h"\n')
    children = _children()
    assert refused(mine, deadline_s=2.0).state is State.COMPILER_HANGS
    assert _children() <= children


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os._exit(0)", "exit code 0"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("print('LLVM ERROR: out of paper'); os.abort()", "killed by SIGABRT"),
        ("sys.exit(5)", "exit code 5"),
        ("socket.socket(fileno=os.dup(int(sys.argv[2]))).send(b'{}'); os._exit(0)", "exit code 0"),
        ("socket.socket(fileno=os.dup(int(sys.argv[2]))).send(b'what?'); os._exit(0)", "exit code 0"),
        ("socket.send_fds(socket.socket(fileno=os.dup(int(sys.argv[2]))), [MESSAGE], [1, 1, 1]); os._exit(0)",
         "exit code 0"),
    ],
    ids=["ends", "is killed", "aborts", "exits", "empty answer", "nonsense", "too few descriptors"],
)  # fmt: skip
def test_a_compiler_that_hands_over_nothing_usable_is_a_state(
    bpf_machine: None, tmp_path: Path, code: str, words: str
) -> None:
    message = b'{"version": "1", "hooks": [], "programs": 1, "links": 1}'
    code = f"import os, socket, sys\nMESSAGE = {message!r}\nclass BPF:\n  def __init__(self, **_): {code}\n"
    why = refused(None, stand_in(tmp_path, code))
    assert why.state is State.COMPILER_CRASHED
    assert f"handed over no program ({words})" in why.reason
    assert "native" in (why.hint or "")


def test_what_a_crashed_compiler_said_last_is_passed_on(bpf_machine: None, tmp_path: Path) -> None:
    code = (
        "import os\nclass BPF:\n  def __init__(self, **_): os.write(2, b'LLVM ERROR: no paper'); os.abort()"
    )
    assert "LLVM ERROR: no paper" in refused(None, stand_in(tmp_path, code)).reason


_LOAD = """
import sys
from pathlib import Path
from probes.bpf import bcc
from probes.bpf.bcc_installed import Installation
bcc.load(places=[Installation(Path(sys.argv[1]), Path(sys.executable))])
"""


def test_the_compiler_dies_with_the_daemon(bpf_machine: None, tmp_path: Path) -> None:
    place = stand_in(tmp_path, _HANG.replace("CODE", "time.sleep(60)"))
    note = tmp_path / "bcc/pid"
    command = [sys.executable, "-c", _LOAD, str(place.directory)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        pid = wait_for(lambda: note.exists() and note.read_text(), "the compiler to start")
        process.kill()
    wait_for(lambda: not Path("/proc", str(pid)).exists() or _is_dead(str(pid)), "the compiler to die")


def _is_dead(pid: str) -> bool:
    """Dead and not reaped: where the tests run as another's child, no one may be there to do it."""
    return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] == "Z"


_TRY = """
import sys
from pathlib import Path
from probes.bpf import bcc
from probes.bpf.availability import attach
found = attach(lambda: bcc.load(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
print(getattr(found, "state", "hears"))
"""


@pytest.mark.parametrize(
    ("missing", "state"),
    [
        ("-bpf,-perfmon,-sys_admin", State.NO_CAPABILITY),
        ("-perfmon,-sys_admin", State.ONLY_CAP_BPF),
    ],
)
def test_a_missing_capability_is_named_as_with_the_native_loader(
    usable: None, missing: str, state: State
) -> None:
    command = ["setpriv", f"--bounding-set={missing}", f"--inh-caps={missing}", sys.executable, "-c", _TRY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.strip() == state


def test_a_warning_of_the_compiler_does_not_hide_the_kernels_no(
    usable: None, program: Callable[[str], Path]
) -> None:
    mine = program(f"#warning written in a hurry\n{MAPS}RAW_TRACEPOINT_PROBE(console) {NOTHING}")
    bcc.load(mine).close()
    missing = "-perfmon,-sys_admin"
    command = ["setpriv", f"--bounding-set={missing}", f"--inh-caps={missing}", sys.executable, "-c", _TRY]
    done = subprocess.run([*command, str(mine)], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.strip() == State.ONLY_CAP_BPF


def test_a_program_finds_headers_beside_itself_before_ours(
    usable: None, tmp_path: Path, program: Callable[[str], Path]
) -> None:
    (tmp_path / "filter.h").write_text("#define MINE return 0\n")
    bcc.load(program(f'#include "filter.h"\n{MAPS}RAW_TRACEPOINT_PROBE(console) {{ MINE; }}\n')).close()


def test_with_no_more_than_the_two_capabilities_it_loads(usable: None) -> None:
    keep = "-all,+bpf,+perfmon"
    command = ["setpriv", f"--bounding-set={keep}", f"--inh-caps={keep}", sys.executable, "-c", _TRY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(done.stderr)
    assert done.stdout.strip() == "hears"


_COUNT = """
import sys
from pathlib import Path
from probes.bpf import bcc
from probes.bpf.counters import Counters
from tests.support.bcc import is_loaded, program_id
from tests.support.waiting import wait_for
loaded = bcc.load(Path(sys.argv[1]))
counters, number = Counters(loaded), program_id(loaded.programs[0])
before = counters.read().seen
wait_for(lambda: counters.read().seen > before, "the program to be called")
loaded.close()
wait_for(lambda: not is_loaded(number), "the program to leave the kernel")
print(loaded.hook)
"""


def test_a_program_at_a_tracepoint_goes_on_when_the_compiler_has_ended_and_leaves_when_it_is_closed(
    usable: None, program: Callable[[str], Path]
) -> None:
    # A perf event, unlike the links of the other tests; in a mount namespace of its own for tracefs.
    code = "int only = 0; struct xid_counts *own = counts.lookup(&only); if (own) own->seen++; return 0;"
    mine = program(f"{MAPS}TRACEPOINT_PROBE(sched, sched_switch) {{ {code} }}\n")
    mounted = 'mount -t tracefs tracefs /sys/kernel/tracing && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", sys.executable, "-c", _COUNT, str(mine)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode and "Traceback" not in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.stdout == "tracepoint sched:sched_switch\n", done.stderr


def test_the_doctors_words_are_the_loaders(bpf_machine: None, tmp_path: Path) -> None:
    found = attach(lambda: bcc.load(tmp_path / "gone.c"))
    assert isinstance(found, Unavailable)
    assert found.state is State.NO_PROGRAM
