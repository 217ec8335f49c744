"""Programs that try to leave the sandbox, and the world they try to reach.

A program that gets what it wanted prints ESCAPED, one that is refused prints HELD. Attempts that would do harm where nothing holds them are written so
that they only ask whether they might (signal 0, wrong magic numbers, the clock as it is): a kernel that looks at the arguments at all has let them through.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from openglm.sandbox import Result

SECRET = "the-owner's-secret-4711"

PRELUDE = """
import ctypes, errno, fcntl, json, mmap, os, platform, resource, select, signal, socket, stat, struct, subprocess, sys, threading, time
world = json.loads(sys.stdin.readline())
libc = ctypes.CDLL(None, use_errno=True)
ARM = platform.machine() == "aarch64"
def refused(x86, arm, *arguments):
    "One system call; any answer but EPERM and ENOSYS means that the kernel has let it through."
    arguments = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments]
    if libc.syscall(ctypes.c_long(arm if ARM else x86), *arguments) < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), "refused")
def connect(family, kind, address):
    with socket.socket(family, kind) as s:
        s.settimeout(2)
        s.connect(address)
        if kind == socket.SOCK_DGRAM:
            s.send(b"stolen")
def daemon():
    "Become a process that outlives its parent and holds no pipe of it."
    for descriptor in (0, 1, 2):
        os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(99)", world["marker"]])
def attempt():
"""
FINALE = """
try:
    attempt()
    print("ESCAPED", flush=True)
except (OSError, MemoryError) as error:
    print("HELD", type(error).__name__, error, flush=True)
"""


class Escape(NamedTuple):
    name: str
    stopped_by: str
    """in namespaces"""
    body: str
    killed_by: str | None = None
    """the limit that has to end it; otherwise it has to print HELD"""
    language: str = "python"
    landlock: bool = True
    """holds with landlock instead of namespaces too"""
    harmless: bool = True
    """may be tried without protection"""


VIEW, NET, PIDS, CALLS, LIMITS = "empty file system", "no network", "own processes", "seccomp", "limits"
WATCH = "supervisor"

ESCAPES = [
    # Files
    Escape("read /etc/passwd", VIEW, "open('/etc/passwd').read()"),
    Escape("read a file of the parent", VIEW, "open(world['file']).read()"),
    Escape("read it by a path with ..", VIEW, "open('../' * 20 + world['file'].lstrip('/')).read()"),
    Escape("read it by a symbolic link", VIEW, "os.symlink(world['file'], 'link'); open('link').read()"),
    Escape("read it by a hard link", VIEW, "os.link(world['file'], 'hard'); open('hard').read()"),
    Escape("list the parent's folder", VIEW, "os.listdir(os.path.dirname(world['file']))"),
    Escape("list /var", VIEW, "os.listdir('/var')"),
    Escape("list /sys", VIEW, "os.listdir('/sys')"),
    Escape("write to the parent's file", VIEW, "open(world['file'], 'a').write('x')"),
    Escape("change the mode of the parent's file", VIEW, "os.chmod(world['file'], 0o600)"),
    Escape("delete the parent's file", VIEW, "os.unlink(world['victim_file'])"),
    Escape(
        "write to the standard library",
        "read-only mounts",
        "p = os.__file__[:-5] + '_canary'; open(p, 'w'); os.unlink(p)",
    ),
    Escape(
        "touch the standard library",
        "read-only mounts",
        "s = os.stat(os.__file__); os.utime(os.__file__, ns=(s.st_atime_ns, s.st_mtime_ns))",
    ),
    Escape(
        "make a device node", CALLS, "os.mknod('memory', stat.S_IFCHR | 0o600, os.makedev(1, 1)); os.unlink('memory')"
    ),
    Escape("open the kernel's memory device", VIEW, "os.close(os.open('/dev/kmsg', os.O_RDONLY))"),
    # Secrets of the parent
    Escape("read the parent's environment", PIDS, "open(f\"/proc/{world['pid']}/environ\", 'rb').read()"),
    Escape("open another process's memory", PIDS, "open(f\"/proc/{world['victim']}/mem\", 'rb').close()"),
    Escape("go through another process's root", PIDS, "open(f\"/proc/{world['victim']}/root/etc/passwd\").read()"),
    Escape("list other processes", PIDS, "str(world['pid']) in os.listdir('/proc') or os.stat('/nowhere')"),
    Escape(
        "inherit environment variables",
        "clean environment",
        f"{SECRET!r} in os.environ.values() or os.stat('/nowhere')",
    ),
    Escape(
        "use inherited descriptors",
        "clean descriptors",
        "for d in range(3, 256):\n  try: os.fstat(d)\n  except OSError: continue\n  return\nos.stat('/nowhere')",
    ),
    Escape("type into the terminal", CALLS, "refused(16, 29, 0, 0x5412, b'x')"),
    Escape("read the parent's keys", CALLS, "refused(250, 219, 0, -3, 0)"),
    # Network
    Escape(
        "connect to a TCP port of the host",
        NET,
        "connect(socket.AF_INET, socket.SOCK_STREAM, ('127.0.0.1', world['tcp']))",
    ),
    Escape("send a UDP packet", NET, "connect(socket.AF_INET, socket.SOCK_DGRAM, ('127.0.0.1', world['udp']))"),
    Escape("connect to a Unix socket", NET, "connect(socket.AF_UNIX, socket.SOCK_STREAM, world['unix'])"),
    Escape(
        "connect to an abstract socket", NET, "connect(socket.AF_UNIX, socket.SOCK_STREAM, '\\0' + world['abstract'])"
    ),
    Escape(
        "ask a name server", NET, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'query', ('127.0.0.1', 53))"
    ),
    Escape("open a port", NET, "s = socket.socket(); s.bind(('', 0)); s.listen()"),
    Escape("raw IP packets", NET, "socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)"),
    Escape("packets of the interface", NET, "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)"),
    Escape("netlink", NET, "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    Escape("pass descriptors", CALLS, "a, b = socket.socketpair(); socket.send_fds(a, [b'x'], [0])"),
    # Other processes
    Escape("signal the parent", PIDS, "os.kill(world['pid'], 0)"),
    Escape("signal everyone", PIDS, "os.kill(-1, signal.SIGURG); os.stat('/nowhere')", harmless=False),
    Escape("kill the supervisor", PIDS, "os.kill(os.getppid(), signal.SIGKILL); os.stat('/nowhere')"),
    Escape("debug another process", CALLS, "refused(101, 117, 0x4206, world['victim'], 0, 0)"),
    Escape("read another process's memory", CALLS, "refused(310, 270, world['victim'], 0, 0, 0, 0, 0)"),
    Escape("take another process's descriptors", CALLS, "refused(434, 434, world['victim'], 0)"),
    Escape("limit another process", CALLS, "resource.prlimit(world['victim'], resource.RLIMIT_NOFILE)"),
    Escape("slow another process down", PIDS, "os.setpriority(os.PRIO_PROCESS, world['victim'], 5)"),
    Escape(
        "move another process", PIDS, "os.sched_setaffinity(world['victim'], os.sched_getaffinity(world['victim']))"
    ),
    # Processes that stay
    Escape("200 processes", LIMITS, "[os.fork() or time.sleep(30) for _ in range(200)]"),
    Escape(
        "fork bomb",
        LIMITS,
        "\n".join(["while True:", "  try: os.fork()", "  except OSError: pass"]),
        "time",
        harmless=False,
    ),
    Escape(
        "200 threads",
        LIMITS,
        "\n".join(
            [
                "threading.stack_size(1 << 16)",
                "try: [threading.Thread(target=time.sleep, args=(30,), daemon=True).start() for _ in range(200)]",
                "except RuntimeError as error: raise OSError(error)",
            ]
        ),
    ),
    Escape("200 zombies", LIMITS, "[os.fork() or os._exit(0) for _ in range(200)]"),
    Escape(
        "a daemon: forked twice, in its own session",
        PIDS,
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: daemon()\n  os._exit(0)\nos.wait(); os.stat('/nowhere')",
    ),
    Escape(
        "a child in its own process group",
        PIDS,
        "if os.fork() == 0:\n  os.setpgid(0, 0); daemon()\ntime.sleep(0.3); os.stat('/nowhere')",
    ),
    Escape(
        "a child that ignores signals",
        PIDS,
        "if os.fork() == 0:\n  [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; daemon()\ntime.sleep(0.3); os.stat('/nowhere')",
    ),
    Escape(
        "a stopped child",
        PIDS,
        "p = os.fork()\nif p == 0: daemon()\nos.kill(p, signal.SIGSTOP); os.stat('/nowhere')",
    ),
    # Time, memory, disk
    Escape("compute for ever", WATCH, "while True: pass", "time"),
    Escape(
        "sleep for ever, deaf to signals",
        WATCH,
        "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(99)",
        "time",
    ),
    Escape("close all pipes and stay", WATCH, "os.closerange(0, 3); time.sleep(99)", "time"),
    Escape("memory bomb", LIMITS, "x = [bytearray(1 << 24) for _ in range(64)]"),
    Escape(
        "memory of many processes",
        WATCH,
        "for _ in range(8):\n  if os.fork() == 0: x = os.urandom(1) * (60 << 20); time.sleep(60)\ntime.sleep(60)",
        "memory",
    ),
    Escape(
        "shared memory",
        WATCH,
        "m = mmap.mmap(-1, 1 << 30)\nfor i in range(0, 1 << 30, 4096): m[i] = 1\ntime.sleep(60)",
        "memory",
    ),
    Escape(
        "page tables",
        LIMITS,
        "mmap.mmap(-1, 1 << 40, flags=mmap.MAP_PRIVATE | 0x4000, prot=mmap.PROT_READ)",
    ),
    Escape(
        "memory of sockets",
        WATCH,
        """for _ in range(20):
  if os.fork() == 0: break
kept = []
try:
  while True:
    kept += socket.socketpair()
    for s in kept[-2:]:
      s.setblocking(False)
      try:
        while True: s.send(bytes(1 << 16))
      except BlockingIOError: pass
except OSError: time.sleep(60)""",
        "memory",
        landlock=False,
        harmless=False,
    ),
    Escape("memory without a process", CALLS, "os.memfd_create('x')"),
    Escape("System V shared memory", CALLS, "refused(29, 194, 0, 1 << 16, 0o1600)"),
    Escape("message queues", CALLS, "refused(240, 180, b'x', 0, 0, 0)"),
    Escape(
        "fill the disk",
        WATCH,
        "for i in range(40):\n  with open(f'{i}', 'wb') as f: [f.write(bytes(1 << 20)) for _ in range(32)]\ntime.sleep(60)",
        "memory",
        landlock=False,
        harmless=False,
    ),
    Escape(
        "fill the disk with names",
        "empty file system",
        "for i in range(20000): open(f'{i}', 'w').close()",
        landlock=False,
    ),
    Escape("a sparse file of a terabyte", LIMITS, "open('sparse', 'wb').truncate(1 << 40)"),
    Escape("flood standard output", WATCH, "while True: print('x' * 1000)", "output"),
    Escape("flood standard error", WATCH, "while True: os.write(2, b'x' * 1000)", "output"),
    Escape("core dumps", LIMITS, "resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 or os.stat('/nowhere')"),
    Escape(
        "raise its own limits",
        LIMITS,
        "try: resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999))\nexcept ValueError as error: raise OSError(error)",
        harmless=False,
    ),
    # Privileges
    Escape("become root", "no privileges", "os.setresuid(0, 0, 0)"),
    Escape(
        "hold capabilities",
        "no privileges",
        "b = ctypes.create_string_buffer(24); refused(125, 90, struct.pack('Ii', 0x20080522, 0), ctypes.addressof(b)); any(b.raw) or os.stat('/nowhere')",
    ),
    Escape("gain by setuid programs", "no new privileges", "libc.prctl(39, 0, 0, 0, 0) == 1 and os.stat('/nowhere')"),
    Escape("run a program of the host", VIEW, "subprocess.run(['/bin/sh', '-c', 'exit'])"),
    Escape("mount", CALLS, "refused(165, 40, b'none', b'/nowhere', b'tmpfs', 0, 0)"),
    Escape("new namespaces", CALLS, "refused(272, 97, 0x10000000)"),
    Escape("new namespaces by clone", CALLS, "refused(56, 220, 0x10000000 | 0x200, 0, 0, 0, 0)"),
    Escape("new namespaces by clone3", CALLS, "refused(435, 435, 0, 0)"),
    Escape("enter a namespace", CALLS, "refused(308, 268, -1, 0)"),
    Escape("chroot twice", CALLS, "os.mkdir('a'); os.chroot('a'); os.chdir('../' * 20)"),
    Escape("pivot the root", CALLS, "refused(155, 41, b'.', b'.')"),
    Escape("open files by handle", CALLS, "refused(304, 265, -1, 0, 0)"),
    Escape("watch all files", CALLS, "refused(300, 262, 0, 0)"),
    Escape("name the host", CALLS, "socket.sethostname(os.uname().nodename)"),
    # The kernel
    Escape("bpf", CALLS, "refused(321, 280, 0, 0, 0)"),
    Escape("perf_event_open", CALLS, "refused(298, 241, 0, 0, -1, -1, 0)"),
    Escape("userfaultfd", CALLS, "refused(323, 282, 0)"),
    Escape("io_uring", CALLS, "refused(425, 425, 1, 0)"),
    Escape("personality", CALLS, "refused(135, 92, 0xFFFFFFFF)"),
    Escape("load a kernel", CALLS, "refused(246, 104, 0, 99, 0, 0)"),
    Escape("load a module", CALLS, "refused(175, 105, 0, 0, 0)"),
    Escape("set the clock", CALLS, "refused(227, 112, 99, 0)"),
    Escape("restart the machine", CALLS, "refused(169, 142, 0, 0, 0, 0)"),
    Escape("read the kernel's log", CALLS, "refused(103, 116, 10, 0, 0)"),
    Escape("swap files", CALLS, "refused(167, 224, b'/nowhere', 0)"),
    # Compilers read files too
    Escape("a header of the parent", VIEW, '#include "{file}"\nint main() {}', language="cpp"),
    Escape("a file by the assembler", VIEW, '__asm__(".incbin \\"{file}\\"");\nint main() {}', language="cpp"),
    Escape("an include of rustc", VIEW, 'fn main() {{ println!("{{}}", include_str!("{file}")); }}', language="rust"),
]


def program(escape: Escape, world: dict) -> str:
    if escape.language != "python":
        return escape.body.replace("{file}", world["file"]).replace("{{", "{").replace("}}", "}")
    body = "\n".join("    " + line for line in escape.body.splitlines())
    return PRELUDE + body + "\n" + FINALE


def outcome(escape: Escape, world: dict, run: Callable[..., Result]) -> str:
    """ "" if the escape was held, else what went wrong."""
    marker = f"escape-{escape.name.replace(' ', '-')}-{world['pid']}"
    stdin = json.dumps(world | {"marker": marker}) + "\n"
    seconds = 1.0 if escape.killed_by == "time" else 20.0
    try:
        result = run(program(escape, world), language=escape.language, stdin=stdin, seconds=seconds)
    except OSError as error:
        return f"the sandbox broke: {error}"
    if running(marker):
        return "a process is left"
    if SECRET in result.stdout + result.stderr or "ESCAPED" in result.stdout:
        return f"escaped: {result}"
    if escape.language != "python":
        return "" if result.status else f"it compiled: {result}"
    if result.killed_by != escape.killed_by or (escape.killed_by is None and not result.stdout.startswith("HELD")):
        return f"neither held nor escaped: {result}"
    return ""


def running(marker: str) -> list[int]:
    """Processes of the machine that carry `marker` in their command line."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if marker.encode() in Path("/proc", process, "cmdline").read_bytes():
                found.append(int(process))
    return found


@contextlib.contextmanager
def open_world() -> Iterator[dict]:
    """A file with a secret, a process, sockets that listen, an inheritable descriptor: what escapes reach for. Checks at the end that nothing was reached."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="world-")))
        folder.chmod(0o755)  # what protects it is not its mode
        secret, other = folder / "secret", folder / "other"
        secret.write_text(SECRET)
        other.touch()
        # SIGURG is ignored by those who do not ask for it
        waits = "import os, signal, time; signal.signal(signal.SIGURG, lambda *_: os._exit(1)); time.sleep(600)"
        victim = subprocess.Popen([sys.executable, "-c", waits])
        stack.callback(victim.wait)
        stack.callback(victim.kill)
        os.environ["OWNER_SECRET"] = SECRET
        stack.callback(os.environ.pop, "OWNER_SECRET")
        descriptor = os.open(secret, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        stack.callback(os.close, descriptor)
        reached: list[str] = []
        addresses = {
            name: stack.enter_context(_listener(name, folder, reached)) for name in ("tcp", "udp", "unix", "abstract")
        }
        yield dict(pid=os.getpid(), victim=victim.pid, file=str(secret), victim_file=str(other), **addresses)
        assert reached == [] and victim.poll() is None
        assert secret.read_text() == SECRET and other.exists()


@contextlib.contextmanager
def _listener(name: str, folder: Path, reached: list[str]) -> Iterator[int | str]:
    family = socket.AF_INET if name in ("tcp", "udp") else socket.AF_UNIX
    abstract = f"world-{os.getpid()}"
    with socket.socket(family, socket.SOCK_DGRAM if name == "udp" else socket.SOCK_STREAM) as server:
        server.bind({"unix": str(folder / "socket"), "abstract": "\0" + abstract}.get(name, ("127.0.0.1", 0)))
        if name == "unix":
            (folder / "socket").chmod(0o777)
        if name != "udp":
            server.listen()
        server.settimeout(0.2)
        ended = threading.Event()

        def listen() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    server.recv(9) if name == "udp" else server.accept()
                    reached.append(name)

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield {"unix": str(folder / "socket"), "abstract": abstract}.get(name) or server.getsockname()[1]
        finally:
            ended.set()
            thread.join()
