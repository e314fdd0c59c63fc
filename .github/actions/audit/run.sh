#!/usr/bin/env bash
# Run unlearn-audit in a step: run.sh "what the step does" VERB ARGUMENT...
# Where it ends in an error, that stands in the log as an annotation and in the step summary with what was said of it.
set -uo pipefail
title=$1
shift
tool=$RUNNER_TEMP/unlearn-audit/bin/unlearn-audit
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The tool may repeat what stands in a foreign file. The runner takes none of it for a command, but for what it was asked
# to write as commands (`gate --format github`, to stdout, escaped). A tool that is killed leaves its line unfinished.
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
if [ -n "${COMMANDS:-}" ]; then
  "$tool" "$@" 2> "$log"
  code=$?
  printf '\n::stop-commands::%s\n' "$token"
  cat "$log"
else
  echo "::stop-commands::$token"
  "$tool" "$@" 2>&1 | tee "$log"
  code=${PIPESTATUS[0]}
fi
printf '\n::%s::\n' "$token"

[ "$code" -ne 0 ] || exit 0
# From the line that begins with the error on: a list of problems may follow. A usage error stands in a box of its own.
told=$(grep -E -m 1 -A 100 '^(internal )?error: ' "$log" || { [ -n "${COMMANDS:-}" ] || tail -n 20 "$log"; })
if [ -n "$told" ]; then
  text=${told//'%'/%25}
  text=${text//$'\r'/%0D}
  echo "::error title=unlearn-audit, $title::${text//$'\n'/%0A}"
  {
    echo "### ❗ unlearn-audit: $title ended in an error (exit $code)"
    echo
    printf '%s\n' "$told" | sed 's/^/    /'
    echo
  } >> "$GITHUB_STEP_SUMMARY"
fi
exit "$code"
