"""The stages of gpu_bare.py. Each has NEEDS, the modules that it imports, and

run(folder, rehearse) -> (what was found, by name; what is wrong with it, a line each).
"""
