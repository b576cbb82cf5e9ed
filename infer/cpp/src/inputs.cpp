#include "inputs.hpp"

#include <algorithm>

namespace verydeep {

std::size_t Input::elements() const {
  std::size_t count = 1;
  for (const std::int64_t side : shape) count *= static_cast<std::size_t>(side);
  return count;
}

Inputs::Inputs(const Feed& feed, const ModelSpec& spec, bool regions) : feed_(feed), spec_(spec) {
  const std::int64_t views = feed.views, height = feed.height, width = feed.width;
  if (spec.interface == "views") {
    const Taps &columns = feed.columns, &lines = feed.lines;
    inputs_ = {{"image", Type::u8, {feed.image->height, feed.image->width, 3}, feed.image->values.data()},
               {"col_first", Type::i32, {feed.rescaled_width}, columns.first.data()},
               {"col_taps", Type::i32, {columns.count, feed.rescaled_width}, columns.taps.data()},
               {"row_first", Type::i32, {feed.rescaled_height}, lines.first.data()},
               {"row_taps", Type::i32, {lines.count, feed.rescaled_height}, lines.taps.data()},
               {"rows", Type::i32, {views, height}, feed.rows.data()},
               {"cols", Type::i32, {views, width}, feed.cols.data()}};
    if (regions) add_regions();
    return;
  }
  ready_pixels();
  if (spec.interface == "images") {
    inputs_ = {{"images", Type::u8, {views, height, width, 3}, pixels_.data()}};
    return;
  }
  normalise();
  inputs_ = {{"input", Type::f32, {views, 3, height, width}, planes_.data()}};
}

void Inputs::add_regions() {
  const std::int64_t views = feed_.views, height = feed_.height, width = feed_.width;
  whole_.assign(static_cast<std::size_t>(views * std::max(height, width)), 1 << kPrecisionBits);
  for (std::int64_t v = 0; v < views; ++v)
    for (std::int64_t y = 0; y < height; ++y) lines_.push_back(static_cast<std::int32_t>(y));
  inputs_.push_back({"region_col_taps", Type::i32, {1, views, width}, whole_.data()});
  inputs_.push_back({"region_row_first", Type::i32, {views, height}, lines_.data()});
  inputs_.push_back({"region_row_taps", Type::i32, {1, views, height}, whole_.data()});
}

void Inputs::ready_pixels() {
  pixels_.resize(3 * static_cast<std::size_t>(feed_.views) * feed_.height * feed_.width);
  std::uint8_t* out = pixels_.data();
  for (int v = 0; v < feed_.views; ++v)
    for (int y = 0; y < feed_.height; ++y) {
      const std::uint8_t* row = &feed_.image->values[3 * static_cast<std::size_t>(feed_.rows[v * feed_.height + y])];
      for (int x = 0; x < feed_.width; ++x, out += 3)
        std::copy_n(row + 3 * static_cast<std::size_t>(feed_.cols[v * feed_.width + x]), 3, out);
    }
}

void Inputs::normalise() {
  const std::size_t area = static_cast<std::size_t>(feed_.height) * feed_.width;
  const auto &mean = spec_.preprocessing.mean_rgb, &std = spec_.preprocessing.std_rgb;
  planes_.resize(pixels_.size());
  for (std::size_t v = 0; v < static_cast<std::size_t>(feed_.views); ++v)
    for (std::size_t c = 0; c < 3; ++c)
      for (std::size_t i = 0; i < area; ++i)
        planes_[(3 * v + c) * area + i] = (static_cast<float>(pixels_[3 * (v * area + i) + c]) - mean[c]) / std[c];
}

std::vector<std::int32_t> Inputs::pixel_sums() const {
  if (planes_.empty()) return {};
  const std::size_t area = static_cast<std::size_t>(feed_.height) * feed_.width;
  std::vector<std::int32_t> sums(6 * static_cast<std::size_t>(feed_.views));
  for (std::size_t v = 0; v < static_cast<std::size_t>(feed_.views); ++v)
    for (std::size_t i = 0; i < area; ++i)
      for (std::size_t c = 0; c < 3; ++c) {
        const std::int32_t value = pixels_[3 * (v * area + i) + c];
        sums[6 * v + c] += value;
        sums[6 * v + 3 + c] += value * static_cast<std::int32_t>(1 + i % 2);
      }
  return sums;
}

}  // namespace verydeep
