"""The seccomp allow-list: what a Python program without network and without other programs needs, and nothing more.

Compiled to BPF once in the host (libseccomp through pyseccomp); a run installs it with one call. Whatever is not
listed fails with EPERM; calls of another architecture (x32, 32 bit) kill. `clone3` fails with ENOSYS, so that libc
falls back to `clone`, whose flags a filter can see.
"""

from __future__ import annotations

import errno
import tempfile
from functools import cache

ALLOWED = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 open openat close close_range creat
stat fstat lstat newfstatat statx statfs fstatfs lseek access faccessat faccessat2 readlink readlinkat
getdents getdents64 getcwd chdir fchdir rename renameat renameat2 mkdir mkdirat rmdir link linkat unlink unlinkat
symlink symlinkat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes utimensat futimesat
truncate ftruncate fallocate fsync fdatasync sync_file_range flock fcntl dup dup2 dup3 pipe pipe2
sendfile splice tee copy_file_range fadvise64 readahead getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr
mmap munmap mprotect mremap msync mincore madvise brk membarrier
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo
sigaltstack restart_syscall kill tkill tgkill pause alarm getitimer setitimer
timer_create timer_settime timer_gettime timer_getoverrun timer_delete timerfd_create timerfd_settime timerfd_gettime
signalfd4 eventfd2 select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2
nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time times
sched_yield sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sched_get_priority_max
sched_get_priority_min sched_rr_get_interval sched_getattr getpriority getcpu
getpid getppid gettid getuid geteuid getgid getegid getresuid getresgid getgroups getpgrp getpgid getsid
setsid setpgid fork vfork wait4 waitid exit exit_group uname sysinfo
getrlimit setrlimit prlimit64 getrusage
set_tid_address set_robust_list get_robust_list arch_prctl futex futex_waitv futex_wake futex_wait futex_requeue
rseq getrandom sendto recvfrom shutdown getsockopt getsockname getpeername
"""
# Terminal questions and descriptor flags; no TIOCSTI, no block devices.
IOCTLS = {
    "TCGETS": 0x5401, "TIOCGWINSZ": 0x5413, "FIONREAD": 0x541B, "FIONBIO": 0x5421, "FIONCLEX": 0x5450,
    "FIOCLEX": 0x5451,
}  # fmt: skip
PRCTLS = {"PR_GET_DUMPABLE": 3, "PR_SET_NAME": 15, "PR_GET_NAME": 16, "PR_CAPBSET_READ": 23, "PR_SET_VMA": 0x53564D41}
# clone flags that make namespaces: CLONE_NEW{TIME,NS,CGROUP,UTS,IPC,USER,PID,NET}
NEW_NAMESPACES = 0x80 | 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
AF_UNIX, SOCK_STREAM = 1, 1
_SOCKET_TYPE_MASK = 0xF


@cache
def allow_list(programs: bool = False) -> bytes:
    """The filter as BPF instructions, 8 bytes each; `programs`: with execve, for who has yet to start an interpreter.

    Raises OSError where libseccomp is missing or too old.
    """
    try:
        import pyseccomp as seccomp
    except (ImportError, RuntimeError, OSError) as missing:
        raise OSError(f"libseccomp is not available ({missing})") from missing
    made = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in [*ALLOWED.split(), *(["execve"] if programs else [])]:
        if _known(seccomp, name):
            made.add_rule(seccomp.ALLOW, name)
    made.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    made.add_rule(seccomp.ALLOW, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, NEW_NAMESPACES, 0))
    for name, values in (("ioctl", IOCTLS), ("prctl", PRCTLS)):
        argument = 1 if name == "ioctl" else 0
        for value in values.values():
            made.add_rule(seccomp.ALLOW, name, seccomp.Arg(argument, seccomp.EQ, value))
    # a pair connects its two ends only, and event loops wake themselves up with one
    pair = seccomp.Arg(0, seccomp.EQ, AF_UNIX), seccomp.Arg(1, seccomp.MASKED_EQ, _SOCKET_TYPE_MASK, SOCK_STREAM)
    made.add_rule(seccomp.ALLOW, "socketpair", *pair)
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        return file.read()


def _known(seccomp: object, name: str) -> bool:
    """Whether this architecture and this libseccomp have the call (negative numbers are pseudo ones)."""
    try:
        return seccomp.resolve_syscall(seccomp.Arch.NATIVE, name) >= 0
    except (ValueError, OSError):
        return False
