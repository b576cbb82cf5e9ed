#include "taps.hpp"

#include <algorithm>
#include <cmath>

namespace verydeep {
namespace {

constexpr std::int32_t kHalf = 1 << (kPrecisionBits - 1);

double bicubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

double bilinear(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

std::uint8_t clip(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::min(std::max(sum, 0) >> kPrecisionBits, 255));
}

}  // namespace

Taps make_taps(int n_in, int n_out, Filter filter) {
  const auto kernel = filter == Filter::bicubic ? bicubic : bilinear;
  const double scale = static_cast<double>(n_in) / n_out;
  const double filter_scale = std::max(scale, 1.0);
  const double support = (filter == Filter::bicubic ? 2.0 : 1.0) * filter_scale;
  Taps axis;
  axis.count = static_cast<int>(std::ceil(support)) * 2 + 1;
  axis.first.resize(n_out);
  axis.taps.assign(static_cast<std::size_t>(axis.count) * n_out, 0);
  std::vector<double> weights(axis.count);
  for (int i = 0; i < n_out; ++i) {
    const double center = (i + 0.5) * scale;
    const auto first = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const auto end = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), n_in);
    axis.first[i] = static_cast<std::int32_t>(first);
    double total = 0.0;
    for (int k = 0; k < axis.count; ++k) {  // the sum in Pillow's order
      weights[k] = k < end - first
                       ? kernel((static_cast<double>(k + first) - center + 0.5) * (1.0 / filter_scale))
                       : 0.0;
      total += weights[k];
    }
    for (int k = 0; k < axis.count; ++k) {
      const double weight = weights[k] / total;
      axis.taps[static_cast<std::size_t>(k) * n_out + i] =
          static_cast<std::int32_t>(weight * (1 << kPrecisionBits) + (weight < 0 ? -0.5 : 0.5));
    }
  }
  return axis;
}

Taps identity_taps(int n) {
  Taps axis{1, std::vector<std::int32_t>(n), std::vector<std::int32_t>(n, 1 << kPrecisionBits)};
  for (int i = 0; i < n; ++i) axis.first[i] = i;
  return axis;
}

Pixels resize(const Pixels& image, int height, int width, Filter filter) {
  const Taps columns = make_taps(image.width, width, filter), lines = make_taps(image.height, height, filter);
  Pixels narrow{image.height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(3) * image.height * width)};
  std::vector<std::int32_t> taps(columns.count);
  for (int x = 0; x < width; ++x) {
    const int first = columns.first[x], count = std::min(columns.count, image.width - first);
    for (int k = 0; k < count; ++k) taps[k] = columns.taps[static_cast<std::size_t>(k) * width + x];
    for (int y = 0; y < image.height; ++y) {
      std::int32_t sums[3] = {kHalf, kHalf, kHalf};
      const std::uint8_t* source = image.at(y, first);
      for (int k = 0; k < count; ++k, source += 3)
        for (int c = 0; c < 3; ++c) sums[c] += source[c] * taps[k];
      for (int c = 0; c < 3; ++c) narrow.at(y, x)[c] = clip(sums[c]);
    }
  }
  Pixels resized{height, width, std::vector<std::uint8_t>(static_cast<std::size_t>(3) * height * width)};
  const std::size_t row = static_cast<std::size_t>(3) * width;
  std::vector<std::int32_t> sums(row);
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    const int first = lines.first[y], count = std::min(lines.count, image.height - first);
    for (int k = 0; k < count; ++k) {
      const std::int32_t tap = lines.taps[static_cast<std::size_t>(k) * height + y];
      const std::uint8_t* source = narrow.at(first + k, 0);
      for (std::size_t i = 0; i < row; ++i) sums[i] += source[i] * tap;
    }
    std::uint8_t* out = resized.at(y, 0);
    for (std::size_t i = 0; i < row; ++i) out[i] = clip(sums[i]);
  }
  return resized;
}

}  // namespace verydeep
