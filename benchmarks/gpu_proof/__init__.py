"""Measurements that need a GPU, in one command of eight minutes: `make gpu-proof`.

rows.py lists the questions, stage.py makes model and records, __main__.py runs the rows, each in a process of its
own, and page.py writes the results. Every other module answers one kind of row. `--rehearse` runs the same rows at
toy size on the CPU.
"""
