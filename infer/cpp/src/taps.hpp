// Pillow's filter coefficients (infer/pixels/render.py), and its rescaling by them, bit for bit.
#pragma once

#include <cstdint>
#include <vector>

#include "spec.hpp"

namespace verydeep {

constexpr int kPrecisionBits = 22;  // of a filter coefficient

// One axis: first[i], the first source index of output i; taps[k * n_out + i], zero beyond the filter's end.
struct Taps {
  int count = 0;  // K
  std::vector<std::int32_t> first, taps;
};

Taps make_taps(int n_in, int n_out, Filter filter);
Taps identity_taps(int n);

// u8 [height, width, 3] without padding.
struct Pixels {
  int height = 0, width = 0;
  std::vector<std::uint8_t> values;
  const std::uint8_t* at(int y, int x) const { return &values[3 * (static_cast<std::size_t>(y) * width + x)]; }
  std::uint8_t* at(int y, int x) { return &values[3 * (static_cast<std::size_t>(y) * width + x)]; }
};

// Columns first, then rows.
Pixels resize(const Pixels& image, int height, int width, Filter filter);

}  // namespace verydeep
