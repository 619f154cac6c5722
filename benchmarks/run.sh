#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Builds the benchmarks, with the Debian packages this takes, runs a selection of them and makes the
# report: report.json, tables and plots. How to read it: docs/benchmarks.md.
set -euo pipefail
# shellcheck source=scripts/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/setup.sh"

usage() {
  cat <<'END'
Usage: benchmarks/run.sh [--check | --quick | --all] [--out FOLDER] [--compiler gcc | clang]
                         [--filter REGEX] [--add]

  --check            the smallest sizes: some seconds; says only whether everything works
  --quick            a selection of ten minutes (the default)
  --all              everything: more than an hour, and 12 GB of memory for the longest sequence
  --out FOLDER       where the report goes; default: report/ in the build folder
  --compiler NAME    gcc or clang; default: the compiler in CXX, or the system's
  --filter REGEX     only the cases whose name it matches, for instance '^training_step/'
  --add              keep what the report in FOLDER has of other cases; same commit and compiler

The number of threads is OpenMP's (OMP_NUM_THREADS).
END
}

selection=quick out='' compiler='' filter=. add=''
command=benchmarks/run.sh
for argument in "$@"; do
  [[ $argument =~ ^[A-Za-z0-9_./=-]+$ ]] || argument=${argument@Q}
  command+=" $argument"
done
while (($#)); do
  case $1 in
    --check | --quick | --all) selection=${1#--} ;;
    --out | --compiler | --filter)
      (($# > 1)) || die "$1 takes a value, see --help"
      declare "${1#--}=$2"
      shift
      ;;
    --add) add=--add ;;
    -h | --help)
      usage
      exit
      ;;
    *) die "unknown option '$1', see --help" ;;
  esac
  shift
done
build=$root/build/benchmarks${compiler:+-$compiler}
case $compiler in
  '') ;;
  gcc) export CXX=g++ ;;
  clang)
    need "${clang_packages[@]}"
    export CXX=clang++
    ;;
  *) die "--compiler is '$compiler'; allowed: gcc, clang" ;;
esac
out=${out:-$build/report}

configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_TESTS=OFF \
  -DREFORMER_BUILD_EXAMPLES=OFF -DREFORMER_BUILD_BENCHMARKS=ON -- \
  "${build_packages[@]}" "${benchmark_packages[@]}"
need "${report_packages[@]}"
[[ -x $build/benchmarks/reformer_benchmarks ]] || say "building the benchmarks ..."
if ! cmake --build "$build" --target reformer_benchmarks --parallel "$jobs" &>"$build/build.log"; then
  cat "$build/build.log" >&2
  die "building the benchmarks failed"
fi

# As in examples/enwik8/run.sh: threads that wait sleep early, unless the user has chosen.
export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}

status=0 measured=$build/measured.json
rm -f "$measured"
"$build/benchmarks/reformer_benchmarks" --selection="$selection" --benchmark_filter="$filter" \
  --benchmark_out="$measured" --benchmark_out_format=json || status=$?
if ((status > 1)) || [[ ! -s $measured ]]; then
  die "the benchmarks ended with exit code $status; there is no report"
fi
python3 "$root/benchmarks/report.py" --measured "$measured" --build "$build" \
  --command "$command" --out "$out" $add
say "report: $out"
exit "$status"
