# Marks a step of `conf once` or `conf onchange` after its success; runs as a section of its own.
# shellcheck disable=SC2154 # RUNS_step_once: meta.sh
case $RUNS_step_once in
once) setdone ;;
onchange) setdone onchange "$RUNS_DIGEST" ;;
esac
