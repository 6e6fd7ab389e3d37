"""A rendered script, run by bash with stand-ins for Slurm's programs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from planner.plan import Plan
from slurm.render import render

# srun as a program that writes down its arguments and what it was given in the environment.
SRUN = """#!/bin/sh
echo 0 > "$TRAINYARD_STATUS_FILE"
exec {python} -c 'import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open("{seen}", "w"))' "$@"
"""


# The end of the job in seconds where it is told so, as the real one; else as it stands in SLURM_TIME_FORMAT.
SQUEUE = '#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo 4000000000 || echo 02/01/2026\n'


SCONTROL = "#!/bin/sh\nprintf 'first\\nsecond\\n'\n"


def run_with_stubs(plan: Plan, folder: Path, **more: str) -> tuple[list[str], dict[str, str]]:
    """srun's arguments and environment when bash runs the rendered script in `folder`, with `more` set."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    programs = {"srun": SRUN, "scontrol": SCONTROL, "squeue": SQUEUE, "apptainer": "#!/bin/sh\n"}
    for name, text in programs.items():
        (tools / name).write_text(text.format(python=sys.executable, seen=folder / "seen.json"))
        (tools / name).chmod(0o755)
    script = folder / "job.sbatch"
    script.write_text(render(plan), encoding="utf-8")
    environ = {"PATH": f"{tools}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "123456789", **more}
    work = folder / "work"
    work.mkdir(exist_ok=True)
    subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run(["bash", str(script)], env=environ, cwd=work, check=True)
    assert list(work.iterdir()) == []
    argv, seen = json.loads((folder / "seen.json").read_text())
    return argv, seen
