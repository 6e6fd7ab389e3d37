"""slurmdbd and its database for a cluster in a room: associations and limits are asked of it for every job."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

from cluster import Cluster, free_ports
from slurm_roots import USER

CONF = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd_port}
AccountingStoragePass={dir}/munge/socket
AccountingStorageEnforce=associations,limits,qos
MinJobAge=2
MaxArraySize=5
"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={db_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
PidFile={dir}/slurmdbd.pid
"""
# slurmdbd could make the database itself, but libmariadb 11.8 does not survive the connection on which it finds none.
DATABASE = """\
CREATE DATABASE slurm;
CREATE USER slurm@localhost IDENTIFIED BY 'slurm';
GRANT ALL ON slurm.* TO slurm@localhost;
"""
PROGRAMS = ("mariadbd", "mariadb-install-db")
# Two accounts of one user: in `lab`, his default, a QOS lifts the partition's limit on time; in `plain` none does.
ASSOCIATIONS = (
    "add cluster trainyard",
    "add qos long flags=PartitionTimeLimit",
    "add account lab",
    "add account plain",
    f"add user {USER} account=lab qos=normal,long defaultqos=long",
    f"add user {USER} account=plain qos=normal defaultqos=normal",
)


class Accounting:
    """The programs that a cluster starts before its slurmctld. `conf` belongs into its slurm.conf."""

    def __init__(self) -> None:
        self.dbd_port, self.db_port, _ = free_ports(skip=100)

    def conf(self) -> str:
        return CONF.replace("{dbd_port}", str(self.dbd_port))

    def start(self, cluster: Cluster) -> None:
        names = {"dir": cluster.dir, "dbd_port": self.dbd_port, "db_port": self.db_port}
        data = cluster.dir / "database"
        where = ("--no-defaults", "--user=root", f"--datadir={data}")
        cluster.run("mariadb-install-db", *where, "--skip-test-db", "--auth-root-authentication-method=normal")
        socket = cluster.dir / "database.socket"
        first = cluster.dir / "first.sql"
        first.write_text(DATABASE)
        quick = ("--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=64M")
        here = (f"--port={self.db_port}", "--bind-address=127.0.0.1", f"--socket={socket}", f"--init-file={first}")
        cluster.daemon("mariadbd", *where, *here, *quick)
        cluster.until(socket.exists, "mariadbd")
        conf = cluster.dir / "slurmdbd.conf"
        conf.touch(mode=0o600)
        conf.write_text(SLURMDBD_CONF.format(**names))
        cluster.daemon("slurmdbd", "-D")
        cluster.until(lambda: _listed(cluster), "slurmdbd")
        self.add(cluster, ASSOCIATIONS)

    def add(self, cluster: Cluster, associations: Iterable[str]) -> None:
        for words in associations:
            cluster.run("sacctmgr", "--immediate", *words.split())


def _listed(cluster: Cluster) -> bool:
    try:
        return cluster.run("sacctmgr", "--noheader", "list", "cluster", check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
