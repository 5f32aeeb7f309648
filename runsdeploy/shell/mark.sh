# Sets the marker of a step of `conf once` or `conf onchange` after the step succeeded; runs like a SCRIPT section.
# shellcheck disable=SC2154 # RUNS_step_once: meta.sh
case $RUNS_step_once in
once) setdone ;;
onchange) setdone onchange "$RUNS_DIGEST" ;;
esac
