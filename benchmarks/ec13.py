"""Prints how the monitor does on generated waveforms after ANSI/AAMI EC13 and IEC 60601-2-27, as a table.

    python benchmarks/ec13.py

The same as ``edgeward evaluate ec13``.
"""

from edgeward.clinic.monitor.ec13 import evaluate_ec13, table

if __name__ == "__main__":
    print(table(evaluate_ec13()))
