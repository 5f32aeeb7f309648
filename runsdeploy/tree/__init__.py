"""What lies on disk: trees, and the hosts, groups, scripts, recipes and libraries in them.

In: the directories of RUNSPATH.
Out: values with their positions in files, and problems. Nothing is written or run, except git for a revision.
Asked by: `plan` and every room above it.
Verbs: `trees.open_trees`, `selection.select`, `recipe.parse_recipe`, `script.read_script`.
"""
