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

struct View {
  int short_side_px = 0;
  Box box{};
  int resize_px = 0;  // GoogLeNet's square, resized to this; 0: as it is
  bool mirrored = false;
  double weight = 1.0;

  Size size_px() const { return resize_px ? Size{resize_px, resize_px} : Size{box[2], box[3]}; }
};

const std::vector<std::string>& protocols();

Size rescaled_px(Size image, int short_side_px, bool long_side_down);
std::vector<int> default_scales(const ModelSpec& spec, const std::string& protocol);
// Raises Error (invalid_argument) for an unknown protocol, and for scales below the crop, none, or one named twice.
std::vector<View> plan_views(const ModelSpec& spec, const std::string& protocol, Size image,
                             const std::vector<int>& scales);
// Why an engine with these shapes cannot see the image, as one line.
std::optional<std::string> out_of_range(const std::vector<View>& plan, Size image,
                                        const std::vector<ShapeRange>& shapes, const ModelSpec& spec);

}  // namespace verydeep
