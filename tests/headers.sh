#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Whether the public headers may be included in any order, or alone.
#
# Usage: tests/headers.sh [--pairs | --alone] COMPILER [FLAG]...
#
# With --alone each header is compiled by itself, included twice, which shows missing includes and missing
# guards; Eigen, where a header includes it anyway, is precompiled. Otherwise the script compiles orders
# of headers until every header A has come before every header B that A does not include; a few orders
# are enough for all of these pairs. With --pairs each pair is compiled by itself, but for those that are
# the beginning of another, once all includes are followed: thousands, which take about an hour of one
# processor with clang (at e5d7ee3 5,552 pairs, 54 minutes). Before that, things that an order can hide
# are looked for in the text: a name that stands in `reformer` and in `reformer::detail` (the nearer one
# hides the other from headers that come later), macros without the prefix of the library, a
# namespace without its tag, and programs here that use names of `reformer::detail`. Then, that headers
# of configurations include none of the kernels.
set -euo pipefail
include=$(cd "$(dirname "${BASH_SOURCE[0]}")/../include" && pwd)

pairs='' alone=''
case ${1-} in
  --pairs) pairs=1 && shift ;;
  --alone) alone=1 && shift ;;
esac
if (($# == 0)) || [[ $1 == -* ]]; then
  sed -n '3,17s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
# Without the io floor and that of MPI, whose headers need other packages, the rest is tried.
mapfile -t headers < <(cd "$include" &&
  find reformer -name '*.hpp' ${REFORMER_WITHOUT_IO:+-not -path 'reformer/io/*'} \
    ${REFORMER_WITHOUT_MPI:+-not -path 'reformer/mpi/*'} | LC_ALL=C sort)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

compiler=("$@")
# Clang can keep instances of templates with a precompiled header, and then compiles them once.
instances=()
[[ $("$1" --version) != *clang* ]] || instances=(-fpch-instantiate-templates)
precompile() {
  "${compiler[@]}" -std=c++20 "${instances[@]}" -I "$include" -x c++-header "$1" -o "$1.gch"
}
# compile TEXT [OPTION]...
compile() {
  "${compiler[@]}" -std=c++20 -fsyntax-only -I "$include" "${@:2}" -x c++ - <<<"$1" || {
    printf 'failed:\n%s\n' "$1" >&2
    return 1
  }
}

if [[ $alone ]]; then
  instances=()
  printf '#include <%s>\n' Eigen/Core unsupported/Eigen/CXX11/Tensor >"$work/eigen.hpp"
  precompile "$work/eigen.hpp"
  (cd "$include" && awk '
    FNR == 1 { header[++n] = FILENAME }
    /^#include <Eigen\// { has[FILENAME] }
    /^#include "reformer\// { split($0, part, "\""); needs[FILENAME] = needs[FILENAME] " " part[2] }
    END {
      for (is_new = 1; is_new;) {
        is_new = 0
        for (i = 1; i <= n; ++i) {
          count = split(needs[header[i]], part, " ")
          for (j = 1; j <= count; ++j) {
            if (part[j] in has && !(header[i] in has)) { has[header[i]]; is_new = 1 }
          }
        }
      }
      for (i = 1; i <= n; ++i) print header[i], header[i] in has ? "eigen" : ""
    }' "${headers[@]}") >"$work/alone"
  # The tests' sources with all headers have what is there without the macros.
  failed=0 count=0
  while read -r header has_eigen; do
    compile "$(printf '#include "%s"\n' "$header" "$header")" -DREFORMER_EXTERN_INSTANCES \
      -DREFORMER_EXTERN_IO_INSTANCES ${has_eigen:+-include "$work/eigen.hpp"} || failed=1
    count=$((count + 1))
  done <"$work/alone"
  ((count == ${#headers[@]} && count > 0))
  if [[ $failed == 0 ]]; then printf '%s headers compiled\n' "$count"; fi
  exit "$failed"
fi

# Declarations at namespace scope begin in the first column.
(cd "$include" && awk '
  FNR == 1 { scope = "" }
  /^#define/ && !/^#define REFORMER_/ { print FILENAME ": a macro: " $0; bad = 1 }
  /^namespace \{/ { print FILENAME ": an unnamed namespace"; bad = 1 }
  /^namespace reformer *(::[a-z_]+ *)*\{/ { print FILENAME ": no tag: " $0; bad = 1 }
  /^namespace reformer::inline REFORMER_ABI::detail \{/ { scope = "detail"; next }
  /^namespace reformer::inline REFORMER_ABI \{/ || /^\} *\/\/ namespace detail/ {
    scope = "reformer"
    next
  }
  /^namespace detail \{/ { scope = "detail"; next }
  scope == "" || /^[ \t#\/}]/ || /^(extern )?(template|requires|static_assert)/ { next }
  {
    line = $0
    if (match(line, /(struct|class|concept|using) +[A-Za-z_0-9]+/)) {
      name = substr(line, RSTART, RLENGTH)
      sub(/.* /, "", name)
    } else if (match(line, /[A-Za-z_0-9]+ *(\(|\[\]|=|\{|;)/)) {
      name = substr(line, RSTART, RLENGTH)
      sub(/[^A-Za-z_0-9].*/, "", name)
    } else {
      next
    }
    other = scope == "detail" ? "reformer" : "detail"
    if ((other, name) in place) {
      print name " is in " scope " (" FILENAME ") and in " other " (" place[other, name] ")"
      bad = 1
    }
    place[scope, name] = FILENAME
    ++count
  }
  END {
    if (count < 100) { print "only " count " declarations were found"; bad = 1 }
    exit bad
  }' "${headers[@]}") >&2

# What a program needs has a name in `reformer`.
if grep -rn 'detail::' "$include"/../{examples,README.md} >&2; then exit 1; fi

# A header that does not see the tag would make a namespace of the name REFORMER_ABI.
while read -r header; do
  [[ $header == reformer/foundation/abi.hpp ]] ||
    grep -q '^#include "reformer/foundation/abi.hpp"' "$include/$header" || {
    printf '%s: REFORMER_ABI without reformer/foundation/abi.hpp\n' "$header" >&2
    exit 1
  }
done < <(cd "$include" && grep -l REFORMER_ABI "${headers[@]}")

# What comes from elsewhere is read once; that each header includes what it needs is seen where each
# is compiled alone.
(cd "$include" && cat "${headers[@]}") | grep -E '^#include <(Eigen|nlohmann|mpi[.]h|[a-z_]+>)' |
  grep -v '<omp.h>' | sort -u >"$work/prefix.hpp"
common=$work/prefix.hpp
precompile "$common"

# Who reads a configuration compiles none of the kernels, nor Eigen.
light=(attention/{config,layer_pattern,pattern}.hpp foundation/residual_config.hpp
  model/{config,sampling}.hpp operations/config.hpp training/schedule.hpp)
[[ ${REFORMER_WITHOUT_IO-} ]] || light+=(io/huggingface_config.hpp)
heavy='reformer/products/|/(kernel|simd|workspace|parallel)[.]hpp|/Eigen/'
included_by() {
  printf '#include "reformer/%s"\n' "$@" >"$work/light.cpp"
  "${compiler[@]}" -std=c++20 -I "$include" -M "$work/light.cpp" | tr ' ' '\n'
}
included_by "${light[@]}" >"$work/included"
if grep -qE "$heavy" "$work/included"; then # which of them?
  for header in "${light[@]}"; do
    included_by "$header" |
      awk -v heavy="$heavy" -v header="$header" '$0 ~ heavy && !count++ {
        print "reformer/" header " is a configuration and includes " $0
      }' >&2
  done
  exit 1
fi

# One order a line. The next header of an order is the one that closes most of the pairs still missing;
# it is made from its beginning and from its end, and the one that closes more is taken.
(cd "$include" && awk -v pairs="$pairs" '
  FNR == 1 { header[++n] = FILENAME; number[FILENAME] = n }
  /^#include "reformer\// { split($0, part, "\""); needs[FILENAME] = needs[FILENAME] " " part[2] }
  function reach(a, b,   part, count, i) {
    count = split(needs[header[b]], part, " ")
    for (i = 1; i <= count; ++i) {
      if (!((a, number[part[i]]) in before)) { before[a, number[part[i]]]; reach(a, number[part[i]]) }
    }
  }
  # Goes from a node of the tree of all texts to that of the text with header a behind it.
  function follow(node, a,   part, count, i, next_node) {
    if (a in seen) return node
    seen[a]
    count = split(needs[header[a]], part, " ")
    for (i = 1; i <= count; ++i) node = follow(node, number[part[i]])
    if (!((node, a) in child)) { child[node, a] = ++nodes; is_inner[node] }
    return child[node, a]
  }
  # Fills `order` with numbers of headers, from the beginning (1) or the end (-1), and gives the number of
  # missing pairs that it has.
  function build(way, order,   waits, placed, best, most, a, b, score, ready, closed) {
    for (a = 1; a <= n; ++a) waits[a]
    placed = closed = 0
    while (placed < n) {
      best = 0
      for (a = 1; a <= n; ++a) {
        if (!(a in waits)) continue
        score = 0; ready = 1
        for (b in waits) {
          if (way > 0 ? (a, b) in before : (b, a) in before) { ready = 0; break }
          score += way * (((a, b) in missing) - ((b, a) in missing))
        }
        if (ready && (!best || score > most)) { best = a; most = score }
      }
      delete waits[best]
      order[++placed] = best
      for (b in waits) closed += way > 0 ? (best, b) in missing : (b, best) in missing
    }
    return closed
  }
  END {
    for (a = 1; a <= n; ++a) reach(a, a)
    if (pairs) { # A text that is the beginning of another, or one header alone, adds nothing.
      for (a = 1; a <= n; ++a) { split("", seen); is_done[follow(0, a)] }
      for (a = 1; a <= n; ++a) for (b = 1; b <= n; ++b) {
        if (a == b || (a, b) in before) continue
        split("", seen)
        text = follow(follow(0, a), b)
        if (text in is_done) continue
        is_done[text]; first[text] = a; last[text] = b
      }
      for (text = 1; text <= nodes; ++text) {
        if (text in first && !(text in is_inner)) print header[first[text]], header[last[text]]
      }
      exit
    }
    for (a = 1; a <= n; ++a) for (b = 1; b <= n; ++b) {
      if (a == b || ((a, b) in before)) continue
      if (!((b, a) in before)) { missing[a, b]; ++left } # else any order has it
    }
    while (left) {
      from_front = build(1, front); from_back = build(-1, back)
      for (i = 1; i <= n; ++i) order[i] = from_front >= from_back ? front[i] : back[n + 1 - i]
      for (i in closes) delete closes[i]
      for (i = 1; i <= n; ++i) for (j = i + 1; j <= n; ++j) {
        if (!((order[i], order[j]) in missing)) continue
        delete missing[order[i], order[j]]; --left
        closes[i]; closes[j]
      }
      line = "" # of the headers that matter here
      for (i = 1; i <= n; ++i) if (i in closes) line = line " " header[order[i]]
      print line
    }
  }' "${headers[@]}") >"$work/orders"
(($(wc -l <"$work/orders") >= 3))

failed=0 first=''
while read -r -a order; do
  # The first of a pair is the same for many pairs in a row.
  if [[ $pairs && ${order[0]} != "$first" ]]; then
    first=${order[0]}
    common=$work/first.hpp
    { cat "$work/prefix.hpp" && printf '#include "%s"\n' "$first"; } >"$common"
    precompile "$common"
  fi
  compile "$(printf '#include "%s"\n' "${order[@]}")" -include "$common" || failed=1
done <"$work/orders"
if [[ $failed == 0 ]]; then
  printf '%s %s compiled\n' "$(wc -l <"$work/orders")" "$([[ $pairs ]] && echo pairs || echo orders)"
fi
exit "$failed"
