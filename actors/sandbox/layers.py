"""The layers between a run and the machine, as the zygote puts them up: some once, for all runs, some in each child.

Once: a private root (read-only interpreter and libraries on a tmpfs, a few devices, nothing else of the machine), a
user id of no one's, no_new_privs. In each child: namespaces, an empty /tmp, no capabilities, the seccomp filter. What
the machine refuses is collected by name and reason, and left to the host to judge. Zygote's interpreter only.
"""

import os
import shutil
import signal
import sys

import kernel

INNER_ID = 1000  # user and group id that a run sees itself as
DEVICES = ("null", "zero", "full", "random", "urandom")
TMP_OPTIONS = "size=32m,nr_inodes=1024,mode=1777"
ROOT_OPTIONS = "size=1m,nr_inodes=1024,mode=755"
LOCKED = kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV
TMP_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
# What the interpreter and its extension modules need; of it, what was installed beside the standard library is hidden.
VISIBLE = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    sys.prefix + "/lib",
    sys.exec_prefix + "/lib",
    "/usr/share/zoneinfo",
)
_VERSION = "/lib/python{}.{}/".format(*sys.version_info)
HIDDEN = (
    "/usr/lib/python3/dist-packages",
    sys.prefix + _VERSION + "site-packages",
    sys.prefix + _VERSION + "dist-packages",
)
# Where the new root is put together, in a mount namespace of its own: nothing is created on the machine.
WORKSITES = ("/mnt", "/media", "/srv", "/tmp", "/var/tmp")


class Layers:
    """`missing` maps a layer's name to the reason why this machine does not have it."""

    def __init__(self, setup):
        self.missing = {}
        self.flags = 0
        self.filter = None
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)  # there is none in the private root
        self.private_root = self._try("private root", lambda: self._private_root())
        self._try("uid", lambda: self._drop_uid(setup["uids"]))
        self.ids = os.geteuid(), os.getegid()  # inside a new user namespace they show only once they are mapped
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        self._find_namespaces()
        if setup["filter"]:
            self._try("seccomp", lambda: self._load_filter(setup["filter"]))
        self._try("capabilities", lambda: self._in_child(kernel.drop_capabilities))

    @property
    def has_init(self):
        """Whether a run's first process is pid 1 of its own namespace: then its end is the end of them all."""
        return bool(self.flags & kernel.CLONE["pid"])

    def _try(self, name, step):
        try:
            step()
        except OSError as failure:
            self.missing[name] = str(failure)
            return False
        return True

    # once ---------------------------------------------------------------------------------------------------------

    def _private_root(self):
        if os.geteuid() == 0:
            kernel.unshare(kernel.CLONE["mount"])
        else:
            ids = os.geteuid(), os.getegid()
            kernel.unshare(kernel.CLONE["user"] | kernel.CLONE["mount"])
            self._map_ids(*ids)
        kernel.mount(None, "/", None, kernel.MS_REC | kernel.MS_PRIVATE)
        root = next(site for site in WORKSITES if os.path.isdir(site) and not any(_within(p, site) for p in VISIBLE))
        kernel.mount("tmpfs", root, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, ROOT_OPTIONS)
        exposed = []
        for path in VISIBLE:
            if os.path.lexists(path) and not any(_within(path, known) for known in exposed):
                _expose(path, root)
                exposed.append(path)
        for path in HIDDEN:
            if os.path.isdir(root + path):
                kernel.mount("tmpfs", root + path, "tmpfs", LOCKED, ROOT_OPTIONS)
        os.mkdir(root + "/dev")
        for name in DEVICES:
            os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY))
            kernel.mount(f"/dev/{name}", f"{root}/dev/{name}", None, kernel.MS_BIND)
        os.mkdir(root + "/tmp")  # each run mounts its own over it; this one is for runs without a mount namespace
        kernel.mount("tmpfs", root + "/tmp", "tmpfs", TMP_FLAGS, TMP_OPTIONS)
        os.mkdir(root + "/old")
        os.chdir(root)
        kernel.pivot_root(".", "old")
        os.chdir("/")
        kernel.unmount("/old")
        os.rmdir("/old")
        kernel.mount(None, "/", None, kernel.MS_BIND | kernel.MS_REMOUNT | LOCKED)

    def _drop_uid(self, uids):
        """Become the first of `uids` that this machine knows (a container may have mapped 16 bits only)."""
        if os.geteuid() != 0:
            return  # not root: nobody's rights to lose
        if not self.private_root:
            raise OSError("needs the private root: the interpreter may be where only root can read")
        os.setgroups([])
        for uid in uids:
            try:
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                return
            except OSError as failure:
                reason = failure
        raise reason

    def _load_filter(self, instructions):
        loaded = kernel.Filter(instructions)
        self._in_child(loaded.install)
        self.filter = loaded

    def _find_namespaces(self):
        """All of them, or those that this machine grants one by one."""
        everything = sum(kernel.CLONE.values())
        if self._try("namespaces", lambda: self._in_child(lambda: self.enter(everything), everything)):
            self.flags = everything
            return
        reason = self.missing.pop("namespaces")
        granted = 0
        for name, flag in kernel.CLONE.items():
            flags = flag | kernel.CLONE["user"]
            if self._try(name + " namespace", lambda flags=flags: self._in_child(lambda: self.enter(flags), flags)):
                granted |= flags
        if granted == everything:  # each alone, but not together
            self.missing.update({name + " namespace": reason for name in kernel.CLONE})
            granted = 0
        self.flags = granted

    def _in_child(self, step, flags=0):
        """Try a step where it leaves no trace; raises OSError with its reason."""
        read, write = os.pipe()
        pid = kernel.clone(flags)
        if pid == 0:
            try:
                step()
                os._exit(0)
            except BaseException as failure:
                os.write(write, str(failure).encode())
                os._exit(1)
        os.close(write)
        status = os.waitpid(pid, 0)[1]
        reason = os.read(read, 4096).decode()
        os.close(read)
        if status != 0:
            raise OSError(reason or f"ended with wait status {status}")

    # in each child ------------------------------------------------------------------------------------------------

    def enter(self, flags):
        """Furnish the namespaces that this process was cloned into: ids, name, and an empty /tmp."""
        os.setsid()  # signals to a process group cross the border of a pid namespace
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else its files in /proc are root's
        if flags & kernel.CLONE["user"]:
            self._map_ids(*self.ids)
        self._write("oom_score_adj", "1000")  # rather a run than the zygote
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        if flags & kernel.CLONE["uts"]:
            kernel.sethostname("sandbox")
        if self.private_root and flags & kernel.CLONE["mount"]:
            kernel.mount("tmpfs", "/tmp", "tmpfs", TMP_FLAGS, TMP_OPTIONS)

    def _adopted(self):
        """Children of this process: after a run, what the run left behind (the zygote is a subreaper)."""
        fd = os.open(f"self/task/{os.getpid()}/children", os.O_RDONLY, dir_fd=self.proc)
        try:
            return [int(pid) for pid in os.read(fd, 1 << 16).split()]
        finally:
            os.close(fd)

    def clean_up(self):
        """After a run: what it left goes with its namespaces, or is taken away here where it had none."""
        while not self.has_init and (left := self._adopted()):
            for pid in left:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
        if self.private_root and not self.flags & kernel.CLONE["mount"]:
            for entry in list(os.scandir("/tmp")):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    os.unlink(entry)

    def seal(self):
        """The last step before model-written code: nothing of the zygote's rights is left."""
        if "capabilities" not in self.missing:
            kernel.drop_capabilities()
        if self.filter is not None:
            self.filter.install()

    def _map_ids(self, uid, gid):
        self._write("setgroups", "deny")
        self._write("uid_map", f"{INNER_ID} {uid} 1")
        self._write("gid_map", f"{INNER_ID} {gid} 1")

    def _write(self, name, text):
        fd = os.open("self/" + name, os.O_WRONLY, dir_fd=self.proc)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _within(path, folder):
    return path == folder or path.startswith(folder + "/")


def _expose(path, root):
    """`path` under `root`: a link as it is, a folder or file read-only (without what is mounted inside it)."""
    os.makedirs(os.path.dirname(root + path), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), root + path)
        return
    if os.path.isdir(path):
        os.makedirs(root + path, exist_ok=True)
    else:
        os.close(os.open(root + path, os.O_CREAT | os.O_WRONLY))
    kernel.mount(path, root + path, None, kernel.MS_BIND)
    noexec = kernel.MS_NOEXEC if os.statvfs(path).f_flag & os.ST_NOEXEC else 0  # may not be lifted in a user namespace
    kernel.mount(None, root + path, None, kernel.MS_BIND | kernel.MS_REMOUNT | LOCKED | noexec)
