"""What only a GPU can show, in one command of eight minutes: `make gpu-proof`.

rows.py says what is asked, stage.py makes model and records, __main__.py carries the rows out, each in a process of its
own, and page.py writes down what came of them. Every other module answers one kind of row. `--rehearse` asks the same
at toy size on the CPU.
"""
