"""Which kind of file system a path is on: SQLite's locks and WAL mode need a local one."""

import re
from pathlib import Path

NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.s3fs", "fuse.sshfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs",
    }
)  # fmt: skip
"""Types that share files between machines, by their names in Linux's mount table."""

_MOUNTS = Path("/proc/self/mountinfo")


def filesystem_type(path: Path, mounts: str | None = None) -> str:
    """The type of the file system that a path is, or would be, on.

    Args:
        path: It need not exist.
        mounts: The mount table in the format of Linux's `/proc/self/mountinfo`; None reads it.

    Returns:
        Its name (`ext4`, `nfs4`), or "" where there is no mount table.
    """
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""
    target = path.resolve()
    best, kind = -1, ""
    for line in mounts.splitlines():
        # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if not separator or len(fields) < 5:
            continue
        point = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        # Of two mounts at the same place the later one covers the earlier.
        if (target == point or point in target.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split(" ")[0]
    return kind
