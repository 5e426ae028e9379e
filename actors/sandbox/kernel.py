"""System calls that Python's standard library lacks, for the zygote: namespaces, mounts, capabilities, seccomp.

Loaded into the zygote's interpreter only, never into the host. Every function raises OSError where the kernel refuses.
"""

import ctypes
import os
import platform
import signal

CLONE = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "mount": 0x00020000,
    "network": 0x40000000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
}
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 1, 4, 22, 24
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64  # more than any kernel has
# clone and pivot_root have no safe wrapper in libc
_NUMBERS = {"x86_64": {"clone": 56, "pivot_root": 155}, "aarch64": {"clone": 220, "pivot_root": 41}}

_libc = ctypes.CDLL(None, use_errno=True)
_holding_the_gil = ctypes.PyDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapData(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def _checked(result, call):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, call + ": " + os.strerror(error))
    return result


def _number(name):
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError("no system call numbers for " + machine)
    return _NUMBERS[machine][name]


def clone(flags):
    """Like fork, with namespaces in the same step and without the interpreter's fork hooks: 0 in the child.

    The child may do little but fork properly or exit. Waiting for it works as for a forked one.
    """
    arguments = (ctypes.c_long(_number("clone")), ctypes.c_ulong(flags | signal.SIGCHLD), 0, 0, 0, 0)
    return _checked(_holding_the_gil.syscall(*arguments), "clone")


def unshare(flags):
    _checked(_libc.unshare(flags), "unshare")


def mount(source, target, kind, flags, data=None):
    source, target, kind, data = (text and text.encode() for text in (source, target, kind, data))
    _checked(_libc.mount(source, target, kind, ctypes.c_ulong(flags), data), f"mount {target.decode()}")


def pivot_root(new, old):
    _checked(_libc.syscall(ctypes.c_long(_number("pivot_root")), new.encode(), old.encode()), "pivot_root")


def unmount(target):
    _checked(_libc.umount2(target.encode(), MNT_DETACH), "umount")


def sethostname(name):
    _checked(_libc.sethostname(name.encode(), len(name)), "sethostname")


def prctl(option, first, second=0):
    _checked(_libc.prctl(option, ctypes.c_ulong(first), ctypes.c_ulong(second), 0, 0), f"prctl {option}")


def drop_capabilities():
    """Empty all five sets of this thread."""
    for capability in range(_CAPABILITIES):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            break  # beyond the last one, or not permitted: then no_new_privs is what keeps exec from giving any
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header = _CapHeader(_CAPABILITY_VERSION_3, 0)
    _checked(_libc.capset(ctypes.byref(header), (_CapData * 2)()), "capset")


class Filter:
    """A seccomp filter, ready to be installed by a child: `install` is a single call."""

    def __init__(self, instructions):
        self._buffer = ctypes.create_string_buffer(instructions, len(instructions))
        self._program = _Program(len(instructions) // 8, ctypes.cast(self._buffer, ctypes.c_void_p))

    def install(self):
        address = ctypes.addressof(self._program)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, address)
