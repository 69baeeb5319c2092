#!/bin/sh
# Runs the targets given, one after the other, and says at the end how long each took. Stops at the first that fails.
set -eu
cd "$(dirname "$0")/../.."
times=
for target in "$@"; do
	printf '\n== make %s\n' "$target"
	start=$(date +%s)
	${MAKE:-make} --no-print-directory "$target" || {
		printf 'ci: make %s failed\n' "$target" >&2
		exit 1
	}
	times="$times$(printf '%-12s %4d s' "$target" $(($(date +%s) - start)))
"
done
printf '\n%s' "$times"
