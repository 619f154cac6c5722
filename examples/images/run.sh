#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# Builds the trainer of pictures, installs a set of pictures if none is named, and trains:
#   examples/images/run.sh                   # ten minutes on the emoji of fonts-noto-color-emoji
#   examples/images/run.sh --data FOLDER     # on pictures of one's own
# All options: examples/images/run.sh --help. With RANKS=4 in the environment, four processes train
# together, by Open MPI.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/setup.sh
source "$here/../../scripts/setup.sh"

trainer=$root/build/enwik8/examples/images/images # beside the trainer of text
# CMake does without what these bring, so they are looked at whether it fails or not.
packages=(libpng-dev libjpeg-dev)
[[ " $* " == *' --data'* ]] || packages+=(fonts-noto-color-emoji)
! have apt-get || need "${packages[@]}"
build_trainer "$trainer" images images_generate images_export -- "${packages[@]}"
run_trainer "$trainer" "$@"
