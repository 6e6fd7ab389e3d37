"""A Slurm cluster of two nodes and sixteen pretend GPUs on this machine, for as long as the tests run.

    with Cluster.started(Path("/tmp/somewhere")) as cluster: cluster.run("sinfo")

Everything is its own: folder, ports, configuration, munge key and socket. Daemons are stopped by the process
ids they were started with. Needs root and Debian's slurm-wlm and munge; `missing()` says what is not there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
START_S = 60
SETTLED_S = 3
# Slurm starts a requeued job by itself after two minutes. Seldom a slurmstepd lingers, and then so long must be waited.
STARTED_S = 240
UNDER_WAY = ("PENDING", "CONFIGURING", "RUNNING", "SIGNALING", "COMPLETING", "SUSPENDED")

SLURM_CONF = """\
ClusterName=trainyard
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
FirstJobId={ctld_port}
AuthType=auth/munge
AuthInfo=socket={dir}/munge/socket
SlurmUser=root
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
SlurmdTimeout=10
ReturnToService=2
SwitchType=switch/none
MpiDefault=none
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={dir}/jobcomp.txt
StateSaveLocation={dir}/state
SlurmctldPidFile={dir}/slurmctld.pid
SlurmdParameters=config_overrides
SlurmdSpoolDir={dir}/%n
SlurmdPidFile={dir}/slurmd-%n.pid
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{node_port}-{node_port_2}] \
CPUs=64 RealMemory=256000 Gres=gpu:a100:8
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime=15
PartitionName=high Nodes=n[1-2] PriorityTier=10 PreemptMode=OFF
"""
GRES_CONF = "NodeName=n[1-2] Name=gpu Type=a100 File={dir}/nvidia[0-7]\n"


def missing() -> str:
    """Why no cluster can be started on this machine; "" when it can."""
    if os.geteuid() != 0:
        return "a test cluster needs root"
    path = _path()
    absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
    return f"Slurm is not installed (apt install slurm-wlm munge): no {', '.join(absent)}" if absent else ""


@dataclass(kw_only=True)
class Cluster:
    """A running cluster. Programs that talk to it need the variables in `environ`."""

    dir: Path
    conf: str = SLURM_CONF
    programs: Path | None = None
    """A folder with the Slurm to use, if it is not this machine's own."""
    before: Callable[[Cluster], None] | None = None
    """Called after munged has started and before slurmctld."""
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_", "TRAINYARD_", "MAKE"))}
        path = os.pathsep.join([*([str(self.programs)] if self.programs else []), _path()])
        return {**kept, "PATH": path, "SLURM_CONF": str(self.dir / "slurm.conf")}

    @classmethod
    @contextlib.contextmanager
    def started(
        cls,
        directory: Path,
        conf: str = SLURM_CONF,
        programs: Path | None = None,
        before: Callable[[Cluster], None] | None = None,
    ) -> Iterator[Cluster]:
        """A cluster in `directory`, which must not be writable by others (munge insists)."""
        cluster = cls(dir=directory, conf=conf, programs=programs, before=before)
        try:
            cluster._start()
            yield cluster
        finally:
            cluster._stop()

    def run(self, *command: str, check: bool = True, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environ, cwd=cwd, capture_output=True, text=True, check=check, timeout=300
        )

    def job(self, job_id: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        words = self.run("scontrol", "--oneliner", "show", "job", job_id).stdout.split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, job_id: str, *, timeout_s: float = 120) -> dict[str, str]:
        """The job once it has ended. Raises TimeoutError, with its last state, when it does not end."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.job(job_id)
            if job["JobState"] not in UNDER_WAY:
                return job
            time.sleep(0.2)
        self.run("scancel", job_id, check=False)
        raise TimeoutError(f"job {job_id} after {timeout_s} s: {job}")

    def wait_for_all(self, *, timeout_s: float = 120) -> None:
        """Wait until no job waits or runs."""
        deadline = time.monotonic() + timeout_s
        while queue := self.run("squeue", "--noheader").stdout:
            assert time.monotonic() < deadline, queue
            time.sleep(0.2)

    def wait_for_nodes(self) -> None:
        """Wait until every node is ready for a job."""
        for node in ("n1", "n2"):
            self.until(lambda node=node: self._state(node) == "IDLE", node)

    def start_again(self, job_id: str, *, ended: bool = False, timeout_s: float = STARTED_S) -> dict[str, str]:
        """A requeued job when it is running (when it has `ended`), without the two minutes that Slurm lets it wait.

        Started now, once its last attempt is gone: a node that still has it refuses it, or takes the end of the old
        one for that of the new. Slurm's two minutes are there for this. Credentials count whole seconds, so one made
        in the second in which the old attempt was killed is refused as well.
        """
        gone_since = time.monotonic()
        deadline = gone_since + timeout_s
        while True:
            job = self.job(job_id)
            state = job["JobState"]
            if state not in UNDER_WAY if ended else state == "RUNNING":
                return job
            assert time.monotonic() < deadline, job
            if state != "PENDING" or self.has_steps(job_id):  # it may be requeued more than once meanwhile
                gone_since = time.monotonic()
            elif time.monotonic() - gone_since > SETTLED_S:
                self.run("scontrol", "update", f"jobid={job_id}", "starttime=now", check=False)
            time.sleep(0.5)

    def has_steps(self, job_id: str) -> bool:
        """Whether a node of this cluster still runs a step of the job."""
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                ours = (path.parent / "cwd").readlink().is_relative_to(self.dir)
                if ours and path.read_bytes().startswith(f"slurmstepd: [{job_id}.".encode()):
                    return True
        return False

    def kill_slurmd(self, node: str) -> None:
        """Kill the node's slurmd with -9. Processes of the node's jobs go on without it."""
        (daemon,) = (d for d in self.daemons if d.args == self._slurmd(node))
        self.daemons.remove(daemon)
        daemon.kill()
        daemon.wait()

    def start_slurmd(self, node: str) -> None:
        self.daemon(*self._slurmd(node), log=f"slurmd-{node}")
        self.until(lambda: self._state(node) == "IDLE", node)

    @contextlib.contextmanager
    def login_file(self, text: str) -> Iterator[None]:
        """For the length of the block, the login shells of jobs also read this text."""
        path = self._login_files / "trainyard.sh"
        path.write_text(text)
        try:
            yield
        finally:
            path.unlink()

    @property
    def _login_files(self) -> Path:
        return self.dir / "profile.d"

    def _slurmd(self, node: str) -> tuple[str, ...]:
        """Jobs see a /etc/profile.d of this cluster's own: slurmd reads login files for jobs with --export=NONE."""
        inside = 'mount --bind "$1" /etc/profile.d && exec slurmd -D -N "$2"'
        return ("unshare", "--mount", "sh", "-c", inside, "sh", str(self._login_files), node)

    def _start(self) -> None:
        self.dir.mkdir(parents=True, exist_ok=True)
        ctld_port, node_port, node_port_2 = free_ports()
        names = {
            "dir": self.dir,
            "host": socket.gethostname().split(".")[0],
            "ctld_port": ctld_port,
            "node_port": node_port,
            "node_port_2": node_port_2,
        }
        shutil.copytree("/etc/profile.d", self._login_files)
        for name in ("munge", "state"):
            (self.dir / name).mkdir(mode=0o755)
        (self.dir / "slurm.conf").write_text(self.conf.format(**names))
        (self.dir / "gres.conf").write_text(GRES_CONF.format(**names) if "GresTypes" in self.conf else "")
        for index in range(8):
            subprocess.run(["mknod", str(self.dir / f"nvidia{index}"), "c", "1", "3"], check=True)
        key = self.dir / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        munge = self.dir / "munge"
        self.daemon(
            "munged",
            "--foreground",
            "--force",
            f"--key-file={key}",
            f"--socket={munge / 'socket'}",
            f"--pid-file={munge / 'pid'}",
            f"--log-file={munge / 'log'}",
            f"--seed-file={munge / 'seed'}",
        )
        self.until((munge / "socket").exists, "munged")
        if self.before:
            self.before(self)
        self.daemon("slurmctld", "-D", "-c")
        for node in ("n1", "n2"):
            self.start_slurmd(node)

    def _state(self, node: str) -> str:
        # sinfo of 24.11 goes on to call a node mixed after the job that it was taken from has gone.
        shown = self.run("scontrol", "--oneliner", "show", "node", node, check=False).stdout
        return next((word.partition("=")[2] for word in shown.split() if word.startswith("State=")), "")

    def daemon(self, *command: str, log: str = "") -> None:
        with open(self.dir / f"{log or command[0]}.log", "wb") as output:
            self.daemons.append(
                subprocess.Popen(
                    command, env=self.environ, cwd=self.dir, stdin=subprocess.DEVNULL, stdout=output, stderr=output
                )
            )

    def until(self, ready: object, what: str) -> None:
        deadline = time.monotonic() + START_S
        while not ready():  # type: ignore[operator]
            dead = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(f"{p.name}: {p.read_text()[-1500:]}" for p in sorted(self.dir.glob("*.log")))
                raise RuntimeError(f"{what} did not start; ended: {dead}\n{logs}")
            time.sleep(0.1)

    def _stop(self) -> None:
        """Cancel what runs, then stop the daemons, last started first."""
        if len(self.daemons) > 1:
            with contextlib.suppress(subprocess.SubprocessError, OSError):
                self.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
                self.run("scancel", "--user=root", check=False)
                for _ in range(50):
                    if not self.run("squeue", "--noheader", check=False).stdout.strip():
                        break
                    time.sleep(0.2)
        for daemon in reversed(self.daemons):
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _path() -> str:
    """PATH with the folders where Debian puts daemons."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def free_ports(skip: int = 0) -> tuple[int, int, int]:
    """One free port and two adjacent ones, below the range that Linux gives to outgoing connections."""
    for base in range(20_000 + os.getpid() % 500 * 20 + skip, 32_000, 4):
        with contextlib.ExitStack() as stack:
            try:
                for port in (base, base + 1, base + 2):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base, base + 1, base + 2
    raise RuntimeError("no three free ports in a row")


def unreachable(conf: str) -> str:
    return re.sub(r"SlurmctldPort=\d+", "SlurmctldPort=1\nMessageTimeout=1", conf)
