#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# What PNG and WebP make of the pictures on which the trainer of pictures is tested: writes them with
# images_export, in the same size, packs each by `optipng -o7` and by `cwebp -lossless -z 9`, and
# prints bits per value (three for each pixel): of whole files, and of what is left of them without
# what every file of that kind has (PNG: signature, IHDR, IEND and the frame of one IDAT, 57 bytes;
# WebP: the frames of RIFF and VP8L, 20 bytes).
#   scripts/picture_baselines.sh PROGRAM [OPTIONS OF images_export]
#   scripts/picture_baselines.sh build/enwik8/examples/images/images_export --size 32
set -euo pipefail
(($#)) || {
  sed -n '4,10p' "$0" | cut -c3-
  exit 2
}
for tool in optipng cwebp; do
  command -v $tool >/dev/null || {
    echo "$tool is missing: apt install optipng webp" >&2
    exit 1
  }
done
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
said=$("$@" --out "$folder")
echo "$said"
values=${said##*, } values=${values% values}

# report KIND BYTES_OF_FRAME FILES...
report() {
  local kind=$1 frame=$2
  shift 2
  stat -c %s "$@" | awk -v kind="$kind" -v frame="$frame" -v values="$values" '
    { all += $1; inner += $1 - frame }
    END { printf "%-22s %.3f bits per value, %.3f without frames\n", kind, 8 * all / values, 8 * inner / values }'
}
optipng -quiet -o7 -strip all "$folder"/*.png
report "optipng -o7" 57 "$folder"/*.png
for file in "$folder"/*.png; do
  cwebp -quiet -lossless -z 9 "$file" -o "${file%.png}.webp"
done
report "cwebp -lossless -z 9" 20 "$folder"/*.webp
