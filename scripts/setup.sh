# SPDX-License-Identifier: MIT
# shellcheck shell=bash
#
# What the scripts share: finding and installing Debian packages, and configuring. Sourced by
# tests/run.sh, the run.sh of each trainer and .ci/run after `set -euo pipefail`. All chatter goes to
# stderr. These environment variables are honoured:
#   CXX                          the compiler
#   CMAKE_BUILD_PARALLEL_LEVEL   number of jobs, default all cores
#   REFORMER_CMAKE_OPTIONS       more options for cmake, for instance -DREFORMER_NATIVE=OFF
#   RANKS                        processes that train together, by Open MPI; default: one, without it

# shellcheck disable=SC2034 # read by the scripts that source this file
{
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  jobs=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
  build_packages=(g++ make cmake libeigen3-dev)
  test_packages=(libgtest-dev)
  trainer_packages=(libarchive-dev libicu-dev libpcre2-dev libsentencepiece-dev nlohmann-json3-dev
    libtomlplusplus-dev libcli11-dev libfmt-dev libpng-dev libjpeg-dev)
  mpi_packages=(libopenmpi-dev openmpi-bin)
  benchmark_packages=(libbenchmark-dev)
  report_packages=(python3 gnuplot-nox)
  clang_packages=(clang libomp-dev)
  format_packages=(clang-format)
}

say() { printf '%s\n' "$*" >&2; }
die() {
  say "error: $*"
  exit 1
}
have() { command -v "$1" >/dev/null; }

# is_present PACKAGE: a tool counts from wherever it came, a library only as a package.
is_present() {
  case $1 in
    g++) have "${CXX:-c++}" || have g++ ;;
    make) have make || have ninja ;;
    cmake | clang | clang-format | python3) have "$1" ;;
    gnuplot-nox) have gnuplot ;;
    *) [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]] ;;
  esac
}

# need PACKAGE...: installs those that are missing.
need() {
  local -a missing=() as_root=()
  local package log reason
  for package in "$@"; do
    is_present "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  have apt-get || die "missing: ${missing[*]} (Debian's names); no apt-get here to install them"
  if ((EUID != 0)); then
    have sudo || die "missing: ${missing[*]}; installing them takes root or sudo"
    as_root=(sudo)
  fi
  say "installing: ${missing[*]}"
  log=$(mktemp)
  apt() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q \
      -o DPkg::Lock::Timeout=300 "$@" </dev/null >>"$log" 2>&1
  }
  # The package lists are fetched only if they are absent or too old to be of use.
  if ! apt install --no-install-recommends "${missing[@]}" &&
    ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
    reason=$(grep '^E:' "$log" || cat "$log")
    rm -f "$log"
    die "installing ${missing[*]} failed: ${reason##*$'\n'}"
  fi
  rm -f "$log"
}

# configure DIR OPTION... -- PACKAGE...: configures the build folder DIR. Packages are looked at only
# if that fails, so a machine that has everything from elsewhere needs neither Debian nor root.
configure() {
  local dir=$1 log=$1/configure.log
  local -a options=() generator=() extra=()
  shift
  while [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  read -ra extra <<<"${REFORMER_CMAKE_OPTIONS:-}"

  mkdir -p "$dir"
  # A cache made for another folder (the tree was copied or mounted elsewhere) is of no use.
  grep -qsxF "CMAKE_HOME_DIRECTORY:INTERNAL=$root" "$dir/CMakeCache.txt" ||
    rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles"
  if [[ ! -e $dir/CMakeCache.txt && -z ${CMAKE_GENERATOR:-} ]] && have ninja; then
    generator=(-G Ninja)
  fi

  try() { cmake -S "$root" -B "$dir" "${generator[@]}" "${options[@]}" "${extra[@]}" &>"$log"; }
  try && return
  have apt-get || cat "$log" >&2 # the only clue there will be
  need "$@"
  rm -rf "$dir/CMakeCache.txt" "$dir/CMakeFiles" # may remember what was not there
  try && return
  cat "$log" >&2
  die "cmake failed in $dir"
}

# build_trainer PROGRAM TARGET... -- PACKAGE...: builds what a trainer needs, its program among it.
# Several runs may start at once; one builds and the others wait.
build_trainer() {
  local program=$1 build=$root/build/enwik8
  local -a targets=() options=() packages=("${build_packages[@]}" "${trainer_packages[@]}")
  shift
  while [[ $1 != -- ]]; do
    targets+=("$1")
    shift
  done
  shift
  packages+=("$@")
  if [[ ${RANKS-} ]]; then
    if [[ ! $RANKS =~ ^[1-9][0-9]{0,4}$ ]]; then
      say "${program##*/}: RANKS is '$RANKS'; allowed: a number of processes"
      exit 2
    fi
    options=(-DREFORMER_BUILD_MPI=ON)
    packages+=("${mpi_packages[@]}")
  fi
  mkdir -p "$build"
  exec 9>"$build/lock"
  flock 9
  [[ -x $program ]] || say "building the trainer, which takes a minute or two ..."
  configure "$build" -DCMAKE_BUILD_TYPE=Release -DREFORMER_BUILD_EXAMPLES=ON \
    -DREFORMER_BUILD_TESTS=OFF -DREFORMER_BUILD_BENCHMARKS=OFF "${options[@]}" -- "${packages[@]}"
  if ! cmake --build "$build" --parallel "$jobs" --target "${targets[@]}" &>"$build/build.log"; then
    cat "$build/build.log" >&2
    die "building the trainer failed"
  fi
  exec 9>&-
}

# run_trainer PROGRAM ARGUMENT...: becomes the trainer, or RANKS of it.
run_trainer() {
  # Threads that wait spin for 16 ms and more by default. Beside any other busy program that costs the
  # trainer most of its speed: let them sleep early, unless the user has chosen.
  export GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000} KMP_BLOCKTIME=${KMP_BLOCKTIME:-1}
  [[ ${RANKS-} ]] || exec "$@"

  # Also as root, which containers are, and with more ranks than processors.
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
  # At Ctrl-C mpirun leaves its processes a second. So it gets to know of the second one only, and of
  # the first one this signal, which it passes on: all ranks finish the step and save.
  setsid mpirun -n "$RANKS" "$@" <&0 &
  local pid=$! status
  # shellcheck disable=SC2064,SC2317 # the process of now; it is called by a trap
  stop() {
    trap "kill -INT $1" INT TERM
    kill -USR1 "$1"
  }
  # shellcheck disable=SC2064
  trap "stop $pid" INT TERM
  while :; do
    status=0
    wait "$pid" || status=$?
    kill -0 "$pid" 2>/dev/null || exit "$status" # or else the signal has ended the waiting alone
  done
}
