"""A simulated server that generates tokens: SIMULATED, for trying out, planning and testing, never evidence.

`machine` is the hardware and how fast it serves replicas, `llm` the size of the model, `virtual` what a run of all
replicas would have recorded, in virtual time. docs/simulation.md tells the whole model and its sources.
"""
