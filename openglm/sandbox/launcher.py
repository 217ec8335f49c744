"""Runs one job of the sandbox: `python -EsS launcher.py STATUS_DESCRIPTOR`, started by `openglm.sandbox.run`.

Standard input brings the length of the job (4 bytes), the job (JSON) and the contents of its files; what follows is
the program's own input. The steps (compile, run) are children of a supervisor, which is process 1 of its namespaces
where there are any. It ends a step at its deadline or when its processes together hold too much memory, ends all when
the reader of the status pipe goes away, and writes one object of JSON there. No process survives a step. A protection
that was asked for and cannot be had ends the job before the program starts.
"""

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable

import isolation

TICK = 0.02  # seconds between two looks at the memory. One thread touches some 2 GB/s, so it gets 40 MB too far
PROCESSES = 64  # of a program, threads included: HotSpot starts 14, rustc 16
OPEN_FILES, COMPILER_FILES = 64, 1024  # of each process; linkers keep their inputs open
SOCKET_BYTES = 425_984  # what may wait in a socket unread: twice net.core.wmem_max, as SO_SNDBUF gives
# Bytes of address space beside the memory: HotSpot reserves 2.6 GB, V8 0.7 GB. It bounds the page tables of mappings
# that stay empty
RESERVED = 4 << 30
FILE_BYTES = 64 << 20  # of one file: a Rust program has 4 MB
MESSAGES_BYTES = 1 << 16  # of a compiler's messages


def main() -> None:
    status = int(sys.argv[1])
    os.set_inheritable(status, False)
    try:
        job = json.loads(read_exactly(int.from_bytes(read_exactly(4), "little")))
        contents = [(name, read_exactly(size)) for name, size in job["files"]]
        if "namespaces" in job["layers"]:
            isolation.enter_namespaces()
            first = os.fork()
            if first:
                os.waitpid(first, 0)
                os._exit(0)
        report = Supervisor(job, status).run(contents)
    except Exception as error:  # whatever it is, the program must not run, and the caller must hear why
        report = {"error": str(error)}
    os.write(status, json.dumps(report).encode())


def read_exactly(count: int) -> bytes:
    """From standard input, unbuffered: the program's own input stays in the pipe."""
    pieces = []
    while count:
        pieces.append(os.read(0, min(count, 1 << 20)))
        if not pieces[-1]:
            raise EOFError("the job ended early")
        count -= len(pieces[-1])
    return b"".join(pieces)


class Supervisor:
    """Runs the steps of a job one after another."""

    def __init__(self, job: dict, status: int):
        self.job = job
        self.layers = job["layers"]
        self.work = job["work"]
        self.inside = "namespaces" in self.layers
        self.user = isolation.USER if self.inside else isolation.NOBODY
        self.becomes_user = os.geteuid() == 0 and "seccomp" in self.layers
        self.mounted: set[str] = set()
        if self.inside:
            folders = sorted({folder for step in job["steps"] for folder in step["folders"]})
            size = max(step["memory"] for step in job["steps"])
            self.mounted = {"/proc", *isolation.build_view(folders, self.work, size)}
        elif "landlock" in self.layers:
            isolation.adopt_orphans()
        # Stays readable when it is unmounted. Systems without it have no measure of memory
        self.proc = os.open("/proc", os.O_RDONLY) if os.path.isdir("/proc/self") else None
        self.wake, woken = os.pipe()
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.events = select.poll()
        self.events.register(self.wake, select.POLLIN)
        self.events.register(status, 0)  # 0: only that its reader is gone

    def run(self, contents: list[tuple[str, bytes]]) -> dict:
        self.write_files(contents)
        report: dict = {}
        for step in self.job["steps"]:
            gone = self.mounted.difference(step["folders"])
            for path in gone:  # what only the compiler needed; /proc was there for the supervisor
                isolation.unmount(path)
            self.mounted -= gone
            report = self.run_step(step)
            if report["status"] or report["killed_by"]:
                break
        return report

    def write_files(self, contents: list[tuple[str, bytes]]) -> None:
        """As the user who will run the program, so that it may change them."""
        if self.becomes_user:
            os.chown(self.work, self.user, self.user)
            os.setegid(self.user)
            os.seteuid(self.user)
        for name, content in contents:
            path = os.path.join(self.work, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "xb") as file:
                file.write(content)
        if self.becomes_user:
            os.seteuid(0)
            os.setegid(0)

    def run_step(self, step: dict) -> dict:
        messages = self.scratch_file() if step["compiles"] else None
        allowed = step["memory"] + self.shared_memory()  # what the compiler left does not count
        start = time.monotonic()
        child = self.start(step, messages)
        status, killed_by = None, None
        try:
            while status is None and killed_by is None:
                abandoned = self.wait()
                status = self.collect(child, os.WNOHANG)
                if abandoned:
                    killed_by = "caller"
                elif status is None and time.monotonic() - start > step["seconds"]:
                    killed_by = "time"
                elif status is None and self.holds_more(child, allowed):
                    killed_by = "memory"
        finally:
            seconds = time.monotonic() - start
            self.kill(child)
            last = self.collect(child, 0)
        if messages is not None and (status or killed_by):
            os.write(2, os.pread(messages, MESSAGES_BYTES, 0))
        return {"status": last if status is None else status, "seconds": seconds, "killed_by": killed_by}

    def scratch_file(self) -> int:
        """For a compiler's messages, which nobody wants to see if it succeeds."""
        path = os.path.join(self.work, ".messages")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        os.unlink(path)
        return file

    def wait(self) -> bool:
        """Until a child ends, for one tick at most. Returns whether nobody reads the status pipe any more."""
        ready = [descriptor for descriptor, _ in self.events.poll(TICK * 1000)]
        if self.wake in ready:
            os.read(self.wake, 4096)
        return any(descriptor != self.wake for descriptor in ready)

    def start(self, step: dict, messages: int | None) -> int:
        """A child that runs the step's command; every error before that is raised here."""
        limits = self.limits(step)
        errors, failed = os.pipe()  # closed by exec
        child = os.fork()
        if child == 0:
            try:
                self.isolate(step, limits, messages)
                os.execve(step["command"][0], step["command"], self.job["environment"])
            except BaseException as error:
                os.write(failed, str(error).encode())
            finally:
                os._exit(1)
        os.close(failed)
        failure = os.read(errors, 4096).decode()
        os.close(errors)
        if failure:
            raise OSError(failure)
        return child

    def isolate(self, step: dict, limits: dict[int, int], messages: int | None) -> None:
        os.setpgid(0, 0)
        os.chdir(self.work)
        if messages is not None:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(messages, 1)
            os.dup2(messages, 2)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored stays so
            signal.signal(number, signal.SIG_DFL)
        for name, value in limits.items():
            hard = resource.getrlimit(name)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(name, (value, value))
        if "seccomp" not in self.layers:
            return
        isolation.drop_privileges(self.user)
        if "landlock" in self.layers:
            isolation.restrict_files([folder for folder in step["folders"] if folder != "/proc"], self.work)
        isolation.restrict_calls(self.inside or step["compiles"])

    def limits(self, step: dict) -> dict[int, int]:
        """Resource limits of each process: by number, since systems differ in what they have."""
        limits = {
            "AS": step["memory"] + RESERVED,
            "DATA": step["memory"] + step["reserve"],  # unlike AS, it does not count what is only reserved
            "CPU": int(step["seconds"] + 2) * (os.cpu_count() or 1),  # in case the supervisor itself dies
            "FSIZE": FILE_BYTES,
            "NOFILE": COMPILER_FILES if step["compiles"] else OPEN_FILES,
            "NPROC": PROCESSES + (0 if self.inside else self.tasks_of_user()),
            "CORE": 0,
            "MSGQUEUE": 0,
            "MEMLOCK": 0,
        }
        if self.proc is None:  # macOS has no measure of the user's processes, and large mappings from the start
            limits = {name: value for name, value in limits.items() if name not in ("AS", "DATA", "NPROC")}
        numbers = {name: getattr(resource, f"RLIMIT_{name}", None) for name in limits}
        return {number: limits[name] for name, number in numbers.items() if number is not None}

    def collect(self, child: int, flags: int) -> int | None:
        """Reap the dead, orphans too: those there are, or with flags = 0 until no process is left.

        Returns the child's exit status, negative for a signal, if it is among them.
        """
        status = None
        while True:
            try:
                process, code = os.waitpid(-1, flags)
            except ChildProcessError:
                return status
            if process == 0:
                return status
            if process == child:
                status = os.waitstatus_to_exitcode(code)

    def kill(self, child: int) -> None:
        """End every process of the step: all of the namespace, or else the child's group, which no one may leave."""
        try:
            if self.inside:
                os.kill(-1, signal.SIGKILL)
            else:
                os.killpg(child, signal.SIGKILL)
        except ProcessLookupError:
            pass  # all have ended by themselves

    def holds_more(self, child: int, allowed: int) -> bool:
        """Whether the processes of the step, their page tables, sockets and files hold more than `allowed` bytes."""
        shared = self.shared_memory()

        def ours(process: int) -> bool:
            return process != os.getpid() and (self.inside or os.getpgid(process) == child)

        if shared + 1024 * self.total("status", ("RssAnon", "RssShmem", "VmPTE"), ours) <= allowed:
            return False
        try:  # that sum counts what forked processes share once for each; this one does not, but walks all pages
            return shared + 1024 * self.total("smaps_rollup", ("Pss_Anon", "Pss_Shmem"), ours) > allowed
        except PermissionError:  # a process has forbidden to be inspected
            return True

    def shared_memory(self) -> int:
        """Bytes of files in memory and of sockets, which no process shows; namespaces have their own."""
        if not self.inside:
            return 0
        space = os.statvfs("/")
        with open(os.open("self/net/unix", os.O_RDONLY, dir_fd=self.proc)) as sockets:
            return (space.f_blocks - space.f_bfree) * space.f_frsize + SOCKET_BYTES * (len(list(sockets)) - 1)

    def tasks_of_user(self) -> int:
        """Processes and threads that the user's limit counts besides ours."""
        user = self.user if self.becomes_user else os.getuid()
        return self.total(
            "status", ("Threads",), lambda process: os.stat(str(process), dir_fd=self.proc).st_uid == user
        )

    def total(self, file: str, names: tuple[str, ...], wanted: Callable[[int], bool]) -> int:
        """Sum of the numbers with these names in /proc/PROCESS/FILE of all wanted processes."""
        total = 0
        for process in os.listdir(self.proc) if self.proc is not None else ():
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it has ended meanwhile
                if process.isdigit() and wanted(int(process)):
                    opened = os.open(f"{process}/{file}", os.O_RDONLY, dir_fd=self.proc)
                    with open(opened, errors="replace") as lines:
                        total += sum(int(line.split()[1]) for line in lines if line.split(":")[0] in names)
        return total


if __name__ == "__main__":
    main()
