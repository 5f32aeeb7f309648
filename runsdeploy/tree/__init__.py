"""What lies on disk: trees, and the hosts, groups, scripts, recipes and libraries in them.

In: the directories of RUNSPATH. Out: values with their positions in files, and problems. Nothing is written or run,
except git for a tree's revision. Asked by plan and by every room above it.
"""
