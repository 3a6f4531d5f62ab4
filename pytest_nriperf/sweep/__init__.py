"""Sweeps: what to measure, and what a night of measuring says. Pure functions of axes and rows.

`axes` makes the cells and their order, `rows` holds what was measured, `front`, `curves`, `tables` and `takeaways`
read it, `adaptive` chooses what to measure next. docs/sweeps.md tells it from the outside in.
"""
