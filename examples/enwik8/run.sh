#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the trainer, the generator and the evaluator, with the Debian packages this takes, and runs the trainer in
# the current folder. All arguments are the trainer's, see --help; standard output is the trainer's
# alone. With RANKS=4 in the environment, four processes train together, by Open MPI.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

build=$root/build/enwik8
trainer=$build/examples/enwik8/enwik8
help=$root/examples/enwik8/help.txt

refuse() {
  say "enwik8: $*"
  exit 2
}

# Before minutes are spent on building: answers --help, and refuses options that there are not.
check_arguments() {
  local word metavar name preset='' asks_help=''
  local -A takes_value=([-h]='' [--help]='')
  while read -r word metavar _; do
    [[ $word == --* ]] || continue
    takes_value[$word]=''
    [[ $metavar != [A-Z]* ]] || takes_value[$word]=yes
  done < <(tr -d , <"$help")
  while (($#)); do
    name=${1%%=*}
    [[ $name == -* ]] || refuse "unknown argument '$1'; see --help for those that are known"
    [[ -v takes_value[$name] ]] || refuse "unknown option '$1'; see --help for those that are known"
    [[ $name != --preset ]] || preset=$1
    [[ $name != -h && $name != --help ]] || asks_help=yes
    if [[ ${takes_value[$name]} && $1 != *=* ]]; then
      (($# > 1)) || refuse "$name needs a value; see --help"
      shift
    fi
    shift
  done
  if [[ $asks_help && (! $preset || ! -x $trainer) ]]; then
    [[ ! $preset ]] || say "the trainer is not built yet: these are the defaults of the preset quick"
    cat "$help"
    exit 0
  fi
}
check_arguments "$@"

# Several runs may start at once; one builds and the others wait.
mkdir -p "$build"
exec 9>"$build/lock"
flock 9
[[ -x $trainer ]] || say "building the trainer, which takes a minute or two ..."
launcher=() options=() packages=("${build_packages[@]}" "${trainer_packages[@]}")
if [[ ${RANKS-} ]]; then
  [[ $RANKS =~ ^[1-9][0-9]{0,4}$ ]] || refuse "RANKS is '$RANKS'; allowed: a number of processes"
  # Also as root, which containers are, and with more ranks than processors.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  launcher=(mpirun -n "$RANKS")
  options=(-DREFORMER_BUILD_MPI=ON)
  packages+=("${mpi_packages[@]}")
fi
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_EXAMPLES=ON \
  -DREFORMER_BUILD_TESTS=OFF -DREFORMER_BUILD_BENCHMARKS=OFF "${options[@]}" -- "${packages[@]}"
if ! cmake --build "$build" --parallel "$jobs" \
  --target enwik8 enwik8_generate enwik8_evaluate runs tokenise &>"$build/build.log"; then
  cat "$build/build.log" >&2
  die "building the trainer failed"
fi
exec 9>&-

# Threads that wait spin for 16 ms and more by default. Beside any other busy program that costs the
# trainer most of its speed: let them sleep early, unless the user has chosen.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}

if ((!${#launcher[@]})); then
  exec "$trainer" "$@"
fi

# At Ctrl-C mpirun leaves its processes a second. So it gets to know of the second one only, and of the
# first one this signal, which it passes on: all ranks finish the step and save.
setsid "${launcher[@]}" "$trainer" "$@" <&0 &
pid=$!
stop() {
  trap "kill -INT $pid" INT TERM
  kill -USR1 "$pid"
}
trap stop INT TERM
while :; do
  status=0
  wait "$pid" || status=$?
  kill -0 "$pid" 2>/dev/null || exit "$status" # or else the signal has ended the waiting alone
done
