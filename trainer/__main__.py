"""usage: python -m trainer VERB ...

  config          every setting of a run, documented, with its value and who says so
  validate        look at the data, the model and the machine before a run does
  convert         make records and pictures of hub data sets, parquet, csv, picture folders, webdataset
  features        make what the image tower makes of every picture, for all runs on this data and model
  layers          a model's linear layers, and what each choice of LoRA would train
  shape           measure a model's shape, from which a login node then plans without torch
  setup-wandb     whether runs will reach W&B; --test-run logs a small one
  infer           ask a trained model: pictures in, JSON out
  merge           put a run's adapter into 16-bit weights, and measure that it still answers as well
  report          build a run's report.html again, or the page that compares all runs of a folder

python -m trainer VERB --help says what each takes. To plan and train on this machine: python -m local.
Exit codes: 0 done, 78 the request is wrong (nothing was written), 75 a run that was stopped, 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trainer.verbs import dispatch

VERBS = {
    "config": "trainer.settings:main", "validate": "trainer.tools.validate:main",
    "convert": "trainer.convert.command:main", "features": "trainer.tools.features:main",
    "layers": "trainer.tools.layers:main",
    "shape": "trainer.tools.shape:main",
    "setup-wandb": "trainer.tools.setup_wandb:main", "infer": "trainer.tools.infer:main",
    "merge": "trainer.tools.merge:main", "report": "trainer.report.page:main",
}  # fmt: skip


LOAD_TORCH = ("features", "infer", "layers", "merge", "shape", "validate data")


def main(argv: Sequence[str]) -> int:
    if (
        {" ".join(argv[:1]), " ".join(argv[:2])} & {*LOAD_TORCH}
        and not {"-h", "--help"} & {*argv}
        and sys.stderr.isatty()
    ):
        print("loading libraries ...", file=sys.stderr)  # no other line appears for half a minute
    return dispatch(str(__doc__), VERBS, argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
