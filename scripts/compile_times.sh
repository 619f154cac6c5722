#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# How long a user's file of about twenty lines takes to compile: against the headers alone, with the
# instances in a source of their own, and against the compiled target; how long one takes that saves and
# loads, too; and how long the sources of the instances take. Seconds of processor time, the least of three.
#
# Usage: scripts/compile_times.sh [COMPILER]...
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
compilers=("${@:-c++}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c++20 -I "$root/include" -isystem "${EIGEN_DIR:-/usr/include/eigen3}")
apart=(-O3 -DREFORMER_EXTERN_INSTANCES)
io_apart=("${apart[@]}" -DREFORMER_EXTERN_IO_INSTANCES)
compiled=(-O2 -DREFORMER_COMPILED -DEIGEN_MAX_ALIGN_BYTES=64)

cat >"$work/user.cpp" <<'END'
#include <cstdio>
#include <reformer/reformer.hpp>

int main() {
  using namespace reformer;
  Model<float> model({.vocabulary = 32, .width = 64, .num_heads = 2, .head_width = 32,
                      .feed_forward_width = 128, .positions = LearnedPositions{64}});
  model.initialize(1);
  Adam<float> adam;
  Workspace workspace;
  Tokens tokens(16, 64);
  for (Index i = 0; i < tokens.size(); ++i) tokens.data()[i] = static_cast<int>(i % 32);
  const Tokens labels = next_token_labels(tokens);
  for (std::uint32_t step = 1; step <= 100; ++step) {
    model.zero_gradients();
    const Loss loss = model.loss_and_gradients(workspace, tokens, labels, 1.0f / (16 * 63),
                                               {.key = {.seed = 1, .step = step}});
    adam.step(workspace, model, 1e-3);
    std::printf("%.3f\n", loss.mean());
  }
}
END
echo '#include <reformer/reformer.hpp>' >"$work/headers.cpp"
sed -e 's|#include <reformer/reformer.hpp>|#include <reformer/io/model_file.hpp>\n&|' \
  -e 's|std::printf.*|&\n    save_model("model.safetensors", model, adam, step);|' \
  -e 's|^}|  model = load_model<float>("model.safetensors");\n&|' \
  -e 's|^}|  load_optimizer("model.safetensors", model, adam);\n&|' "$work/user.cpp" >"$work/saving.cpp"
cp "$root"/src/*instances.cpp "$work"

# seconds FILE COMMAND...
seconds() {
  local best=1000 i
  for i in 1 2 3; do
    TIMEFORMAT='%U %S'
    best=$({ time "${@:2}" -c "$work/$1" -o "$work/object.o"; } 2>&1 |
      awk -v best="$best" 'END { t = $1 + $2; print t < best ? t : best }')
  done
  printf '%.1f' "$best"
}
row() {
  printf '| %s ' "$@"
  printf '|\n'
}
row compiler 'reading the headers' -O3 '-O3 -march=native' -O2 '-O3, instances apart' 'these, -O3' \
  '-O2, compiled target' 'saving too, -O3' 'this, instances apart' 'those of io, -O3'
row --- --- --- --- --- --- --- --- --- --- ---
for compiler in "${compilers[@]}"; do
  row "$("$compiler" --version | sed 1q)" \
    "$(seconds headers.cpp "$compiler" "${flags[@]}" -fsyntax-only)" \
    "$(seconds user.cpp "$compiler" "${flags[@]}" -O3)" \
    "$(seconds user.cpp "$compiler" "${flags[@]}" -O3 -march=native)" \
    "$(seconds user.cpp "$compiler" "${flags[@]}" -O2)" \
    "$(seconds user.cpp "$compiler" "${flags[@]}" "${apart[@]}")" \
    "$(seconds instances.cpp "$compiler" "${flags[@]}" "${apart[@]}")" \
    "$(seconds user.cpp "$compiler" "${flags[@]}" "${compiled[@]}")" \
    "$(seconds saving.cpp "$compiler" "${flags[@]}" -O3)" \
    "$(seconds saving.cpp "$compiler" "${flags[@]}" "${io_apart[@]}")" \
    "$(seconds io_instances.cpp "$compiler" "${flags[@]}" "${io_apart[@]}")"
done
