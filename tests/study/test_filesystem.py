import os
from pathlib import Path

import pytest

from nas.study.filesystem import NETWORK, filesystem_type

MOUNTS = r"""22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
40 22 0:45 / /home rw,relatime shared:1 - nfs4 server:/home rw,vers=4.2
41 40 8:1 / /home/fast\040disk rw - xfs /dev/sdb1 rw
42 22 0:50 / /mnt rw - ext4 /dev/sdc rw
43 22 0:51 / /mnt rw - cifs //server/share rw
44 22 0:52 / /home2 rw master:1 propagate_from:2 - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/etc/passwd", "ext4"),
        ("/home/someone/results/study.db", "nfs4"),
        ("/home/fast disk/study.db", "xfs"),
        ("/home/fast", "nfs4"),
        ("/home2/study.db", "tmpfs"),
        ("/mnt/study.db", "cifs"),  # the later of two mounts at one place
        ("/", "ext4"),
    ],
)
def test_the_closest_mount_decides(path, kind):
    assert filesystem_type(Path(path), MOUNTS) == kind


def test_relative_paths_and_links_are_followed(tmp_path, monkeypatch):
    mounts = MOUNTS + f"50 22 0:60 / {tmp_path}/shared rw - nfs server:/x rw\n"
    (tmp_path / "shared").mkdir()
    os.symlink(tmp_path / "shared", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    assert filesystem_type(Path("link/results/study.db"), mounts) == "nfs"
    assert filesystem_type(Path("results/study.db"), mounts) == "ext4"


def test_no_mount_table_says_nothing():
    assert filesystem_type(Path("/etc"), "") == ""


@pytest.mark.skipif(not Path("/proc/self/mountinfo").exists(), reason="Linux only")
def test_reads_this_machine():
    assert filesystem_type(Path("/proc/self/status")) == "proc"
    assert filesystem_type(Path(__file__)) not in {"", "proc"} | NETWORK
