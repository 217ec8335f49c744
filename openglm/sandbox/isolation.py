"""What Linux offers to keep a process apart, through libc: namespaces, an empty file system, Landlock, seccomp.

Read by the launcher alone, in a bare interpreter, so this file imports only the standard library. Nothing falls back:
what cannot be had is an `OSError`. Numbers come from the kernel's headers (include/uapi/linux), and tests/sandbox
compares the system calls with the headers of the machine.
"""

import ctypes
import os
import stat
import struct

_libc = ctypes.CDLL(None, use_errno=True)

USER = 1000  # who the program is inside its namespace: any id that is not root's
NOBODY = 65534  # who it is outside, if root started it (the kernel's overflowuid)

_NAMESPACES = 0x7E020000  # sched.h: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

# mount.h
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")

_PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 22, 36, 38  # prctl.h

# Calls newer than 423 have one number on all machines
_MOUNT_SETATTR, _LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 442, 444, 445, 446

# landlock.h, bits of rights: run, write, read a file, read a folder; 14 truncates. Version 3 (Linux 6.2) is the first
# that keeps files from being cut
_READ, _WRITE, _ALL = 0b1101, 1 << 14 | 0b10, (1 << 15) - 1
_ON_FILES = 1 << 14 | 0b111  # rights that a rule for a single file may give
_LANDLOCK_VERSION = 3

# audit.h: AUDIT_ARCH; unistd.h: pivot_root, and the first number after those of Linux 5.0, when both lists were closed
_ARCHITECTURES = {"x86_64": (0xC000003E, 155, 335), "aarch64": (0xC00000B7, 41, 295)}
_MACHINE = os.uname().machine

# A list of what is denied, not of what is allowed: six languages' run times use some 200 calls, other ones with each
# release, and a forgotten one is a program that fails now and then. The usual hole of such lists, calls yet to be
# invented, is closed: what came before Linux 5.0 is known in full, and of what came since only the calls named in
# _NEW exist. Numbers are x86-64's and aarch64's (unistd_64.h, asm-generic/unistd.h).
DENIED = """
other processes: ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272
kernel and clock: bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, syslog 103 116, lookup_dcookie 212 18,
    personality 135 92, modify_ldt 154 -, kexec_load 246 104, kexec_file_load 320 294, init_module 175 105,
    finit_module 313 273, delete_module 176 106, reboot 169 142, iopl 172 -, ioperm 173 -, settimeofday 164 170,
    clock_settime 227 112, clock_adjtime 305 266, adjtimex 159 171, acct 163 89
mounts and names: mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, setns 308 268, unshare 272 97,
    mknod 133 -, mknodat 259 33, sethostname 170 161, setdomainname 171 162, swapon 167 224, swapoff 168 225,
    quotactl 179 60, sync 162 81, syncfs 306 267, name_to_handle_at 303 264, open_by_handle_at 304 265,
    fanotify_init 300 262, vhangup 153 58
keys: add_key 248 217, request_key 249 218, keyctl 250 219
network: socket 41 198, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, sendmsg 46 211,
    sendmmsg 307 269
memory that no process shows: memfd_create 319 279, shmget 29 194, shmat 30 196, shmctl 31 195, msgget 68 186,
    msgsnd 69 189, msgrcv 70 188, msgctl 71 187, semget 64 190, semop 65 193, semctl 66 191, semtimedop 220 192,
    mq_open 240 180, io_setup 206 0, io_submit 209 2
pages and pipes: move_pages 279 239, migrate_pages 256 238, mbind 237 235, set_mempolicy 238 237,
    remap_file_pages 216 234, splice 275 76, vmsplice 278 75, tee 276 77
unused: _sysctl 156 -, uselib 134 -, ustat 136 -, sysfs 139 -, nfsservctl 180 42
"""
# Without namespaces the program shares users and processes with the system: it may change no owner, mode, time or
# attribute of a file (Landlock does not ask), touch no other process, and must stay in the process group that is
# killed.
DENIED_OUTSIDE = """
files: chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54, utime 132 -,
    utimes 235 -, utimensat 280 88, futimesat 261 -, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7,
    removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16
processes: setsid 112 157, setpgid 109 154, setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122,
    sched_setparam 142 118, sched_setscheduler 144 119, sched_setattr 314 274, tkill 200 130, rt_sigqueueinfo 129 138,
    rt_tgsigqueueinfo 297 240
"""
# name, numbers, argument, mask, value: allowed where (argument & mask) == value
CONDITIONS = (
    ("clone", (56, 220), 0, _NAMESPACES, 0),  # no new namespaces
    ("socketpair", (53, 199), 0, 0xFFFFFFFF, 1),  # AF_UNIX: event loops wake themselves through a pair
    ("prlimit64", (302, 261), 0, 0xFFFFFFFF, 0),  # its own limits
)
SIGNALS = (("kill", (62, 129)), ("tgkill", (234, 131)))  # without namespaces: to itself alone, as abort does
# name, numbers, values of the second argument that are denied: TIOCSTI and TIOCLINUX type into a terminal; the others
# let the kernel signal anyone
REQUESTS = (
    ("ioctl", (16, 29), (0x5412, 0x541C, 0x8901, 0x8902)),  # ioctls.h, sockios.h: FIOSETOWN, SIOCSPGRP
    ("fcntl", (72, 25), (8, 15)),  # fcntl.h: F_SETOWN, F_SETOWN_EX
)
# close_range, openat2, faccessat2, epoll_pwait2, futex_waitv, fchmodat2 (452, inside namespaces alone)
_NEW, _NEW_INSIDE = (436, 437, 439, 441, 449), (452,)


def _check(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _prctl(what: str, option: int, value: int, address: int = 0) -> None:
    """Five long arguments, the unused ones zero: the kernel insists."""
    _check(_libc.prctl(option, *(ctypes.c_ulong(a) for a in (value, address, 0, 0))), what)


def _syscall(what: str, *arguments: object) -> int:
    return _check(_libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)), what)


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    arguments = source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()
    _check(_libc.mount(*arguments), f"mount {target}")


def unmount(path: str) -> None:
    _check(_libc.umount2(path.encode(), _MNT_DETACH), f"umount {path}")


def adopt_orphans() -> None:
    """Descendants whose parents have died become children of this process."""
    _prctl("subreaper", _PR_SET_CHILD_SUBREAPER, 1)


def enter_namespaces() -> None:
    """Leave the system's users, processes, mounts and network; the next fork is process 1 of the new world.

    A child that stays behind writes who is who: root outside is root inside until `drop_privileges`, anyone else has
    its one user.
    """
    ready, go = os.pipe()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        code = 1
        try:
            if os.read(ready, 1):
                _write_maps(f"/proc/{os.getppid()}", os.geteuid(), os.getegid())
            code = 0
        finally:
            os._exit(code)
    _check(_libc.unshare(_NAMESPACES), "unshare")
    os.write(go, b".")
    if os.waitpid(helper, 0)[1] != 0:
        raise OSError("uid_map: not permitted")
    _check(_libc.sethostname(b"sandbox", 7), "sethostname")


def _write_maps(process: str, user: int, group: int) -> None:
    def write(name: str, text: str) -> None:
        with open(f"{process}/{name}", "w") as file:
            file.write(text)

    if user == 0:
        write("uid_map", f"0 0 1\n{USER} {NOBODY} 1")
        write("gid_map", f"0 0 1\n{USER} {NOBODY} 1")
    else:
        write("setgroups", "deny")
        write("uid_map", f"{USER} {user} 1")
        write("gid_map", f"{USER} {group} 1")


def build_view(folders: list[str], work: str, size: int) -> list[str]:
    """Replace the file system by an empty one in memory (`size` bytes).

    It shows `folders` read-only and has `work`, /tmp and /dev/shm to write to.

    Process 1 calls it, once. Returns what of `folders` was mounted; /proc, which shows this namespace alone, must be
    unmounted too.
    """
    _mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size},nr_inodes=16384,mode=755")
    os.mkdir("/tmp/old")
    _syscall("pivot_root", _ARCHITECTURES[_MACHINE][1], b"/tmp", b"/tmp/old")
    os.chdir("/")
    for path in (work, "/tmp", "/dev/shm"):
        os.makedirs(path)
        os.chmod(path, 0o1777)
    os.mkdir("/proc")
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV)
    for device in DEVICES:
        _show(device)
    mounted = [path for path in folders if _show(path)]
    unmount("/old")
    os.rmdir("/old")
    return mounted


def _show(path: str) -> bool:
    """Mount a file or folder of the old file system at its place, with all that is mounted inside, read-only.

    Returns whether it did: not if it is there already, or is only a link.
    """
    old = f"/old{path}"
    if os.path.lexists(path):
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.islink(old):  # /lib -> usr/lib
        os.symlink(os.readlink(old), path)
        return False
    if os.path.isdir(old):
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    _mount(old, path, "", _MS_BIND | _MS_REC)
    nodev = 0 if stat.S_ISCHR(os.stat(old).st_mode) else _ATTR_NODEV
    attributes = struct.pack("4Q", _ATTR_RDONLY | _ATTR_NOSUID | nodev, 0, 0, 0)
    _syscall("mount_setattr", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, attributes, len(attributes))
    return True


def drop_privileges(user: int) -> None:
    """Become `user` if this is root, and never gain anything by running a program (setuid).

    Running one ends the capabilities of whoever is not root.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def restrict_files(folders: list[str], work: str) -> None:
    """Landlock: read and run what is in `folders`, write to `work`, open nothing else."""
    version = _syscall("landlock", _LANDLOCK_CREATE, None, 0, 1)
    if version < _LANDLOCK_VERSION:
        raise OSError(f"landlock: version {version}, needs {_LANDLOCK_VERSION}")
    rules = _syscall("landlock", _LANDLOCK_CREATE, struct.pack("Q", _ALL), 8, 0)
    rights = dict.fromkeys(folders, _READ) | dict.fromkeys(DEVICES, _READ | _WRITE) | {work: _ALL}
    for path, allowed in rights.items():
        if not os.path.isdir(path):
            allowed &= _ON_FILES
        opened = os.open(path, os.O_PATH)
        _syscall(f"landlock {path}", _LANDLOCK_ADD, rules, 1, struct.pack("=Qi", allowed, opened), 0)
        os.close(opened)
    _syscall("landlock", _LANDLOCK_RESTRICT, rules, 0)


def numbers(table: str) -> list[int]:
    """Numbers of this machine's system calls in a table such as DENIED."""
    column = list(_ARCHITECTURES).index(_MACHINE)
    rows = [row.split()[-2:] for line in table.strip().splitlines() for row in line.strip(" ,").split(",")]
    return [int(row[column]) for row in rows if row[column] != "-"]


def restrict_calls(inside: bool) -> None:
    """Install the seccomp filter. `inside`: this process is in namespaces of its own, or compiles and sets modes."""
    program = filter_program(inside)
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("H6xQ", len(program) // 8, ctypes.addressof(code)))  # sock_fprog
    _prctl("seccomp", _PR_SET_SECCOMP, 2, ctypes.addressof(header))  # 2: SECCOMP_MODE_FILTER


def filter_program(inside: bool) -> bytes:
    """The filter in classic BPF (filter.h, seccomp.h): instructions of code, jump if true, jump if false, value."""
    load, jump_equal, jump_at_least, jump_set, mask, give = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    allow, refuse, unknown, kill = 0x7FFF0000, 0x50000 | 1, 0x50000 | 38, 0x80000000  # refuse: EPERM; unknown: ENOSYS
    column = list(_ARCHITECTURES).index(_MACHINE)
    code = [(load, 0, 0, 4), (jump_equal, 1, 0, _ARCHITECTURES[_MACHINE][0]), (give, 0, 0, kill), (load, 0, 0, 0)]
    if _MACHINE == "x86_64":  # the x32 calls, a second set of numbers
        code += [(jump_set, 0, 1, 0x40000000), (give, 0, 0, kill)]
    for number in numbers(DENIED) + ([] if inside else numbers(DENIED_OUTSIDE)):
        code += [(jump_equal, 0, 1, number), (give, 0, 0, refuse)]
    new = _NEW + (_NEW_INSIDE if inside else ())
    code += [(jump_at_least, 0, 2 + len(new), _ARCHITECTURES[_MACHINE][2])]
    code += [(jump_equal, len(new) - index, 0, number) for index, number in enumerate(new)]
    code += [(give, 0, 0, unknown), (give, 0, 0, allow)]
    signals = () if inside else [(*call, 0, 0xFFFFFFFF, os.getpid()) for call in SIGNALS]
    for _, both, argument, bits, value in (*CONDITIONS, *signals):
        code += [(jump_equal, 0, 5, both[column]), (load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits)]
        code += [(jump_equal, 1, 0, value), (give, 0, 0, refuse), (give, 0, 0, allow)]
    for _, both, values in REQUESTS:
        code += [(jump_equal, 0, 2 + 2 * len(values), both[column]), (load, 0, 0, 16 + 8)]
        for value in values:
            code += [(jump_equal, 0, 1, value), (give, 0, 0, refuse)]
        code += [(give, 0, 0, allow)]
    code += [(give, 0, 0, allow)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
