#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the trainer, the generator and the evaluator, with the Debian packages this takes, and runs the trainer in
# the current folder. All arguments are the trainer's, see --help; standard output is the trainer's
# alone.
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
configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_EXAMPLES=ON \
  -DREFORMER_BUILD_TESTS=OFF -DREFORMER_BUILD_BENCHMARKS=OFF -- \
  "${build_packages[@]}" "${trainer_packages[@]}"
if ! cmake --build "$build" --parallel "$jobs" \
  --target enwik8 enwik8_generate enwik8_evaluate &>"$build/build.log"; then
  cat "$build/build.log" >&2
  die "building the trainer failed"
fi
exec 9>&-

# Threads that wait spin for 16 ms and more by default. Beside any other busy program that costs the
# trainer most of its speed: let them sleep early, unless the user has chosen.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}

exec "$trainer" "$@"
