#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Fetches enwik8, the first 100,000,000 bytes of the English Wikipedia of March 2006, into the folder
# data beside this script, where the trainer looks for it.
#
#   fetch.sh [URL [SIZE MD5]]
#
# URL is another place of enwik8.zip, such as file:///folder/enwik8.zip; SIZE and MD5 are those of the
# file in the archive when it is not enwik8 itself. Nothing is left behind unless size and checksum
# are right; a second call finds the file and does nothing.
set -eu

url=${1:-http://mattmahoney.net/dc/enwik8.zip}
size=${2:-100000000}
md5=${3:-a1fa5ffddb56f4953e226637dabbb36a}

folder=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/data
target=$folder/enwik8

fail() {
  echo "fetch.sh: $*" >&2
  exit 1
}

has() {
  command -v "$1" >/dev/null 2>&1
}

size_of() {
  wc -c <"$1" | tr -d ' '
}

md5_of() {
  md5sum "$1" | cut -d ' ' -f 1
}

has md5sum || fail "md5sum is missing (package coreutils)"

if [ -f "$target" ] && [ "$(size_of "$target")" = "$size" ] && [ "$(md5_of "$target")" = "$md5" ]
then
  echo "$target is there and right"
  exit 0
fi

has unzip || fail "unzip is missing; install it with: apt-get install unzip"
mkdir -p "$folder" || fail "cannot create $folder"

# One folder for what is not yet checked, so that a failure or Ctrl-C leaves nothing behind.
part=$(mktemp -d "$folder/fetch.XXXXXX") || fail "cannot write to $folder"
trap 'rm -rf "$part"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

echo "fetching $url"
if has curl; then
  curl --fail --location --retry 3 --show-error --output "$part/enwik8.zip" "$url" ||
    fail "could not download $url (curl)"
elif has wget; then
  wget --tries=3 --output-document="$part/enwik8.zip" "$url" ||
    fail "could not download $url (wget)"
else
  fail "neither curl nor wget is there; install one with: apt-get install curl"
fi

unzip -p "$part/enwik8.zip" >"$part/enwik8" ||
  fail "what came from $url is no zip archive, is damaged, or the disk is full"
actual=$(size_of "$part/enwik8")
[ "$actual" = "$size" ] || fail "the file in $url has $actual bytes instead of $size"
actual=$(md5_of "$part/enwik8")
[ "$actual" = "$md5" ] || fail "the file in $url has MD5 $actual instead of $md5"

mv -f "$part/enwik8" "$target"
echo "$target is there: $size bytes, MD5 $md5"
