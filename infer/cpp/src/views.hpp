// Which pixels each protocol looks at (infer/views.py): integers only, so C++ and Python plan the same.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "spec.hpp"

namespace verydeep {

struct Size {
  int height = 0, width = 0;
};

using Box = std::array<int, 4>;  // top, left, height, width in the rescaled image

constexpr int kAsLoaded = 0;  // View::short_side_px of a view of the image as it is, which nothing rescales

struct View {
  int short_side_px = 0;
  Box box{};
  int resize_px = 0;  // GoogLeNet's square, or a region, resized to this; 0: as it is
  bool mirrored = false;
  double weight = 1.0;
  // Of a region that fills only this rectangle of the square: around it is the colour of the image's last pixel.
  std::optional<Box> inner{};

  Size size_px() const { return resize_px ? Size{resize_px, resize_px} : Size{box[2], box[3]}; }
  // What the box is resized to, if it is.
  Size resized_px() const { return inner ? Size{(*inner)[2], (*inner)[3]} : size_px(); }
};

const std::vector<std::string>& protocols();

// kAsLoaded leaves the image as it is.
Size rescaled_px(Size image, int short_side_px, bool long_side_down);
std::vector<int> default_scales(const ModelSpec& spec, const std::string& protocol);
// Raises Error (invalid_argument) for an unknown protocol, and for scales below the crop, none, or one named twice.
std::vector<View> plan_views(const ModelSpec& spec, const std::string& protocol, Size image,
                             const std::vector<int>& scales);
// Why an engine with these shapes cannot see the image, as one line.
std::optional<std::string> out_of_range(const std::vector<View>& plan, Size image,
                                        const std::vector<ShapeRange>& shapes, const ModelSpec& spec);

}  // namespace verydeep
