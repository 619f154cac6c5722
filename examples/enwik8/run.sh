#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the trainer, the generator and the evaluator, with the Debian packages this takes, and runs the trainer in
# the current folder. All arguments are the trainer's, see --help; standard output is the trainer's
# alone. With RANKS=4 in the environment, four processes train together, by Open MPI.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/setup.sh"

trainer=$root/build/enwik8/examples/enwik8/enwik8
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

build_trainer "$trainer" enwik8 enwik8_generate enwik8_evaluate runs tokenise --
run_trainer "$trainer" "$@"
