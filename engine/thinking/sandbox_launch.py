"""Shuts itself in and runs a script: a program of its own, started by `sandbox`. Imports nothing of ours.

    python -I -S -B sandbox_launch.py FOLDER FD SECONDS MEMORY FILE_BYTES PROCESSES OUTPUT

New namespaces take away the network, all other processes and all mounts; the root becomes a tmpfs with the
interpreter, read-only, and the script in an empty folder; rlimits bound the rest. To FD is written what
became of it: `exit N`, `signal N`, or `refused WHY`.
"""

import ctypes
import math
import os
import resource
import signal
import sys
from pathlib import Path

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (
    0x00020000,
    0x04000000,
    0x08000000,
    0x10000000,
    0x20000000,
    0x40000000,
)
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 4096, 16384, 1 << 18, 2
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
RDONLY_NOSUID_NODEV = 7
NOBODY = 65534
OWN_PROCESSES = 3
"""This one, the namespace's first, and the script's."""
SHOWN = ("/usr", "/lib", "/lib64", "/nix/store", "/gnu/store")
"""Where shared libraries are, beside the interpreter's own folder."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")

libc = ctypes.CDLL(None, use_errno=True)
python = os.path.realpath(sys.executable)
"""What links lead to it is not there any more in the new root."""


class Refused(Exception):
    """The system does not permit it."""


def call(what: str, result: int) -> None:
    """Raises Refused for a system call that failed."""
    if result != 0:
        raise Refused(f"{what} is not permitted here ({os.strerror(ctypes.get_errno())})")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    call(f"mounting {source}", libc.mount(*encoded, ctypes.c_ulong(flags), options))


def read_only(target: str) -> None:
    """For the mount and all below it."""
    attributes = (ctypes.c_uint64 * 4)(RDONLY_NOSUID_NODEV, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    path = os.fsencode(target)
    call(
        "a read-only view of files",
        libc.syscall(MOUNT_SETATTR, AT_FDCWD, path, AT_RECURSIVE, ctypes.byref(attributes), size),
    )


def leave() -> None:
    """Out of the system's namespaces: no network, no processes, no mounts but these."""
    own = NEWNS | NEWUTS | NEWIPC | NEWPID | NEWNET
    user, group = os.getuid(), os.getgid()
    if user == 0:
        call("a namespace without network", libc.unshare(own))
    else:
        call("a namespace without network", libc.unshare(NEWUSER | own))
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    mount("none", "/", None, MS_REC | MS_PRIVATE)


def new_root(folder: str, file_bytes: int) -> None:
    """A root on a tmpfs, over `folder`, whose `main.py` comes into its `/box`."""
    script = Path(folder, "main.py").read_bytes()
    size = file_bytes + len(script)
    mount("tmpfs", folder, "tmpfs", MS_NOSUID | MS_NODEV, f"size={size},nr_inodes=4096,mode=755")
    for place in dict.fromkeys((*SHOWN, sys.base_prefix, sys.base_exec_prefix)):
        if not Path(place).is_dir():
            continue
        link = Path(place)
        inside = Path(folder + place)
        if inside.exists():
            continue  # within one that is shown already
        inside.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink():  # such as /lib, which is /usr/lib
            inside.symlink_to(link.readlink())
            continue
        inside.mkdir()
        mount(place, str(inside), None, MS_BIND | MS_REC)
        read_only(str(inside))
    Path(folder, "dev").mkdir()
    for device in DEVICES:
        Path(folder + device).touch()
        mount(device, folder + device, None, MS_BIND)
    box = Path(folder, "box")
    box.mkdir(mode=0o777)
    box.chmod(0o777)
    Path(box, "main.py").write_bytes(script)
    old = Path(folder, "old")
    old.mkdir()
    os.chdir(folder)
    call("a root of its own", libc.pivot_root(b".", b"old"))
    os.chdir("/box")
    call("a root of its own", libc.umount2(b"/old", MNT_DETACH))
    Path("/old").rmdir()


def bound(seconds: float, memory: int, file_bytes: int, processes: int) -> None:
    """Of this process and those that it starts; root becomes nobody, or it would be above some of them."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        libc.unshare(NEWUSER)  # or its processes are counted together with all of nobody's
    cpu = math.ceil(seconds)
    for what, least, most in (
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, memory, memory),
        (resource.RLIMIT_FSIZE, file_bytes, file_bytes),
        (resource.RLIMIT_NPROC, processes + OWN_PROCESSES, processes + OWN_PROCESSES),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (least, most))
    call("giving up privileges", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def run(seconds: float, memory: int, file_bytes: int, processes: int, tell: int) -> None:
    """As the namespace's first process: start the script, and report its end, which ends all of the rest."""
    script = os.fork()
    if script == 0:
        try:
            bound(seconds, memory, file_bytes, processes)
            os.execve(python, [python, "-I", "-S", "-B", "-X", "utf8", "/box/main.py"], {})
        except (Refused, OSError, ValueError) as error:
            os.write(tell, f"refused {error}\n".encode())
        os._exit(1)
    while True:
        ended, status = os.wait()
        if ended == script:
            break
    code = os.waitstatus_to_exitcode(status)
    os.write(tell, (f"signal {-code}" if code < 0 else f"exit {code}").encode())


def main() -> None:
    folder, tell = sys.argv[1], int(sys.argv[2])
    seconds = float(sys.argv[3])
    memory, file_bytes, processes = map(int, sys.argv[4:7])
    os.set_inheritable(tell, False)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    try:
        leave()
        new_root(folder, file_bytes)
    except (Refused, OSError) as error:
        os.write(tell, f"refused {error}\n".encode())
        return
    first = os.fork()
    if first == 0:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        run(seconds, memory, file_bytes, processes, tell)
        os._exit(0)
    os.waitpid(first, 0)


if __name__ == "__main__":
    main()
