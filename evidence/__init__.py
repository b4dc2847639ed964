"""Evidence: every training target of the project run in full, and what it found written to docs/evidence, for anyone to repeat.

python -m evidence [TARGET ...] [--data DIR] [--quick] [--force]. One file per target; a record is written whole or not at all, and names
the sources it was made from, so that a test can tell when it has become old. Read next: target.py, record.py, sources.py.
"""
