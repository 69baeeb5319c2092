#!/bin/sh
# Shows muster at work on this machine: three nodes, the examples beside this script, a container that fails its probe,
# and a node that dies. Exits non-zero when the pods are not elsewhere in time. Leaves nothing behind, also on Ctrl-C.
# "make demo" builds bin/muster and runs it.
set -eu
cd "$(dirname "$0")/../.."

deployments_within=400 # hundredths of a second from the node's death
single_within=1000

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -z "${NO_COLOR:-}" ] && [ -t 1 ] || say() { printf '\n== %s\n' "$*"; }
run() {
	printf '$ %s\n' "$*"
	"$@"
}
# Hundredths of a second since boot: a clock that nobody sets, read without starting a program.
now() {
	read -r up _ </proc/uptime
	now=${up%.*}${up#*.}
}
seconds() { printf '%d.%02d s' $(($1 / 100)) $(($1 % 100)); }
fail() {
	printf 'demo: %s\n' "$*" >&2
	[ -s "$dir/log" ] && printf 'the last lines of the log:\n' >&2 && tail -n 30 "$dir/log" >&2
	exit 1
}

[ -x bin/muster ] || {
	echo 'demo: bin/muster is missing: run "make build" first' >&2
	exit 1
}
# Not below /tmp: pods have a /tmp of their own, and would not see the sample there.
base=${TMPDIR:-/var/tmp}
case $base/ in /tmp/*) base=/var/tmp ;; esac
dir=$(mktemp -d "$base/muster-demo.XXXXXX")
PATH=$dir/bin:$PWD/bin:$PATH
export PATH
dev=
finish() {
	status=$?
	trap '' INT TERM HUP
	trap - EXIT
	if [ -n "$dev" ]; then
		kill -TERM "$dev" 2>/dev/null || true
		wait "$dev" || true
	fi
	muster dev cleanup --data-dir "$dir/dev" >/dev/null || status=1
	rm -rf "$dir"
	exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false' go build -o "$dir/bin/sample" ./deploy/examples/sample

say "A coordinator and three agents start, each a process of its own"
printf '$ muster dev --nodes 3\n'
muster dev --nodes 3 --ports free --no-context --data-dir "$dir/dev" >"$dir/out" 2>"$dir/log" &
dev=$!
export MUSTER_CONFIG="$dir/dev/client.yaml"
now
deadline=$((now + 6000))
until grep -q '^muster is ready' "$dir/out"; do
	kill -0 "$dev" 2>/dev/null || fail "muster dev has ended"
	now
	[ "$now" -lt "$deadline" ] || fail "not ready within a minute"
	sleep 0.1
done
run muster get nodes

# pods lists NAME NODE PHASE READY RESTARTS IP, a pod a line.
pods() {
	muster get pods "$@" -o 'jsonpath={range .items[*]}{.metadata.name} {.spec.nodeName} {.status.phase} {.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].restartCount} {.status.podIP}{"\n"}{end}'
}
# until_true SECONDS COMMAND…: polls.
until_true() {
	now
	deadline=$((now + $1 * 100))
	what=$*
	shift
	until "$@"; do
		now
		[ "$now" -lt "$deadline" ] || fail "not in time: $what"
		sleep 0.1
	done
}
all_ready() { [ "$(pods | awk '$3 == "Running" && $4 == "True"' | wc -l)" -eq 7 ]; }

say "The examples are applied"
run muster apply -f deploy/examples/web.yaml,deploy/examples/echo.yaml,deploy/examples/worker.yaml,deploy/examples/single.yaml
until_true 60 all_ready
run muster get pods -o wide
run muster get probes

say "A container fails its liveness probe and is started again"
web=$(pods -l app=web | awk '{ print $1; exit }')
ip=$(pods -l app=web | awk '{ print $6; exit }')
run sample get "http://$ip:8080/fail"
restarted() { [ "$(pods -l app=web | awk -v n="$web" '$1 == n { print $5 }')" -ge 1 ]; }
until_true 30 restarted
until_true 30 all_ready
run muster get events --for "pod/$web"
run muster get pod "$web"

node=$(muster get pod single -o 'jsonpath={.spec.nodeName}')
before=$(pods -l 'app in (web,echo,worker)' | awk -v n="$node" '$2 == n' | wc -l)
[ "$before" -gt 0 ] || fail "no pod of a Deployment is on $node: nothing to show"
say "$node dies, as a machine that loses its power: $before pods of Deployments and the single-instance pod are on it"
now
killed=$now
run muster dev kill "$node" --data-dir "$dir/dev"
deployments= single=
while [ -z "$deployments" ] || [ -z "$single" ]; do
	list=$(pods)
	now
	took=$((now - killed))
	[ "$took" -lt 6000 ] || fail "the pods of $node are not elsewhere within a minute"
	elsewhere=$(printf '%s\n' "$list" | awk -v n="$node" '$1 != "single" && $2 != "" && $2 != n && $3 == "Running"' | wc -l)
	[ -n "$deployments" ] || [ "$elsewhere" -ne 6 ] || deployments=$took
	[ -n "$single" ] || [ "$(printf '%s\n' "$list" | awk -v n="$node" '$1 == "single" && $2 != "" && $2 != n && $3 == "Running"' | wc -l)" -ne 1 ] || single=$took
	sleep 0.05
done
until_true 30 all_ready
say "Everything runs on the other nodes"
run muster get nodes
run muster get pods -o wide
run muster get failovers
run muster logs single --tail 3

say "From the node's death until Running elsewhere"
printf 'pods of Deployments:      %s (at most %s)\n' "$(seconds "$deployments")" "$(seconds "$deployments_within")"
printf 'the single-instance pod:  %s (at most %s)\n' "$(seconds "$single")" "$(seconds "$single_within")"
[ "$deployments" -le "$deployments_within" ] || fail "the pods of Deployments took too long"
[ "$single" -le "$single_within" ] || fail "the single-instance pod took too long"
