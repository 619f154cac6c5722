// SPDX-License-Identifier: MIT
// The io floor from outside: a file is written and read.
#include <cstdio>

#include <reformer/io/safetensors.hpp>

int main() {
  using namespace reformer;
  const Matrix<float> x = Matrix<float>::Constant(2, 3, 4.f);
  write_safetensors<float>("consume.safetensors", {{"x", {2, 3}, rows_of(x)}});
  Matrix<float> back(2, 3);
  const SafetensorsFile file("consume.safetensors");
  file.read(*file.find("x"), rows_of(back));
  std::remove("consume.safetensors");
  return back == x ? 0 : 1;
}
